"""Readers: what each log format gives, and what it must not be made to give."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.readers.common import Source, UnreadableError, parse_object, to_utc
from grokora_pipeline.sessions.readers.swarm import action_call
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Turn, Verdict
from grokora_pipeline_tests.unit.session_logs import SHARED, call, run, tool_answer, turns, write_lines

LOGS = SHARED / "data" / "grokputer_logs"
authentic = pytest.mark.skipif(not LOGS.is_dir(), reason="needs ../shared/data/grokputer_logs")


def read(path: Path, name: str | None = None) -> list[Item]:
    """The items of one file, by the reader that its content asks for."""
    with path.open("rb") as stream:
        known = readers.detect(stream.read(readers.HEAD_BYTES))
    assert known is not None
    return list(known.read(Source(path, name or path.name, "sha", known.name)))


def turns_of(items: list[Item]) -> list[Turn]:
    """The turns among items."""
    return [item for item in items if isinstance(item, Turn)]


def v1_session(**changes: Any) -> dict[str, Any]:
    """A v1 session of two iterations, the first with a command that failed."""
    result = {"status": "success", "command": "ls x", "stdout": "", "stderr": "no", "returncode": 2}
    return {
        "session_id": "session_1",
        "metadata": {"task": "list x", "user_rating": 4},
        "start_time": "2025-11-12T12:07:11",
        "iterations": [
            _iteration(1, "I list it.", [{"tool_call_id": "a", "function_name": "bash", "result": result}]),
            _iteration(2, "It is empty.", []),
        ],
        "total_iterations": 2,
        **changes,
    }


def _iteration(number: int, response: str | None, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "iteration_number": number,
        "start_time": 1762949231.5,
        "api_call_success": True,
        "tool_results": results,
        "grok_response": response,
        "errors": [],
    }


@authentic
@pytest.mark.parametrize(
    ("folder", "name", "count"),
    [("v1_iterations", "session_v1", 17), ("v1_rated", "session_v1", 12), ("v2_swarm", "swarm_v2", 2)],
)
def test_authentic_sessions_are_read(tmp_path: Path, folder: str, name: str, count: int) -> None:
    report = run(LOGS / folder, tmp_path / "out")
    assert report.by_format == {name: count}


@authentic
def test_the_authentic_logs_ingest_whole(tmp_path: Path) -> None:
    report = run(LOGS, tmp_path / "out")
    assert report.turns == 66
    assert report.by_agent == {"grokputer": 56, "collaborator": 8, "actor": 2}
    assert [(row["reason"], row["file"]) for row in report.quarantine] == [
        ("truncated", "v1_iterations/session_20251113_123511/session.json")
    ]


@authentic
def test_the_global_log_holds_clicks_and_multi_line_answers_and_equals_the_session_files() -> None:
    items = turns_of(read(LOGS / "global_log" / "grokputer.log"))
    calls = [c["function"] for turn in items for c in turn.completion.get("tool_calls", [])]
    assert any(orjson.loads(c["arguments"]).get("coordinate") == [960, 600] for c in calls)
    same = turns_of(read(LOGS / "v1_iterations" / "session_20251110_090011" / "session.json"))
    texts = {(turn.task, turn.completion["content"]) for turn in items}
    assert {(turn.task, turn.completion["content"]) for turn in same} <= texts


@authentic
def test_a_max_iterations_end_is_a_failure_and_a_rating_is_read(tmp_path: Path) -> None:
    ended = [turn.status for turn in turns_of(read(LOGS / "global_log" / "grokputer.log")) if "ERROR line" in turn.task]
    assert ended == ["failure", "failure"]
    run(LOGS / "v1_rated", tmp_path / "out")
    rated = [turn for turn in turns(tmp_path / "out") if turn["session_id"] == "session_20251108_140606"]
    assert {(turn["rating"], turn["status"]) for turn in rated} == {(4, "success")}


@authentic
def test_only_the_first_round_of_a_collaboration_is_taken() -> None:
    for path in sorted((LOGS / "collaboration").glob("*.md")):
        for turn in turns_of(read(path)):
            assert "round 2" not in turn.completion["content"]
            assert "[Error" not in turn.completion["content"]
            assert turn.prompt[0]["content"].startswith("**COORDINATOR** (Round 1):")
            assert turn.completeness == "reconstructed"


def test_a_recording_keeps_the_request_verbatim_and_the_aliases_are_read(tmp_path: Path) -> None:
    line = call("s", 3, "click it", tool_answer("computer", {"action": "key", "text": "enter"}))
    line["workload_id"], line["timestamp"] = line.pop("agent"), 1762949231
    line["started_at"] = None
    (turn,) = turns_of(read(write_lines(tmp_path / "a.jsonl", [line])))
    assert (turn.agent, turn.step, turn.started_at) == ("actor", 3, "2025-11-12T12:07:11+00:00")
    assert turn.prompt == line["request"]["messages"]
    assert (turn.completeness, turn.model, turn.tools_known) == ("whole", "m", "none")


def test_two_sessions_with_one_id_are_told_apart_and_each_gets_its_own_verdict(tmp_path: Path) -> None:
    bad = {"session_id": "s", "outcome": {"status": "failure"}}
    good = {"session_id": "s", "outcome": {"status": "success", "rating": 9}}
    lines = [call("s", 0, "a", "1"), call("s", 1, "b", "2"), bad, call("s", 0, "c", "3"), good]
    items = read(write_lines(tmp_path / "a.jsonl", lines))
    assert [turn.session_id for turn in turns_of(items)] == ["s", "s", "s#2"]
    verdicts = [(item.session_id, item.status, item.rating) for item in items if isinstance(item, Verdict)]
    assert verdicts == [("s", "failure", None), ("s#2", "success", None)]


def test_calls_without_a_session_are_grouped_by_how_their_conversation_starts(tmp_path: Path) -> None:
    lines = [call("", step, prompt, "x") for step, prompt in enumerate(["one", "two", "one"])]
    sessions = [turn.session_id for turn in turns_of(read(write_lines(tmp_path / "a.jsonl", lines)))]
    assert len(set(sessions)) == 2
    assert all(name.startswith("conversation-") for name in sessions)


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b'{"session_id": "s", "request": {"messa', "truncated"),
        (b'{"broken": \n', "malformed_json"),
        (b"[1]\n", "wrong_schema"),
        (b'{"session_id": "s", "request": {"messages": "hello"}}\n', "wrong_schema"),
        (b'{"session_id": "s"}\n', "wrong_schema"),
        (b"[" * 2000 + b"\n", "too_deep"),
        (b'{"session_id": "../../etc/x", "outcome": {}}\n', "path_traversal"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_offset_and_the_others_are_kept(
    tmp_path: Path, tail: bytes, reason: str
) -> None:
    good = orjson.dumps(call("s", 0, "a", "b"), option=orjson.OPT_APPEND_NEWLINE)
    path = tmp_path / "a.jsonl"
    path.write_bytes(good + tail)
    items = read(path)
    assert len(turns_of(items)) == 1
    assert [(item.reason, item.offset) for item in items if isinstance(item, Problem)] == [(reason, len(good))]


def test_a_windows_1252_recording_is_read_and_noted_once(tmp_path: Path) -> None:
    text = orjson.dumps(call("s", 0, "čakaj – café", "ok")).decode().replace("č", "c")
    path = tmp_path / "a.jsonl"
    path.write_bytes(f"{text}\n{text}\n".encode("cp1252"))
    items = read(path)
    assert [item.reason for item in items if isinstance(item, Problem)] == ["not_utf8"]
    assert turns_of(items)[0].prompt[0]["content"] == "cakaj – café"


def test_v1_says_that_its_prompts_are_rebuilt_and_which_step_failed(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    path.write_bytes(orjson.dumps(v1_session()))
    first, second = turns_of(read(path))
    assert (first.completeness, first.step_failed, first.rating) == ("reconstructed", True, 4)
    assert first.prompt == [{"role": "user", "content": "Task: list x"}]
    assert orjson.loads(first.completion["tool_calls"][0]["function"]["arguments"]) == {"command": "ls x"}
    assert [message["role"] for message in second.prompt] == ["user", "assistant", "tool", "user"]
    assert second.step_failed is False


@pytest.mark.parametrize("action", ["left_click", "right_click", "double_click"])
def test_v1_never_invents_where_a_click_went(tmp_path: Path, action: str) -> None:
    result = {"function_name": "computer", "result": {"status": "success", "action": action}}
    document = v1_session(iterations=[_iteration(1, "I click.", [result]), _iteration(2, "Done.", [])])
    path = tmp_path / "session.json"
    path.write_bytes(orjson.dumps(document))
    items = read(path)
    assert [item.reason for item in items if isinstance(item, Skipped)] == ["arguments_not_logged"]
    (turn,) = turns_of(items)
    assert turn.step == 2
    assert "tool_calls" not in turn.prompt[1]


@pytest.mark.parametrize("cut", range(300, 830, 40))
def test_a_truncated_session_gives_its_finished_iterations(tmp_path: Path, cut: int) -> None:
    whole = orjson.dumps(v1_session(), option=orjson.OPT_INDENT_2)
    assert cut < len(whole) - 1
    path = tmp_path / "session.json"
    path.write_bytes(whole[:cut])
    items = read(path)
    finished = whole[:cut].count(b'"errors": []\n    }')
    assert len(turns_of(items)) == finished
    assert [item.reason for item in items if isinstance(item, Problem)] == ["truncated"]


def test_the_end_of_the_last_of_two_runs_in_one_folder_counts(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "session_1"
    folder.mkdir(parents=True)
    (folder / "session.json").write_bytes(orjson.dumps(v1_session()))
    entry = "2025-11-12 12:07:11 - INFO - SESSION {}\n"
    events = ("STARTED: session_1", "ENDED: completed", "STARTED: session_1", "ENDED: error")
    (folder / "session.log").write_text("".join(entry.format(text) for text in events), encoding="utf-8")
    run(tmp_path / "logs", tmp_path / "out")
    assert {turn["status"] for turn in turns(tmp_path / "out")} == {"failure"}


def test_v2_gives_the_actors_actions_only(tmp_path: Path) -> None:
    executed = [
        {"tool": "screenshot_analysis", "params": {"region": None}, "result": "{'analysis'", "status": "success"},
        {
            "tool": "click",
            "params": {"type": "click", "x": 300, "y": 20},
            "status": "success",
            "timestamp": 1762709584.9,
        },
        {"tool": "file", "params": {"operation": "read", "path": "x"}, "status": "success"},
        {"tool": "type", "params": {"type": "type", "text": "ZA GROKA"}, "status": "error"},
    ]
    document = {"session_id": "swarm_1", "task": "do", "iterations": 0, "tool_executions": executed, "swarm_mode": True}
    path = tmp_path / "session.json"
    path.write_bytes(orjson.dumps(document))
    items = read(path)
    click, typed = turns_of(items)
    assert [item.reason for item in items if isinstance(item, Skipped)] == ["observation_cut", "action_not_in_schema"]
    arguments = orjson.loads(click.completion["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"action": "left_click", "coordinate": [300, 20]}
    assert (click.agent, click.completeness, click.status, typed.step_failed) == (
        "actor",
        "reconstructed",
        "unknown",
        True,
    )


def test_v2_actions_keep_their_meaning() -> None:
    assert action_call("click", {"x": 1, "y": 2, "button": "right"}, 1) == action_call(
        "right_click", {"x": 1, "y": 2}, 1
    )
    assert action_call("drag", {"x": 1, "y": 2}, 1) is None
    assert action_call("click", {"type": "click"}, 1) is None
    assert action_call("key", {"type": "key", "key": "s", "modifiers": ["ctrl"]}, 1) is None


def test_instruction_pairs_are_examples_of_success(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "tasks.jsonl", [{"instruction": "Plan it", "response": "[1]"}, {"instruction": "x"}])
    items = read(path)
    (turn,) = turns_of(items)
    assert (turn.prompt[0]["content"], turn.completion["content"], turn.status) == ("Plan it", "[1]", "success")
    assert [item.reason for item in items if isinstance(item, Problem)] == ["wrong_schema"]


def test_the_format_is_known_by_content_alone(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "session_20250101" / "session.log", [call("s", 0, "a", "b")])
    assert turns_of(read(path))[0].source_format == "recording"


def test_a_python_repr_in_the_log_is_never_evaluated(tmp_path: Path) -> None:
    start = "2025-11-07 09:00:21,104 - __main__ - INFO - "
    lines = [
        "Starting task: x",
        "--- Iteration 1/3 ---",
        "Grok response: two\nlines - INFO - here",
        "Tool result: bash -> nothing",
    ]
    call_line = (
        "2025-11-07 09:00:21,104 - src.executor - INFO - Executing tool: bash with args: __import__('os').abort()"
    )
    path = tmp_path / "grokputer.log"
    path.write_text(
        "\n".join([start + lines[0], start + lines[1], start + lines[2], call_line, start + lines[3]]), encoding="utf-8"
    )
    assert [item.reason for item in read(path) if isinstance(item, Skipped)] == ["arguments_not_logged"]


def test_two_answers_in_one_iteration_are_none_since_the_line_between_them_is_lost(tmp_path: Path) -> None:
    entries = ["Starting task: x", *(f"--- Iteration {n}/3 ---\nGrok response: {n}" for n in (1, 2, 3))]
    start, lost = "2025-11-07 09:00:21,104 - __main__ - INFO - ", "--- Iteration 3/3 ---"
    entries = [line for entry in entries for line in entry.split("\n") if line != lost]
    path = tmp_path / "grokputer.log"
    path.write_text("".join(f"{start}{line}\n" for line in entries), encoding="utf-8")
    items = read(path)
    assert [turn.completion["content"] for turn in turns_of(items)] == ["1"]
    assert [item.reason for item in items if isinstance(item, Skipped)] == ["iteration_not_separable"]


def test_cut_json_keeps_what_is_whole() -> None:
    value, problems = parse_object(b'{"a": 1, "b": [1, {"c": 2}, {"d": ')
    assert value == {"a": 1, "b": [1, {"c": 2}]}
    assert [problem.reason for problem in problems] == ["truncated"]
    with pytest.raises(UnreadableError):
        parse_object(b"[1, 2]")


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2025-11-12T12:07:11", "2025-11-12T12:07:11+00:00"),
        ("2025-11-12T12:07:11+02:00", "2025-11-12T10:07:11+00:00"),
        (1762949231000, "2025-11-12T12:07:11+00:00"),
        ("yesterday", ""),
        (True, ""),
        (1e300, ""),
    ],
)
def test_times_become_utc(value: object, time: str) -> None:
    assert to_utc(value) == time


def test_companions_are_no_logs_and_no_quarantine_cases(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    files = {
        "metrics.json": '{"session_id": "s", "total_tool_calls": 1, "api_success_rate": 1.0}',
        "session.log": "2025-11-12 12:07:11 - INFO - SESSION STARTED: s\n",
        "swarm.log": "Session: swarm_1\nTask: x\n",
        "session_index.json": '{"s": {"task": "x", "model": "m", "start_time": "2025", "debug_mode": false}}',
        "summary.txt": "=====\nGROKPUTER SESSION SUMMARY\n",
        "README.md": "# Notes\n",
        "odd.json": '{"what": 1}',
    }
    for name, text in files.items():
        (logs / name).write_text(text, encoding="utf-8")
    report = run(logs, tmp_path / "out")
    assert [(row["file"], row["reason"]) for row in report.quarantine] == [("odd.json", "wrong_schema")]
    assert turns(tmp_path / "out") == []
