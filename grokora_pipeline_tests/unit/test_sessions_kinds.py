"""What a log may say in many ways: outcomes, times, numbers, calls, results; and the edges of a session."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokora_pipeline.sessions.readers.common import sound_answer, to_utc, whole_number
from grokora_pipeline.sessions.readers.outcomes import outcome_status, rating_of, scored
from grokora_pipeline.sessions.turns import Problem, Skipped
from grokora_pipeline_tests.unit.session_logs import SHARED, call, run, tool_answer, turns, write_lines
from grokora_pipeline_tests.unit.test_sessions_readers import read, turns_of

FAILING = SHARED / "data" / "failing_inputs"
DATA = SHARED / "data"
needs_inputs = pytest.mark.skipif(not FAILING.is_dir(), reason="needs ../shared/data/failing_inputs")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["success", "Completed", "passed", "OK", True, 1, "1"], "success"),
        (
            ["timeout", "fail", "cancelled", "canceled", "aborted", "partial", "Timed out", "max-turns", False],
            "failure",
        ),
        (["RESOLVED_FULL", "AgentState.FINISHED", "task completed", "tests passed", "✅", "Done."], "success"),
        (["no errors", "0 failures", "finished without errors"], "success"),
        (["TaskCompleted", "ok.", "success: true", "✓ passed"], "success"),
        (["taskFailed", "FAILED (3 tests)", "Timeout!", "Time Out", "maxTurns", "rate-limited"], "failure"),
        (["RESOLVED_NO", "exit_error", "agent_timeout", "user cancelled", "context_window_exceeded", "❌"], "failure"),
        (["incorrect", "not resolved", "completed with errors", "10 errors", "FAILED!", -1], "failure"),
        (["unknown", "", None, "pending", "in progress"], "unknown"),
        (["purple", "sucess", {"a": 1}, 17, "half completed", "exit 0"], None),
    ],
)
def test_one_list_says_what_an_outcome_is(words: list[Any], status: str | None) -> None:
    assert {outcome_status(word) for word in words} == {status}


def test_an_unknown_word_for_an_outcome_is_reported_and_not_learnt_from(tmp_path: Path) -> None:
    lines = [
        call("s", 0, "p", tool_answer("bash", {"command": "ls"})),
        {"session_id": "s", "outcome": {"status": "meh"}},
    ]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    report = run(tmp_path / "logs", tmp_path / "out")
    assert [row["reason"] for row in report.quarantine] == ["unknown_outcome"]
    assert report.by_status == {"failure": 1}


@pytest.mark.parametrize("said", ["timeout", False, {"success": False}, {"resolved": 0}, ["failed"], {"odd": "failed"}])
def test_a_recordings_outcome_in_any_form_is_understood_or_not_learnt_from(tmp_path: Path, said: Any) -> None:
    lines = [call("s", 0, "p", "a"), {"session_id": "s", "outcome": said}, call("t", 0, "p", "a", outcome=said)]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    assert run(tmp_path / "logs", tmp_path / "out").by_status == {"failure": 2}


@pytest.mark.parametrize(
    ("value", "rating"),
    [
        ("1", 1),
        ("4.5", 4),
        ("3/5", 3),
        ("5 stars", 5),
        ("★★★★☆", 4),
        ("8/10", 4),
        ("2,0 out of 5", 2),
        ("85 %", 4),
        ("1/100", 1),
        (2.9, 2),
        (5, 5),
        (0, None),
        ("9", None),
        (True, None),
        ("x", None),
    ],
)
def test_a_rating_may_be_text(value: object, rating: int | None) -> None:
    assert rating_of(value) == rating


LIKED, DISLIKED = (
    ["👍", "👍🏽", "Excellent!", "thumbs up", "+1", True, "like", "good"],
    ["👎", "thumbs_down", "-1", -1, 0, "0/5", False, "bad"],
)
SAID: list[tuple[Any, str, int | None, list[str]]] = [
    *((value, "success", None, []) for value in LIKED),
    *((value, "failure", None, []) for value in DISLIKED),
    *((value, "failure", None, ["unknown_rating"]) for value in (7, "four", {"stars": 2}, "9")),
    *((value, "unknown", 1, []) for value in (1, "1 star", "2/10")),
    (None, "unknown", None, []),
]


@pytest.mark.parametrize(("value", "status", "rating", "reasons"), SAID, ids=[str(one[0]) for one in SAID])
def test_a_persons_opinion_is_understood_or_reported_and_never_passed_over(
    tmp_path: Path, value: object, status: str, rating: int | None, reasons: list[str]
) -> None:
    lines = [call("s", 0, "p", "a"), {"session_id": "s", "outcome": {"rating": value}}]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    report = run(tmp_path / "logs", tmp_path / "out")
    (turn,) = turns(tmp_path / "out")
    assert (turn["status"], turn["rating"], [row["reason"] for row in report.quarantine]) == (status, rating, reasons)


def test_a_thumb_down_outweighs_the_success_beside_it(tmp_path: Path) -> None:
    lines = [call("s", 0, "p", "a"), {"session_id": "s", "outcome": {"status": "success", "rating": "👎"}}]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    assert run(tmp_path / "logs", tmp_path / "out").by_status == {"failure": 1}


def test_a_verdict_on_a_session_that_stands_in_no_log_is_counted(tmp_path: Path) -> None:
    write_lines(tmp_path / "logs" / "a.jsonl", [call("s", 0, "p", "a"), {"session_id": "S", "outcome": {"rating": 1}}])
    assert run(tmp_path / "logs", tmp_path / "out").unheard_verdicts == 1


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([("Factuality score", 1), ("quality", 0.8), ("toxicity", 0), ("tokens", 812)], (None, "success")),
        ([("correctness", 1), ("helpfulness", 0.2)], (None, "failure")),
        ([("hallucination", True), ("duration", 1), ("topic", "travel"), ("difficulty", 1)], (None, "unknown")),
        ([("user_rating", 4), ("star rating", "2/5")], (2, "unknown")),
        ([("user-feedback", "👎")], (None, "failure")),
    ],
)
def test_named_scores_count_if_more_is_better(
    scores: list[tuple[object, object]], said: tuple[int | None, str]
) -> None:
    assert scored(scores) == said


def test_a_step_may_be_text() -> None:
    assert [whole_number(value) for value in ("3", 3.0, "x", 1.5, None, True)] == [3, 3, None, None, None, None]


MOMENT = "2026-01-01T12:00:00+00:00"


@pytest.mark.parametrize(
    "value",
    [
        1767268800,
        1767268800.0,
        1767268800000,
        1767268800000000,
        1767268800000000000,
        "1767268800",
        "1767268800.0",
        "1767268800000",
        "1767268800000000",
        "1767268800000000000",
        "Thu, 01 Jan 2026 12:00:00 +0000",
        "Thu, 01 Jan 2026 13:00:00 +0100",
        "2026/01/01 12:00:00",
        "2026/1/1 12:00",
        "2026-01-01 12:00:00,000",
        "2026-01-01 12:00:00 UTC",
        "2026-01-01 14:00:00 +0200",
        "2026-01-01T12:00:00.000000000Z",
        "20260101T120000Z",
        "20260101120000",
        "2026-01-01_12-00-00",
        "2026-01-01T13:00:00+01:00[Europe/Berlin]",
        "2026-01-01 12:00:00.000 +0000 UTC m=+0.01",
        "2026-01-01 07:00 AM EST",
        "2026年1月1日 12:00",
        "Thu Jan 01 2026 13:00:00 GMT+0100 (Central European Standard Time)",
        "January 1, 2026 at 12:00 PM",
        "01 Jan 2026 12:00",
        "01/Jan/2026:13:00:00 +0100",
        "/Date(1767268800000)/",
        "1.7672688E9",
        13411742400000000,
        134117424000000000,
        {"$date": {"$numberLong": "1767268800000"}},
        {"seconds": 1767268800, "nanos": 0},
        [2026, 1, 1, 12, 0],
    ],
    ids=str,
)
def test_every_way_to_write_a_time_is_the_same_moment(value: object) -> None:
    assert to_utc(value) == MOMENT


@pytest.mark.parametrize(("text", "day"), [("13/02/2026", "2026-02-13"), ("Jan 1, 2026", "2026-01-01")])
def test_a_date_of_which_one_reading_is_a_date_is_that_date(text: str, day: str) -> None:
    assert to_utc(text) == f"{day}T00:00:00+00:00"


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.lists(st.integers())))
def test_no_value_breaks_the_reading_of_times(value: object) -> None:
    text = to_utc(value)
    assert text == "" or to_utc(text) == text


NO_TIMES = ["", "yesterday", "10:00", None, [1], "12345678901234567890", 788961600, "101112", "26-01-01"]


@pytest.mark.parametrize("value", [*NO_TIMES, "01/02/2026", "2026-01-01 12:00 IST", "Jan 2026", {"$date": {}}], ids=str)
def test_what_is_no_time_or_could_be_two_is_undated(value: object) -> None:
    assert to_utc(value) == ""


def _with_arguments(arguments: object) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}


@pytest.mark.parametrize(
    "arguments", ['{"x": 1}', '"{\\"x\\": 1}"', {"x": 1}, '  {"x": 1}  ', '"\\"{\\\\\\"x\\\\\\": 1}\\""']
)
def test_arguments_that_are_losslessly_an_object_are_unwrapped(arguments: object) -> None:
    answer = sound_answer(_with_arguments(arguments))
    assert isinstance(answer, dict)
    assert orjson.loads(answer["tool_calls"][0]["function"]["arguments"]) == {"x": 1}


@pytest.mark.parametrize(
    "arguments",
    ['{"x": 1, ', '{"x": 1}{"y": 2}', "{'x': 1}", "[1]", [1], "7", '{"x": NaN}', '"text"', "```json\n{}\n```", True],
)
def test_arguments_that_are_no_object_are_refused_and_counted(tmp_path: Path, arguments: object) -> None:
    assert sound_answer(_with_arguments(arguments)) == "arguments_not_an_object"
    lines = [call("s", 0, "p", _with_arguments(arguments)), call("s", 1, "q", "fine")]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, report.skipped) == (1, {"arguments_not_an_object": 1})


@needs_inputs
def test_malformed_arguments_of_the_report_are_refused_or_unwrapped(tmp_path: Path) -> None:
    logs = FAILING / "4-malformed-arguments" / "logs"
    report = run(logs, tmp_path / "out")
    calls = sum(b'"request"' in line for line in (logs / "run.jsonl").read_bytes().splitlines())
    assert report.turns + sum(report.skipped.values()) == calls
    for row in turns(tmp_path / "out"):
        for one in orjson.loads(row["completion"]).get("tool_calls", ()):
            arguments = orjson.loads(one["function"]["arguments"])
            assert isinstance(arguments, dict)
            assert "raw" not in arguments


@needs_inputs
def test_legacy_function_calls_are_tool_calls(tmp_path: Path) -> None:
    run(FAILING / "2-legacy-function-call" / "logs", tmp_path / "out")
    rows = {row["session_id"]: orjson.loads(row["completion"]) for row in turns(tmp_path / "out")}
    for session, city in (("b1", "Nice"), ("b2", "Lyon")):
        (one,) = rows[session]["tool_calls"]
        assert (one["function"]["name"], orjson.loads(one["function"]["arguments"])) == ("weather", {"city": city})
    assert rows["b3"]["content"] == "It is clear in Metz."


@needs_inputs
def test_the_role_developer_is_recognised_as_system(tmp_path: Path) -> None:
    from grokora_pipeline.agents import AgentSpec, Match

    actor = AgentSpec(name="actor", description="acts", match=Match(system=("You are the actor",)))
    report = run(FAILING / "3-developer-role" / "logs", tmp_path / "out", agents=(actor,))
    assert report.by_agent == {"actor": report.turns}


@needs_inputs
def test_a_session_with_the_id_0_keeps_its_verdict(tmp_path: Path) -> None:
    run(FAILING / "1-session-id-0" / "logs", tmp_path / "out")
    judged = {(row["session_id"], row["step"]): (row["status"], row["blamed"]) for row in turns(tmp_path / "out")}
    assert judged["0", 0] == ("failure", True)
    assert judged["0", 1] == ("failure", False)


@needs_inputs
def test_a_result_belongs_to_the_nearest_call_before_it(tmp_path: Path) -> None:
    run(FAILING / "5-reused-call-ids" / "logs", tmp_path / "out")
    failed: dict[str, list[bool]] = {}
    for row in sorted(turns(tmp_path / "out"), key=lambda row: (row["session_id"], row["step"])):
        failed.setdefault(row["session_id"], []).append(row["step_failed"])
    assert failed["e1"][0] is True
    assert not any(failed["e1"][1:])


STAMP = "2025-11-07 09:00:{:02d},104 - {} - INFO - {}"


def global_log(path: Path, entries: list[tuple[str, str]]) -> Path:
    """A `grokputer.log` of (module, text)."""
    lines = (STAMP.format(second, module, text) for second, (module, text) in enumerate(entries))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


MAIN, LOGGER_A, LOGGER_B = "__main__", "grokputer.session_a", "grokputer.session_b"
RUN_A = [(MAIN, "Starting task: task a"), (MAIN, "--- Iteration 1/9 ---"), (MAIN, "Grok response: a1")]
RUN_B = [(MAIN, "--- Iteration 1/9 ---"), (MAIN, "Grok response: b1")]
MORE_B = [(MAIN, "--- Iteration 2/9 ---"), (MAIN, "Grok response: b2")]


@pytest.mark.parametrize(
    "edge",
    [
        [],  # the iteration number falls back
        [(LOGGER_B, "SESSION STARTED: session_b")],
        [(LOGGER_A, "SESSION ENDED: completed")],
        [(MAIN, "GROKPUTER INITIALIZED - VRZIBRZI NODE")],
        [(LOGGER_B, "[OBSERVE] Screenshot captured")],
    ],
    ids=["fallback", "started", "ended", "boot", "logger"],
)
def test_a_session_whose_start_was_lost_does_not_become_the_next_step_of_another(
    tmp_path: Path, edge: list[tuple[str, str]]
) -> None:
    start = [(LOGGER_A, "SESSION STARTED: session_a")] if edge else []
    items = read(global_log(tmp_path / "grokputer.log", [*start, *RUN_A, *edge, *RUN_B, *MORE_B]))
    assert [turn.completion["content"] for turn in turns_of(items)] == ["a1"]
    assert [item.reason for item in items if isinstance(item, Skipped)] == ["no_task"] * 2


def test_an_iteration_without_an_answer_is_skipped_and_counted(tmp_path: Path) -> None:
    entries = [*RUN_A, (MAIN, "--- Iteration 2/9 ---"), (MAIN, "--- Iteration 3/9 ---"), (MAIN, "Grok response: a3")]
    items = read(global_log(tmp_path / "grokputer.log", entries))
    assert [(turn.step, turn.completion["content"]) for turn in turns_of(items)] == [(1, "a1"), (3, "a3")]
    assert [item.reason for item in items if isinstance(item, Skipped)] == ["no_answer"]


def test_a_call_whose_line_was_lost_makes_its_iteration_no_example(tmp_path: Path) -> None:
    entries = [*RUN_A, ("src.grok_client", "Grok requested 2 tool calls")]
    entries += [("src.executor", "Executing tool: bash with args: {'command': 'ls'}")]
    entries += [(MAIN, "--- Iteration 2/9 ---"), (MAIN, "Grok response: a2")]
    items = read(global_log(tmp_path / "grokputer.log", entries))
    assert [turn.step for turn in turns_of(items)] == [2]
    assert [item.reason for item in items if isinstance(item, Skipped)] == ["arguments_not_logged"]


def test_the_task_is_read_from_either_logger(tmp_path: Path) -> None:
    entries = [(LOGGER_A, "SESSION STARTED: session_a"), (LOGGER_A, "Task: task a"), *RUN_A[1:]]
    (turn,) = turns_of(read(global_log(tmp_path / "grokputer.log", entries)))
    assert (turn.session_id, turn.task) == ("session_a", "task a")


def test_two_sessions_of_one_second_stay_two(tmp_path: Path) -> None:
    one = [(LOGGER_A, "SESSION STARTED: session_a"), *RUN_A, (LOGGER_A, "SESSION ENDED: completed")]
    two = [(LOGGER_A, "SESSION STARTED: session_a"), (MAIN, "Starting task: task b"), *RUN_B]
    two += [(LOGGER_A, "SESSION ENDED: error")]
    (tmp_path / "logs").mkdir()
    global_log(tmp_path / "logs" / "grokputer.log", [*one, *two])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert report.sessions == 2
    judged = {(str(orjson.loads(row["completion"])["content"]), row["status"]) for row in turns(tmp_path / "out")}
    assert judged == {("a1", "success"), ("b1", "failure")}


def test_a_rating_in_the_global_log_is_the_sessions(tmp_path: Path) -> None:
    entries = [(LOGGER_A, "SESSION STARTED: session_a"), *RUN_A, (LOGGER_A, "SESSION ENDED: completed")]
    entries += [(LOGGER_A, "USER FEEDBACK RECORDED"), (LOGGER_A, "  Rating: 2/5 stars")]
    (tmp_path / "logs").mkdir()
    global_log(tmp_path / "logs" / "grokputer.log", entries)
    run(tmp_path / "logs", tmp_path / "out")
    assert [(row["rating"], row["status"]) for row in turns(tmp_path / "out")] == [(2, "success")]


WHOLE_LOG = [
    (LOGGER_A, "SESSION STARTED: session_a"),
    (MAIN, "Starting task: task a"),
    (MAIN, "--- Iteration 1/9 ---"),
    (MAIN, "Grok response: a1"),
    ("src.grok_client", "Grok requested 1 tool calls"),
    ("src.executor", "Executing tool: bash with args: {'command': 'ls'}"),
    (MAIN, "Tool result: bash -> {'status': 'success', 'stdout': 'x'}"),
    (MAIN, "--- Iteration 2/9 ---"),
    (MAIN, "Grok response: a2"),
    (LOGGER_A, "SESSION ENDED: completed"),
    (LOGGER_B, "SESSION STARTED: session_b"),
    (MAIN, "Starting task: task b"),
    *RUN_B,
    *MORE_B,
    (LOGGER_B, "SESSION ENDED: error"),
]


def told(folder: Path) -> list[tuple[Any, ...]]:
    """What the turns of an output folder say, whichever file they stand in."""
    columns = ("session_id", "step", "prompt", "completion", "status", "result_known", "task")
    return sorted(tuple(row[name] for name in columns) for row in turns(folder))  # type: ignore[literal-required]


@pytest.mark.parametrize("names", [("grokputer.log.1",), ("grokputer.log.2", "grokputer.log.1")])
def test_a_log_that_rotation_cuts_anywhere_says_what_the_whole_log_says(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "whole").mkdir()
    lines = global_log(tmp_path / "whole" / "grokputer.log", WHOLE_LOG).read_text().splitlines(keepends=True)
    run(tmp_path / "whole", tmp_path / "expected")
    expected = told(tmp_path / "expected")
    assert len(expected) == 4
    for cut in range(1, len(lines)):
        logs = tmp_path / f"cut-{cut}"
        logs.mkdir()
        # of three files the middle one is longer than a step
        ends = [cut] if len(names) == 1 else [max(1, cut - 7), max(8, cut)]
        for name, start, end in zip((*names, "grokputer.log"), (0, *ends), (*ends, len(lines)), strict=True):
            (logs / name).write_text("".join(lines[start:end]))
        run(logs, tmp_path / f"out-{cut}")
        assert told(tmp_path / f"out-{cut}") == expected, cut


def test_a_rotated_log_whose_neighbour_is_missing_is_not_glued_to_another(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    global_log(logs / "grokputer.log.3", WHOLE_LOG[:7])
    global_log(logs / "grokputer.log", WHOLE_LOG[7:9])
    run(logs, tmp_path / "out")
    assert [row["step"] for row in turns(tmp_path / "out")] == [1]


def test_a_step_that_ends_in_the_next_file_is_completed_when_that_file_grows(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    lines = global_log(logs / "grokputer.log.1", WHOLE_LOG).read_text().splitlines(keepends=True)
    (logs / "grokputer.log.1").write_text("".join(lines[:4]))
    (logs / "grokputer.log").write_text(lines[4])
    run(logs, tmp_path / "first")
    (logs / "grokputer.log").write_text("".join(lines[4:]))
    run(logs, tmp_path / "second", tmp_path / "first")
    run(logs, tmp_path / "anew")
    assert told(tmp_path / "second") == told(tmp_path / "anew")
    assert '"command' in told(tmp_path / "second")[0][3]


def test_the_newer_line_format_of_the_global_log_is_read(tmp_path: Path) -> None:
    texts = ["Starting task: x", "--- Iteration 1/3 ---", "Grok response: done", "No tool calls requested."]
    lines = [f"2025-11-20 09:00:0{n} [INFO] src.main (main.py:20): {text}\n" for n, text in enumerate(texts)]
    path = tmp_path / "grokputer.log"
    path.write_text("".join(lines), encoding="utf-8")
    (turn,) = turns_of(read(path))
    assert (turn.completion["content"], turn.status) == ("done", "success")


def independent_count(path: Path) -> int:
    """The assistant turns of an authentic log, counted by its bytes alone; failed API calls are none."""
    raw = path.read_bytes()
    if path.name == "session.json":
        try:
            iterations = orjson.loads(raw)["iterations"]
        except orjson.JSONDecodeError:  # cut: what was finished ends with its list of errors
            return raw.count(b'"errors": []\n    }')
        return len(iterations) if isinstance(iterations, list) else len(orjson.loads(raw)["tool_executions"])
    if path.name == "grokputer.log":
        return raw.count(b"INFO - --- Iteration ")
    return 2 if path.suffix == ".md" else 0  # each side of a plan


@pytest.mark.skipif(not (DATA / "grokputer_logs").is_dir(), reason="needs ../shared/data/grokputer_logs")
def test_every_assistant_turn_of_the_authentic_logs_is_accounted_for(tmp_path: Path) -> None:
    report = run(DATA / "grokputer_logs", tmp_path / "out")
    expected = sum(independent_count(path) for path in (DATA / "grokputer_logs").rglob("*") if path.is_file())
    assert report.turns + report.copies + sum(report.skipped.values()) == expected


@pytest.mark.skipif(not (DATA / "screenagent").is_dir(), reason="needs ../shared/data/screenagent")
def test_every_call_of_the_screenagent_recordings_is_accounted_for(tmp_path: Path) -> None:
    report = run(DATA / "screenagent", tmp_path / "out")
    lines = [line for path in (DATA / "screenagent").rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    calls = [line for line in lines if orjson.loads(line).get("request") is not None]
    assert report.turns + report.copies + sum(report.skipped.values()) == len(calls)
    assert report.quarantine == []


def test_a_problem_never_quotes_the_log(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [call("s", 0, "a", "b"), {"session_id": "s", "outcome": {"status": "hunter2"}}])
    (problem,) = [item for item in read(tmp_path / "a.jsonl") if isinstance(item, Problem)]
    assert "hunter2" not in str(problem)
