"""Logs as platforms, gateways and databases export them: told by what they hold, whatever their members are called."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.readers import halves
from grokora_pipeline.sessions.readers.source import UnreadableError
from grokora_pipeline.sessions.turns import Problem, Skipped, Verdict
from grokora_pipeline_tests.unit.session_logs import run, turns
from grokora_pipeline_tests.unit.test_sessions_foreign_logs import read, read_lines, turns_of, write
from grokora_pipeline_tests.unit.test_sessions_replayed_logs import skipped, told
from grokora_pipeline_tests.unit.test_sessions_unseen_logs import ASKED, CALL, TALK, document, only, prompt_of

SAID = {"role": "assistant", "content": "A"}
TOOL = {"name": "bash", "description": "d", "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}}}
AT = "2026-01-01T00:00:00+00:00"


# --- batches, whose halves lie in two files


def requests(*ids: str) -> list[dict[str, Any]]:
    """The requests of a batch of OpenAI's."""
    return [{"custom_id": one, "body": {"model": "m", "messages": ASKED}} for one in ids]


def replies(*ids: str) -> list[dict[str, Any]]:
    """What the batch gave back."""
    body = {"created": 1767225600, "choices": [{"message": SAID, "finish_reason": "stop"}]}
    return [{"custom_id": one, "response": {"status_code": 200, "body": body}, "error": None} for one in ids]


def test_the_halves_of_a_batch_in_two_files_are_its_calls_once(tmp_path: Path) -> None:
    asked = write(tmp_path / "logs" / "in.jsonl", *requests("a", "b", "c"))
    answered = write(tmp_path / "logs" / "out.jsonl", *replies("b", "a"))
    for path in (asked, answered):
        assert sorted((turn.session_id, turn.started_at) for turn in turns_of(read(path))) == [("a", AT), ("b", AT)]
    assert skipped(read(asked)) == ["half_of_a_call"]  # the batch did not answer `c`
    run(tmp_path / "logs", tmp_path / "out")
    assert sorted(row["session_id"] for row in turns(tmp_path / "out")) == ["a", "b"]


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (
            {"requests": [{"custom_id": "a", "params": {"system": "S", "messages": ASKED[1:]}}]},
            {"custom_id": "a", "result": {"type": "succeeded", "message": {"type": "message", **SAID}}},
        ),
        (
            {
                "key": "a",
                "request": {"contents": [{"parts": [{"text": "Q"}]}], "systemInstruction": {"parts": [{"text": "S"}]}},
            },
            {"key": "a", "response": {"candidates": [{"content": {"role": "model", "parts": [{"text": "A"}]}}]}},
        ),
    ],
    ids=["anthropic", "gemini"],
)
def test_batches_of_other_apis_are_joined_alike(tmp_path: Path, asked: Any, answered: Any) -> None:
    write(tmp_path / "out.jsonl", answered)
    assert told(read_lines(tmp_path, asked)) == ["s:S u:Q -> A (whole)"]


@pytest.mark.parametrize(
    ("own", "beside", "words"),
    [
        (requests("a"), [], "its replies are missing"),
        (replies("a"), [], "its requests are missing"),
        (requests("a"), [replies("a"), [{**replies("a")[0], "id": "other"}]], "a folder of its own"),
        (replies("a"), [requests("a"), [{**requests("a")[0], "method": "POST"}]], "a folder of its own"),
        (requests("a"), [replies("z")], "its replies are missing"),
    ],
)
def test_half_a_batch_says_which_half_is_missing_and_never_takes_anothers(
    tmp_path: Path, own: list[Any], beside: Sequence[list[Any]], words: str
) -> None:
    for number, other in enumerate(beside):
        write(tmp_path / f"{number}.jsonl", *other)
    with pytest.raises(UnreadableError) as caught:
        read_lines(tmp_path, *own)
    assert words in caught.value.problem.detail


CHAT: tuple[Any, Any] = ({"model": "m", "messages": ASKED}, {"choices": [{"message": SAID, "finish_reason": "stop"}]})
ANTHROPIC: tuple[Any, Any] = (
    {"model": "m", "system": "S", "messages": ASKED[1:]},
    {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "A"}]},
)
GEMINI: tuple[Any, Any] = (
    {"contents": [{"parts": [{"text": "Q"}]}], "systemInstruction": {"parts": [{"text": "S"}]}},
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "A"}]}}]},
)
RESPONSES: tuple[Any, Any] = (
    {"model": "m", "instructions": "S", "input": "Q"},
    {"object": "response", "output": [{"type": "message", **SAID, "content": [{"type": "output_text", "text": "A"}]}]},
)
CHUNKS: tuple[Any, ...] = ({"delta": {"content": "A"}}, {"delta": {}, "finish_reason": "stop"})
STREAM = "".join(f"data: {json.dumps({'choices': [one]})}\n\n" for one in CHUNKS)
# How logs write the two sides, each a record of its own
HALVES: dict[str, Any] = {
    "typed": lambda side, body: {"type": side, "request_id": "r1", "body": body},
    "named": lambda side, body: {"id": "r1", side: body},
    "event": lambda side, body: {"event": f"llm_{side}", "call_id": "r1", "payload": json.dumps(body)},
    "logger": lambda side, body: {"level": 30, "msg": side, "reqId": 1, side[:3]: {"body": body}},
    "flat": lambda side, body: {"kind": side, "correlationId": "r1", **body},
    "event ids": lambda side, body: {"id": f"of the {side}", "trace_id": "t", "stage": side, "data": body},
    "referring": lambda side, body: {"id": side, "parent_id": "request", "what": side, "data": body},
}


@pytest.mark.parametrize("written", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("api", [CHAT, ANTHROPIC, GEMINI, RESPONSES], ids=["chat", "messages", "gemini", "responses"])
def test_a_request_and_a_reply_of_their_own_lines_are_one_call(tmp_path: Path, written: Any, api: Any) -> None:
    lines = [{**written(side, body), "timestamp": AT} for side, body in zip(("request", "response"), api, strict=True)]
    noted = {"event": "cache_miss", "timestamp": AT}
    items = read_lines(tmp_path, lines[0], noted, lines[1])
    assert told(items) == ["s:S u:Q -> A (whole)"]
    assert skipped(items) == ["no_model_call"]
    assert [turn.started_at for turn in turns_of(items)] == [AT]


def test_halves_are_joined_by_what_names_the_call_and_never_else(tmp_path: Path) -> None:
    """Replies come in any order; one without its request takes no other's, though session and trace are the same."""

    def line(side: str, number: int, **more: Any) -> dict[str, Any]:
        return {"type": side, "session_id": "s", "trace_id": "t", "request_id": f"r{number}", **more}

    def asked(number: int) -> dict[str, Any]:
        return line("request", number, data={"model": "m", "messages": [{"role": "user", "content": f"Q{number}"}]})

    def said(number: int) -> dict[str, Any]:
        choice = {"message": {"role": "assistant", "content": f"A{number}"}, "finish_reason": "stop"}
        return line("response", number, data={"choices": [choice]})

    failed = line("response", 4, status=500, data={"error": "overloaded"})
    items = read_lines(tmp_path, said(0), asked(1), asked(2), said(2), said(9), asked(3), said(1), asked(4), failed)
    assert told(items) == ["u:Q2 -> A2 (whole)", "u:Q1 -> A1 (whole)"]
    assert {turn.session_id for turn in turns_of(items)} == {"s"}
    # of the first, of r9, of r3 and of r4; what failed says nothing
    assert sorted(skipped(items)) == [*["half_of_a_call"] * 4, "no_model_call"]
    again = read_lines(tmp_path, asked(1), asked(1), line("response", 1, data={"stream": STREAM}))
    assert (told(again), skipped(again)) == (["u:Q1 -> A (whole)"], ["half_of_a_call"])


def test_requests_that_nobody_answers_are_given_up_once_they_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halves, "MAX_WAITING", 2_000)
    lines = [HALVES["typed"]("request", CHAT[0]) | {"request_id": f"r{n}"} for n in range(100)]
    last = HALVES["typed"]("response", CHAT[1]) | {"request_id": "r99"}
    items = read_lines(tmp_path, *lines, HALVES["typed"]("response", CHAT[1]) | {"request_id": "r0"}, last)
    assert (len(turns_of(items)), len(skipped(items))) == (1, 100)


@pytest.mark.parametrize("first", ["in.jsonl", "out.jsonl"])
def test_a_half_that_comes_later_or_goes_leaves_what_reading_all_at_once_gives(tmp_path: Path, first: str) -> None:
    halves = {"in.jsonl": requests("a", "b"), "out.jsonl": replies("a", "b")}
    logs, late = tmp_path / "logs", next(name for name in halves if name != first)
    write(logs / first, *halves[first])
    alone = run(logs, tmp_path / "1")
    assert (alone.turns, [row["reason"] for row in alone.quarantine]) == (0, ["no_contents"])
    write(logs / late, *halves[late])
    both, at_once = run(logs, tmp_path / "2", tmp_path / "1"), run(logs, tmp_path / "3")
    assert (both.turns, both.files_read, both.quarantine, both.version) == (2, 2, [], at_once.version)
    (logs / late).unlink()
    assert run(logs, tmp_path / "4", tmp_path / "2").version == alone.version


def test_a_reward_and_a_sub_agents_type_that_are_written_later_reach_their_log(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    steps = [{"step_id": 1, "source": "user", "message": "Q"}, {"step_id": 2, "source": "agent", "message": "A"}]
    told = {"schema_version": "ATIF-v1.6", "session_id": "s", "agent": {"name": "a", "version": "1"}, "steps": steps}
    write(logs / "trial" / "agent" / "trajectory.json", told)
    line = {"sessionId": "t", "isSidechain": True, "cwd": "/x", "version": "2", "agentId": "7"}
    claude = [
        {**line, "uuid": "1", "parentUuid": None, "type": "user", "message": {"role": "user", "content": "Q"}},
        {**line, "uuid": "2", "parentUuid": "1", "type": "assistant", "message": {"role": "assistant", "content": "B"}},
    ]
    write(logs / "agent-7.jsonl", *claude)
    run(logs, tmp_path / "1")
    (logs / "trial" / "verifier").mkdir()
    (logs / "trial" / "verifier" / "reward.txt").write_text("1", encoding="utf-8")
    write(logs / "agent-7.meta.json", {"agentType": "explorer"})
    report = run(logs, tmp_path / "2", tmp_path / "1")
    rows = {row["source_file"]: row for row in turns(tmp_path / "2")}
    assert rows["trial/agent/trajectory.json"]["status"] == "success"
    assert "explorer" in str(rows["agent-7.jsonl"]["recorded_agent"])
    assert report.version == run(logs, tmp_path / "3").version


def test_contents_that_are_uploaded_beside_spans_later_are_read_and_then_looked_at_no_more(tmp_path: Path) -> None:
    logs, names = tmp_path / "logs", ("input", "output")
    said = {"gen_ai.operation.name": "chat"} | {f"gen_ai.{one}.messages_ref": f"file:///up/{one}.json" for one in names}
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in said.items()]
    span = {"traceId": "a" * 32, "spanId": "1", "name": "chat", "startTimeUnixNano": "1", "attributes": attributes}
    write(logs / "spans.jsonl", {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    assert run(logs, tmp_path / "1").turns == 0
    for name, role in zip(names, ("user", "assistant"), strict=True):
        parts = [{"type": "text", "content": role}]
        (logs / f"{name}.json").write_text(json.dumps([{"role": role, "parts": parts}]), encoding="utf-8")
    report = run(logs, tmp_path / "2", tmp_path / "1")
    assert (report.turns, report.version) == (1, run(logs, tmp_path / "3").version)
    write(logs / "another.json", {"type": "text", "content": "x"})
    assert run(logs, tmp_path / "4", tmp_path / "2").files_read == 1


# --- replies, results and speakers under any name


@pytest.mark.parametrize(
    "reply",
    [
        {"messages": [SAID]},
        {"type": "chat", "messages": [*ASKED, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]},
        {"text": "A", "toolCalls": []},
        {"completion": "A", "reasoning": None},
    ],
    ids=["messages", "parts", "text", "completion"],
)
def test_a_reply_that_a_platform_made_alike_for_all_apis_is_an_answer(tmp_path: Path, reply: Any) -> None:
    record = {"id": "x", "model": "m", "created_at": AT, "input": {"messages": ASKED}, "output": reply}
    turn = only(document(tmp_path, record))
    assert (prompt_of(turn), turn.completion["content"], turn.started_at) == ("s:S u:Q", "A", AT)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {
                "contents": [{"parts": [{"text": "Q"}]}],
                "response": {"candidates": [{"content": {"parts": [{"text": "A"}]}}]},
            },
            "u:Q -> A (whole)",
        ),
        (
            {"request": {"system": "S", "prompt": "Q"}, "response": {"response": "A", "done": True}},
            "s:S u:Q -> A (whole)",
        ),
        ({"request": {"prompt": "Q", "context": [1]}, "response": {"response": "A"}}, "u:Q -> A (delta)"),
    ],
    ids=["gemini", "ollama", "context"],
)
def test_a_request_that_holds_no_messages_of_openais_is_one(tmp_path: Path, record: Any, said: str) -> None:
    assert told(read_lines(tmp_path, record)) == [said]


def test_a_template_of_promptlayers_is_filled_or_no_whole_prompt(tmp_path: Path) -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "Q {x} {{y}}"}], "input_variables": ["x", "y"]}
    record = {"prompt_blueprint": {"prompt_template": {"messages": [asked, SAID]}}}
    assert told(read_lines(tmp_path, {**record, "input_variables": {"x": 1, "y": "b"}})) == ["u:Q 1 b -> A (whole)"]
    assert only(read_lines(tmp_path, {**record, "input_variables": {"x": 1}})).completeness == "cut"


def test_elements_of_a_list_without_its_brackets_are_records(tmp_path: Path) -> None:
    row = json.dumps({"messages": [*ASKED, SAID]})
    (tmp_path / "x.jsonl").write_text(f"{row},\n{row},\n")
    assert told(read(tmp_path / "x.jsonl")) == ["s:S u:Q -> A (whole)"] * 2


def test_a_reply_as_python_prints_it_is_no_answer(tmp_path: Path) -> None:
    record = {"messages": ASKED, "response": "ModelResponse(id='x', choices=[Choices(message=Message(content='A'))])"}
    assert skipped(read_lines(tmp_path, record)) == ["no_answer"]
    assert told(read_lines(tmp_path, {**record, "outputs": ["A"]})) == ["s:S u:Q -> A (whole)"]  # DSPy's


def test_results_beside_an_empty_content_are_results(tmp_path: Path) -> None:
    call = {"name": "bash", "arguments": {"cmd": "ls"}, "tool_id": "c1"}
    result = {"role": "tool", "content": "", "tool_results": [{"result": "out", "tool_id": "c1"}]}
    asked = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}, result]
    meta = {"span": {"kind": "llm"}, "input": {"messages": asked}, "output": {"messages": [SAID]}}
    offered = [{"name": "bash", "description": "d", "schema": TOOL["parameters"]}]
    turn = only(read_lines(tmp_path, {"span_id": "1", "meta": {**meta, "tool_definitions": offered}}))
    assert (prompt_of(turn), turn.tools) == ("s:S u:Q a:* t:out", [{"type": "function", "function": TOOL}])


@pytest.mark.parametrize(
    "said",
    [
        [{"sender": "user", "text": "Q"}, {"sender": "assistant", "text": "A"}],
        [{"author": {"role": "user"}, "content": "Q"}, {"author": {"role": "assistant"}, "content": "A"}],
        [{"speaker": "Human", "value": "Q"}, {"speaker": "AI", "value": "A"}],
        [{"isBot": False, "text": "Q"}, {"isBot": True, "text": "A"}],
        [{"is_user": True, "message": "Q"}, {"is_user": False, "message": "A"}],
        [{"_role": "user", "_content": [{"text": "Q"}]}, {"_role": "assistant", "_content": [{"text": "A"}]}],
    ],
    ids=["sender", "author", "speaker", "isBot", "is_user", "_role"],
)
def test_who_speaks_is_told_by_any_name(tmp_path: Path, said: list[Any]) -> None:
    assert told(document(tmp_path, said))[0].startswith("u:Q -> A")
    assert told(document(tmp_path, {"chats": [{"log": said}]})) == ["u:Q -> A (reconstructed)"]


def test_a_call_that_is_a_message_of_its_own_is_a_call(tmp_path: Path) -> None:
    spelled = {"role": "tool_call", "content": "{'name': 'bash', 'arguments': '{\"cmd\": \"ls\"}'}"}
    row = {"messages": [*ASKED, spelled, {"role": "tool_response", "content": "out"}, SAID]}
    first, second = turns_of(read_lines(tmp_path, row))
    assert first.completion["tool_calls"][0]["function"] == {"name": "bash", "arguments": '{"cmd": "ls"}'}
    assert (first.result_known, prompt_of(second)) == (True, "s:S u:Q a:* t:out")


# --- traces


def test_a_trace_tells_its_calls_their_session_their_agent_and_what_people_said(tmp_path: Path) -> None:
    call = {"id": "1", "type": "llm", "input": {"messages": ASKED}, "output": SAID, "feedback_scores": []}
    trace = {"id": "T", "thread_id": "th", "feedback_scores": [{"name": "user_feedback", "value": 0}]}
    items = document(tmp_path, {"trace": trace, "spans": [{**call, "trace_id": "T"}]})
    assert (only(items).session_id, [one.status for one in items if isinstance(one, Verdict)]) == ("th", ["failure"])
    typed = {"input": {"type": "chat_messages", "value": ASKED}, "output": {"type": "text", "value": "A"}}
    spans = [{"span_id": "a", "type": "agent", "name": "Planner"}, {"type": "llm", "parent_id": "a", **typed}]
    vote = {"event_type": "thumbs_up_down", "metrics": {"vote": -1}}
    items = document(tmp_path, {"metadata": {"thread_id": "th"}, "spans": spans, "events": [vote]})
    assert (only(items).agent, only(items).session_id, only(items).status) == ("Planner", "th", "failure")


MESSAGES = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "m",
    "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Q"}]}]),
    "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "A"}]}]),
}
ROWS = {
    "zipkin": {"traceId": "t", "id": "a", "timestamp": 1767225600000000, "tags": MESSAGES},
    "honeycomb": {"trace.trace_id": "t", "trace.span_id": "a", "Timestamp": AT, **MESSAGES},
    "clickhouse": {"Timestamp": AT, "TraceId": "t", "SpanId": "a", "SpanAttributes": MESSAGES, "StatusCode": "Ok"},
    "elastic": {"@timestamp": AT, "trace": {"id": "t"}, "span": {"id": "a"}, "attributes": MESSAGES},
    "signoz": {"timestamp": AT, "trace_id": "t", "span_id": "a", "attributes_string": MESSAGES},
    "azure": {"timestamp": AT, "operation_Id": "t", "id": "a", "customDimensions": json.dumps(MESSAGES)},
    "agentops": {
        "trace_id": "t",
        "spans": [{"trace_id": "t", "span_id": "a", "start_time": AT, "attributes": MESSAGES}],
    },
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_of_any_table_of_spans_is_a_call(tmp_path: Path, row: dict[str, Any]) -> None:
    turn = only(read_lines(tmp_path, row))
    assert (prompt_of(turn), turn.completion["content"], turn.model) == ("u:Q", "A", "m")
    assert (turn.session_id, turn.call, turn.started_at, turn.step_failed) == ("t", "t:a", AT, False)


def test_traces_without_their_calls_say_what_would_do(tmp_path: Path) -> None:
    row = {"trace_id": "t", "span_id": "a", "attributes": {**MESSAGES, "gen_ai.operation.name": "invoke_agent"}}
    with pytest.raises(UnreadableError) as caught:
        read_lines(tmp_path, row)
    assert "trace the model's client" in caught.value.problem.detail
    trace = {"id": "t", "projectId": "p", "scores": [], "observations": ["o1"], "input": "Q", "output": "A"}
    (problem,) = (one for one in document(tmp_path, {"data": [trace]}) if isinstance(one, Problem))
    assert "export the observations" in problem.detail


def test_settings_of_a_model_are_no_call(tmp_path: Path) -> None:
    value = {"config": {"llm": {"model": "m"}, "agent": {"name": "x"}}, "messages": [*ASKED, SAID]}
    assert only(read_lines(tmp_path, value)).source_format == "chat_dataset"


# --- programs


def test_a_file_that_holds_no_call_says_so(tmp_path: Path) -> None:
    assert read_lines(tmp_path, {"op_name": "weave:///e/p/op/parse:1", "inputs": {"text": "x"}, "output": 1}) == [
        Skipped("no_model_call")
    ]


def test_a_session_of_strands_keeps_a_message_a_file(tmp_path: Path) -> None:
    use = {"toolUse": {"toolUseId": "c1", "name": "bash", "input": {"cmd": "ls"}}}
    result = {"toolResult": {"toolUseId": "c1", "status": "success", "content": [{"text": "out"}]}}
    said = [("user", {"text": "Q"}), ("assistant", use), ("user", result), ("assistant", {"text": "A"})]
    folder = tmp_path / "logs" / "session_S" / "agents" / "agent_planner"
    for number, (role, part) in enumerate(said):
        message = {"message": {"role": role, "content": [part]}, "message_id": number, "redact_message": None}
        write(folder / "messages" / f"message_{number}.json", {**message, "created_at": AT})
    first, second = turns_of(read(folder / "messages" / "message_0.json"))
    assert (first.session_id, first.agent, first.started_at) == ("S", "planner", AT)
    assert (prompt_of(second), second.completeness) == ("u:Q a:* t:out", "reconstructed")
    assert skipped(read(folder / "messages" / "message_2.json")) == ["event_of_another_file"]
    write(folder / "agent.json", {"agent_id": "planner", "conversation_manager_state": {"removed_message_count": 2}})
    run(tmp_path / "logs", tmp_path / "out")
    assert [row["completeness"] for row in turns(tmp_path / "out")] == ["delta", "delta"]


def test_a_run_of_browser_use_without_what_its_model_was_shown_holds_no_prompts(tmp_path: Path) -> None:
    step = {"model_output": {"memory": "m", "action": []}, "result": [{"is_done": True, "success": False}], "state": {}}
    turn = only(document(tmp_path, {"history": [step]}))
    assert (turn.completeness, turn.status, turn.prompt) == ("lost", "failure", [])
    items = document(tmp_path, {"history": [{**step, "result": [{"error": "x"}], "state_message": "Q"}]})
    assert (told(items), only(items).step_failed) == (['u:Q -> {"memory": "m", "action": []} (reconstructed)'], True)


def test_a_prompt_of_trae_agents_that_begins_anew_is_no_continuation(tmp_path: Path) -> None:
    calls = [{"input_messages": asked, "response": {"content": "A"}} for asked in (ASKED, ASKED[1:], [*ASKED, SAID])]
    assert told(document(tmp_path, {"llm_interactions": calls})) == [
        "s:S u:Q -> A (whole)",
        "s:S u:Q a:A u:Q -> A (whole)",
        "s:S u:Q a:A -> A (whole)",
    ]


def test_a_second_system_prompt_of_groks_cli_begins_another_session(tmp_path: Path) -> None:
    lines = [{"type": "system", "content": "S"}, {"type": "user", "content": "Q"}]
    lines += [{"type": "assistant", "content": "A", "model_id": "grok"}]
    assert told(read_lines(tmp_path, *lines, *lines)) == ["s:S u:Q -> A (whole)"] * 2


def test_messages_within_pairs_and_records_are_a_conversation(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Q", "timestamp": AT}, SAID]
    for held in ([[one, []] for one in said], [{"message": one, "message_id": 0} for one in said]):
        turn = only(document(tmp_path, {"agent": {"memory": {"content": held}}}))
        assert (prompt_of(turn), turn.started_at) == ("u:Q", AT)


def test_a_call_of_one_program_is_read_with_the_tools_beside_it(tmp_path: Path) -> None:
    record = {"type": "llm", "params": {"tools": [{"type": "function", "function": TOOL}]}, "input": ASKED}
    turn = only(read_lines(tmp_path, {**record, "output": {"role": "assistant", "content": None, "toolCalls": [CALL]}}))
    assert (turn.tools_known, turn.completion["tool_calls"][0]["function"]["name"]) == ("recorded", "bash")


# --- what else keeps calls: voice platforms, tables, log services


def test_calls_and_results_of_voice_platforms_are_paired_and_the_greeting_is_the_platforms(tmp_path: Path) -> None:
    hello, asked = {"role": "agent", "message": "Hi"}, {"role": "user", "message": "Q"}
    call = {"request_id": "c", "tool_name": "bash", "params_as_json": '{"cmd": "ls"}'}
    result = {"request_id": "c", "result_value": "out", "is_error": False}
    eleven = [{"role": "agent", "tool_calls": [call]}, {"role": "agent", "tool_results": [result]}]
    vapi = [{"role": "tool_calls", "message": "", "toolCalls": [CALL]}]
    vapi += [{"role": "tool_call_result", "toolCallId": "c1", "result": "out"}]
    retell = [{"role": "tool_call_invocation", "tool_call_id": "c", "name": "bash", "arguments": '{"cmd": "ls"}'}]
    retell += [{"role": "tool_call_result", "tool_call_id": "c", "content": "out"}]
    for steps in (eleven, vapi, retell):
        first, last = turns_of(document(tmp_path, {"transcript": [hello, asked, *steps, {**hello, "message": "A"}]}))
        assert (first.completion["tool_calls"][0]["function"]["arguments"], first.result_known) == (
            '{"cmd": "ls"}',
            True,
        )
        assert (prompt_of(last), last.completion["content"]) == ("a:Hi u:Q a:* t:out", "A")


def test_what_nobody_who_is_known_called_is_missed_in_the_prompt(tmp_path: Path) -> None:
    said = [*ASKED, {"role": "planner", "tool_calls": [CALL]}, SAID]
    assert told(read_lines(tmp_path, {"messages": said}))[0].endswith("(cut)")


def test_a_conversation_that_a_document_tells_twice_is_learnt_once(tmp_path: Path) -> None:
    spoken = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "I look."}, SAID]
    whole = [*spoken[:1], {**spoken[1], "tool_calls": [CALL]}, TALK[3], SAID]
    items = document(tmp_path, {"call": {"transcript": spoken, "transcript_with_calls": whole}})
    assert told(items) == ["u:Q -> I look. (reconstructed)", "u:Q a:I look.* t:out -> A (reconstructed)"]
    assert skipped(items) == ["copied_history"] * 2
    other = [{"role": "user", "content": "Q2"}, SAID]
    assert len(turns_of(document(tmp_path, {"store": {"u1": whole, "u2": other}}))) == 3


ROW = json.dumps({"messages": ASKED, "response": "A"})


@pytest.mark.parametrize(
    "value",
    [
        {"results": [[{"field": "@timestamp", "value": AT}, {"field": "@message", "value": ROW}]]},
        {"data": {"result": [{"stream": {"app": "x"}, "values": [["1767225600000000000", ROW]]}]}},
        {"groups": [[json.loads(ROW)]]},
    ],
    ids=["cloudwatch", "loki", "groups"],
)
def test_a_call_is_found_in_lists_of_lists_and_in_text(tmp_path: Path, value: Any) -> None:
    assert told(document(tmp_path, value)) == ["s:S u:Q -> A (whole)"]


@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_a_table_of_messages_is_conversations_whatever_divides_its_columns(tmp_path: Path, comma: str) -> None:
    rows = ["session_id role content", "s user Q", "s assistant A", "t user Q2", "t assistant A2"]
    (tmp_path / "x.csv").write_text("\n".join(rows).replace(" ", comma) + "\n")
    assert [turn.session_id for turn in turns_of(read(tmp_path / "x.csv"))] == ["s", "t"]


@pytest.mark.parametrize("start", ["2026-01-01 00:00:00,000 - llm - INFO - ", "[2026-01-01T00:00:00Z] DEBUG call "])
def test_a_call_behind_a_loggers_time_is_a_call_of_that_time(tmp_path: Path, start: str) -> None:
    (tmp_path / "app.log").write_text(f"{start}ready\n{start}{ROW}\n{start}done\n{start}{ROW[:-5]}}}\n")
    items = read(tmp_path / "app.log")
    assert (told(items), only(items).started_at) == (["s:S u:Q -> A (whole)"], AT)
    assert [one.reason for one in items if isinstance(one, Problem)] == ["malformed_json"]


def test_each_answer_has_its_own_time_where_the_log_tells_it(tmp_path: Path) -> None:
    said = [{**one, "timestamp": f"2026-01-0{day}"} for day, one in enumerate([ASKED[1], SAID, ASKED[1], SAID], 1)]
    for value in (said, {"messages": said}, {"session": {"log": said}}):
        assert [turn.started_at[:10] for turn in turns_of(document(tmp_path, value))] == ["2026-01-02", "2026-01-04"]


def test_a_row_of_the_older_openhands_evaluation_is_a_conversation(tmp_path: Path) -> None:
    base = {"timestamp": AT, "message": ""}
    reply = {"model": "m", "choices": [{"message": SAID}]}
    history = [
        {**base, "id": 0, "source": "agent", "action": "system", "args": {"content": "S"}},
        {**base, "id": 1, "source": "user", "action": "message", "args": {"content": "Q"}},
        {**base, "id": 2, "source": "agent", "action": "finish", "tool_call_metadata": {"model_response": reply}},
    ]
    row = {"instance_id": "i", "history": history, "test_result": {"report": {"resolved": False}}}
    items = read_lines(tmp_path, row)
    assert (told(items), only(items).task) == (["s:S u:Q -> A (whole)"], "i")
    assert [one.status for one in items if isinstance(one, Verdict)] == ["failure"]


# --- training sets


@pytest.mark.parametrize("spelled", ['[{"name": "bash", "arguments": {"cmd": "ls"}}]', "bash(cmd='ls')"])
def test_calls_of_a_set_that_stand_beside_no_content_are_calls(tmp_path: Path, spelled: str) -> None:
    system = {"role": "system", "content": "S", "functions": json.dumps([TOOL])}
    called = {"role": "assistant", "content": None, "function_calls": spelled}
    row = {"messages": [system, ASKED[1], called, {"role": "environment", "content": "out"}, SAID]}
    first, last = turns_of(read_lines(tmp_path, row))
    assert first.completion["tool_calls"][0]["function"] == {"name": "bash", "arguments": '{"cmd": "ls"}'}
    assert (prompt_of(last), last.tools_known) == ("s:S u:Q a:* t:out", "recorded")
    called["function_calls"] = "bash(cmd="
    items = read_lines(tmp_path, row)
    assert (skipped(items), [turn.completeness for turn in turns_of(items)]) == (["part_of_unknown_kind"], ["cut"])


def test_a_prompt_that_is_flat_text_of_a_template_is_no_question(tmp_path: Path) -> None:
    plain = {"prompt": "Q", "completion": "A"}
    items = read_lines(tmp_path, plain, {**plain, "prompt": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"})
    assert (told(items), [one.detail for one in items if isinstance(one, Problem)]) == (
        ["u:Q -> A (whole)"],
        ["row 2: looks like chat messages as flat text, with a template's marks; give `messages` with roles"],
    )
    assert "flat text" in readers.nearest(json.dumps({"modelTitle": "m", **plain}).encode())


def test_pairs_are_a_conversation_and_tools_for_a_template_are_its_tools(tmp_path: Path) -> None:
    pairs = [{"input": "Q", "output": "A"}, {"input": "Q2", "output": "A2"}]
    assert told(read_lines(tmp_path, {"conversation": pairs})) == ["u:Q -> A (whole)", "u:Q a:A u:Q2 -> A2 (whole)"]
    row = {"messages": [ASKED[1], SAID], "chat_template_kwargs": {"xml_tools": [json.dumps(TOOL)]}}
    assert only(read_lines(tmp_path, row)).tools == [{"type": "function", "function": TOOL}]


# --- what was sent and answered, wherever a log keeps the two bodies

BODIES: dict[str, Any] = {
    "a gateway's texts": lambda asked, said: {"time": AT, "p": {"requestBody": asked, "responseBody": said}},
    "a proxy's flow": lambda asked, said: {
        "request": {"url": "u", "content": asked},
        "response": {"status": 200, "content": said},
    },
    "a cassette": lambda asked, said: {
        "version": 1,
        "interactions": [{"request": {"uri": "u", "body": asked}, "response": {"body": {"string": said}}}],
    },
    "a tap": lambda asked, said: {
        "trace": {"request": {"body": {"as_string": asked}}, "response": {"body": {"as_string": said}}}
    },
    "a recording in a record": lambda asked, said: {"message": {"request": asked, "response": said}},
    "input and output": lambda asked, said: {"id": "1", "input": json.loads(asked), "output": json.loads(said)},
}


@pytest.mark.parametrize("written", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("api", [CHAT, ANTHROPIC, GEMINI, RESPONSES], ids=["chat", "messages", "gemini", "responses"])
def test_the_system_prompt_of_any_api_arrives_with_the_messages_that_stand_beside_it(
    tmp_path: Path, written: Any, api: Any
) -> None:
    """Anthropic's, Gemini's and the Responses API's prompts are not whole without it."""
    assert told(document(tmp_path, written(*map(json.dumps, api)))) == ["s:S u:Q -> A (whole)"]


def test_a_span_whose_parent_is_named_oddly_is_read(tmp_path: Path) -> None:
    span = {"type": "llm", "span_id": ["1"], "parent_id": {"x": 1}, "input": {"messages": ASKED}, "output": SAID}
    assert told(document(tmp_path, {"spans": [span]})) == ["s:S u:Q -> A (whole)"]


@pytest.mark.parametrize("name", ["system", "system_prompt", "systemPrompt", "system_message", "instructions"])
def test_a_system_prompt_beside_chat_messages_is_the_first_of_them(tmp_path: Path, name: str) -> None:
    assert told(read_lines(tmp_path, {name: "S", "messages": ASKED[1:], "response": "A", "model": "m"})) == [
        "s:S u:Q -> A (whole)"
    ]
    above = {"data": {"config": {name: "S", "model": "m"}, "messages": ASKED[1:], "output": SAID}}
    assert told(document(tmp_path, above)) == ["s:S u:Q -> A (whole)"]


def test_the_system_prompt_among_a_spans_parameters_is_the_first_of_its_messages(tmp_path: Path) -> None:
    messages = {"llm.input_messages.0": ASKED[1], "llm.output_messages.0": SAID}
    said = {f"{key}.message.{name}": one for key, message in messages.items() for name, one in message.items()}
    said |= {"openinference.span.kind": "LLM", "llm.invocation_parameters": json.dumps({"system": "S"})}
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in said.items()]
    span = {"traceId": "a" * 32, "spanId": "1", "name": "x", "startTimeUnixNano": "1", "attributes": attributes}
    items = document(tmp_path, {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    assert told(items) == ["s:S u:Q -> A (whole)"]


# --- how it ended, stated anywhere beside the messages


ENDED_BADLY: list[dict[str, Any]] = [
    {"success": False},
    {"taskSuccess": False},
    {"reward": 0.0},
    {"verdict": "FAIL"},
    {"final_status": "timed out"},
    {"result": "failed"},
    {"task_completed": False},
    {"gradingResult": {"pass": False, "passed": False}},
    {"eval": {"passed": False}},
    {"error": "overloaded"},
]
NO_BAD_END: list[dict[str, Any]] = [
    {"unresolved": False},
    {"incorrect": False},
    {"result": "no"},
    {"payment_status": "open"},
    {"verdict": "the answer is right"},
]


@pytest.mark.parametrize("stated", ENDED_BADLY, ids=lambda one: next(iter(one)))
@pytest.mark.parametrize("place", ["row", "above", "beside"])
def test_what_went_wrong_is_no_success_wherever_a_document_says_so(tmp_path: Path, stated: Any, place: str) -> None:
    documents = {
        "row": {"messages": TALK, **stated},
        "above": {"trials": [{"log": TALK, "n": 1}], **stated},
        "beside": {"run": {"log": TALK, **stated}},
    }
    assert {turn.status for turn in turns_of(document(tmp_path, documents[place]))} == {"failure"}


def test_a_written_pair_that_was_judged_is_what_it_was_judged(tmp_path: Path) -> None:
    judged: list[dict[str, Any]] = [{}, {"passed": False}, {"vote": -1}, {"rating": 2}]
    pairs = [{"instruction": "I", "response": f"R{number}", **one} for number, one in enumerate(judged)]
    items = turns_of(read_lines(tmp_path, *pairs))
    assert [turn.status for turn in items] == ["success", "failure", "failure", "success"]
    assert items[3].rating == 2


def test_objects_as_python_prints_them_are_refused_in_a_sentence() -> None:
    assert "json.dumps" in readers.nearest(repr({"messages": TALK}).encode())


def test_distilabels_generation_is_the_answer(tmp_path: Path) -> None:
    raw = {"raw_input_text_generation_0": ASKED, "raw_output_text_generation_0": "A"}
    row = {"instruction": "Q", "generation": "A", "distilabel_metadata": raw, "model_name": "m"}
    assert told(read_lines(tmp_path, row)) == ["u:Q -> A (whole)"]


@pytest.mark.parametrize("stated", NO_BAD_END, ids=lambda one: next(iter(one)))
def test_a_member_that_only_sounds_like_an_outcome_is_none(tmp_path: Path, stated: Any) -> None:
    assert {turn.status for turn in turns_of(document(tmp_path, {"messages": TALK, **stated}))} == {"success"}


@pytest.mark.parametrize("page", [{"status": "success"}, {"success": True}])
def test_that_a_page_was_loaded_well_says_nothing_of_its_conversations(tmp_path: Path, page: Any) -> None:
    items = document(tmp_path, {**page, "payload": {"chats": [{"name": "x", "log": TALK}]}})
    assert {turn.status for turn in turns_of(items)} == {"unknown"}


def test_the_text_of_the_ai_sdks_older_messages_stands_behind_their_calls(tmp_path: Path) -> None:
    calls = [
        {"state": "result", "step": step, "toolCallId": f"c{step}", "toolName": "ls", "args": {}, "result": f"R{step}"}
        for step in range(2)
    ]
    asked = {"id": "1", "role": "user", "content": "Q"}
    items = document(tmp_path, {"messages": [asked, {"role": "assistant", "content": "A", "toolInvocations": calls}]})
    assert [prompt_of(turn) for turn in turns_of(items)] == [
        "u:Q",
        "u:Q a:* t:R0",
        "u:Q a:* t:R0 a:* t:R1",
    ]
    assert turns_of(items)[2].completion["content"] == "A"


# --- conversations that nothing names, one behind the other in one file


def parts(role: str, text: str, number: int) -> dict[str, Any]:
    """A message of the AI SDK's."""
    return {"id": f"m{number}", "role": role, "parts": [{"type": "text", "text": text}]}


def item(role: str, text: str, _: int) -> dict[str, Any]:
    """An item of the Responses API's."""
    kind = "output_text" if role == "assistant" else "input_text"
    return {
        "type": "message",
        "role": role.replace("system", "developer"),
        "content": [{"type": kind, "text": text}],
    }


def langchain(role: str, text: str, _: int) -> dict[str, Any]:
    """A message of LangChain's."""
    return {"type": {"user": "human", "assistant": "ai"}.get(role, role), "content": text}


def pydantic(role: str, text: str, _: int) -> dict[str, Any]:
    """A message of Pydantic AI's."""
    kind = "response" if role == "assistant" else "request"
    name = {"system": "system-prompt", "user": "user-prompt"}.get(role, "text")
    return {"kind": kind, "parts": [{"part_kind": name, "content": text}]}


@pytest.mark.parametrize("written", [parts, item, langchain, pydantic])
def test_a_system_prompt_that_stands_again_begins_another_conversation(tmp_path: Path, written: Any) -> None:
    said = [("system", "S"), ("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")]
    again = [("system", "S"), ("user", "T"), ("assistant", "C")]
    lines = [written(*one, number) for number, one in enumerate([*said, *again])]
    items = turns_of(read_lines(tmp_path, *lines))
    assert [prompt_of(turn) for turn in items] == ["s:S u:Q", "s:S u:Q a:A u:R", "s:S u:T"]
    assert [turn.step for turn in items] == [0, 1, 0]
    first, second, third = (turn.session_id for turn in items)
    assert first == second != third


@pytest.mark.parametrize(("day", "sessions"), [("01", 1), ("05", 2)])
def test_a_first_question_that_stands_again_begins_another_conversation_after_a_pause(
    tmp_path: Path, day: str, sessions: int
) -> None:
    def line(role: str, text: str, day: str) -> dict[str, Any]:
        content = {"content": [{"type": "text", "text": text}]}
        return {"role": role, "timestamp": f"2026-01-{day}T00:00:00Z", "message": content}

    first = [line("user", "Q", "01"), line("assistant", "A", "01")]
    items = turns_of(read_lines(tmp_path, *first, line("user", "Q", day), line("assistant", "B", day)))
    assert [prompt_of(turn) for turn in items] == ["u:Q", "u:Q" if sessions == 2 else "u:Q a:A u:Q"]


def test_each_root_of_a_claude_code_file_without_session_ids_is_a_session_and_a_summary_is_none(tmp_path: Path) -> None:
    def line(number: int, parent: int, role: str, text: str, **more: Any) -> dict[str, Any]:
        own = {"uuid": f"u{number}", "parentUuid": f"u{parent}" if parent else None, "cwd": "/x", "version": "2"}
        return {**own, "type": role, "message": {"role": role, "content": text}, **more}

    lines = [
        line(1, 0, "user", "Q"),
        line(2, 1, "assistant", "A"),
        line(3, 0, "user", "SUM", isCompactSummary=True),
        line(4, 3, "assistant", "B"),
        line(5, 0, "user", "R"),
        line(6, 5, "assistant", "C"),
    ]
    items = turns_of(read_lines(tmp_path, *lines))
    assert [(turn.session_id, turn.step, prompt_of(turn)) for turn in items] == [
        ("u1", 0, "u:Q"),
        ("u1", 1, "u:SUM"),
        ("u5", 0, "u:R"),
    ]


def test_recorded_calls_that_nothing_names_begin_anew_once_their_conversation_went_on(tmp_path: Path) -> None:
    def line(hour: int, *said: str) -> dict[str, Any]:
        messages = [{"role": "assistant" if index % 2 else "user", "content": one} for index, one in enumerate(said)]
        response = {"choices": [{"message": {"role": "assistant", "content": "A"}}]}
        at = f"2026-01-01T{hour:02d}:00:00Z"
        return {"request": {"model": "m", "messages": messages}, "response": response, "timestamp": at}

    # asked, tried again, gone on, asked anew, gone on
    lines = [line(0, "Q"), line(0, "Q"), line(0, "Q", "A", "R"), line(1, "Q"), line(1, "Q", "A", "R")]
    names = [turn.session_id for turn in turns_of(read_lines(tmp_path, *lines))]
    assert names == [names[0]] * 3 + [f"{names[0]}#2"] * 2
