"""Readers of other tools' logs: a test a trap of a format; every sample is read, or refused with its reason."""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from grokora_pipeline.agents import AgentSpec, load_agents
from grokora_pipeline.datasets.examples import build_examples
from grokora_pipeline.datasets.imports import import_rows, suggest
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.models.messages import message_text
from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.ingest import ingest
from grokora_pipeline.sessions.readers.common import Source, UnreadableError
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Turn, Verdict
from grokora_pipeline_tests.unit.neutral_logs import FORMATS, Talk
from grokora_pipeline_tests.unit.session_logs import SHARED, turns
from grokora_pipeline_tests.unit.session_logs import run as ingest_folder

SAMPLES = SHARED / "data" / "agent_logs"
authentic = pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs ../shared/data/agent_logs")


def read(path: Path) -> list[Item]:
    """The items of a file, by the reader that its content asks for."""
    head = Source(path, path.name).head(readers.HEAD_BYTES)
    known = readers.detect(head)
    assert known is not None, readers.nearest(head)
    return list(known.read(Source(path, path.name, "sha", known.name)))


def turns_of(items: Sequence[Item]) -> list[Turn]:
    """The turns among items."""
    return [item for item in items if isinstance(item, Turn)]


def read_lines(folder: Path, *lines: Any, name: str = "log.jsonl") -> list[Item]:
    """The items of JSONL with these lines."""
    return read(write(folder / name, *lines))


def write(path: Path, *lines: Any) -> Path:
    """JSONL with these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(orjson.dumps(line) for line in lines) + b"\n")
    return path


def said(turn: Turn) -> tuple[Any, ...]:
    """A turn as an example: its prompt and its answer."""
    return orjson.dumps(turn.prompt), orjson.dumps(turn.completion)


# --- Claude Code


def claude(uuid: str, parent: str | None, content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    """A line of a session; an assistant's has the message id `m-<key>` and a request id."""
    message: dict[str, Any] = {"role": role, "content": content}
    line = {
        "type": role,
        "uuid": uuid,
        "parentUuid": parent,
        "sessionId": "s1",
        "isSidechain": False,
        "message": message,
    }
    if role == "assistant":
        key = more.pop("key", uuid)
        message |= {"id": f"m-{key}", "model": "claude-x"}
        line["requestId"] = f"r-{key}"
    return {**line, "timestamp": f"2026-01-01T00:00:{len(uuid):02d}Z", **more}


def tool_use(call: str, name: str = "Bash", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call, "name": name, "input": arguments}


def result(call: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": content, **more}


SESSION = (
    claude("u1", None, "List the files."),
    claude("a1", "u1", [{"type": "thinking", "thinking": "I look.", "signature": "c2ln"}], "assistant", key="1"),
    claude("a2", "a1", [{"type": "text", "text": "I look."}], "assistant", key="1"),
    claude("a3", "a2", [tool_use("c1", command="ls")], "assistant", key="1"),
    claude("a4", "a3", [tool_use("c2", command="pwd")], "assistant", key="1"),
    claude("t1", "a3", [result("c1", "x.py")]),
    claude("t2", "a4", [result("c2", "/tmp", is_error=True)]),
    claude("a5", "t2", [{"type": "text", "text": "x.py"}], "assistant", key="2"),
)


@authentic
def test_the_lines_of_one_answer_are_one_call() -> None:
    items = turns_of(read(SAMPLES / "claude_code" / "claude-code-pomodoro-timer.jsonl"))
    assert len(items) == 40
    assert {turn.model for turn in items} == {"claude-sonnet-4-5-20250929"}
    assert {turn.completeness for turn in items} == {"reconstructed"}


def test_parallel_calls_of_claude_code_are_one_answer_with_all_results_in_the_next_prompt(tmp_path: Path) -> None:
    first, second = turns_of(read_lines(tmp_path, *SESSION))
    assert [call["id"] for call in first.completion["tool_calls"]] == ["c1", "c2"]
    assert first.completion["content"] == "I look."
    assert first.completion["reasoning_content"] == "I look."
    assert first.result_known
    assert first.step_failed  # pwd's result says so
    assert [message["role"] for message in second.prompt] == ["user", "assistant", "tool", "tool"]
    assert "signature" not in str(second.prompt)
    assert first.tools_known == "inferred"
    assert first.tools is not None
    assert all(tool["inferred"] for tool in first.tools)


def test_a_rewound_branch_is_not_in_the_prompt_of_the_other(tmp_path: Path) -> None:
    again = claude("u9", "a5", "Delete them."), claude("a9", "u9", "Done.", "assistant")
    other = claude("u8", "a5", "Count them."), claude("a8", "u8", "One.", "assistant")
    *_, deleted, counted = turns_of(read_lines(tmp_path, *SESSION, *again, *other))
    assert "Count" not in str(deleted.prompt)
    assert "Delete" not in str(counted.prompt)


def test_after_a_compaction_the_prompt_is_the_summary(tmp_path: Path) -> None:
    boundary = {"type": "system", "subtype": "compact_boundary", "uuid": "b", "parentUuid": None, "sessionId": "s1"}
    summary = claude("u7", "b", "Summary: x.py was listed.", isCompactSummary=True)
    *_, last = turns_of(read_lines(tmp_path, *SESSION, boundary, summary, claude("a7", "u7", "Go on.", "assistant")))
    assert [message["content"] for message in last.prompt] == ["Summary: x.py was listed."]


@pytest.mark.parametrize("times", [1, 4])
def test_history_that_a_session_copies_is_learnt_once(tmp_path: Path, times: int) -> None:
    """Compaction and forks write the same uuids again, up to five times in real files."""
    copies = [line for _ in range(times) for line in SESSION]
    assert list(map(said, turns_of(read_lines(tmp_path, *SESSION, *copies)))) == list(
        map(said, turns_of(read_lines(tmp_path, *SESSION)))
    )


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.text("abc", min_size=1, max_size=6)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=3),
)
def test_copies_of_any_stretch_of_a_session_give_no_new_examples(
    talk: list[tuple[int, str]], copies: list[tuple[int, int]]
) -> None:
    """A session with rewinds (each question follows any earlier answer), and stretches of it written once more."""
    lines: list[dict[str, Any]] = []
    for number, (parent, text) in enumerate(talk):
        before = f"a{parent % number}" if number else None
        lines.append(claude(f"u{number}", before, f"{text} {number}?"))
        lines.append(claude(f"a{number}", f"u{number}", [{"type": "text", "text": text}], "assistant"))
    again = list(lines)
    for start, size in copies:
        again += lines[start % len(lines) :][:size]
    with tempfile.TemporaryDirectory() as folder:
        once, twice = (turns_of(read_lines(Path(folder), *part)) for part in (lines, again))
    assert len(once) == len(talk)
    assert list(map(said, twice)) == list(map(said, once))


@authentic
def test_a_fork_beside_its_session_gives_the_same_examples(tmp_path: Path) -> None:
    """A fork has a session id of its own, and the parent's lines under their own uuids and message ids."""
    lines = [orjson.loads(line) for line in (SAMPLES / "claude_code/claude-code-pomodoro-timer.jsonl").open("rb")]
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        (folder / "logs").mkdir(parents=True)
        write(folder / "logs" / "a.jsonl", *lines)
    asked = max(place for place, line in enumerate(lines[: len(lines) // 2]) if line["type"] == "user")
    forked = [{**line, "sessionId": "fork"} for line in lines[: asked + 1]]  # forks begin after a whole answer
    write(both / "logs" / "b.jsonl", *forked)
    examples = []
    for folder in (alone, both):
        ingest_folder(folder / "logs", folder / "out")
        examples.append(sorted((row["prompt"], row["completion"]) for row in turns(folder / "out")))
    assert len(examples[0]) == 40
    assert examples[0] == examples[1]


def test_a_sub_agent_is_an_agent_of_its_own(tmp_path: Path) -> None:
    side: dict[str, Any] = {"isSidechain": True, "agentId": "ab12"}
    lines = claude("x1", None, "Find the tests.", **side), claude("x2", "x1", "tests/", "assistant", **side)
    (tmp_path / "agent-ab12.meta.json").write_text('{"agentType": "Explore"}')
    (turn,) = turns_of(read_lines(tmp_path, *lines, name="agent-ab12.jsonl"))
    assert (turn.agent, turn.session_id, turn.parent_session_id) == ("claude-code/Explore", "s1:ab12", "s1")


def test_a_line_whose_parent_is_missing_is_no_whole_prompt(tmp_path: Path) -> None:
    linked = claude("a1", "u1", "Hm.", "assistant"), claude("u2", "a1", "Go."), claude("a2", "u2", "Gone.", "assistant")
    assert [turn.completeness for turn in turns_of(read_lines(tmp_path, *linked))] == ["delta", "delta"]


def test_what_the_program_says_in_the_models_place_is_not_learnt(tmp_path: Path) -> None:
    error = claude("e1", "u1", "API Error: 529", "assistant")
    error["message"]["model"] = "<synthetic>"
    lines = [{**line, "parentUuid": "e1"} if line["parentUuid"] == "u1" else line for line in SESSION[1:]]
    said_with = list(map(said, turns_of(read_lines(tmp_path, SESSION[0], error, *lines))))
    assert said_with == list(map(said, turns_of(read_lines(tmp_path, *SESSION))))


# --- Codex


def item(kind: str, **payload: Any) -> dict[str, Any]:
    return {"timestamp": "2026-01-01T00:00:01Z", "type": "response_item", "payload": {"type": kind, **payload}}


def event(kind: str, **payload: Any) -> dict[str, Any]:
    return {"timestamp": "2026-01-01T00:00:01Z", "type": "event_msg", "payload": {"type": kind, **payload}}


def spoken(role: str, text: str) -> dict[str, Any]:
    part = "output_text" if role == "assistant" else "input_text"
    return item("message", role=role, content=[{"type": part, "text": text}])


def meta(own: str = "t1", **more: Any) -> dict[str, Any]:
    payload = {"id": own, "timestamp": "2026-01-01T00:00:00Z", "base_instructions": {"text": "You are Codex."}, **more}
    return {"timestamp": "2026-01-01T00:00:00Z", "type": "session_meta", "payload": payload}


ROLLOUT: tuple[dict[str, Any], ...] = (
    meta(),
    {"timestamp": "2026-01-01T00:00:00Z", "type": "turn_context", "payload": {"model": "gpt-5-codex"}},
    spoken("user", "List the files."),
    event("user_message", message="List the files."),
    item("reasoning", summary=[{"type": "summary_text", "text": "**Looking**"}], encrypted_content="gAAAA"),
    item("function_call", name="shell", arguments='{"command":["ls"]}', call_id="c1"),
    event("token_count", info=None),
    item("function_call_output", call_id="c1", output='{"output":"no","metadata":{"exit_code":2}}'),
    spoken("assistant", "There is nothing."),
    event("agent_message", message="There is nothing."),
)


def test_codex_events_repeat_the_items_and_are_not_read_twice(tmp_path: Path) -> None:
    first, second = turns_of(read_lines(tmp_path, *ROLLOUT))
    assert [message["role"] for message in second.prompt] == ["system", "user", "assistant", "tool"]
    assert second.completion["content"] == "There is nothing."
    assert first.step_failed  # exit code 2
    assert (first.model, first.agent, first.completeness) == ("gpt-5-codex", "codex", "reconstructed")
    assert "gAAAA" not in str(first.prompt) + str(first.completion)


def test_an_aborted_turn_of_codex_counts_as_failed(tmp_path: Path) -> None:
    items = turns_of(
        read_lines(tmp_path, *ROLLOUT, spoken("user", "More."), spoken("assistant", "I"), event("turn_aborted"))
    )
    assert [turn.step_failed for turn in items][-1]


def test_a_sub_agents_file_repeats_its_parent_and_the_copy_is_left_out(tmp_path: Path) -> None:
    spawn = {"subagent": {"thread_spawn": {"parent_thread_id": "t1", "agent_role": "explorer"}}}
    child = meta("t2", source=spawn, subagent_history_start_ordinal=len(ROLLOUT) + 1)
    own = spoken("user", "Look into src."), spoken("assistant", "src has two files.")
    items = read_lines(tmp_path, child, *ROLLOUT, *own)
    (turn,) = turns_of(items)
    assert (turn.agent, turn.session_id, turn.parent_session_id) == ("codex/explorer", "t2", "t1")
    assert turn.prompt[-1]["content"] == "Look into src."
    assert Skipped("copied_history") in items


@authentic
def test_a_rollout_is_read_from_zst_and_twice_in_one_file_is_once(tmp_path: Path) -> None:
    raw = (SAMPLES / "codex" / "codex-pomodor-timer.jsonl").read_bytes()
    (tmp_path / "once.jsonl.zst").write_bytes(zstandard.compress(raw))
    (tmp_path / "twice.jsonl").write_bytes(raw + raw)
    once, twice = turns_of(read(tmp_path / "once.jsonl.zst")), turns_of(read(tmp_path / "twice.jsonl"))
    assert len(once) == 21
    assert list(map(said, once)) == list(map(said, twice))


def test_the_older_flat_rollout_is_read(tmp_path: Path) -> None:
    header = {"id": "t1", "timestamp": "2025-05-01T00:00:00Z", "instructions": None}
    flat = [line["payload"] for line in ROLLOUT if line["type"] == "response_item"]
    assert len(turns_of(read_lines(tmp_path, header, {"record_type": "state"}, *flat))) == 2


def test_codex_sees_only_the_summary_after_a_compaction(tmp_path: Path) -> None:
    compacted = {"type": "compacted", "timestamp": "2026-01-01T00:01:00Z", "payload": {"message": "We listed files."}}
    *_, last = turns_of(
        read_lines(tmp_path, *ROLLOUT, compacted, spoken("user", "Go on."), spoken("assistant", "Yes."))
    )
    assert [message["content"] for message in last.prompt] == ["You are Codex.", "We listed files.", "Go on."]


def test_what_codex_is_told_by_another_agent_is_in_its_prompt(tmp_path: Path) -> None:
    told = {"author": "/root/w", "recipient": "/root", "content": "It is done.", "trigger_turn": False}
    sealed = {**told, "content": "", "encrypted_content": "x"}
    call = {"kind": "function_call", "name": "find", "namespace": "mcp__gh__", "arguments": "{}", "call_id": "c"}
    asked = item("message", role="user", content=[{"type": "input_text", "text": "Q"}])
    lines = [meta(), asked, {"timestamp": "t", "type": "inter_agent_communication", "payload": told}]
    lines += [
        item(**call),
        {"timestamp": "t", "type": "inter_agent_communication", "payload": sealed},
        spoken("assistant", "B"),
    ]
    first, second = turns_of(read_lines(tmp_path, *lines))
    assert [one["content"] for one in first.prompt][-2:] == ["Q", "It is done."]
    assert first.completion["tool_calls"][0]["function"]["name"] == "mcp__gh__find"
    assert (first.completeness, second.completeness) == ("reconstructed", "delta")


# --- training sets


def test_each_trainable_answer_of_a_row_is_an_example_and_weight_0_is_context(tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "weight": 1},
    ]
    (turn,) = turns_of(read_lines(tmp_path, {"messages": chat}))
    assert [message["content"] for message in turn.prompt] == ["a", "b", "c"]
    assert all(message.keys() <= {"role", "content"} for message in turn.prompt)
    assert (turn.status, turn.completeness) == ("success", "whole")


def test_rows_that_begin_alike_are_one_session(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]} for text in ("b", "c")
    ]
    first, second = turns_of(read_lines(tmp_path, *rows))
    assert first.session_id == second.session_id


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": "b"},
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        {"instruction": "a", "input": "", "output": "b"},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "a"}]},
                {"role": "assistant", "content": "b"},
            ]
        },
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "label": True},
    ],
)
def test_every_row_format_says_the_same(tmp_path: Path, row: dict[str, Any]) -> None:
    (turn,) = turns_of(read_lines(tmp_path, row))
    assert turn.prompt == [{"role": "user", "content": "a"}]
    assert turn.completion == {"role": "assistant", "content": "b"}


def test_sharegpt_calls_and_observations_are_calls_and_results(tmp_path: Path) -> None:
    talk = [
        {"from": "human", "value": "weather?"},
        {"from": "function_call", "value": '{"name": "get", "arguments": {"city": "Bonn"}}'},
        {"from": "observation", "value": '{"sky": "blue"}'},
        {"from": "gpt", "value": "Blue."},
    ]
    tools = json.dumps([{"name": "get", "parameters": {"type": "object", "properties": {}}}])
    first, second = turns_of(read_lines(tmp_path, {"conversations": talk, "tools": tools}))
    assert first.completion["tool_calls"][0]["function"] == {"name": "get", "arguments": '{"city": "Bonn"}'}
    assert second.prompt[-1]["tool_call_id"] == second.prompt[-2]["tool_calls"][0]["id"]
    assert (first.tools_known, first.result_known) == ("recorded", True)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "chosen": "good", "rejected": "bad"},
        {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "good"}}
        | {"rejected": {"from": "gpt", "value": "bad"}},
        {"input": {"messages": [{"role": "user", "content": "a"}]}}
        | {"preferred_output": [{"role": "assistant", "content": "good"}]}
        | {"non_preferred_output": [{"role": "assistant", "content": "bad"}]},
        {
            side: [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]
            for side, text in (("chosen", "good"), ("rejected", "bad"))
        },
    ],
)
def test_a_preference_keeps_both_answers_and_the_rejected_one_failed(tmp_path: Path, row: dict[str, Any]) -> None:
    good, bad = turns_of(read_lines(tmp_path, row))
    assert (good.completion["content"], good.status) == ("good", "success")
    assert (bad.completion["content"], bad.status) == ("bad", "failure")
    assert (good.session_id, good.step, good.prompt) == (bad.session_id, bad.step, bad.prompt)


def test_a_conversation_without_roles_is_refused_with_the_nearest_format() -> None:
    head = b'{"conversations": [{"value": "hi"}, {"value": "hello"}]}\n'
    assert readers.detect(head) is None
    assert "looks like ShareGPT without roles" in readers.nearest(head)


# --- observability


@authentic
@pytest.mark.parametrize("name", ["semconv", "legacy_events", "openllmetry", "openinference", "upload_hook/spans"])
def test_every_dialect_tells_of_the_same_call(name: str) -> None:
    first = turns_of(read(SAMPLES / "otel_genai" / f"handmade_{name}.jsonl"))[0]
    assert first.completeness == "whole"
    assert [message_text(message) for message in first.prompt[:2]] == ["You are a support agent.", "Where is order 17?"]
    if first.completion.get("tool_calls"):
        function = first.completion["tool_calls"][0]["function"]
        assert (function["name"], orjson.loads(function["arguments"])) == ("get_order", {"id": "17"})


@authentic
def test_spans_without_contents_are_refused_with_that_sentence() -> None:
    with pytest.raises(UnreadableError) as refused:
        read(SAMPLES / "otel_genai" / "handmade_semconv_no_content.jsonl")
    assert "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT" in refused.value.problem.detail


def test_an_attribute_that_the_exporter_cut_is_no_whole_prompt(tmp_path: Path) -> None:
    prompt = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "x" * 50}]}])[:40]
    answer = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "yes"}]}])
    values = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": prompt, "gen_ai.output.messages": answer}
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]
    span = {"traceId": "t", "spanId": "s", "startTimeUnixNano": "1780000001000000000", "attributes": attributes}
    items = turns_of(read_lines(tmp_path, {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}))
    assert [turn.completeness for turn in items] == ["cut"]


def _normal(messages: Sequence[dict[str, Any]]) -> list[Any]:
    """Role, text and calls of messages, whichever side writes them."""
    plain = []
    for message in messages:
        calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
        names = [(call["name"], orjson.loads(call["arguments"] or "{}")) for call in calls]
        role = {"model": "assistant"}.get(message["role"], message["role"])
        plain.append((role, message_text(message).strip(), names))
    return plain


@authentic
@pytest.mark.parametrize(
    "framework", ["crewai", "google-adk", "koog", "langgraph-python", "pydantic-ai-tools", "vercel-aisdk"]
)
def test_langfuses_own_normalisation_equals_ours_where_the_prompt_is_whole(framework: str) -> None:
    (trace,) = (SAMPLES / "langfuse_export").glob(f"{framework}-20*.trace.json")
    oracle = orjson.loads(trace.with_name(trace.name.replace(".trace.", ".chatml.")).read_bytes())
    items = [turn for turn in turns_of(read(trace)) if turn.completeness == "whole"]
    assert items
    for turn in items:
        expected = oracle[turn.call]["input"]["data"]
        results = [message["role"] == "tool" for message in turn.prompt]
        # Langfuse leaves a tool's result in Gemini's own role, `user`
        named = [
            ("tool" if is_result else role, *rest)
            for is_result, (role, *rest) in zip(results, _normal(expected), strict=True)
        ]
        assert [tuple(part) for part in named] == _normal(turn.prompt)


@authentic
@pytest.mark.parametrize(
    ("framework", "states"),
    [
        ("autogen", ["lost"]),  # the roles are flattened into a text
        ("claude-agent", ["delta", "lost", "lost", "lost"]),
        ("microsoft-agent", ["reconstructed", "delta"]),
        ("openai-agents", ["reconstructed", "reconstructed"]),  # the instructions stand in the reply
    ],
)
def test_langfuse_prompts_that_are_not_whole_are_told_apart(framework: str, states: list[str]) -> None:
    (trace,) = (SAMPLES / "langfuse_export").glob(f"{framework}-20*.trace.json")
    assert [turn.completeness for turn in turns_of(read(trace))] == states


@authentic
def test_a_payload_that_litellm_cut_is_set_aside_and_spend_logs_without_contents_are_refused() -> None:
    items = read(SAMPLES / "litellm" / "standard_logging_payloads.HAND_MADE.jsonl")
    assert Counter(turn.completeness for turn in turns_of(items)) == {"whole": 2, "cut": 1}
    assert any(isinstance(one, Problem) and one.reason == "cut" for one in items)
    tooled = next(turn for turn in turns_of(items) if turn.agent == "support")
    assert (tooled.session_id, tooled.tools_known, tooled.model) == ("sess-1", "recorded", "gpt-4o")
    with pytest.raises(UnreadableError, match="no_contents"):
        read(SAMPLES / "litellm" / "spend_logs_row_shape.HAND_MADE.json")


def test_mlflow_and_langsmith_runs_are_read(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}]}
    reply = {"model": "m", "choices": [{"message": {"role": "assistant", "content": "b"}, "finish_reason": "stop"}]}
    attributes = {"mlflow.spanType": '"CHAT_MODEL"', "mlflow.spanInputs": json.dumps(chat)}
    span = {"span_id": "1", "attributes": attributes | {"mlflow.spanOutputs": json.dumps(reply)}}
    assessed = [{"feedback": {"value": False}}]
    trace = {"info": {"trace_id": "t", "assessments": assessed}, "data": {"spans": [span]}}
    run: dict[str, Any] = {
        "id": "r",
        "run_type": "llm",
        "trace_id": "t",
        "inputs": {"messages": [[{"lc": 1, "id": ["HumanMessage"]}]]},
    }
    run["inputs"]["messages"][0][0]["kwargs"] = {"content": "a", "type": "human"}
    message = {"lc": 1, "id": ["AIMessage"], "kwargs": {"content": "b", "tool_calls": []}}
    run["outputs"] = {"generations": [[{"text": "b", "message": message}]]}
    traced, ran = read_lines(tmp_path, trace, name="m.json"), read_lines(tmp_path, run, name="l.jsonl")
    for items in (traced, ran):
        (turn,) = turns_of(items)
        assert (turn.prompt, turn.completion["content"]) == ([{"role": "user", "content": "a"}], "b")
    assert Verdict("t", status="failure") in traced


# --- trajectories


def test_atif_leaves_out_copied_context_and_steps_without_a_model(tmp_path: Path) -> None:
    steps = [
        {"step_id": 1, "source": "user", "message": "a"},
        {"step_id": 2, "source": "agent", "message": "b", "is_copied_context": True},
        {"step_id": 3, "source": "agent", "message": "canned", "llm_call_count": 0},
        {"step_id": 4, "source": "user", "message": "c"},
        {"step_id": 5, "source": "agent", "message": "d"},
    ]
    document = {"schema_version": "ATIF-v1.7", "session_id": "s", "agent": {"name": "x"}, "steps": steps}
    (tmp_path / "verifier").mkdir()
    (tmp_path / "verifier" / "reward.txt").write_text("1\n")
    items = read_lines(tmp_path, document, name="trajectory.json")
    (turn,) = turns_of(items)
    assert [message["content"] for message in turn.prompt] == ["a", "b", "canned", "c"]
    assert Verdict("s", status="success") in items


def test_demonstrations_of_swe_agent_are_context(tmp_path: Path) -> None:
    history = [
        {"role": "system", "content": "s", "agent": "main", "message_type": "system_prompt"},
        {"role": "user", "content": "demo", "agent": "main", "is_demo": True},
        {"role": "assistant", "content": "shown", "agent": "main", "is_demo": True},
        {"role": "user", "content": "issue", "agent": "main"},
        {"role": "assistant", "content": "own", "agent": "main"},
    ]
    document = {"trajectory": [], "history": history, "info": {"exit_status": "exit_cost"}}
    items = read_lines(tmp_path, document, name="x__y-1.traj")
    (turn,) = turns_of(items)
    assert (turn.completion["content"], len(turn.prompt), turn.status) == ("own", 4, "failure")


def test_trials_of_a_task_of_tau_bench_are_one_task_and_the_reward_is_the_verdict(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    trials: list[dict[str, Any]] = [
        {"task_id": 3, "trial": trial, "reward": float(trial), "info": {}, "traj": talk} for trial in (0, 1)
    ]
    path = tmp_path / "results.json"
    path.write_bytes(orjson.dumps(trials))
    lost, won = turns_of(read(path))
    assert (lost.status, won.status) == ("failure", "success")
    assert lost.task == won.task != ""
    assert lost.session_id != won.session_id


def test_parallel_calls_of_openhands_share_a_response_and_a_condensation_changes_the_prompt(tmp_path: Path) -> None:
    def action(own: str, response: str, call: str) -> dict[str, Any]:
        raw = {"id": call, "name": "terminal", "arguments": "{}"}
        named = {"tool_name": "terminal", "tool_call_id": call, "tool_call": raw, "llm_response_id": response}
        return {"id": own, "source": "agent", "kind": "ActionEvent", "thought": [], **named}

    def observed(own: str, call: str) -> dict[str, Any]:
        return {"id": own, "source": "environment", "kind": "ObservationEvent", "tool_call_id": call} | {
            "observation": {"content": [{"type": "text", "text": f"out {call}"}]}
        }

    prompt = {"type": "text", "text": "You are OpenHands."}
    asked = {"role": "user", "content": [{"type": "text", "text": "Do it."}]}
    events = [
        {"id": "1", "source": "agent", "kind": "SystemPromptEvent", "system_prompt": prompt, "tools": []},
        {"id": "2", "source": "user", "kind": "MessageEvent", "llm_message": asked},
        action("3", "r1", "c1"),
        action("4", "r1", "c2"),
        observed("5", "c1"),
        observed("6", "c2"),
        {"id": "7", "kind": "Condensation", "forgotten_event_ids": ["3", "4", "5", "6"], "summary": "Ran two."},
        action("8", "r2", "c3"),
    ]
    first, second = turns_of(read_lines(tmp_path, *events))
    assert len(first.completion["tool_calls"]) == 2
    assert first.completeness == "whole"
    assert [message["content"] for message in second.prompt] == ["You are OpenHands.", "Do it.", "Ran two."]
    assert second.completeness == "reconstructed"


# --- provider bodies in recordings


def recorded(folder: Path, request: dict[str, Any], response: Any, **more: Any) -> list[Turn]:
    line = {"session_id": "s", "agent": "a", "step": 0, "request": request, "response": response, **more}
    return turns_of(read_lines(folder, line))


def test_anthropic_bodies_are_read_whole_and_streamed(tmp_path: Path) -> None:
    request: dict[str, Any] = {
        "model": "claude",
        "system": "Be short.",
        "messages": [{"role": "user", "content": "weather?"}],
    }
    request["tools"] = [{"name": "get", "input_schema": {"type": "object", "properties": {}}}]
    whole = {"type": "message", "role": "assistant", "content": [tool_use("c1", "get", city="Bonn")]}
    block = {"type": "tool_use", "id": "c1", "name": "get", "input": {}}
    streamed = [
        {"type": "message_start", "message": {"role": "assistant", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"city": '}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '"Bonn"}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ]
    (one,), (two,) = recorded(tmp_path, request, whole), recorded(tmp_path, request, streamed)
    assert one.completion == two.completion
    assert one.completion["tool_calls"][0]["function"] == {"name": "get", "arguments": '{"city": "Bonn"}'}
    assert [message["role"] for message in one.prompt] == ["system", "user"]
    assert one.tools_known == "recorded"
    assert recorded(tmp_path, request, streamed[:4]) == []  # broken off: no answer


def test_a_responses_request_that_continues_an_earlier_one_is_no_whole_prompt(tmp_path: Path) -> None:
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]}]
    reply = {"object": "response", "output": output, "status": "completed"}
    for previous, state in ((None, "whole"), ("resp_1", "delta")):
        request = {"model": "m", "instructions": "s", "input": "a", "previous_response_id": previous}
        (turn,) = recorded(tmp_path, request, reply, api="responses")
        assert (turn.completeness, turn.completion["content"]) == (state, "b")
        assert [message["content"] for message in turn.prompt] == ["s", "a"]


def test_streamed_chat_chunks_are_one_reply(tmp_path: Path) -> None:
    chunks: list[Any] = [{"choices": [{"delta": {"content": text}}]} for text in "ab"]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    request = {"messages": [{"role": "user", "content": "a"}]}
    assert recorded(tmp_path, request, chunks)[0].completion["content"] == "ab"
    events = "\n\n".join(f"data: {json.dumps(chunk)}" for chunk in chunks) + "\n\ndata: [DONE]\n\n"
    assert recorded(tmp_path, request, events)[0].completion["content"] == "ab"


# --- neighbours: chat and coding programs, gateways, platforms (what they hold: `neighbour_logs`)


def test_an_answer_with_a_part_of_an_unknown_kind_is_not_learnt_and_neither_is_what_follows(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": [{"type": "hologram", "data": "x"}, {"type": "text", "text": "Look."}]}
    later = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Nothing."}]
    items = read_lines(tmp_path, {"messages": [{"role": "user", "content": "Show it."}, answer, *later]})
    assert items[0] == Skipped("part_of_unknown_kind")
    assert [turn.completeness for turn in turns_of(items)] == ["cut"]
    picture = {"role": "user", "content": [{"type": "input_image", "image_url": "x"}, {"type": "text", "text": "See."}]}
    assert turns_of(read_lines(tmp_path, {"messages": [picture, later[1]]}))[0].completeness == "whole"


def test_an_answer_whose_parts_hold_its_tools_results_is_a_call_and_an_answer(tmp_path: Path) -> None:
    def tool(call: str) -> dict[str, Any]:
        state = {"state": "output-available", "input": {"path": call}, "output": f"of {call}"}
        return {"type": "tool-read", "toolCallId": call, **state}

    text = {"type": "text", "text": "Done.", "state": "done"}
    parts = [{"type": "step-start"}, tool("a"), tool("b"), {"type": "step-start"}, tool("c"), text]
    asked = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "Read."}]}
    chat = {"id": "chat", "messages": [asked, {"id": "2", "role": "assistant", "parts": parts}]}
    first, second, third = turns_of(read(write(tmp_path / "chat.json", chat)))
    assert [call["id"] for call in first.completion["tool_calls"]] == ["a", "b"]  # asked for at once
    assert [call["id"] for call in second.completion["tool_calls"]] == ["c"]
    assert third.completion["content"] == "Done."
    assert [one["role"] for one in third.prompt] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert third.prompt[2]["content"] == "of a"


def test_what_was_asked_again_or_broken_off_is_no_example(tmp_path: Path) -> None:
    talk = Talk("S.", "Q?", "T.", "ls", "R", "A.")
    _, file, _, chatgpt = FORMATS["chatgpt"]
    (tmp_path / file).write_bytes(chatgpt(talk, "c"))
    assert "abandoned" not in str(turns_of(read(tmp_path / file)))
    (tmp_path / "T-1.json").write_bytes(FORMATS["amp"][3](talk, "1"))
    assert [turn.completion["content"] for turn in turns_of(read(tmp_path / "T-1.json"))] == ["T.", "A."]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"id": "prt_1", "sessionID": "s", "messageID": "m", "type": "text", "text": "x"}, "opencode export"),
        ({"finished": True, "mode": "manual", "startedAt": "x", "data": {}}, "n8n"),
        ({"object": "chat.completion", "choices": []}, "without their requests"),
        ({"task_name": "t", "task": "x", "agent": "a", "status": "completed"}, "CrewAI"),
        ({"source": "a", "models_usage": None, "content": "x", "type": "TextMessage"}, "save_state"),
        ({"type": "thread.started", "thread_id": "t"}, "rollout file"),
        ({"question": "Q", "answer": "A"}, "under other names (`question`, `answer`)"),
        ({"state": {"messages": [{"role": "user", "content": "Q"}]}}, "under `state.messages`"),
        ({"prompt": [{"role": "user", "content": "Q"}], "reward_model": {}}, "needs an answer in `completion`"),
        ({"text": "<|im_start|>user Q<|im_end|>"}, "a template's marks"),
    ],
)
def test_known_logs_without_calls_are_refused_with_what_would_do(
    tmp_path: Path, line: dict[str, Any], sentence: str
) -> None:
    write(tmp_path / "logs" / "x.jsonl", line, line)
    report = ingest_folder(tmp_path / "logs", tmp_path / "out")
    assert [one["reason"] for one in report.quarantine] == ["wrong_schema"]
    assert sentence in report.quarantine[0]["detail"]


def test_protobuf_and_markdown_histories_are_refused_with_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    attribute = b"\n\x15gen_ai.operation.name\x12\x06\n\x04chat"
    span = b"\n\x10" + b"t" * 16 + b"J" + bytes([len(attribute)]) + attribute
    scope = b"\x12" + bytes([len(span)]) + span
    spans = b"\x12" + bytes([len(scope)]) + scope
    (tmp_path / "logs" / "traces.pb").write_bytes(b"\n" + bytes([len(spans)]) + spans)
    (tmp_path / "logs" / "chat.history.md").write_bytes(b"\n# aider chat started at 2026-01-01 10:00:00\n\n#### hi\n")
    details = [one["detail"] for one in ingest_folder(tmp_path / "logs", tmp_path / "out").quarantine]
    assert ["Aider" in details[0], "format: json" in details[1]] == [True, True]


def test_agents_sdk_traces_that_hold_no_contents_are_refused_with_that_sentence(tmp_path: Path) -> None:
    span = {"object": "trace.span", "trace_id": "t", "span_data": {"type": "response", "response_id": "r"}}
    with pytest.raises(UnreadableError) as caught:
        read_lines(tmp_path, {"object": "trace", "id": "t"}, span)
    assert "neither its input nor its output" in caught.value.problem.detail


def test_answers_on_branches_that_a_program_shows_no_longer_are_counted(tmp_path: Path) -> None:
    def node(own: str, parent: str | None, role: str, text: str) -> dict[str, Any]:
        message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}}
        return {own: {"id": own, "parent": parent, "message": {**message, "status": "finished_successfully"}}}

    mapping = node("1", None, "user", "Q") | node("2", "1", "assistant", "A") | node("3", "1", "assistant", "B")
    chat = {"mapping": mapping, "current_node": "3", "create_time": 1767225600, "conversation_id": "c"}
    items = read_lines(tmp_path, chat)
    assert [turn.completion["content"] for turn in turns_of(items)] == ["B"]
    assert [item for item in items if isinstance(item, Skipped)] == [Skipped("another_branch")]


# --- what would be learnt


def test_the_import_table_says_why_calls_are_left_out_and_agents_are_suggested(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    write(tmp_path / "logs" / "claude.jsonl", *SESSION)
    chat = [{"role": "system", "content": "You are the clerk of a shop."}, {"role": "user", "content": "a"}]
    write(tmp_path / "logs" / "rows.jsonl", {"messages": [*chat, {"role": "assistant", "content": "b"}]})
    coder = AgentSpec.model_validate({"name": "coder", "description": "x", "match": {"names": ["claude-code"]}})
    (tmp_path / "out").mkdir()
    ingest(tmp_path / "logs", (coder,), None, tmp_path / "out", settle_seconds=0)
    claude_row, dataset_row = import_rows(tmp_path / "out", (coder,))
    assert (claude_row["format"], claude_row["calls"], claude_row["learnt"]) == ("claude_code", 2, 0)
    assert claude_row["left_out"] == "failed_step 1, unknown_outcome 1"
    assert (dataset_row["calls"], dataset_row["left_out"]) == (1, "no_agent 1")
    proposed = tmp_path / "agents.yaml"
    proposed.write_text(suggest([tmp_path / "out"], (coder,)))
    (clerk,) = load_agents(proposed)
    assert clerk.recognises(chat)
    assert "# 1 call\n" in proposed.read_text()
    # of two folders one agent is suggested, and none for calls of which nothing is known
    write(tmp_path / "more" / "rows.jsonl", {"messages": [*chat, {"role": "assistant", "content": "c"}]})
    run = {"id": "r", "trace_id": "r", "run_type": "llm", "inputs": {"messages": []}}
    write(tmp_path / "more" / "runs.jsonl", run | {"outputs": {"message": {"role": "assistant", "content": "d"}}})
    (tmp_path / "out_2").mkdir()
    assert ingest(tmp_path / "more", (coder,), None, tmp_path / "out_2", settle_seconds=0).turns == 2
    proposed.write_text(suggest([tmp_path / "out", tmp_path / "out_2"], (coder,)))
    assert [one.name for one in load_agents(proposed)] == [clerk.name]
    assert "# 2 calls\n" in proposed.read_text()


def test_an_inferred_schema_is_never_offered_to_a_model(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    lines = [line for line in SESSION if line["uuid"] not in ("a4", "t2")]
    lines[-1] = {**lines[-1], "parentUuid": "t1"}
    write(tmp_path / "logs" / "claude.jsonl", *lines)
    coder = AgentSpec.model_validate({"name": "coder", "description": "x", "match": "any"})
    for name in ("out", "dataset"):
        (tmp_path / name).mkdir()
    ingest(tmp_path / "logs", (coder,), None, tmp_path / "out", settle_seconds=0)
    assert build_examples(tmp_path / "out", coder, tmp_path / "dataset", DatasetOptions()).rows == 1
    assert "tools" not in orjson.loads((tmp_path / "dataset" / "examples.jsonl").read_bytes())


# --- all formats


@authentic
def test_every_sample_is_read_or_refused_with_its_reason() -> None:
    refused = {}
    for path in sorted(SAMPLES.rglob("*.*")):
        if path.suffix in (".txt", ".md") or ".chatml." in path.name or not path.is_file():
            continue
        head = path.read_bytes()[: readers.HEAD_BYTES]
        if readers.detect(head) is None:
            assert readers.is_companion(head), path
            continue
        try:
            items = read(path)
        except UnreadableError as error:
            refused[path.name] = error.problem.reason
        else:
            assert turns_of(items), path
    assert refused == {
        "handmade_semconv_no_content.jsonl": "no_contents",
        "spend_logs_row_shape.HAND_MADE.json": "no_contents",
    }


@authentic
@pytest.mark.parametrize("path", sorted(SAMPLES.rglob("*.json*")), ids=lambda path: path.name)
def test_no_log_brings_a_reader_down_when_it_is_cut_anywhere(tmp_path: Path, path: Path) -> None:
    raw = path.read_bytes()
    for part in range(1, 5):
        cut = tmp_path / path.name
        cut.write_bytes(raw[: len(raw) * part // 5])
        head = cut.read_bytes()[: readers.HEAD_BYTES]
        known = readers.detect(head)
        if known is not None:
            try:
                list(known.read(Source(cut, cut.name, "sha", known.name)))
            except UnreadableError as error:
                assert error.problem.reason
