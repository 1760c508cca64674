"""Logs are replayed: what a compaction, a rewind or a program took out of a conversation is in no later prompt."""

import json
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.readers import documents
from grokora_pipeline.sessions.readers.source import Source, UnreadableError
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Verdict
from grokora_pipeline_tests.unit.session_logs import run, turns
from grokora_pipeline_tests.unit.test_sessions_foreign_logs import (
    event,
    item,
    meta,
    read_lines,
    spoken,
    turns_of,
    write,
)
from grokora_pipeline_tests.unit.test_sessions_unseen_logs import document, only, otlp, pairs, prompt_of, span


def told(items: list[Item]) -> list[str]:
    """Each turn in short: its prompt, its answer, and what of the prompt is known."""
    return [f"{prompt_of(one)} -> {one.completion['content']} ({one.completeness})" for one in turns_of(items)]


def skipped(items: list[Item]) -> list[str]:
    return [one.reason for one in items if isinstance(one, Skipped)]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_a_round_that_vs_code_summed_up_is_in_no_later_prompt(tmp_path: Path) -> None:
    call = {"id": "c1", "name": "read", "arguments": "{}"}
    leaves = [{"type": 2, "text": text, "lineBreakBefore": True} for text in ("a", "b")]
    shown = {"content": [{"value": {"node": {"type": 1, "children": [{"type": 1, "children": leaves}]}}}]}
    rounds = [{"id": "1", "response": "I look.", "toolCalls": [call]}, {"id": "2", "response": "A", "hookContext": "H"}]
    asked = {"renderedGlobalContext": [{"type": 1, "text": "E"}], "renderedUserMessage": [{"type": 1, "text": "Q"}]}
    first = {**asked, "toolCallRounds": rounds, "toolCallResults": {"c1": shown}}
    later = {"toolCallRounds": [{"id": "3", "response": "B"}], "summaries": [{"toolCallRoundId": "2", "text": "S"}]}
    requests = [
        {"message": {"text": text}, "result": {"metadata": metadata}, **more}
        for text, metadata, more in (
            ("Q", first, {}),
            ("Q2", later, {}),
            ("Q3", {"toolCallRounds": [{"id": "4", "response": "C"}]}, {"isHidden": True}),
        )
    ]
    value = {"responderUsername": "GitHub Copilot", "sessionId": "s", "requests": requests}
    items = document(tmp_path, value)
    assert [prompt_of(turn) for turn in turns_of(items)] == [
        "u:E u:Q",
        "u:E u:Q a:I look.* t:a\nb",
        "u:<conversation-summary>\nS\n</conversation-summary> u:Q2",
    ]
    assert [item for item in items if isinstance(item, Skipped)] == [Skipped("taken_back")]


def test_where_openhands_puts_a_summary_is_counted_in_events(tmp_path: Path) -> None:
    """Parallel calls are events of their own, and one message; no summary parts a call from its result."""
    asked = {"kind": "MessageEvent", "source": "user", "llm_message": {"role": "user", "content": [text("Q")]}}
    lines: list[dict[str, Any]] = [{"kind": "SystemPromptEvent", "source": "agent", "system_prompt": text("S")}, asked]
    for name in "ab":
        call = {"name": "sh", "arguments": "{}", "id": name}
        action = {"kind": "ActionEvent", "source": "agent", "llm_response_id": "r", "tool_name": "sh"}
        lines.append({**action, "tool_call_id": name, "tool_call": call, "thought": []})
    for name in "ab":
        seen = {"kind": "ObservationEvent", "source": "environment", "tool_call_id": name}
        lines.append({**seen, "observation": {"content": [text(f"of {name}")]}})
    lines.append({"kind": "Condensation", "source": "environment", "forgotten_event_ids": ["e1"], "summary": "C"})
    lines[-1]["summary_offset"] = 1
    lines.append({**asked, "source": "agent", "llm_message": {"role": "assistant", "content": [text("A")]}})
    items = read_lines(tmp_path, *({"id": f"e{number}", **line} for number, line in enumerate(lines)))
    assert prompt_of(turns_of(items)[-1]) == "s:S u:C a:* t:of a t:of b"


def test_after_a_summary_continue_sends_it_alone(tmp_path: Path) -> None:
    said = [
        ("user", "Q", {}),
        ("assistant", "A", {"conversationSummary": "C"}),
        ("user", "Q2", {}),
        ("assistant", "B", {}),
    ]
    history = [{"message": {"role": role, "content": words}, **more} for role, words, more in said]
    items = document(tmp_path, {"sessionId": "s", "history": history})
    assert told(items) == [
        "u:Q -> A (reconstructed)",
        "s:Previous conversation summary:\n\n C u:Q2 -> B (reconstructed)",
    ]


def test_after_a_summary_of_amps_no_prompt_is_whole(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = [
        {"role": "user", "content": [text("Q")]},
        {"role": "assistant", "content": [text("A")]},
    ]
    summary = {"role": "info", "content": [{"type": "summary", "summary": {"type": "message", "summary": "C"}}]}
    more = [{"role": "user", "content": [text("Q2")]}, {"role": "assistant", "content": [text("B")]}]
    items = document(tmp_path, {"id": "T-1", "messages": [*said, summary, *more]})
    assert told(items) == ["u:Q -> A (reconstructed)", "u:C u:Q2 -> B (delta)"]


def test_compactions_and_rewinds_of_adk_change_later_prompts(tmp_path: Path) -> None:
    def said(role: str, words: str, at: int) -> dict[str, Any]:
        content = {"role": role, "parts": [{"text": words}]}
        return {"author": role, "content": content, "timestamp": at, "invocationId": f"i{at}"}

    compaction = {"endTimestamp": 2, "compactedContent": said("model", "C", 2)["content"]}
    events = [said("user", "Q", 1), said("model", "A", 2), {"author": "user", "actions": {"compaction": compaction}}]
    back = {"author": "user", "actions": {"rewindBeforeInvocationId": "i3"}}
    events += [said("user", "Q2", 3), said("model", "B", 4), back]
    events += [said("user", "Q3", 5), said("model", "D", 6)]
    items = document(tmp_path, {"id": "s", "appName": "x", "events": events})
    assert told(items) == ["u:Q -> A (reconstructed)", "a:C u:Q3 -> D (reconstructed)"]
    assert skipped(items) == ["taken_back"]


def test_an_answer_of_pis_that_was_stopped_is_counted_and_in_no_prompt(tmp_path: Path) -> None:
    def line(own: str, parent: str, role: str, words: str, **more: Any) -> dict[str, Any]:
        message = {"role": role, "content": [text(words)], **more}
        return {"type": "message", "id": own, "parentId": parent, "message": message}

    head = {"type": "session", "version": 3, "id": "s", "timestamp": "2026-01-01T00:00:00Z"}
    lines = [head, line("1", "", "user", "Q"), line("2", "1", "assistant", "ha", stopReason="aborted")]
    lines += [line("3", "2", "user", "Go on."), line("4", "3", "assistant", "A", stopReason="stop")]
    items = read_lines(tmp_path, *lines)
    assert (told(items), skipped(items)) == (["u:Q u:Go on. -> A (reconstructed)"], ["broken_off"])


def test_an_answer_of_cursors_is_one_line_and_results_are_not_in_its_file(tmp_path: Path) -> None:
    use = {"type": "tool_use", "name": "Shell", "input": {"command": "ls"}}
    said = [("user", [text("Q")]), ("assistant", [text("I look."), use]), ("assistant", [text("A")])]
    lines = [{"role": role, "message": {"content": content}} for role, content in said]
    assert told(read_lines(tmp_path, *lines)) == [
        "u:Q -> I look. (reconstructed)",
        "u:Q a:I look.* t: -> A (delta)",
    ]


def test_a_message_of_droids_stands_below_the_one_that_it_names(tmp_path: Path) -> None:
    said = [
        ("1", None, "user", "Q"),
        ("2", "1", "assistant", "A"),
        ("3", "2", "user", "No"),
        ("4", "1", "assistant", "B"),
    ]
    lines: list[dict[str, Any]] = [{"type": "session_start", "id": "s"}]
    for own, parent, role, words in said:
        message = {"role": role, "content": [text(words)]}
        lines.append({"type": "message", "id": own, "parentId": parent, "message": message})
    assert told(read_lines(tmp_path, *lines)) == ["u:Q -> A (reconstructed)", "u:Q -> B (reconstructed)"]


# --- Gemini CLI


def gemini(own: str, words: Any, kind: str = "gemini", **more: Any) -> dict[str, Any]:
    return {"id": own, "type": kind, "content": words, **more}


def ran(output: str) -> dict[str, Any]:
    """A call of a tool with its result, as Gemini CLI keeps it in the answer's record."""
    result = [{"functionResponse": {"id": "c", "name": "ls", "response": {"output": output}}}]
    return {"toolCalls": [{"id": "c", "name": "ls", "args": {}, "result": result, "status": "success"}]}


HEAD = {"sessionId": "g", "projectHash": "h"}


def test_what_gemini_cli_writes_as_its_history_is_what_later_prompts_hold(tmp_path: Path) -> None:
    history = [gemini("s", [{"text": "Summary"}], "user"), gemini("k", [{"text": "Got it"}])]
    context = [gemini("x", [{"text": "Context"}], "user")]
    lines = [
        HEAD,
        {"$set": {"messages": context}},
        gemini("1", "Q", "user"),
        gemini("2", "A"),
        {"$set": {"summary": "t"}},
    ]
    lines += [{"$set": {"messages": history}}, gemini("3", "Next", "user"), gemini("4", "B")]
    items = read_lines(tmp_path, *lines)
    assert told(items) == [
        "u:Context u:Q -> A (reconstructed)",
        "u:Summary a:Got it u:Next -> B (reconstructed)",
    ]
    assert skipped(items) == []
    assert len({one.step for one in turns_of(items)}) == 2


def test_a_result_that_gemini_cli_masked_is_in_later_prompts_as_it_was_sent_and_only_once(tmp_path: Path) -> None:
    masked = ran("masked")
    sent = [{"text": "Look"}, {"functionCall": {"id": "c", "name": "ls", "args": {}}}]
    history = [
        gemini("1", [{"text": "Q"}], "user"),
        gemini("2", sent, **masked),
        gemini("r", masked["toolCalls"][0]["result"], "user"),
    ]
    lines = [HEAD, gemini("1", "Q", "user"), gemini("2", "Look"), gemini("2", "Look", **ran("long"))]
    lines.append({"$set": {"messages": history}})
    assert skipped(read_lines(tmp_path, *lines, {"$rewindTo": "2"}, gemini("4", "No"))) == ["taken_back"]
    items = read_lines(tmp_path, *lines, gemini("3", "Done"))
    assert [prompt_of(one) for one in turns_of(items)] == ["u:Q", 'u:Q a:Look* t:{"output":"masked"}']
    assert turns_of(items)[0].result_known


def test_an_answer_that_a_person_took_back_is_counted_and_no_example(tmp_path: Path) -> None:
    lines = [HEAD]
    for number in "1357":
        lines += [gemini(number, f"Q{number}", "user"), gemini(f"{number}a", f"A{number}")]
    lines.insert(5, {"$rewindTo": "3"})
    items = read_lines(tmp_path, *lines)
    assert [one.completion["content"] for one in turns_of(items)] == ["A1", "A5", "A7"]
    assert prompt_of(turns_of(items)[-1]) == "u:Q1 a:A1 u:Q5 a:A5 u:Q7"
    assert skipped(items) == ["taken_back"]
    # an answer of an earlier stretch is none either, once it is taken back
    further = read_lines(tmp_path, *lines, {"$rewindTo": "5"}, gemini("9", "Q9", "user"), gemini("10", "A9"))
    assert told(further) == ["u:Q1 -> A1 (reconstructed)", "u:Q1 a:A1 u:Q9 -> A9 (reconstructed)"]
    assert skipped(further) == ["taken_back"] * 3
    # there is no such message any more: Gemini CLI starts anew
    anew = read_lines(tmp_path, *lines, {"$rewindTo": "gone"}, gemini("9", "Q9", "user"), gemini("10", "A9"))
    assert prompt_of(turns_of(anew)[-1]) == "u:Q9"


# --- opencode


def exported(role: str, *parts: dict[str, Any], **info: Any) -> dict[str, Any]:
    return {"info": {"role": role, **info}, "parts": list(parts)}


def test_opencode_keeps_the_tail_of_a_conversation_behind_its_summary_and_sends_no_failed_answer(
    tmp_path: Path,
) -> None:
    file = {"type": "file", "mime": "text/plain", "url": "file:///a.py"}
    running = {
        "type": "tool",
        "callID": "c",
        "tool": "bash",
        "state": {"status": "running", "input": {"command": "ls"}},
    }
    messages = [
        exported("user", text("Q1"), file, text("print(1)"), id="1"),
        exported("assistant", text("A1"), id="2"),
        exported("user", text("Q2"), id="3"),
        exported("assistant", text("half"), id="4", error={"name": "APIError"}),
        exported("user", text("Q3"), id="5"),
        exported("assistant", text("A3"), id="6"),
        exported("user", {"type": "compaction", "tail_start_id": "5"}, id="7"),
        exported("assistant", text("Sum"), id="8", summary=True),
        exported("user", text("Q4"), id="9"),
        exported("assistant", running, id="10"),
        exported("user", text("Q5"), id="11"),
        exported("assistant", text("A5"), id="12"),
    ]
    items = document(tmp_path, {"info": {"id": "s", "directory": "/w"}, "messages": messages})
    prompts = [prompt_of(one) for one in turns_of(items)]
    assert prompts[:2] == ["u:Q1\nprint(1)", "u:Q1\nprint(1) a:A1 u:Q2 u:Q3"]
    assert prompts[3:] == [
        "u:What did we do so far? a:Sum u:Q3 a:A3 u:Q4",
        "u:What did we do so far? a:Sum u:Q3 a:A3 u:Q4 a:* t:[Tool execution was interrupted] u:Q5",
    ]
    assert [one.step_failed for one in turns_of(items)] == [False, False, False, True, False]
    assert skipped(items) == ["broken_off"]


# --- Copilot's CLI


def test_copilots_rewinds_skills_and_truncations_change_later_prompts(tmp_path: Path) -> None:
    def event(own: str, kind: str, **data: Any) -> dict[str, Any]:
        return {"id": own, "type": kind, "data": data}

    items = read_lines(
        tmp_path,
        event("0", "session.start", sessionId="s"),
        event("1", "user.message", content="Q1"),
        event("2", "assistant.message", content="A1", reasoningText="Hm"),
        event("3", "user.message", content="Q2"),
        event("4", "assistant.message", content="A2"),
        event("5", "session.snapshot_rewind", upToEventId="3", eventsRemoved=2),
        event("6", "skill.invoked", name="pdf", content="How to"),
        event("7", "user.message", content="Q3"),
        event("8", "assistant.message", content="A3"),
        event("9", "session.truncation", messagesRemovedDuringTruncation=2),
        event("10", "user.message", content="Q4"),
        event("11", "assistant.message", content="A4"),
        event("12", "session.context_cleared"),
        event("13", "user.message", content="Q5"),
        event("14", "assistant.message", content="A5"),
    )
    assert told(items) == [
        "u:Q1 -> A1 (reconstructed)",
        "u:Q1 a:A1 u:How to u:Q3 -> A3 (reconstructed)",
        "u:Q1 a:A1 u:How to u:Q3 a:A3 u:Q4 -> A4 (delta)",
        "u:Q5 -> A5 (delta)",
    ]
    assert turns_of(items)[0].completion["reasoning_content"] == "Hm"
    assert skipped(items) == ["taken_back"]


# --- Kimi Code


def asked(words: str, origin: str = "user") -> dict[str, Any]:
    message = {"role": "user", "content": [text(words)], "origin": {"kind": origin}}
    return {"type": "context.append_message", "message": message}


def step(*parts: dict[str, Any], ended: bool = True) -> list[dict[str, Any]]:
    """The events of one answer."""
    events = [{"type": "step.begin"}, *parts, *([{"type": "step.end", "finishReason": "end_turn"}] if ended else [])]
    return [{"type": "context.append_loop_event", "event": one} for one in events]


def said(words: str) -> dict[str, Any]:
    return {"type": "content.part", "part": text(words)}


def test_kimi_codes_undone_turns_and_compactions_leave_its_prompts(tmp_path: Path) -> None:
    tools = [{"name": "Bash", "description": "runs", "parameters": {"type": "object", "properties": {}}}]
    calls: list[dict[str, Any]] = [
        {"type": "tool.call", "toolCallId": f"{name}_0", "name": name, "args": {}} for name in ("Bash", "Read")
    ]
    failed = {"type": "tool.result", "toolCallId": "Read_0", "result": {"output": "no", "isError": True}}
    lines = [
        {"type": "metadata", "protocol_version": "1.5", "created_at": 1767225600000},
        {"type": "config.update", "systemPrompt": "S", "modelAlias": "k2"},
        asked("Q1"),
        asked("note", "injection"),
        {"type": "llm.tools_snapshot", "tools": tools},
        {"type": "llm.request", "model": "k3"},
        *step(said("Look"), *calls, {**failed, "toolCallId": "Bash_0", "result": {"output": "a"}}, failed),
        *step(said("A1")),
        asked("Q2"),
        *step(said("bad")),
        {"type": "context.undo", "count": 1},
        asked("Q3"),
        *step(said("A3")),
        {"type": "context.apply_compaction", "summary": "Sum", "compactedCount": 6},
        {"type": "context.undo", "count": 9},
        asked("Q4"),
        *step(said("A4")),
        {"type": "context.clear"},
        asked("Q5"),
        *step(said("half"), ended=False),
    ]
    items = read_lines(tmp_path, *lines)
    assert told(items) == [
        "s:S u:Q1 u:note -> Look (whole)",
        "s:S u:Q1 u:note a:Look* t:a t:no -> A1 (whole)",
        "s:S u:Q1 u:note a:Look* t:a t:no a:A1 u:Q3 -> A3 (whole)",
        "s:S u:Sum u:Q3 a:A3 u:Q4 -> A4 (reconstructed)",
    ]
    assert [(one.step_failed, one.tools_known, one.model) for one in turns_of(items)] == [
        (True, "recorded", "k3"),
        *[(False, "recorded", "k3")] * 3,
    ]
    assert skipped(items) == ["taken_back", "broken_off"]
    # it is one session while its log grows
    assert {one.session_id for one in turns_of(items)} == {only(read_lines(tmp_path, *lines[:13])).session_id}


# --- Codex


def test_a_turn_that_codex_rolled_back_leaves_with_what_codex_said_in_it(tmp_path: Path) -> None:
    call = item("function_call", name="shell", arguments="{}", call_id="c")
    lines = [meta(), spoken("user", "Q1"), spoken("assistant", "A1"), event("token_count")]
    lines += [spoken("user", "Q2"), call, item("function_call_output", call_id="c", output="aborted")]
    lines += [spoken("user", "<turn_aborted>"), event("turn_aborted"), event("thread_rolled_back", num_turns=1)]
    items = read_lines(tmp_path, *lines, spoken("user", "Q3"), spoken("assistant", "A3"))
    assert told(items) == [
        "s:You are Codex. u:Q1 -> A1 (reconstructed)",
        "s:You are Codex. u:Q1 a:A1 u:Q3 -> A3 (reconstructed)",
    ]
    assert skipped(items) == ["taken_back"]


# --- other programs


def test_roos_condensed_messages_are_hidden_and_behind_a_truncation_no_prompt_is_whole(tmp_path: Path) -> None:
    def line(role: str, words: str, **more: Any) -> dict[str, Any]:
        return {"role": role, "content": [text(words)], "ts": 1, **more}

    gone, hidden = {"condenseParent": "c"}, {"truncationParent": "t"}
    lines = [line("user", "<task>Q1", **gone), line("assistant", "A1", **gone)]
    lines += [line("user", "Sum", isSummary=True, condenseId="c"), line("user", "Q2", **hidden)]
    lines += [line("assistant", "A2", **hidden), line("user", "2 hidden", isTruncationMarker=True, truncationId="t")]
    items = document(tmp_path, [*lines, line("user", "Q3"), line("assistant", "A3")])
    assert told(items) == [
        "u:<task>Q1 -> A1 (reconstructed)",
        "u:Sum u:Q2 -> A2 (reconstructed)",
        "u:Sum u:2 hidden u:Q3 -> A3 (delta)",
    ]
    # older versions wrote the summary as an answer before the last three messages, and forgot what they had seen
    old = [line("user", "<task>Q1"), line("assistant", "Sum", isSummary=True), line("assistant", "kept")]
    old += [line("user", "r"), line("assistant", "kept too"), line("user", "Q2"), line("assistant", "A2")]
    prompt = "u:<task>Q1 a:Sum a:kept u:r a:kept too u:Q2"
    assert told(document(tmp_path, old)) == [f"{prompt} -> A2 (reconstructed)"]


def test_answers_that_a_program_printed_in_pieces_are_one_answer_each(tmp_path: Path) -> None:
    def line(words: str, **more: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": [text(words)]}
        return {"type": "assistant", "message": message, "session_id": "c", **more}

    question = {"type": "user", "message": {"role": "user", "content": [text("Q")]}, "session_id": "c"}
    pieces = [line("Lo", timestamp_ms=1), line("ok", timestamp_ms=2), line("Look", timestamp_ms=3, model_call_id="m")]
    tool = {"shellToolCall": {"args": {}, "result": {"success": "a"}}}
    call = {"type": "tool_call", "call_id": "t", "session_id": "c", "tool_call": tool}
    lines = [{"type": "system", "session_id": "c", "model": "m"}, question, *pieces]
    lines += [{**call, "subtype": "started"}, {**call, "subtype": "completed"}]
    items = read_lines(tmp_path, *lines, line("Do", timestamp_ms=4), line("ne", timestamp_ms=5), line("Done"))
    assert [one.completion["content"] for one in turns_of(items)] == ["Look", "Done"]


def test_what_copilots_chat_sent_is_the_question_and_a_rounds_thoughts_are_kept(tmp_path: Path) -> None:
    rounds = [{"response": "A", "toolCalls": [], "thinking": {"text": ["H", "m"]}}]
    metadata = {"toolCallRounds": rounds, "renderedUserMessage": [{"type": 1, "text": "context Q"}]}
    request = {"message": {"text": "Q"}, "response": [], "result": {"metadata": metadata}}
    turn = only(document(tmp_path, {"responderUsername": "Copilot", "sessionId": "s", "requests": [request]}))
    assert (prompt_of(turn), turn.completion["reasoning_content"]) == ("u:context Q", "Hm")


def test_what_openclaw_said_in_its_models_place_is_no_example(tmp_path: Path) -> None:
    def entry(own: str, parent: str | None, role: str, words: str, **more: Any) -> dict[str, Any]:
        message = {"role": role, "content": [text(words)], **more}
        return {"type": "message", "id": own, "parentId": parent, "message": message}

    lines = [
        {"type": "session", "id": "o"},
        entry("1", None, "user", "Q"),
        entry("2", "1", "assistant", "A", model="m"),
    ]
    items = read_lines(
        tmp_path, *lines, entry("3", "2", "assistant", "A", provider="openclaw", model="delivery-mirror")
    )
    assert ([one.model for one in turns_of(items)], skipped(items)) == (["m"], ["no_model_call"])


def test_what_was_made_for_a_person_alone_and_a_call_that_cannot_be_read_are_not_guessed_at(tmp_path: Path) -> None:
    shown = [text("for the model"), {**text("for the person"), "annotations": {"audience": ["user"]}}]
    value = {"name": "shell", "arguments": {}}
    request = {"type": "toolRequest", "id": "t", "toolCall": {"status": "success", "value": value}}
    response = {"type": "toolResponse", "id": "t", "toolResult": {"status": "success", "value": {"content": shown}}}
    lines = [
        {"working_dir": "/w", "description": "x", "message_count": 4},
        {"role": "user", "content": [text("Q")]},
        {"role": "assistant", "content": [request]},
        {"role": "user", "content": [response]},
        {"role": "assistant", "content": [text("A")]},
    ]
    assert prompt_of(turns_of(read_lines(tmp_path, *lines))[-1]) == "u:Q a:* t:for the model"
    request["toolCall"] = {"status": "error", "error": "no JSON"}
    items = read_lines(tmp_path, *lines)
    assert (skipped(items), only(items).completeness) == (["call_not_recorded"], "cut")


def test_the_tools_and_the_system_prompt_beside_vibes_messages_are_those_of_its_prompts(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    tools = [{"type": "function", "function": {"name": "bash", "description": "d", "parameters": {}}}]
    facts = {"session_id": "v", "total_messages": 2, "tools_available": tools}
    path = write(tmp_path / "logs" / "messages.jsonl", *messages)
    write(path.with_name("meta.json"), {**facts, "system_prompt": {"role": "system", "content": "S"}})
    report = run(tmp_path / "logs", tmp_path / "out")
    (row,) = turns(tmp_path / "out")
    assert (row["session_id"], row["recorded_agent"], row["tools_known"]) == ("v", "mistral-vibe", "recorded")
    assert [one["content"] for one in json.loads(row["prompt"])] == ["S", "Q"]
    assert report.quarantined == 0


def test_rows_that_name_their_session_are_a_log_of_unknown_outcome_and_its_history_is_learnt_once(
    tmp_path: Path,
) -> None:
    def row(words: str, **more: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": words}], **more}

    names = [(one.session_id, one.status) for one in turns_of(read_lines(tmp_path, row("A", session_id="s"), row("B")))]
    assert names[0] == ("s", "unknown")
    assert names[1][1] == "success"
    assert only(read_lines(tmp_path, row("A", session_id="s", resolved=True))).status == "success"
    history = [{**one, "from_history": True} for one in row("A")["messages"]]
    later = {"messages": [*history, {"role": "user", "content": "Next"}, {"role": "assistant", "content": "B"}]}
    items = document(tmp_path, {"session_id": "agno", "runs": [row("A"), later]})
    assert [(one.session_id, prompt_of(one)) for one in turns_of(items)] == [
        ("agno", "u:Q"),
        ("agno", "u:Q a:A u:Next"),
    ]


def test_a_response_deep_inside_a_row_makes_it_no_instruction_with_its_response() -> None:
    rated = {"instruction": "Q", "completions": [{"response": "A", "overall_score": 5.0}]}
    assert readers.detect(json.dumps(rated).encode() + b"\n") is None


def test_no_call_of_an_answer_is_lost_whatever_its_arguments_are_called(tmp_path: Path) -> None:
    called = [{"name": "f", "input_parameters": {"a": 1}, "output": "r"}]
    row = {"turns": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "tools_called": called}]}
    assert only(read_lines(tmp_path, row)).completion["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    choice = {"finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": "A"}}
    trajectory = {"messages_and_choices": [{"role": "user", "content": "Q"}, choice], "reward": 0.0}
    turn = only(read_lines(tmp_path, trajectory))
    assert (prompt_of(turn), turn.completion["content"], turn.status) == ("u:Q", "A", "failure")


# --- conversations somewhere in a document

TALK = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def test_conversations_that_a_document_holds_are_told_apart(tmp_path: Path) -> None:
    store = {"store": {"alice": TALK, "bob": [{"role": "user", "content": "Other"}, TALK[1]]}}
    assert len({one.session_id for one in turns_of(document(tmp_path, store))}) == 2
    messages = [{**one, "sessionId": own} for own in ("s", "t") for one in TALK]
    items = document(tmp_path, {"state": {"messages": messages}})
    assert [(one.session_id, prompt_of(one)) for one in turns_of(items)] == [("s", "u:Q"), ("t", "u:Q")]


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": {"text": "Q", "role": "prompter", "replies": [TALK[1], TALK[1]]}, "message_tree_id": "t"},
        {"candidates": {"replies": [TALK[1], TALK[1]]}},
        {"conversation_a": TALK, "conversation_b": TALK, "winner": "a"},
        {"agent": {"name": "bot", "few_shot": TALK}},
    ],
    ids=["tree", "alternatives", "battle", "examples"],
)
def test_answers_to_choose_from_and_examples_are_no_conversation(value: dict[str, Any]) -> None:
    assert readers.detect(json.dumps(value).encode()) is None


def test_messages_that_wait_for_an_answer_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="no_contents") as refused:
        document(tmp_path, {"job": {"input": [TALK[0], TALK[1], TALK[0]]}})
    assert "requests with their replies" in refused.value.problem.detail


# --- spans


def test_a_message_that_many_spans_repeat_is_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "".join(f"{number * 7919 % 10007} " for number in range(2000))
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": words}]}]),
    }
    said = ({"role": "assistant", "parts": [{"type": "text", "content": f"A{number}"}]} for number in range(50))
    spans = [
        span(str(number), {**attributes, "gen_ai.output.messages": json.dumps([one])})
        for number, one in enumerate(said)
    ]
    monkeypatch.setattr(documents, "MAX_SHELF", 4 * len(words))
    answers = [one.completion["content"] for one in turns_of(otlp(tmp_path, *spans))]
    assert answers == [f"A{number}" for number in range(50)]
    monkeypatch.setattr(documents, "MAX_SHELF", len(words) // 8)
    with pytest.raises(UnreadableError, match="gigantic"):
        otlp(tmp_path, *spans)


def test_results_and_names_reach_a_call_whatever_the_order_of_the_spans(tmp_path: Path) -> None:
    call = {"type": "tool_call", "id": "c", "name": "f", "arguments": {}}
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Q"}]}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [call]}]),
    }
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": "c", "gen_ai.tool.call.result": "no"}
    root = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "coder", "session.id": "s"}
    spans = [
        span("call", attributes, "mid"),
        span("tool", tool, "mid", status={"code": 2}),
        span("mid", {}, "root"),
        span("root", root),
    ]
    for order in (spans, spans[::-1]):
        turn = only(otlp(tmp_path, *order))
        assert (turn.session_id, turn.agent, turn.result_known, turn.step_failed) == ("s", "coder", True, True)


def test_azures_messages_are_read_from_the_content_of_its_events(tmp_path: Path) -> None:
    def said(name: str, **content: Any) -> dict[str, Any]:
        return {"name": name, "attributes": pairs({"gen_ai.event.content": json.dumps(content)})}

    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    events = [
        said("gen_ai.system.message", role="system", content="S"),
        said("gen_ai.user.message", role="user", content="Q"),
        said("gen_ai.assistant.message", tool_calls=[call]),
        said("gen_ai.tool.message", id="c", content="r"),
        said("gen_ai.choice", index=0, finish_reason="stop", message={"content": "A"}),
    ]
    turn = only(otlp(tmp_path, span("1", {"gen_ai.operation.name": "chat"}, events=events)))
    assert (prompt_of(turn), turn.completion["content"]) == ("s:S u:Q a:* t:r", "A")


def test_prompts_in_one_attribute_are_messages_or_are_said_to_be_lost(tmp_path: Path) -> None:
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.prompt": json.dumps(TALK[:1]), "gen_ai.completion": "A"}
    turn = only(otlp(tmp_path, span("1", attributes)))
    assert (prompt_of(turn), turn.completion["content"]) == ("u:Q", "A")
    assert skipped(otlp(tmp_path, span("1", {**attributes, "gen_ai.prompt": '["user: Q"]'}))) == ["no_prompt"]
    parts = json.dumps([{"text": "A"}, {"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}])
    answer = only(otlp(tmp_path, span("1", {**attributes, "gen_ai.completion": parts}))).completion
    assert (answer["content"], len(answer["tool_calls"])) == ("A", 1)


def test_traces_of_one_session_of_langfuse_have_steps_of_their_own_and_a_traces_score_reaches_it(
    tmp_path: Path,
) -> None:
    def observed(own: str, trace: str, **more: Any) -> dict[str, Any]:
        facts = {"parentObservationId": None, "type": "GENERATION", "startTime": "2026-01-01", "sessionId": "s"}
        return {"id": own, "traceId": trace, **facts, "input": json.dumps(TALK[:1]), "output": f"A{own}", **more}

    score = {"name": "correctness", "value": 0, "dataType": "NUMERIC", "traceId": "t2"}
    lines = [score, observed("1", "t1"), observed("2", "t2"), observed("3", "t2", startTime="2026-01-02")]
    items = read_lines(tmp_path, *lines, {**score, "traceId": "t1", "observationId": "1"})
    assert [(one.session_id, one.step) for one in turns_of(items)] == [("s", 0), ("s", 1), ("s", 2)]
    judged = [(one.session_id, one.status, one.blamed_call) for one in items if isinstance(one, Verdict)]
    assert judged == [("s", "failure", ""), ("s", "failure", "1")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"rid": "r", "obj": {"text": "x"}, "out": {}}, "SGLang"),
        ({"traj": [{"index": 0}], "instruction": "x", "task_id": "t"}, "AgentNet"),
        ({"type": "result", "result": "A", "session_id": "s", "num_turns": 1}, "give its session file"),
        ({"trajectory_steps": [], "problem_statement": "x"}, "R2E-Gym"),
        ({"step_num": 1, "action": "DONE", "screenshot_file": "s.png"}, "OSWorld"),
        ({"annotation_id": "a", "action_reprs": []}, "Mind2Web"),
        ({"content": [{"class_": "text_observation"}], "details": {}}, "ADP"),
        ({"env": {"roles": {}}, "investment": 3.0}, "MetaGPT"),
        ({"Records": [{"eventVersion": "1", "eventSource": "bedrock.amazonaws.com"}]}, "model invocation logging"),
        ({"type": "text", "sessionID": "s", "part": {"type": "text"}}, "opencode run"),
        ({"jsonrpc": "2.0", "method": "session/update", "params": {}}, "Agent Client Protocol"),
    ],
)
def test_what_holds_no_prompts_is_refused_by_its_name(tmp_path: Path, line: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "x.jsonl", line)
    head = Source(path, path.name).head(readers.HEAD_BYTES)
    assert readers.detect(head) is None
    assert words in readers.nearest(head)


def test_an_app_of_difys_that_called_tools_is_no_example_and_a_disliked_answer_failed(tmp_path: Path) -> None:
    row = {"conversation_id": "d", "query": "Q2", "answer": "A2", "created_at": 2, "agent_thoughts": [{"tool": "f"}]}
    first = {
        **row,
        "query": "Q1",
        "answer": "A1",
        "created_at": 1,
        "agent_thoughts": [],
        "feedback": {"rating": "dislike"},
    }
    items = document(tmp_path, {"data": [row, first], "limit": 2})
    assert (told(items), skipped(items)) == (["u:Q1 -> A1 (reconstructed)"], ["calls_not_recorded"])
    assert only(items).step_failed
    assert not [one for one in items if isinstance(one, Problem)]
