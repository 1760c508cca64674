"""The session is the unit: its verdict, its calls and its secrets, however many files tell of it."""

import gzip
import random
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from grokora_pipeline.sessions import identity as module
from grokora_pipeline.sessions.table import read_rows
from grokora_pipeline.sessions.turns import TurnRow
from grokora_pipeline_tests.unit.session_logs import SHARED, call, run, tool_answer, turns, write_lines

FAILING = SHARED / "data" / "failing_inputs"
needs_inputs = pytest.mark.skipif(not FAILING.is_dir(), reason="needs ../shared/data/failing_inputs")


def outcome(session: str, status: str = "unknown", **more: Any) -> dict[str, Any]:
    """A line with a session's verdict."""
    return {"session_id": session, "outcome": {"status": status, **more}}


def verdicts(folder: Path) -> dict[tuple[str, int], tuple[str, int | None, bool]]:
    """(status, rating, blamed) of each turn by its answer and step."""
    rows = turns(folder)
    assert len({row["turn_id"] for row in rows}) == len(rows)
    return {(answer(row), row["step"]): (row["status"], row["rating"], row["blamed"]) for row in rows}


def answer(row: TurnRow) -> str:
    """The text of a turn's answer."""
    return str(orjson.loads(row["completion"])["content"])


def test_a_rating_that_comes_later_rewrites_no_day(tmp_path: Path) -> None:
    write_lines(tmp_path / "logs" / "a.jsonl", [call("s", 0, "p", "x"), call("s", 1, "q", "y")])
    run(tmp_path / "logs", tmp_path / "one")
    write_lines(tmp_path / "logs" / "b" / "feedback.jsonl", [outcome("s", rating="1")])
    report = run(tmp_path / "logs", tmp_path / "two", tmp_path / "one")
    assert (report.files_read, report.days_rebuilt) == (1, [])
    assert {verdict[1] for verdict in verdicts(tmp_path / "two").values()} == {1}


def grokputer_session(folder: Path, rating: int | None, ended: str = "completed") -> None:
    """One Grokputer session as it writes it: session.json and session.log in its folder, and the global log."""
    session = "session_20251112_120711"
    metadata: dict[str, Any] = {"session_id": session, "task": "list x", "model": "grok-4"}
    if rating is not None:
        metadata["user_rating"] = rating
    iterations = [
        {
            "iteration_number": n,
            "start_time": 1762949231.5,
            "api_call_success": True,
            "tool_results": results,
            "grok_response": text,
        }
        for n, text, results in (
            (1, "I list it.", [{"function_name": "bash", "result": {"status": "success", "command": "ls x"}}]),
            (2, "It is empty.", []),
        )
    ]
    (folder / session).mkdir(parents=True)
    document = {"session_id": session, "metadata": metadata, "iterations": iterations}
    (folder / session / "session.json").write_bytes(orjson.dumps(document))
    stamp = "2025-11-12 12:07:11"
    log = [f"{stamp} - INFO - SESSION STARTED: {session}", f"{stamp} - INFO - SESSION ENDED: {ended}"]
    (folder / session / "session.log").write_text("\n".join(log) + "\n", encoding="utf-8")
    lines = [
        (f"grokputer.{session}", f"SESSION STARTED: {session}"),
        (f"grokputer.{session}", "Task: list x"),
        ("__main__", "Starting task: list x"),
        ("__main__", "--- Iteration 1/10 ---"),
        ("src.grok_client", "Grok requested 1 tool calls"),
        ("__main__", "Grok response: I list it."),
        ("src.executor", "Executing tool: bash with args: {'command': 'ls x'}"),
        ("__main__", "Tool result: bash -> {'status': 'success', 'command': 'ls x'}"),
        ("__main__", "--- Iteration 2/10 ---"),
        ("__main__", "Grok response: It is empty."),
        ("__main__", "No tool calls requested. Task may be complete."),
    ]
    text = "".join(f"{stamp},123 - {module} - INFO - {entry}\n" for module, entry in lines)
    (folder / "grokputer.log").write_text(text, encoding="utf-8")


def test_a_call_in_two_logs_is_one_call_and_both_logs_have_the_sessions_rating(tmp_path: Path) -> None:
    grokputer_session(tmp_path / "logs", rating=1)
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, report.copies, report.sessions) == (2, 2, 1)
    rows = turns(tmp_path / "out")
    assert {row["rating"] for row in rows} == {1}
    assert {tuple({row["source_file"], *row["copies"]}) for row in rows} in (
        {("grokputer.log", "session_20251112_120711/session.json")},
        {("session_20251112_120711/session.json", "grokputer.log")},
    )
    assert len(list(read_rows(tmp_path / "out", ["turn_id"]))) == 4


def test_a_call_that_stands_twice_in_one_line_is_read_once(tmp_path: Path) -> None:
    """The two rows are equal in turn, file and line, so that neither can be left out by its name."""
    chat = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "chats.json").write_bytes(orjson.dumps({"one": {"chat": chat}, "two": {"chat": chat}}))
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, report.copies) == (1, 1)
    assert [answer(row) for row in turns(tmp_path / "out")] == ["x"]


def test_a_session_that_one_log_calls_failed_is_failed(tmp_path: Path) -> None:
    grokputer_session(tmp_path / "logs", rating=None, ended="max_iterations_reached")
    report = run(tmp_path / "logs", tmp_path / "out")
    assert report.by_status == {"failure": 2}


@pytest.mark.parametrize("lost", ["Grok response: I list it.", "Task: list x", "Grok response: "])
def test_lines_that_windows_drops_from_the_global_log_leave_the_session_one(tmp_path: Path, lost: str) -> None:
    """Its code page cannot write them: an answer, all answers, or the task, without which the log gives no turns."""
    grokputer_session(tmp_path / "logs", rating=2)
    log, own = tmp_path / "logs" / "grokputer.log", "session_20251112_120711"
    (tmp_path / "logs" / own / "session.log").unlink()
    kept = [line for line in log.read_text("utf-8").splitlines() if lost not in line.replace("Starting task", "Task")]
    kept.append(f"2025-11-12 12:07:11,123 - grokputer.{own} - INFO - SESSION ENDED: error")
    log.write_text("\n".join(kept) + "\n", encoding="utf-8")
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, report.sessions, report.by_status) == (2, 1, {"failure": 2})
    assert {(row["rating"], answer(row)) for row in turns(tmp_path / "out")} == {(2, "I list it."), (2, "It is empty.")}


@needs_inputs
def test_the_authentic_one_star_session_is_rated_in_both_logs(tmp_path: Path) -> None:
    session = "session_20251110_182111"
    shutil.copytree(FAILING / session, tmp_path / "logs" / session)
    shutil.copy(FAILING / "grokputer.log", tmp_path / "logs")
    report = run(tmp_path / "logs", tmp_path / "out")
    document = orjson.loads((FAILING / session / "session.json").read_bytes())
    own = [row for row in turns(tmp_path / "out") if row["session_id"] == session]
    assert [row["step"] for row in sorted(own, key=lambda row: row["step"])] == [
        iteration["iteration_number"] for iteration in document["iterations"]
    ]
    assert {row["rating"] for row in own} == {1}
    assert report.copies == len(own)


def test_ids_of_different_machines_do_not_meet(tmp_path: Path) -> None:
    for machine, status in (("one", "failure"), ("two", "success")):
        lines = [call("s", step, f"p{step}", f"{machine} {step}") for step in (0, 1)]
        write_lines(tmp_path / "logs" / machine / "a.jsonl", lines)
        write_lines(tmp_path / "logs" / machine / "feedback.jsonl", [outcome("s", status)])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.sessions, report.quarantine) == (2, [])
    assert {row["source_file"]: row["status"] for row in turns(tmp_path / "out")} == {
        "one/a.jsonl": "failure",
        "two/a.jsonl": "success",
    }


def test_what_tells_two_machines_sessions_apart_outlives_a_change_of_their_texts(tmp_path: Path) -> None:
    for number, words in enumerate(("with the key k-123", "with the key <SECRET:api_key:1>")):
        for hour, machine in enumerate(("one", "two"), 1):
            lines = [call("s", step, f"p{step}", f"{machine} {step} {words}") for step in (0, 1)]
            lines = [{**line, "started_at": f"2026-01-01T0{hour}:00:0{line['step']}Z"} for line in lines]
            write_lines(tmp_path / f"logs{number}" / machine / "a.jsonl", lines)
        run(tmp_path / f"logs{number}", tmp_path / f"out{number}")
    first, second = ({row["session_id"] for row in turns(tmp_path / f"out{number}")} for number in range(2))
    assert first == second
    assert len(first) == 2


def test_machines_that_number_their_receipts_alike_have_two_sessions(tmp_path: Path) -> None:
    for machine in ("one", "two"):
        lines = [call("s", step, f"p{step}", f"{machine} {step}", call=f"c{step}") for step in (0, 1)]
        write_lines(tmp_path / "logs" / machine / "a.jsonl", lines)
    assert run(tmp_path / "logs", tmp_path / "out").sessions == 2


def test_a_verdict_that_may_be_of_two_sessions_is_reported_and_given_to_neither(tmp_path: Path) -> None:
    for machine in ("one", "two"):
        write_lines(tmp_path / "logs" / machine / "a.jsonl", [call("s", 0, "p", machine)])
    write_lines(tmp_path / "logs" / "feedback.jsonl", [outcome("s", "success", rating=5)])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert [row["reason"] for row in report.quarantine] == ["ambiguous_verdict"]
    assert report.by_status == {"unknown": 2}


def test_what_is_said_against_one_of_two_sessions_is_held_against_both(tmp_path: Path) -> None:
    for machine in ("one", "two"):
        write_lines(tmp_path / "logs" / machine / "a.jsonl", [call("s", 0, "p", machine)])
    said = [outcome("s", "success", rating=5), outcome("s", "timeout"), outcome("s", rating=2)]
    write_lines(tmp_path / "logs" / "feedback.jsonl", said)
    report = run(tmp_path / "logs", tmp_path / "out")
    assert [row["reason"] for row in report.quarantine] == ["ambiguous_verdict"]
    assert {(row["status"], row["rating"]) for row in turns(tmp_path / "out")} == {("failure", 2)}


@pytest.mark.parametrize(
    "said",
    [
        {"blame": {"call": "c-two-1"}},
        {"blame": {"agent": "actor", "step": 2}},
        {"at": "2026-01-03T00:00:00Z"},
        {"at": "2026-01-03T00:00:00Z", "blame": {"agent": "actor", "step": 1}},
    ],
    ids=["receipt", "step", "time", "time and step"],
)
def test_a_verdict_is_of_the_one_of_two_sessions_that_it_can_be_of(tmp_path: Path, said: dict[str, Any]) -> None:
    for machine, began, length in (("two", "2026-01-02", 3), ("one", "2026-01-09", 2)):
        lines = [call("s", step, f"p{step}", f"{machine} {step}", call=f"c-{machine}-{step}") for step in range(length)]
        lines = [{**line, "started_at": f"{began}T10:00:0{line['step']}Z"} for line in lines]
        write_lines(tmp_path / "logs" / machine / "a.jsonl", lines)
    write_lines(tmp_path / "logs" / "feedback.jsonl", [outcome("s", "failure", **said)])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.quarantine, report.by_status) == ([], {"failure": 3, "unknown": 2})
    assert {answer(row)[:3] for row in turns(tmp_path / "out") if row["status"] == "failure"} == {"two"}


def test_one_file_may_judge_the_sessions_of_two_machines_that_have_one_id(tmp_path: Path) -> None:
    for machine in ("one", "two"):
        lines = [call("s", step, f"p{step}", f"{machine} {step}", call=f"c-{machine}-{step}") for step in (0, 1)]
        write_lines(tmp_path / "logs" / machine / "a.jsonl", lines)
    said = [outcome("s", "failure", blame={"call": "c-one-1"}), outcome("s", "success", blame={"call": "c-two-0"})]
    write_lines(tmp_path / "logs" / "feedback.jsonl", said)
    report = run(tmp_path / "logs", tmp_path / "out")
    assert report.quarantine == []
    assert {answer(row)[:3]: row["status"] for row in turns(tmp_path / "out")} == {"one": "failure", "two": "success"}
    assert {answer(row) for row in turns(tmp_path / "out") if row["blamed"]} == {"one 1", "two 0"}


def test_the_beginning_that_two_files_of_a_conversation_share_is_learnt_once(tmp_path: Path) -> None:
    def said(role: str, words: str) -> dict[str, Any]:
        return {"role": role, "content": words}

    start = [{"role": "_checkpoint", "id": 0}, said("user", "Q1"), said("assistant", "A1"), said("user", "Q2")]
    for name in ("context_1", "context"):  # Kimi's CLI goes on from a checkpoint in a new file
        write_lines(tmp_path / "logs" / f"{name}.jsonl", [*start, said("assistant", name)])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert report.copies == 1
    assert sorted(map(answer, turns(tmp_path / "out"))) == ["A1", "context", "context_1"]


def test_a_session_that_goes_on_in_another_days_folder_is_one(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_lines(logs / "2026-01-01" / "s.jsonl", [call("s", step, f"p{step}", f"a{step}") for step in (0, 1)])
    write_lines(logs / "2026-01-02" / "s.jsonl", [call("s", 2, "p2", "a2"), outcome("s", "failure")])
    report = run(logs, tmp_path / "out")
    assert (report.sessions, report.by_status) == (1, {"failure": 3})


def test_a_log_that_rotation_cuts_within_a_second_is_one_session(tmp_path: Path) -> None:
    at = "2026-01-01T10:00:00Z"
    for name, steps in (("a.jsonl.1", range(3)), ("a.jsonl", range(3, 5))):
        write_lines(tmp_path / "logs" / name, [call("s", n, f"p{n}", f"a{n}", started_at=at) for n in steps])
    assert run(tmp_path / "logs", tmp_path / "out").sessions == 1


def test_agents_of_one_session_may_write_files_of_their_own(tmp_path: Path) -> None:
    for agent in ("actor", "observer"):
        lines = [call("s", step, f"{agent} {step}", f"{agent} does {step}", agent=agent) for step in (0, 1)]
        write_lines(tmp_path / "logs" / agent / "log.jsonl", lines)
    write_lines(tmp_path / "logs" / "end.jsonl", [outcome("s", "success", rating=4)])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.sessions, report.by_status) == (1, {"success": 4})


def test_blame_names_a_call_and_no_other_agents_step_of_the_same_number(tmp_path: Path) -> None:
    lines = [call("s", 1, "p", agent, agent=agent) for agent in ("actor", "observer")]
    write_lines(tmp_path / "logs" / "a.jsonl", [*lines, outcome("s", "failure", blame={"agent": "actor", "step": 1})])
    run(tmp_path / "logs", tmp_path / "out")
    assert {row["agent"]: row["blamed"] for row in turns(tmp_path / "out")} == {"actor": True, "observer": False}


def test_a_score_in_another_file_that_names_only_the_trace_is_of_its_session(tmp_path: Path) -> None:
    told = {"type": "GENERATION", "parentObservationId": None, "startTime": "2026-01-01T00:00:00Z", "output": "A"}
    seen = [{**told, "id": f"o{n}", "traceId": f"t{n}", "sessionId": f"s{n}", "input": f"Q{n}"} for n in range(2)]
    write_lines(tmp_path / "logs" / "observations.jsonl", seen)
    score = {"id": "x", "traceId": "t1", "name": "correctness", "value": 0, "dataType": "NUMERIC"}
    write_lines(tmp_path / "logs" / "scores.jsonl", [score])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert {row["session_id"]: row["status"] for row in turns(tmp_path / "out")} == {"s0": "unknown", "s1": "failure"}
    assert report.unheard_verdicts == 0


def test_blame_by_receipt_tells_a_call_from_its_retry(tmp_path: Path) -> None:
    lines = [call("s", 0, "p", text, call=receipt) for text, receipt in (("bad", "r1"), ("good", "r2"))]
    write_lines(tmp_path / "logs" / "a.jsonl", [*lines, outcome("s", "failure", blame={"call": "r1", "step": 0})])
    run(tmp_path / "logs", tmp_path / "out")
    assert {answer(row): row["blamed"] for row in turns(tmp_path / "out")} == {"bad": True, "good": False}


def test_a_blame_whose_receipt_is_nowhere_falls_back_to_agent_and_step(tmp_path: Path) -> None:
    lines = [call("s", step, "p", f"a{step}") for step in (0, 1)]
    blame = {"call": "gone", "agent": "actor", "step": 1}
    write_lines(tmp_path / "logs" / "a.jsonl", [*lines, outcome("s", "failure", blame=blame)])
    run(tmp_path / "logs", tmp_path / "out")
    assert {row["step"]: row["blamed"] for row in turns(tmp_path / "out")} == {0: False, 1: True}


LISTED: dict[str, Any] = {"role": "user", "content": "list x"}
LS = tool_answer("ls", {"path": "x"})
BOTH = {**LS, "tool_calls": [*LS["tool_calls"], *tool_answer("ls", {"path": "y"}, "c2")["tool_calls"]]}
CLAUDES = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "ls", "input": {"path": "x"}}]}
TO_CLAUDE = {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": "no x"}
GEMINIS = {"role": "model", "parts": [{"functionCall": {"name": "ls", "args": {"path": "x"}}}]}
TO_GEMINI = {"role": "user", "parts": [{"functionResponse": {"name": "ls", "response": {"error": "no x"}}}]}
ASKED = {"role": "user", "parts": [{"text": "list x"}]}
# By API: the first request, its answer, and the next request, which shows that the answer's call failed.
FAILED_CALLS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "chat": (
        {"messages": [LISTED]},
        {"choices": [{"message": LS}]},
        {"messages": [LISTED, LS, {"role": "tool", "tool_call_id": "c1", "content": "Error: no x"}]},
    ),
    "chat, only what is new": (
        {"messages": [LISTED]},
        {"choices": [{"message": LS}]},
        {"messages": [LISTED, {"role": "tool", "tool_call_id": "c1", "content": '{"returncode": 1}'}]},
    ),
    "chat, without one of the results": (
        {"messages": [LISTED]},
        {"choices": [{"message": BOTH}]},
        {"messages": [LISTED, BOTH, {"role": "tool", "tool_call_id": "c1", "content": "Error: no x"}]},
    ),
    "Anthropic's": (
        {"max_tokens": 9, "messages": [LISTED]},
        {"type": "message", **CLAUDES},
        {"max_tokens": 9, "messages": [LISTED, CLAUDES, {"role": "user", "content": [TO_CLAUDE]}]},
    ),
    "Gemini's, which has no ids": (
        {"contents": [ASKED]},
        {"candidates": [{"content": GEMINIS}]},
        {"contents": [ASKED, GEMINIS, TO_GEMINI]},
    ),
}


def otel_spans() -> list[dict[str, Any]]:
    """Two calls of a model and the span of the agent above them, which ends last and alone names agent and session."""
    spans = []
    for number, (name, parent) in enumerate((("chat", "1"), ("chat", "1"), ("invoke_agent", ""))):
        said: dict[str, Any] = {"gen_ai.operation.name": name}
        if parent:
            for side, role in (("input", "user"), ("output", "assistant")):
                parts = [{"type": "text", "content": f"{role} {number}"}]
                said[f"gen_ai.{side}.messages"] = orjson.dumps([{"role": role, "parts": parts}]).decode()
        else:
            said |= {"gen_ai.agent.name": "actor", "session.id": "s"}
        attributes = [{"key": key, "value": {"stringValue": value}} for key, value in said.items()]
        ids = {"traceId": "a" * 32, "spanId": (parent and f"c{number}") or "1", "parentSpanId": parent}
        span = {**ids, "name": name, "startTimeUnixNano": str(10**18 + number), "attributes": attributes}
        spans.append({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    return spans


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("rotated", ["t.jsonl.1", "t-2026-01-31T10-00-00.000.jsonl"])
def test_a_collectors_file_that_is_rotated_before_the_agents_span_ends_leaves_the_session_one(
    tmp_path: Path, cut: int, rotated: str
) -> None:
    write_lines(tmp_path / "logs" / rotated, otel_spans()[:cut])
    first = run(tmp_path / "logs", tmp_path / "first")
    assert first.by_recorded_agent == {"": cut}
    write_lines(tmp_path / "logs" / "t.jsonl", otel_spans()[cut:])
    report = run(tmp_path / "logs", tmp_path / "out", tmp_path / "first")
    assert (report.turns, report.sessions, report.by_agent) == (2, 1, {"actor": 2})
    assert {row["session_id"] for row in turns(tmp_path / "out")} == {"s"}


def test_the_span_of_the_agent_may_stand_far_into_the_next_file_which_is_looked_at_until_it_is_found(
    tmp_path: Path,
) -> None:
    """A collector writes a batch of spans a line."""
    logs = tmp_path / "logs"
    *calls, agent = otel_spans()
    noise = otel_spans()[2]
    noise["resourceSpans"][0]["scopeSpans"][0]["spans"][0] |= {"traceId": "b" * 32, "name": "x" * 100_000}
    batch = {"resourceSpans": [*(noise["resourceSpans"] * 3), *agent["resourceSpans"]]}
    write_lines(logs / "t.jsonl.1", calls)
    read, previous = [], None
    for number, written in enumerate(([noise], [noise, noise], [noise, noise, batch], [noise, noise, batch, noise])):
        write_lines(logs / "t.jsonl", written)
        report = run(logs, tmp_path / str(number), previous)
        assert report.version == run(logs, tmp_path / f"{number} at once").version
        previous = tmp_path / str(number)
        read.append(report.files_read)
    assert (report.sessions, report.by_agent) == (1, {"actor": 2})
    assert read == [2, 2, 2, 1]


def test_what_continues_a_collectors_file_may_be_no_log(tmp_path: Path) -> None:
    write_lines(tmp_path / "logs" / "t.jsonl.1", otel_spans()[:2])
    (tmp_path / "logs" / "t.jsonl").write_bytes(b'[{"resourceSpans": nothing')
    assert run(tmp_path / "logs", tmp_path / "out").turns == 2


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("exchanged", FAILED_CALLS.values(), ids=FAILED_CALLS)
def test_how_a_call_went_is_heard_from_the_next_prompt_whichever_file_holds_it(
    tmp_path: Path, exchanged: tuple[dict[str, Any], dict[str, Any], dict[str, Any]], files: int
) -> None:
    first, answered, second = exchanged
    lines = [
        {"session_id": "s", "agent": "actor", "step": step, "request": request, "response": answered}
        for step, request in enumerate((first, second))
    ]
    for number in range(files):
        write_lines(tmp_path / "logs" / f"{number}.jsonl", lines[number::files])
    run(tmp_path / "logs", tmp_path / "out")
    told = {row["step"]: (row["result_known"], row["step_failed"]) for row in turns(tmp_path / "out")}
    assert told == {0: (True, True), 1: (False, False)}


def test_logs_of_single_calls_tell_which_of_them_failed(tmp_path: Path) -> None:
    first, answered, second = FAILED_CALLS["chat"]
    for step, request in enumerate((first, second)):
        line = {"request_id": f"r{step}", "request_created_at": f"2026-01-01T00:00:0{step}Z", "response_body": answered}
        line |= {"Helicone-Session-Id": "s", "request_body": {"model": "m", **request}}
        write_lines(tmp_path / "logs" / f"{step}.json", [line])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.by_format, report.sessions) == ({"helicone": 2}, 1)
    assert sorted((row["step_failed"], row["result_known"]) for row in turns(tmp_path / "out")) == [
        (False, False),
        (True, True),
    ]


def test_a_retry_of_the_first_step_keeps_the_session_and_its_outcome(tmp_path: Path) -> None:
    lines = [
        call("s", 0, "plan", "first try", agent="coordinator", started_at="2026-01-01T10:00:00Z"),
        call("s", 1, "act", "acted", started_at="2026-01-01T10:00:05Z"),
        call("s", 0, "plan", "second try", agent="coordinator", started_at="2026-01-01T10:00:09Z"),
        outcome("s", "failure"),
    ]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.sessions, report.by_status) == (1, {"failure": 3})


def two_tries(logs: Path, first: str, second: str, *, ended: bool = False, **changes: Any) -> None:
    """A session that broke off behind its second step, in a file, and the same begun anew a minute later in another."""
    at = {"started_at": "2026-01-01T10:01:00Z"}
    tried = [call("s", 0, "plan", "first try", started_at="2026-01-01T10:00:00Z")]
    tried.append(call("s", 1, "act", "first act", started_at="2026-01-01T10:00:05Z"))
    write_lines(logs / first, [*tried, *([outcome("s", "success")] if ended else [])])
    again = [call("s", 0, "plan", "second try", **at), call("s", 1, "act", "second act", **at)]
    write_lines(logs / second, [*({**line, **changes} for line in again), outcome("s", "failure")])


def test_two_tries_of_the_first_step_in_files_of_any_name_are_one_session_with_its_outcome(tmp_path: Path) -> None:
    two_tries(tmp_path / "logs", "run-ab12.jsonl", "zulu.jsonl")
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.sessions, report.by_status) == (1, {"failure": 4})


@pytest.mark.parametrize(
    ("files", "changes"),
    [
        (("one/a.jsonl", "two/b.jsonl"), {}),
        (("a.jsonl", "b.jsonl"), {"ended": True}),
        (("a.jsonl", "b.jsonl"), {"started_at": "2026-01-01T10:00:02Z"}),
        (("a.jsonl", "b.jsonl"), {"started_at": "2025-12-31T10:00:02Z"}),
        (("a.jsonl", "b.jsonl"), {"started_at": ""}),
        (("a.jsonl", "b.jsonl"), {"request": {"messages": [{"role": "user", "content": "another plan"}]}}),
    ],
    ids=["other folders", "an outcome", "at the same time", "a day before", "undated", "another question"],
)
def test_what_another_machine_may_have_asked_stays_another_session(
    tmp_path: Path, files: tuple[str, str], changes: dict[str, Any]
) -> None:
    two_tries(tmp_path / "logs", *files, **changes)
    assert run(tmp_path / "logs", tmp_path / "out").sessions == 2


def test_a_session_that_begins_anew_after_an_outcome_is_another(tmp_path: Path) -> None:
    lines = [call("0", 0, "p", "x"), outcome("0", "failure"), call("0", 0, "q", "y"), outcome("0", "success")]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    run(tmp_path / "logs", tmp_path / "out")
    assert verdicts(tmp_path / "out") == {("x", 0): ("failure", None, False), ("y", 0): ("success", None, False)}


@pytest.mark.parametrize("session", [0, False, 7.0])
def test_a_session_id_that_is_false_to_python_is_an_id(tmp_path: Path, session: Any) -> None:
    lines = [{**call("", step, f"p{step}", f"a{step}"), "session_id": session} for step in (0, 1)]
    write_lines(tmp_path / "logs" / "a.jsonl", [*lines, {"session_id": session, "outcome": {"status": "failure"}}])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.sessions, report.by_status) == (1, {"failure": 2})


def test_a_file_under_three_names_weighs_one(tmp_path: Path) -> None:
    lines = [call("s", step, f"p{step}", f"a{step}") for step in (0, 1)]
    for name in ("a.jsonl", "b/a.jsonl", "c.jsonl.bak"):
        write_lines(tmp_path / "logs" / name, lines)
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, report.copies, report.sessions) == (2, 4, 1)
    assert [row["copies"] for row in turns(tmp_path / "out")] == [["b/a.jsonl", "c.jsonl.bak"]] * 2


def test_pairs_that_are_copied_to_another_file_are_the_same_pairs(tmp_path: Path) -> None:
    pairs = [{"instruction": "Plan it", "response": "[1]"}, {"instruction": "Act", "response": "[2]"}]
    first = write_lines(tmp_path / "logs" / "tasks.jsonl", pairs)
    run(tmp_path / "logs", tmp_path / "one")
    first.rename(tmp_path / "logs" / "renamed.jsonl")
    run(tmp_path / "logs", tmp_path / "two")
    names = [{row["turn_id"] for row in turns(tmp_path / name)} for name in ("one", "two")]
    assert names[0] == names[1]
    shutil.copy(tmp_path / "logs" / "renamed.jsonl", tmp_path / "logs" / "again.jsonl")
    assert run(tmp_path / "logs", tmp_path / "three").turns == 2


def test_a_secret_that_one_file_names_leaves_the_sessions_other_files(tmp_path: Path) -> None:
    logs, secret = tmp_path / "logs", "Tr0ub4dor&3xy"
    write_lines(logs / "2026-01-01" / "s.jsonl", [call("s", 0, f"type {secret} there", "ok")])
    alone = run(logs, tmp_path / "one")
    write_lines(logs / "2026-01-02" / "s.jsonl", [call("s", 1, f"password: {secret}", "ok")])
    run(logs, tmp_path / "two", tmp_path / "one")
    run(logs, tmp_path / "scratch")
    for folder in ("two", "scratch"):
        prompts = [row["prompt"] for row in turns(tmp_path / folder)]
        assert not any(secret in prompt for prompt in prompts)
        assert len({prompt[prompt.index("<SECRET") : prompt.index(">")] for prompt in prompts}) == 1
    assert alone.turns == 1
    (logs / "2026-01-02" / "s.jsonl").unlink()
    assert run(logs, tmp_path / "three", tmp_path / "two").version == alone.version


def test_equal_answers_to_other_questions_do_not_make_two_machines_one(tmp_path: Path) -> None:
    for machine in ("one", "two"):
        lines = [call("s", step, f"{machine} asks {step}", "ok") for step in (0, 1)]
        write_lines(
            tmp_path / "logs" / machine / "a.jsonl", [*lines, outcome("s", "failure" if machine == "one" else "")]
        )
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.sessions, report.copies, report.by_status) == (2, 0, {"failure": 2, "unknown": 2})


def test_an_id_that_many_files_use_is_judged_in_linear_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    real = module.Cluster.goes_with

    def counted(self: module.Cluster, other: module.Cluster) -> bool:
        compared.append(1)
        return real(self, other)

    monkeypatch.setattr(module.Cluster, "goes_with", counted)
    work = {}
    for count in (100, 200):
        for number in range(count):
            lines = [call("default", 0, f"p{number}", f"a{number}"), outcome("default", "success")]
            write_lines(tmp_path / str(count) / f"{number}.jsonl", lines)
        compared.clear()
        assert run(tmp_path / str(count), tmp_path / f"out{count}").sessions == count
        work[count] = len(compared)
    assert work[200] < 3 * work[100]


def test_machines_that_begin_alike_and_then_differ_are_two_sessions(tmp_path: Path) -> None:
    for machine, status in (("one", "failure"), ("two", "success")):
        lines = [call("s", 0, "plan", "first look"), call("s", 1, f"{machine} saw", f"{machine} acts")]
        write_lines(tmp_path / "logs" / machine / "a.jsonl", [*lines, outcome("s", status)])
    report = run(tmp_path / "logs", tmp_path / "out")
    rows = turns(tmp_path / "out")
    assert {(row["source_file"], row["step"]): row["status"] for row in rows} == {
        (f"{machine}/a.jsonl", step): status
        for machine, status in (("one", "failure"), ("two", "success"))
        for step in (0, 1)
    }
    assert (report.sessions, len({row["turn_id"] for row in rows})) == (2, 4)


def history(rng: random.Random) -> list[dict[str, Any]]:
    """Lines of up to three interleaved sessions: calls of two agents, and verdicts in all kinds of words."""
    words = ["success", "done", "fail", "timeout", "partial", "a word that nobody knows", "", "cancelled", True, None]
    queues: list[list[tuple[Any, int, bool]]] = []
    for session in rng.sample(["0", 1, "s1", "a b", "x#1", "\u00fcn\u00ef"], rng.randint(1, 3)):
        steps = rng.randint(1, 5)
        outcomes = [(session, rng.randrange(steps), False) for _ in range(rng.randint(0, 2))]
        queues.append([*((session, step, True) for step in range(steps)), *outcomes])
    lines: list[dict[str, Any]] = []
    while queue := [one for one in queues if one]:
        session, step, called = rng.choice(queue).pop(0)
        at, receipt = f"2026-01-01T00:{len(lines):02d}:00Z", f"c-{session}-{step}"
        if called:
            named = {"call": receipt} if rng.random() < 0.5 else {}
            line = call(session, step, f"q {session} {step}", f"a {step}", rng.choice(["actor", "observer"]), **named)
            lines.append({**line, "started_at": at})
        else:
            blamed = rng.choice(
                [{}, {"agent": "actor", "step": step}, {"call": receipt, "agent": "actor", "step": step}]
            )
            told = {"status": rng.choice(words), "rating": rng.choice([None, 1, "5", "4/5", 9]), "at": at}
            lines.append({"session_id": session, "outcome": {**told, "blame": blamed}})
    return lines


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(2, 40))])
def test_however_a_log_is_cut_copied_packed_and_named_its_sessions_are_the_same(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines = history(rng)
    write_lines(tmp_path / "whole" / "x.jsonl", lines)
    run(tmp_path / "whole", tmp_path / "out")
    places = sorted(rng.sample(range(1, len(lines)), min(len(lines) - 1, rng.randint(0, 3))))
    names = rng.sample(range(100), len(places) + 1)
    previous = None
    for number, (start, end) in enumerate(zip([0, *places], [*places, len(lines)], strict=True)):
        folder = tmp_path / "cut" / rng.choice(["", "d0", "d1"])
        path = write_lines(folder / f"{names[number]}.jsonl", lines[start:end])
        raw = path.read_bytes()
        path.write_bytes(rng.choice([raw, raw, gzip.compress(raw), zstandard.compress(raw)]))
        if rng.random() < 0.3:
            shutil.copyfile(path, folder / f"copy-{path.name}")
        if rng.random() < 0.4:  # on the way, so that the last run goes on from an earlier result
            run(tmp_path / "cut", tmp_path / f"out{number}", previous)
            previous = tmp_path / f"out{number}"
    run(tmp_path / "cut", tmp_path / "again", previous)

    def facts(folder: Path) -> list[str]:
        names = ("session_id", "agent", "step", "prompt", "completion", "status", "rating", "blamed")
        return sorted(repr([row[name] for name in names]) for row in turns(folder))  # type: ignore[literal-required]

    assert facts(tmp_path / "again") == facts(tmp_path / "out")


def one_after_the_other(rng: random.Random) -> list[dict[str, Any]]:
    """Lines of two or three sessions with one id: calls are tried again and fail, and each ends in its own way."""
    lines: list[dict[str, Any]] = []
    for number in range(rng.randint(2, 3)):
        messages: list[dict[str, Any]] = [{"role": "user", "content": rng.choice(["open it", "close it"])}]
        for step in range(rng.randint(1, 4)):
            for _ in range(rng.choice([1, 1, 2])):
                at, receipt = f"2026-01-01T00:{len(lines):02d}:00Z", f"{number}-{len(lines)}"
                reply = tool_answer("ls", {"path": receipt}, receipt)
                request = {"messages": list(messages)}
                lines.append(call("s", step, "", reply, started_at=at, request=request))
            result = rng.choice(["ok", "Error: no such file"])
            messages += [reply, {"role": "tool", "tool_call_id": receipt, "content": result}]
        told: dict[str, Any] = {"at": at} if rng.random() < 0.6 else {}
        lines.append(outcome("s", rng.choice(["done", "failed"]), rating=rng.choice([None, 1, 5]), **told))
    return lines


@pytest.mark.parametrize("layout", ["rotated", "a folder a day", "numbered parts"])
@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(2, 40))])
def test_however_one_log_is_cut_into_parts_its_sessions_begin_and_end_where_they_did(
    tmp_path: Path, layout: str, seed: int
) -> None:
    """Retries of the first step, results of calls and outcomes stand in another file than what they are of."""
    rng = random.Random(seed)
    lines = one_after_the_other(rng)
    # a part that holds an outcome without a time and nothing else is of nobody knows which session
    cuts = [n for n in sorted(rng.sample(range(1, len(lines)), 2)) if "outcome" not in lines[n - 1]]
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(lines)], strict=True)):
        names = {"rotated": f"s.jsonl.{len(cuts) - number}", "numbered parts": f"s.{number + 1}.jsonl"}
        write_lines(tmp_path / "cut" / names.get(layout, f"2026-01-0{number + 1}/s.jsonl"), lines[start:end])
    write_lines(tmp_path / "whole" / "s.jsonl", lines)

    def sessions(name: str) -> list[list[str]]:
        run(tmp_path / name, tmp_path / f"{name}-out")
        facts: dict[str, list[str]] = {}
        for row in turns(tmp_path / f"{name}-out"):
            columns = ("step", "completion", "status", "rating", "step_failed", "result_known")
            said = [row[column] for column in columns]  # type: ignore[literal-required]
            facts.setdefault(row["session_id"], []).append(repr(said))
        return sorted(map(sorted, facts.values()))

    assert sessions("cut") == sessions("whole")
