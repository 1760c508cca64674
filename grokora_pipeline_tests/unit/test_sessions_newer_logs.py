"""Logs as the tools of 2025-26 write them: sessions stay apart, what a model saw is in its prompt, nothing is lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.readers import Source, UnreadableError, documents
from grokora_pipeline.sessions.turns import Problem, Skipped, Verdict
from grokora_pipeline_tests.unit.neighbour_logs import AT
from grokora_pipeline_tests.unit.neutral_logs import FORMATS, Talk
from grokora_pipeline_tests.unit.session_logs import run, turns
from grokora_pipeline_tests.unit.test_sessions_foreign_logs import (
    claude,
    item,
    meta,
    read,
    read_lines,
    result,
    spoken,
    tool_use,
    turns_of,
)
from grokora_pipeline_tests.unit.test_sessions_unseen_logs import (
    ASKED,
    CALL,
    REPLY,
    TALK,
    document,
    only,
    otlp,
    pairs,
    prompt_of,
    span,
)

# --- Claude Code


def text(words: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": words}]


def test_a_forked_sub_agent_has_no_whole_prompt_in_its_own_file(tmp_path: Path) -> None:
    own: dict[str, Any] = {"agentId": "a4", "isSidechain": True}
    reference = {"type": "fork-context-ref", "agentId": "a4", "parentSessionId": "s1", "parentLastUuid": "u0"}
    lines = [claude("a", None, "Do it", **own), claude("b", "a", text("The key is X"), "assistant", **own)]
    assert only(read_lines(tmp_path, *lines)).completeness == "reconstructed"
    assert only(read_lines(tmp_path, reference, *lines)).completeness == "delta"


@pytest.mark.parametrize(
    "note",
    [
        {"type": "marble-origami-commit", "sessionId": "s1", "firstArchivedUuid": "u1", "lastArchivedUuid": "a1"},
        {"type": "system", "subtype": "snip_boundary", "uuid": "n", "snipMetadata": {"removedUuids": ["a1"]}},
    ],
)
def test_what_is_said_once_messages_were_folded_has_no_whole_prompt(tmp_path: Path, note: dict[str, Any]) -> None:
    first = [claude("u1", None, "Q1"), claude("a1", "u1", text("A1"), "assistant"), note]
    later = [claude("u2", "a1", "Q2"), claude("a2", "u2", text("A2"), "assistant")]
    known = [turn.completeness for turn in turns_of(read_lines(tmp_path, *first, *later))]
    assert known == ["reconstructed", "delta"]


@pytest.mark.parametrize("anchor", ["s", "b"])
def test_what_a_compaction_kept_stands_behind_its_summary_or_before_it(tmp_path: Path, anchor: str) -> None:
    kept = {"preservedSegment": {"headUuid": "u2", "anchorUuid": anchor, "tailUuid": "a2"}}
    lines = [
        claude("u1", None, "Q1"),
        claude("a1", "u1", text("A1"), "assistant"),
        claude("u2", "a1", "Q2"),
        claude("a2", "u2", text("A2"), "assistant"),
        {"type": "system", "subtype": "compact_boundary", "uuid": "b", "parentUuid": None, "compactMetadata": kept},
        claude("s", "b", "Summary", isCompactSummary=True),
        claude("u3", "s", "Q3"),
        claude("a3", "u3", text("A3"), "assistant"),
    ]
    behind = {"s": "u:Summary u:Q2 a:A2 u:Q3", "b": "u:Q2 a:A2 u:Summary u:Q3"}
    last = turns_of(read_lines(tmp_path, *lines))[-1]
    assert (prompt_of(last), last.completeness) == (behind[anchor], "reconstructed")
    lost = turns_of(read_lines(tmp_path, *lines[:2], *lines[4:]))[-1]
    assert lost.completeness == "delta"


def test_what_a_person_adds_while_the_model_works_is_in_the_prompt(tmp_path: Path) -> None:
    def attached(uuid: str, parent: str, **attachment: Any) -> dict[str, Any]:
        return {"type": "attachment", "uuid": uuid, "parentUuid": parent, "sessionId": "s1", "attachment": attachment}

    file = {"type": "text", "file": {"filePath": "/w/a.py", "content": "print(1)"}}
    lines = [
        {"type": "queue-operation", "operation": "enqueue", "sessionId": "s1", "content": "Q"},
        claude("u", None, "Q"),
        attached("f", "u", type="file", filename="/w/a.py", content=file),
        attached("r", "f", type="todo_reminder", content="never shown here"),
        claude("a", "r", [tool_use("t1")], "assistant"),
        claude("v", "a", [result("t1", "a long result")]),
        {"type": "content-replacement", "sessionId": "s1", "replacements": [{"toolUseId": "t1", "replacement": "cut"}]},
        attached("q", "v", type="queued_command", prompt=text("And tests")),
        claude("b", "q", text("Done"), "assistant"),
    ]
    assert list(map(prompt_of, turns_of(read_lines(tmp_path, *lines)))) == [
        "u:Q u:/w/a.py\nprint(1)",
        "u:Q u:/w/a.py\nprint(1) a:* t:cut u:And tests",
    ]


def test_an_interrupted_answer_failed_and_a_teammate_is_an_agent_of_its_own(tmp_path: Path) -> None:
    lines = [
        claude("u", None, "Q"),
        claude("a", "u", text("I will look at the fi"), "assistant"),
        claude("v", "a", text("[Request interrupted by user]")),
        claude("w", "v", "Go on"),
        claude("b", "w", text("Done"), "assistant"),
        claude("e", "b", text("API Error"), "assistant", isApiErrorMessage=True),
        {"type": "result", "subtype": "error_max_turns", "is_error": True, "session_id": "s1"},
    ]
    items = read_lines(tmp_path, *({**line, "teamName": "t", "agentName": "finder"} for line in lines))
    assert [(one.agent, one.step_failed) for one in turns_of(items)] == [
        ("claude-code/finder", True),
        ("claude-code/finder", False),
    ]
    assert [one for one in items if isinstance(one, Skipped | Verdict)] == [
        Skipped("call_failed"),
        Verdict("s1", status="failure", inferred=True),
    ]


# --- other coding agents


def test_codex_searches_tools_by_calls_and_what_a_provider_made_is_no_answer(tmp_path: Path) -> None:
    own = {"call_id": "c", "execution": "client"}
    lines = [
        meta(),
        spoken("user", "Q"),
        item("tool_search_call", **own, arguments={"query": "mail"}),
        item("tool_search_output", **own, tools=[{"name": "send"}]),
        spoken("assistant", "Found."),
        spoken("user", "Draw"),
        spoken("assistant", "Here it is"),
        item("image_generation_call", id="i", result="AAAA"),
    ]
    items = read_lines(tmp_path, *lines)
    assert [(prompt_of(one), one.completeness) for one in turns_of(items)] == [
        ("s:You are Codex. u:Q", "reconstructed"),
        ('s:You are Codex. u:Q a:* t:{"name": "send"}', "reconstructed"),
    ]
    assert Skipped("part_of_unknown_kind") in items


def test_copilots_sub_agents_are_sessions_of_their_own_and_what_was_aborted_is_no_example(tmp_path: Path) -> None:
    def said(words: str, calls: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
        return {"type": "assistant.message", "data": {"content": words, "toolRequests": calls, **more}}

    task = {"toolCallId": "t", "name": "task", "arguments": {"prompt": "Find"}}
    done = {"toolCallId": "t", "success": True, "result": {"content": "found"}}
    items = read_lines(
        tmp_path,
        {"type": "session.start", "data": {"sessionId": "s", "selectedModel": "m"}},
        {"type": "system.message", "data": {"role": "system", "content": "S"}},
        {"type": "user.message", "data": {"content": "Q"}},
        said("", (task,)),
        {"type": "subagent.started", "data": {"toolCallId": "t", "agentName": "explore"}},
        said("within", parentToolCallId="t"),
        {"type": "tool.execution_complete", "data": done},
        said("half an ans"),
        {"type": "abort", "data": {"reason": "user"}},
        {"type": "session.compaction_complete", "data": {"success": True}},
        {"type": "user.message", "data": {"content": "Next"}},
        said("Last"),
    )
    assert {(one.session_id, one.agent, prompt_of(one), one.completeness) for one in turns_of(items)} == {
        ("s", "copilot-cli", "s:S u:Q", "reconstructed"),
        ("s:t", "copilot-cli/explore", "u:Find", "reconstructed"),
        ("s", "copilot-cli", "u:Next", "delta"),
    }
    assert [one for one in items if isinstance(one, Skipped)] == [Skipped("broken_off")]


def test_after_a_compression_qwen_sees_its_summary(tmp_path: Path) -> None:
    contents = [("user", "Q"), ("model", "A"), ("user", "Next"), ("model", "B")]
    lines: list[dict[str, Any]] = [
        {"uuid": f"u{n}", "parentUuid": f"u{n - 1}" if n else None, "sessionId": "q", "type": "assistant"}
        | {"message": {"role": role, "parts": [{"text": words}]}}
        for n, (role, words) in enumerate(contents)
    ]
    history = [{"role": "user", "parts": [{"text": "Summary"}]}, {"role": "model", "parts": [{"text": "Got it"}]}]
    lines[2]["parentUuid"] = "c"
    lines.insert(2, {"uuid": "c", "parentUuid": "u1", "systemPayload": {"compressedHistory": history}})
    assert [(prompt_of(one), one.completion["content"]) for one in turns_of(read_lines(tmp_path, *lines))] == [
        ("u:Q", "A"),
        ("u:Summary a:Got it u:Next", "B"),
    ]


def test_what_a_person_named_for_continue_is_in_the_prompt_and_an_errored_call_failed(tmp_path: Path) -> None:
    call = {"id": "t", "function": {"name": "read", "arguments": "{}"}}
    state = {"toolCallId": "t", "status": "errored", "toolCall": call, "output": [{"content": "no file"}]}
    history = [
        {"message": {"role": "user", "content": text("Q")}, "contextItems": [{"name": "a.py", "content": "print(1)"}]},
        {"message": {"role": "thinking", "content": "hm"}},
        {"message": {"role": "assistant", "content": "", "toolCalls": [call]}, "toolCallStates": [state]},
    ]
    turn = only(document(tmp_path, {"sessionId": "s", "history": history}))
    assert prompt_of(turn) == "u:print(1)\nQ"
    assert (turn.completion["reasoning_content"], turn.step_failed) == ("hm", True)


def half(shape: str) -> Any:
    """A conversation whose answer was cut, as a program says so."""
    asked, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": text("half")}
    part = {"part_kind": "text", "content": "half"}
    nodes: dict[str, Any] = {
        "1": {"message": {"author": {"role": "user"}, "content": {"parts": ["Q"]}}},
        "2": {"parent": "1", "message": {"author": {"role": "assistant"}, "content": {"parts": ["half"]}}},
    }
    nodes["2"]["message"]["metadata"] = {"finish_details": {"type": "interrupted"}}
    streaming = {"type": "text", "text": "half", "state": "streaming"}
    pending = {"type": "tool-f", "toolCallId": "t", "state": "input-streaming"}
    told = {"1": {**asked, "id": "1"}, "2": {**answer, "id": "2", "parentId": "1", "done": False}}
    return {
        "amp": {
            "id": "T-1",
            "messages": [asked, {**answer, "state": {"type": "complete", "stopReason": "max_tokens"}}],
        },
        "chatgpt": {"create_time": 1, "current_node": "2", "mapping": nodes},
        "open_webui": {"id": "o", "chat": {"history": {"currentId": "2", "messages": told}}},
        "pydantic_ai": [
            {"kind": "request", "parts": [{"part_kind": "user-prompt", "content": "Q"}]},
            {"kind": "response", "finish_reason": "length", "parts": [part]},
        ],
        "streaming": [{**asked, "id": "1", "parts": text("Q")}, {**answer, "id": "2", "parts": [streaming]}],
        "pending": [{**asked, "id": "1", "parts": text("Q")}, {**answer, "id": "2", "parts": [pending]}],
    }[shape]


@pytest.mark.parametrize("shape", ["amp", "chatgpt", "open_webui", "pydantic_ai", "streaming", "pending"])
def test_an_answer_that_a_program_saved_before_its_end_is_no_good_example(tmp_path: Path, shape: str) -> None:
    items = document(tmp_path, half(shape))
    assert all(one.step_failed for one in turns_of(items))
    assert turns_of(items) or {Skipped("broken_off"), Skipped("part_of_unknown_kind")} & set(items)


def test_droids_summary_kimis_prompt_and_librechats_results_are_read(tmp_path: Path) -> None:
    def said(role: str, words: str) -> dict[str, Any]:
        return {"type": "message", "message": {"role": role, "content": text(words)}}

    lines = [{"type": "session_start", "id": "d"}, said("user", "Q"), said("assistant", "A")]
    lines += [{"type": "compaction_state", "summaryText": "Sum"}, said("user", "Next"), said("assistant", "B")]
    assert [(prompt_of(one), one.completeness) for one in turns_of(read_lines(tmp_path, *lines))] == [
        ("u:Q", "reconstructed"),
        ("u:Sum u:Next", "delta"),
    ]
    thought = [{"type": "think", "think": "hm"}, *text("A")]
    kimi = [{"role": "_system_prompt", "content": "S"}, {"role": "user", "content": "Q"}]
    turn = only(read_lines(tmp_path, *kimi, {"role": "assistant", "content": thought}))
    assert (prompt_of(turn), turn.completion) == (
        "s:S u:Q",
        {"role": "assistant", "content": "A", "reasoning_content": "hm"},
    )
    call = {"type": "tool_call", "tool_call": {"id": "t", "name": "f", "args": '{"a": 1}', "output": "out"}}
    messages = [
        {"messageId": "1", "text": "Q", "isCreatedByUser": True},
        {"messageId": "2", "parentMessageId": "1", "content": [thought[0], call, *text("Done")]},
    ]
    chat = document(tmp_path, {"conversationId": "l", "endpoint": "openAI", "messages": messages})
    assert list(map(prompt_of, turns_of(chat))) == ["u:Q", "u:Q a:* t:out"]


# --- sessions and calls stay what they are


def test_an_answer_within_which_a_text_log_ends_is_no_example(tmp_path: Path) -> None:
    for name in ("plan", "global_log"):
        body = FORMATS[name][3](Talk("S", "Q", "The thought.", "ls", "out", "The answer."), "s")
        for end in range(0, len(body), 5):
            (tmp_path / "x.log").write_bytes(body[:end])
            items = read(tmp_path / "x.log") if readers.detect(body[:end]) else []
            answers = {one.completion["content"] for one in turns_of(items)}
            assert answers <= {"The thought.", "The answer.", ""}, body[:end]


def test_messages_of_several_sessions_in_one_file_are_several_conversations(tmp_path: Path) -> None:
    said = [("a", "user", "Qa"), ("b", "user", "Qb"), ("a", "assistant", "Aa"), ("b", "assistant", "Ab")]
    plain = [{"conversation_id": who, "role": role, "content": words} for who, role, words in said]
    gemini = [
        {"sessionId": who, "role": {"assistant": "model"}.get(role, role), "parts": [{"text": words}]}
        for who, role, words in said
    ]
    for lines in (plain, gemini):
        told = {(one.session_id, prompt_of(one)) for one in turns_of(read_lines(tmp_path, *lines))}
        assert told == {("a", "u:Qa"), ("b", "u:Qb")}


def test_calls_of_one_id_stay_two_and_each_has_its_own_result(tmp_path: Path) -> None:
    calls = [{"id": "0", "function": {"name": "f", "arguments": f'{{"a": {number}}}'}} for number in (1, 2)]
    messages = [*ASKED, {"role": "assistant", "tool_calls": calls}]
    messages += [{"role": "tool", "tool_call_id": "0", "content": f"r{number}"} for number in (1, 2)]
    first, second = turns_of(read_lines(tmp_path, {"messages": [*messages, TALK[-1]]}))
    assert len(first.completion["tool_calls"]) == 2
    assert first.result_known
    answered = [one["id"] for one in second.prompt[2]["tool_calls"]]
    assert len(set(answered)) == 2
    assert [(one["tool_call_id"], one["content"]) for one in second.prompt[3:]] == [
        (answered[0], "r1"),
        (answered[1], "r2"),
    ]


def test_a_block_is_answered_by_its_own_id_whatever_else_it_holds(tmp_path: Path) -> None:
    use = {"type": "tool_use", "id": "t1", "call_id": "c", "name": "read", "input": {}}
    said = [("user", text("<task>Q</task>")), ("assistant", [use]), ("user", [result("t1")])]
    said.append(("assistant", text("Failure: I did not provide a response.")))
    items = document(tmp_path, [{"role": role, "content": content, "ts": 1} for role, content in said])
    assert only(items).result_known
    assert Skipped("broken_off") in items


# --- platforms


def test_log_records_of_no_span_are_calls_of_their_own(tmp_path: Path) -> None:
    def record(question: str, answer: str) -> dict[str, Any]:
        said = {"gen_ai.input.messages": question, "gen_ai.output.messages": answer}
        said = {
            key: json.dumps([{"role": role, "parts": [{"type": "text", "content": words}]}])
            for (key, words), role in zip(said.items(), ("user", "assistant"), strict=True)
        }
        name = "gen_ai.client.inference.operation.details"
        return {"eventName": name, "attributes": pairs({**said, "gen_ai.conversation.id": "s"})}

    logs = {"scopeLogs": [{"logRecords": [record("Q1", "A1"), record("Q2", "A2")]}]}
    told = turns_of(read_lines(tmp_path, {"resourceLogs": [logs]}))
    assert [(prompt_of(one), one.completion["content"], one.session_id) for one in told] == [
        ("u:Q1", "A1", "s"),
        ("u:Q2", "A2", "s"),
    ]
    assert len({one.call for one in told}) == 2


def test_a_call_that_two_instrumentations_recorded_is_one(tmp_path: Path) -> None:
    said = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps([{"role": "user", "content": "Q"}])}
    said["gen_ai.output.messages"] = json.dumps([{"role": "assistant", "content": "A"}])
    items = otlp(tmp_path, span("b", said, "a"), span("a", said), span("c", {**said, "x": "y"}))
    assert [one.call for one in turns_of(items)] == ["t:b", "t:c"]
    assert Skipped("wraps_another_call") in items
    chat = {"mlflow.spanType": "CHAT_MODEL", "mlflow.spanInputs": {"messages": ASKED}, "mlflow.spanOutputs": TALK[-1]}
    spans = [{"span_id": own, "parent_span_id": parent, "attributes": chat} for own, parent in (("a", ""), ("b", "a"))]
    assert only(document(tmp_path, {"info": {"trace_id": "t"}, "data": {"spans": spans}})).call == "b"


def test_bodies_under_any_name_are_calls_and_an_answer_at_its_limit_failed(tmp_path: Path) -> None:
    def said(reason: str) -> list[tuple[dict[str, Any], ...]]:
        chat = {"choices": [{"message": TALK[-1], "finish_reason": reason}]}
        gemini = {"contents": [{"role": "user", "parts": [{"text": "Q"}]}], "config": {"system_instruction": "S"}}
        google = {"content": {"role": "model", "parts": [{"text": "Done"}]}, "finish_reason": reason}
        facts = {"gen_ai.operation.name": "chat"}
        adk = {"gcp.vertex.agent.llm_request": gemini, "gcp.vertex.agent.llm_response": google}
        value = {"input.value": {"messages": ASKED}, "output.value": chat, "openinference.span.kind": "LLM"}
        own = {"langfuse.observation.input": ASKED, "langfuse.observation.output": chat}
        return [(value,), (facts | adk,), (own | {"langfuse.observation.type": "generation"},)]

    for reason in ("stop", "length"):
        for (attributes,) in said(reason):
            texts = {key: one if isinstance(one, str) else json.dumps(one) for key, one in attributes.items()}
            turn = only(otlp(tmp_path, span("a", texts)))
            assert (prompt_of(turn), turn.completion["content"]) == ("s:S u:Q", "Done")
            assert turn.step_failed == (reason == "length")
    texts = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps(ASKED)}
    texts["gen_ai.output.messages"] = json.dumps([TALK[-1]])
    row = {"timestamp": "2026-01-01T00:00:00Z", "operation_Id": "t", "id": "a", "customDimensions": texts}
    tempo = {"trace": {"resourceSpans": [{"scopeSpans": [{"spans": [span("a", texts)]}]}]}}
    assert [only(document(tmp_path, value)).call for value in ([row], tempo)] == ["t:a", "t:a"]


def test_instructions_that_each_request_repeats_are_seen_once(tmp_path: Path) -> None:
    def request(kind: str, text: str) -> dict[str, Any]:
        return {"kind": "request", "instructions": "I", "parts": [{"part_kind": kind, "content": text}]}

    said = [{"kind": "response", "parts": [{"part_kind": "text", "content": words}]} for words in ("A1", "A2")]
    lines = [request("user-prompt", "Q1"), said[0], request("user-prompt", "Q2"), said[1]]
    assert prompt_of(turns_of(document(tmp_path, lines))[-1]) == "s:I u:Q1 a:A1 u:Q2"


def test_a_table_cut_within_a_row_is_read_up_to_there(tmp_path: Path) -> None:
    rows = 'prompt,completion\nQ1,A1\n"Q\n2",A2\n'
    path = tmp_path / "table.csv"
    for end, answers in ((len(rows), ["A1", "A2"]), (len(rows) - 6, ["A1"]), (rows.index("2"), ["A1"])):
        path.write_text(rows[:end])
        items = read(path)
        assert [one.completion["content"] for one in turns_of(items)] == answers
        assert any(isinstance(one, Problem) for one in items) == (len(answers) == 1)
    path.write_text("time,value\n1,2\n")  # a table of something else is no log
    assert Source(path, path.name).head(64).startswith(b"time,value")


@pytest.mark.parametrize(
    "holder",
    [{"output": {"choices": [{"stop_reason": "max_tokens"}]}}, {"limit": {"type": "message"}}],
)
def test_the_last_answer_of_a_sample_that_reached_a_limit_is_no_example(tmp_path: Path, holder: dict[str, Any]) -> None:
    sample = {"id": 1, "epoch": 1, "input": "Q", "target": "x", "messages": TALK, **holder}
    last = turns_of(document(tmp_path, {"eval": {"task": "t", "model": "m"}, "samples": [sample]}))[-1]
    assert last.step_failed or last.status == "failure"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"request_body": {"messages": ASKED}, "response_body": {"choices": [{"message": TALK[-1]}]}}, "call_failed"),
        ({"request_body": {"messages": ASKED}, "response_body": {}}, "no_answer"),
        ({"custom_id": "1", "params": {"messages": ASKED}, "result": {"type": "errored"}}, "no_answer"),
        ({"log": {"entries": [{"request": {"postData": {"text": '{"input": "x"}'}}}]}}, "no_answer"),
        ({"call_type": "aembedding", "spend": 0, "messages": "x", "response": {"data": []}}, "no_model_call"),
    ],
)
def test_a_call_without_an_answer_is_counted_with_its_reason(tmp_path: Path, line: dict[str, Any], reason: str) -> None:
    assert read_lines(tmp_path, {**line, "response_status": 500}) == [Skipped(reason)]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"custom_id": "1", "body": {"messages": ASKED}}, "its replies are missing"),
        ({"custom_id": "1", "response": {"body": REPLY}}, "its requests are missing"),
        ({"steps": [{"text": "A", "finishReason": "stop", "request": {}, "response": {}}]}, "`request.body`"),
        ({"log": {"entries": [{"request": {"url": "x"}, "response": {}}]}}, "no request to the API of a model"),
    ],
)
def test_calls_that_lack_a_side_are_refused_with_what_would_do(
    tmp_path: Path, line: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_lines(tmp_path, line, line)
    assert sentence in caught.value.problem.detail


def test_a_prompt_without_the_result_of_one_of_several_calls_is_not_whole(tmp_path: Path) -> None:
    two: list[dict[str, Any]] = [{"type": "tool_use", "id": one, "name": "f", "input": {}} for one in ("a", "b")]
    lines = [claude("u", None, "Q"), claude("c", "u", two, "assistant"), claude("r", "c", [result("a")])]
    items = read_lines(tmp_path, *lines, claude("d", "r", text("A"), "assistant"))
    assert [turn.completeness for turn in turns_of(items)] == ["reconstructed", "cut"]
    assert Problem("result_not_recorded", 0, "line 4: the prompt lacks the result of a call") in items
    dangling = read_lines(tmp_path, *lines[:2], claude("r", "c", "Go on"), claude("d", "r", text("A"), "assistant"))
    assert [turn.completeness for turn in turns_of(dangling)] == ["reconstructed", "cut"]
    # one result without an id may be that of all calls
    calls = [{"function": {"name": "f", "arguments": "{}"}}] * 2
    row = [*ASKED, {"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "both"}, TALK[-1]]
    assert turns_of(read_lines(tmp_path, {"messages": row}))[-1].completeness == "whole"


@pytest.mark.parametrize(
    ("between", "known", "asked"),
    [
        ({"role": "narrator", "content": "Night falls."}, "cut", "s:S u:Q u: u:Go on"),
        ({"content": "Night falls."}, "cut", "s:S u:Q u: u:Go on"),
        (7, "cut", "s:S u:Q u: u:Go on"),
        ({"role": "assistant", "content": None, "refusal": "No."}, "whole", "s:S u:Q a:No. u:Go on"),
        ({"role": "assistant", "content": 42}, "whole", "s:S u:Q a:42 u:Go on"),
        ({"type": "human", "content": "Hm"}, "whole", "s:S u:Q u:Hm u:Go on"),
    ],
)
def test_what_is_said_by_nobody_who_is_known_is_missed_in_the_prompt(
    tmp_path: Path, between: Any, known: str, asked: str
) -> None:
    request = {"messages": [*ASKED, between, {"role": "user", "content": "Go on"}]}
    exported = read_lines(tmp_path, {"request_body": request, "response_body": REPLY})
    payload = {"call_type": "acompletion", "startTime": AT, **request, "response": REPLY}
    for items, said in ((exported, asked.replace(" u: ", " ")), (read_lines(tmp_path, payload), asked)):
        assert (only(items).completeness, prompt_of(only(items))) == (known, said)


def test_parts_of_an_unknown_kind_are_not_forgotten_where_a_call_is_recorded(tmp_path: Path) -> None:
    odd = [{"type": "hologram", "data": "x"}, {"type": "text", "text": "Look."}]
    asked: dict[str, Any] = {"system": "S", "messages": [{"role": "user", "content": odd}]}
    said = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "A"}]}
    for request, response in (("request", "response"), ("request_body", "response_body")):
        assert only(read_lines(tmp_path, {request: asked, response: said})).completeness == "cut"
        question = {**asked, "messages": [{"role": "user", "content": "Q"}]}
        items = read_lines(tmp_path, {request: question, response: {**said, "content": odd}})
        assert items == [Skipped("part_of_unknown_kind")]


@pytest.mark.parametrize(
    ("message", "line", "choice", "known"),
    [
        ({"role": "narrator", "content": "Night falls."}, {}, {}, ("cut", False, "unknown", None)),
        ({"role": "user", "content": "redacted-by-litellm"}, {}, {}, ("cut", False, "unknown", None)),
        ({"role": "user", "content": [{"type": "hologram"}]}, {}, {}, ("cut", False, "unknown", None)),
        ({"role": "user", "content": "Q"}, {}, {"finish_reason": "max_tokens"}, ("whole", True, "unknown", None)),
        ({"role": "user", "content": "Q"}, {"success": False}, {}, ("whole", True, "unknown", None)),
        ({"role": "user", "content": "Q"}, {"error": "Timed out"}, {}, ("whole", True, "unknown", None)),
        ({"role": "user", "content": "Q"}, {"rating": "2"}, {}, ("whole", False, "unknown", 2)),
        ({"role": "user", "content": "Q"}, {"feedback": {"rating": "bad"}}, {}, ("whole", False, "failure", None)),
    ],
)
def test_what_a_recorded_call_says_of_itself_is_heard(
    tmp_path: Path, message: dict[str, Any], line: dict[str, Any], choice: dict[str, Any], known: tuple[Any, ...]
) -> None:
    response = {"choices": [{"message": TALK[-1], **choice}]}
    recorded = {"session_id": "s", "request": {"messages": [message]}, "response": response, **line}
    turn = only(read_lines(tmp_path, recorded))
    assert (turn.completeness, turn.step_failed, turn.status, turn.rating) == known


def test_messages_that_begin_with_one_system_prompt_again_are_another_conversation(tmp_path: Path) -> None:
    def said(system: str, question: str) -> list[Any]:
        return [{"role": "system", "content": system}, {"role": "user", "content": question}, TALK[-1]]

    first, second, third = turns_of(read_lines(tmp_path, *said("S", "Q1"), *said("S", "Q2"), *said("Other", "Q3")))
    assert [prompt_of(first), prompt_of(second)] == ["s:S u:Q1", "s:S u:Q2"]
    assert prompt_of(third) == "s:S u:Q2 a:Done s:Other u:Q3"
    assert len({first.session_id, second.session_id, third.session_id}) == 2


def test_a_call_that_codex_did_not_let_end_has_the_result_that_codex_sends(tmp_path: Path) -> None:
    aborted = {"type": "event_msg", "payload": {"type": "turn_aborted"}}
    call = item("function_call", name="shell", arguments="{}", call_id="c")
    lines = [meta(), spoken("user", "Q"), call, aborted, spoken("user", "Go on"), spoken("assistant", "A")]
    assert prompt_of(turns_of(read_lines(tmp_path, *lines))[-1]) == "s:You are Codex. u:Q a:* t:aborted u:Go on"


@pytest.mark.parametrize("failed", [True, False])
def test_the_calls_of_a_trace_that_failed_failed(tmp_path: Path, failed: bool) -> None:
    body = {"mlflow.spanInputs": json.dumps({"messages": ASKED}), "mlflow.spanOutputs": json.dumps(REPLY)}
    spans = [{"span_id": "s", "attributes": {"mlflow.spanType": '"LLM"', **body}}]
    mlflow = {"info": {"trace_id": "t", "state": "ERROR" if failed else "OK"}, "data": {"spans": spans}}
    run_of = {"trace_id": "t", "inputs": {"messages": ASKED}, "outputs": REPLY}
    root: dict[str, Any] = {"id": "r", "run_type": "chain", "trace_id": "t", "inputs": {}}
    langsmith = [
        root | ({"error": "x"} if failed else {}),
        {"id": "l", "run_type": "llm", "parent_run_id": "r", **run_of},
    ]
    contents = {"gen_ai.input.messages": json.dumps(ASKED), "gen_ai.output.messages": json.dumps([TALK[-1]])}
    call = span("c", {"gen_ai.operation.name": "chat", **contents}, "r")
    spans_of = otlp(tmp_path, call, span("r", {}, status={"code": 2 if failed else 1}))
    asked = {"id": "g", "type": "GENERATION", "parentObservationId": "a", "input": ASKED, "output": "A"}
    agent = {"id": "a", "type": "AGENT", "level": "ERROR" if failed else "DEFAULT"}
    langfuse = read_lines(tmp_path, {"trace": {"id": "t"}, "observations": [asked, agent]})
    for items in (read_lines(tmp_path, mlflow), read_lines(tmp_path, *langsmith), spans_of, langfuse):
        assert only(items).status == ("failure" if failed else "unknown")


def test_chats_of_programs_hold_no_thought_no_name_and_no_broken_answer_as_what_was_said(tmp_path: Path) -> None:
    chunks = [("user", "Q", {}), ("model", "Hm", {"isThought": True}), ("model", "A", {})]
    studio = {"chunkedPrompt": {"chunks": [{"role": role, "text": words, **more} for role, words, more in chunks]}}
    (last,) = turns_of(document(tmp_path, studio))
    assert (last.completion["content"], last.completion["reasoning_content"], prompt_of(last)) == ("A", "Hm", "u:Q")
    blocks = [{"role": role, "id": role, "blocks": ["f81d4fae"]} for role in ("user", "assistant")]
    assert document(tmp_path, {"topics": [{"id": "t", "messages": blocks}]}) == [Skipped("part_of_unknown_kind")]
    shown = {"message": {"text": "Q"}, "response": [{"value": "Hal"}], "result": {"errorDetails": {"message": "x"}}}
    chat = {"responderUsername": "GitHub Copilot", "requests": [shown]}
    assert document(tmp_path, chat) == [Skipped("broken_off")]
    step = {"text": "A", "finishReason": "length", "response": {}, "request": {"body": '{"input": "Q"}'}}
    assert document(tmp_path, {"steps": [step]}) == [Skipped("broken_off")]


def test_a_failed_command_and_a_cut_reply_of_the_older_openhands_are_no_successes(tmp_path: Path) -> None:
    def events(reason: str, code: int) -> list[dict[str, Any]]:
        reply = {"choices": [{"finish_reason": reason, "message": {"role": "assistant", "tool_calls": [CALL]}}]}
        facts = {
            "timestamp": "2026-01-01T00:00:00",
            "tool_call_metadata": {"tool_call_id": "c1", "model_response": reply},
        }
        return [
            {
                "id": 1,
                "timestamp": "2026-01-01T00:00:00",
                "source": "user",
                "action": "message",
                "args": {"content": "Q"},
            },
            {"id": 2, "source": "agent", "action": "run", **facts},
            {"id": 3, "source": "agent", "observation": "run", "content": "out", **facts}
            | {"extras": {"metadata": {"exit_code": code}}},
        ]

    failed = [
        only(read_lines(tmp_path, *events(*end))).step_failed for end in (("stop", 0), ("stop", 1), ("length", 0))
    ]
    assert failed == [False, True, True]


def test_how_a_conversation_of_openhands_ended_is_its_verdict(tmp_path: Path) -> None:
    def event(kind: str, number: int, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "id": f"e{number}", "timestamp": AT, "source": "agent", **more}

    said = event("MessageEvent", 1, llm_message={"role": "assistant", "content": text("A")})
    asked = event("MessageEvent", 0, llm_message={"role": "user", "content": text("Q")}) | {"source": "user"}

    def ended(*states: str, **row: Any) -> list[str]:
        changes = [
            event("ConversationStateUpdateEvent", place, key="execution_status", value=state)
            for place, state in enumerate(states, 2)
        ]
        lines = [asked, said, *changes]
        items = read_lines(tmp_path, *([{"instance_id": "i", "history": lines, **row}] if row else lines))
        return [one.status for one in items if isinstance(one, Verdict)]

    assert [ended("finished"), ended("error", "finished"), ended("running", "stuck")] == [[], [], ["failure"]]
    assert [ended(error=None), ended(error="Lost"), ended(resolved=True)] == [[], ["failure"], ["success"]]
    assert ended(test_result={"report": {"resolved": False}}) == ["failure"]
    older = {"id": 2, "timestamp": AT, "source": "environment", "observation": "agent_state_changed"}
    told = {"id": 1, "timestamp": AT, "source": "agent", "action": "message", "args": {"content": "A"}}
    items = read_lines(tmp_path, told, {**older, "extras": {"agent_state": "error"}})
    assert [one.status for one in items if isinstance(one, Verdict)] == ["failure"]


# --- sets of training data


def test_a_rating_of_a_row_is_its_rating(tmp_path: Path) -> None:
    rows = [{"messages": [*ASKED, TALK[-1]], **one} for one in ({"rating": "2"}, {"vote": "down"}, {"utility": False})]
    known = [(turn.status, turn.rating) for turn in turns_of(read_lines(tmp_path, *rows))]
    assert known == [("success", 2), ("failure", None), ("failure", None)]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [("gpt", '<tool_call>{"name": "bash", "arguments": {"cmd": "ls"}}</tool_call>')]},
        {"conversations": [("gpt", "<tool_call>{'name': 'bash', 'arguments': {'cmd': 'ls'}}</tool_call>")]},
        {"conversations": [("assistant", '[bash(cmd="ls")]')]},
        {"chat": """ASSISTANT: <functioncall> {"name": "bash", "arguments": '{"cmd": "ls"}'} <|endoftext|>"""},
    ],
)
def test_calls_that_a_set_spells_out_are_calls_with_their_results(tmp_path: Path, row: dict[str, Any]) -> None:
    if "chat" in row:
        row = {
            "system": "SYSTEM: S",
            "chat": f"USER: Q\n\n\n{row['chat']}\n\n\nFUNCTION RESPONSE: out\n\n\nASSISTANT: Done",
        }
    else:
        said = [("system", "S"), ("user", "Q"), *row["conversations"], ("tool", "out"), ("gpt", "Done")]
        row = {"conversations": [{"from": who, "value": words} for who, words in said]}
    first, second = turns_of(read_lines(tmp_path, row))
    (call,) = first.completion["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("bash", {"cmd": "ls"})
    assert (first.completion["content"], first.result_known) == ("", True)
    assert (prompt_of(second), second.completion["content"]) == ("s:S u:Q a:* t:out", "Done")


@pytest.mark.parametrize(
    "words", ["[1] is the first footnote", "<tool_call>not JSON</tool_call>", '[os.system("x")]', "Human: who am I?"]
)
def test_a_text_that_is_no_call_stays_a_text(tmp_path: Path, words: str) -> None:
    said = [("user", "Q"), ("assistant", words), ("tool", "out"), ("assistant", "Done")]
    first = turns_of(read_lines(tmp_path, {"messages": [{"role": role, "content": one} for role, one in said]}))[0]
    assert first.completion == {"role": "assistant", "content": words}


def test_tools_in_a_system_prompt_are_recorded_and_each_side_of_a_pair_has_its_teacher(tmp_path: Path) -> None:
    schema = {"name": "bash", "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}}}
    talk = [("system", f"Use <tools>[{json.dumps(schema)}]</tools>"), ("human", "Q"), ("gpt", "A")]
    told = only(read_lines(tmp_path, {"conversations": [{"from": who, "value": words} for who, words in talk]}))
    assert (told.tools_known, told.tools) == ("recorded", [{"type": "function", "function": schema}])
    pair = {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"}
    items = turns_of(read_lines(tmp_path, {**pair, "chosen_model": "m1", "rejected_model": "m2"}))
    assert [(prompt_of(one), one.completion["content"], one.model, one.status) for one in items] == [
        ("u:Q", "good", "m1", "success"),
        ("u:Q", "bad", "m2", "failure"),
    ]


def test_a_simulation_that_a_limit_ended_failed_without_a_reward(tmp_path: Path) -> None:
    info = {"environment_info": {"policy": "P", "domain_name": "d"}, "agent_info": {"llm": "m"}}
    said = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    run_of = {"id": "s", "task_id": "1", "messages": said, "termination_reason": "max_steps", "reward_info": None}
    items = document(tmp_path, {"info": info, "tasks": [], "simulations": [run_of]})
    assert Verdict("s", status="failure") in items


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"trial_name": "t", "is_resolved": True}, "trajectories"),
        ({"object": "response", "model": "m", "output": [CALL]}, "record at the gateway"),
        ({"type": "session.created", "event_id": "e"}, "Realtime"),
        ({"conversation_a": [], "conversation_b": []}, "chosen"),
        ({"message_tree_id": "t", "role": "prompter", "text": "Q"}, "conversations"),
    ],
)
def test_neighbours_that_hold_no_calls_are_refused_with_what_would_do(line: dict[str, Any], words: str) -> None:
    head = json.dumps(line).encode()
    assert readers.detect(head) is None
    assert words in readers.nearest(head)


def test_a_fork_of_codex_beside_its_parent_is_learnt_once(tmp_path: Path) -> None:
    talk = [spoken("user", "Q"), spoken("assistant", "A")]
    read_lines(tmp_path, meta("p"), *talk, name="p.jsonl")
    later = [{**line, "timestamp": "2026-01-02T00:00:02Z"} for line in (meta("p"), *talk)]
    fork = {**meta("f", forked_from_id="p", timestamp="2026-01-02T00:00:00Z"), "timestamp": "2026-01-02T00:00:00Z"}
    own = [{**line, "timestamp": "2026-01-02T00:00:03Z"} for line in (spoken("user", "Q2"), spoken("assistant", "A2"))]
    read_lines(tmp_path, fork, *later, *own, name="f.jsonl")
    run(tmp_path, tmp_path / "out")
    assert sorted(json.loads(row["completion"])["content"] for row in turns(tmp_path / "out")) == ["A", "A2"]


# --- Calls and opinions wherever a platform keeps them

QUESTION: list[Any] = [{"role": "user", "content": "Q"}]
SAID: dict[str, Any] = {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    "line",
    [
        {"prompt_messages": QUESTION, "completion_message": SAID, "thread_identifier": "s"},
        {"session_id": "s", "inputs": {"chat_history": QUESTION}, "outputs": SAID},
        {
            "session_id": "s",
            "function_kwargs": {"messages": QUESTION},
            "request_response": {"choices": [{"message": SAID}]},
        },
        {
            "session_id": "s",
            "ai": {"proxy": {"payload": {"request": json.dumps({"messages": QUESTION}), "response": "A"}}},
        },
        {"session_id": "s", "llm_interactions": [{"input_messages": QUESTION, "response": {"content": "A"}}]},
    ],
    ids=["names", "inputs", "arguments", "text", "interactions"],
)
def test_a_call_is_found_whatever_stands_around_it(tmp_path: Path, line: dict[str, Any]) -> None:
    turn = only(document(tmp_path, line))
    assert (prompt_of(turn), turn.completion["content"], turn.session_id) == ("u:Q", "A", "s")


def test_a_conversation_that_holds_its_answer_is_no_request_for_it(tmp_path: Path) -> None:
    held = {"result": {"chat_history": [*QUESTION, SAID], "output": "A"}}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.jsonl").write_text(json.dumps(held))
    run(tmp_path / "logs", tmp_path / "out")
    (row,) = turns(tmp_path / "out")  # its own answer is one, once
    assert (json.loads(row["prompt"]), row["source_format"]) == (QUESTION, "held_chats")


def test_calls_of_one_conversation_that_name_no_session_are_one_session_with_a_step_each(tmp_path: Path) -> None:
    lines = [
        {"type": "LLMCall", "messages": QUESTION, "response": {"choices": [{"message": SAID}]}},
        {"type": "LLMCall", "messages": [*QUESTION, SAID, *ASKED], "response": {"choices": [{"message": SAID}]}},
    ]
    first, second = turns_of(read_lines(tmp_path, *lines))
    assert (first.session_id, first.step, second.step) == (second.session_id, 0, 1)


def braintrust(**scores: float) -> list[dict[str, Any]]:
    """A trace of Braintrust: the scores stand at its root, the call in a span below it."""
    root = {"root_span_id": "r", "span_id": "r", "span_attributes": {"type": "eval"}, "input": "Q", "scores": scores}
    output = [{"message": SAID, "finish_reason": "stop"}]
    call = {
        "root_span_id": "r",
        "span_id": "l",
        "span_attributes": {"type": "llm"},
        "input": QUESTION,
        "output": output,
    }
    return [root, call]


def phoenix(label: str) -> dict[str, Any]:
    """A span of Phoenix with somebody's annotation."""
    own: dict[str, Any] = {
        "openinference": {"span": {"kind": "LLM"}},
        "llm": {"input_messages": [{"message": QUESTION[0]}]},
    }
    own["llm"]["output_messages"] = [{"message": SAID}]
    annotation = {"name": "correctness", "annotator_kind": "HUMAN", "result": {"label": label}}
    return {"context": {"trace_id": "t", "span_id": "a"}, "attributes": own, "annotations": [annotation]}


def vscode(vote: int) -> dict[str, Any]:
    """A chat of GitHub Copilot with a person's vote on an answer."""
    request = {"message": {"text": "Q"}, "response": [{"value": "A"}], "vote": vote}
    return {"responderUsername": "GitHub Copilot", "sessionId": "s", "requests": [request]}


@pytest.mark.parametrize(
    ("lines", "status", "failed"),
    [
        (braintrust(Factuality=1), "success", False),
        (braintrust(Factuality=1, ExactMatch=0), "failure", False),
        (braintrust(Toxicity=0, LatencySeconds=0.2), "unknown", False),
        ([phoenix("correct")], "success", False),
        ([phoenix("incorrect")], "failure", False),
        ([vscode(1)], "unknown", False),
        ([vscode(0)], "unknown", True),
    ],
)
def test_what_people_and_judges_said_reaches_the_session_or_the_answer(
    tmp_path: Path, lines: list[dict[str, Any]], status: str, failed: bool
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(tmp_path / "logs", tmp_path / "out")
    (turn,) = turns(tmp_path / "out")
    assert (turn["status"], turn["step_failed"]) == (status, failed)


def test_scores_of_langfuse_may_be_words_or_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    generation = {"traceId": "t", "id": "g", "type": "GENERATION", "startTime": AT, "parentObservationId": None}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.json").write_text(json.dumps([{**generation, "input": QUESTION, "output": SAID}]))
    score = {"id": "x", "traceId": "t", "name": "user-feedback", "value": 0, "stringValue": "thumbs down"}
    (tmp_path / "logs" / "scores.json").write_text(json.dumps([{**score, "dataType": "CATEGORICAL"}]))
    assert run(tmp_path / "logs", tmp_path / "out").by_status == {"failure": 1}


def test_documents_over_several_lines_one_behind_the_other_are_read_as_lines_are(tmp_path: Path) -> None:
    for number, indent in enumerate((None, 2)):
        lines = [
            json.dumps({"messages": [*QUESTION, {**SAID, "content": f"A\n}}\n{{ {n}"}]}, indent=indent)
            for n in range(3)
        ]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    first, second = (turns_of(read(tmp_path / f"{number}.jsonl")) for number in range(2))
    assert [turn.completion for turn in first] == [turn.completion for turn in second]
    assert len(second) == 3


def test_records_that_belong_together_are_refused_in_one_sentence_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_SHELF", 300)
    (tmp_path / "logs").mkdir()
    run_of = {"run_type": "llm", "trace_id": "t", "inputs": {"messages": QUESTION}, "outputs": {"message": SAID}}
    lines = [json.dumps({**run_of, "id": f"r{number}"}) + "\n" for number in range(9)]
    (tmp_path / "logs" / "a.jsonl").write_text("".join(lines))
    (row,) = run(tmp_path / "logs", tmp_path / "out").quarantine
    assert row["reason"] == "gigantic"
    assert "several files" in row["detail"]
