"""Ingest: nothing is lost, one bad file stops nothing, and incremental equals from scratch."""

import json
import os
import re
import shutil
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokora_pipeline.agents import AgentSpec, Match
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.sessions.ingest import ingest
from grokora_pipeline.sessions.verdicts import read_turns
from grokora_pipeline_tests.unit.session_logs import AGENTS, call, contents, run, turns, write_lines


def outcome(session: str, status: str, **more: Any) -> dict[str, Any]:
    """A line with a session's verdict."""
    return {"session_id": session, "outcome": {"status": status, **more}}


def test_a_missing_log_folder_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GrokoraError, match="GROKORA_LOGS"):
        run(tmp_path / "nowhere", tmp_path / "out")


def test_an_empty_log_folder_gives_an_empty_result(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, report.files, report.quarantined) == (0, 0, 0)
    assert pq.read_table(tmp_path / "out" / "quarantine.parquet").num_rows == 0


def test_turns_lie_in_one_file_a_day_and_carry_their_source(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "logs" / "x" / "a.jsonl", [call("s", step, f"p{step}", "a") for step in range(4)])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert report.turns_per_day == {"2026-01-01": 2, "2026-01-02": 1, "2026-01-03": 1}
    assert sorted(file.name for file in (tmp_path / "out" / "turns").iterdir()) == [
        f"2026-01-0{n}.parquet" for n in (1, 2, 3)
    ]
    found = {(turn["source_file"], turn["line"], turn["step"]) for turn in turns(tmp_path / "out")}
    assert found == {("x/a.jsonl", step + 1, step) for step in range(4)}
    assert path.stat().st_size > 0


def test_agents_are_recognised_by_name_or_by_their_system_prompt(tmp_path: Path) -> None:
    greeter = call("s", 1, "hi", "hello", agent=None)
    greeter["request"]["messages"].insert(0, {"role": "system", "content": "You greet people."})
    write_lines(
        tmp_path / "logs" / "a.jsonl", [call("s", 0, "a", "b"), greeter, call("s", 2, "?", "!", agent="nobody")]
    )
    report = run(tmp_path / "logs", tmp_path / "out")
    assert report.by_agent == {"actor": 1, "greeter": 1, "": 1}
    assert [turn["agent"] for turn in turns(tmp_path / "out")] == ["actor", "greeter", None]


def test_new_match_rules_are_applied_to_logs_that_did_not_change(tmp_path: Path) -> None:
    write_lines(tmp_path / "logs" / "a.jsonl", [call("s", 0, "a", "b", agent="somebody")])
    first = run(tmp_path / "logs", tmp_path / "one")
    renamed = (AgentSpec(name="actor", description="x", match=Match(names=("somebody",))),)
    second = run(tmp_path / "logs", tmp_path / "two", tmp_path / "one", renamed)
    assert (first.by_agent, second.by_agent) == ({"": 1}, {"actor": 1})


def test_a_verdict_in_another_file_and_on_another_day_reaches_the_turns(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_lines(logs / "a.jsonl", [call("s", 0, "a", "b"), call("s", 1, "c", "d")])
    first = run(logs, tmp_path / "one")
    write_lines(
        logs / "later" / "verdicts.jsonl", [outcome("s", "failure", rating=2, blame={"agent": "actor", "step": 1})]
    )
    second = run(logs, tmp_path / "two", tmp_path / "one")
    assert (first.by_status, second.by_status) == ({"unknown": 2}, {"failure": 2})
    judged = {turn["step"]: (turn["status"], turn["rating"], turn["blamed"]) for turn in turns(tmp_path / "two")}
    assert judged == {0: ("failure", 2, False), 1: ("failure", 2, True)}
    (logs / "later" / "verdicts.jsonl").unlink()
    third = run(logs, tmp_path / "three", tmp_path / "two")
    assert third.version == first.version


def test_blame_without_a_step_falls_on_all_turns_of_the_agent(tmp_path: Path) -> None:
    lines = [
        call("s", 0, "a", "b", agent="observer"),
        call("s", 1, "c", "d"),
        outcome("s", "failed", blame={"agent": "actor"}),
    ]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    run(tmp_path / "logs", tmp_path / "out")
    assert {turn["agent"]: turn["blamed"] for turn in turns(tmp_path / "out")} == {"observer": False, "actor": True}


def test_nothing_new_reads_nothing_and_links_every_day(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_lines(logs / "a.jsonl", [call("s", step, f"p{step}", "a") for step in range(6)])
    first = run(logs, tmp_path / "one")
    second = run(logs, tmp_path / "two", tmp_path / "one")
    assert (second.version, second.files_read, second.days_rebuilt) == (first.version, 0, [])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (tmp_path / "two" / "turns" / "2026-01-01.parquet").stat().st_nlink == 2


def test_only_the_day_that_changed_is_rebuilt(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for step in range(3):
        write_lines(logs / f"{step}.jsonl", [call(f"s{step}", step, "p", "a")])
    run(logs, tmp_path / "one")
    write_lines(logs / "new.jsonl", [call("new", 1, "q", "a")])
    report = run(logs, tmp_path / "two", tmp_path / "one")
    assert (report.files_read, report.days_rebuilt, report.days_kept) == (
        1,
        ["2026-01-02"],
        ["2026-01-01", "2026-01-03"],
    )


def test_bad_files_are_set_aside_and_the_good_one_is_read(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_lines(logs / "good.jsonl", [call("s", 0, "a", "b")])
    (tmp_path / "outside.jsonl").write_bytes((logs / "good.jsonl").read_bytes())
    (logs / "empty.jsonl").touch()
    (logs / "blank.jsonl").write_text("  \n\n", encoding="utf-8")
    (logs / "odd.json").write_text('{"a": 1}', encoding="utf-8")
    (logs / "noise.jsonl").write_bytes(b"x" * 4001)
    (logs / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    (logs / "linked").symlink_to(tmp_path)
    (logs / "inside.jsonl").symlink_to(logs / "good.jsonl")
    (logs / "circle.jsonl").symlink_to(logs / "circle.jsonl")
    (logs / "notes.txt").touch()
    write_lines(logs / ".git" / "x.jsonl", [call("hidden", 0, "a", "b")])
    deep: Any = "x"
    for _ in range(600):
        deep = [deep]
    nested = call("deep", 0, "a", "b")
    nested["request"]["messages"][0]["content"] = "DEEP"
    line = orjson.dumps(nested).replace(b'"DEEP"', b"[" * 600 + b"]" * 600)
    (logs / "deep.jsonl").write_bytes(line + b"\n")
    before = {path: path.read_bytes() for path in logs.glob("*.json*") if path.is_file()}
    report = run(logs, tmp_path / "out")
    assert {row["file"]: row["reason"] for row in report.quarantine} == {
        "empty.jsonl": "empty",
        "blank.jsonl": "empty",
        "odd.json": "wrong_schema",
        "noise.jsonl": "wrong_schema",
        "link.jsonl": "outside_root",
        "linked": "outside_root",
        "deep.jsonl": "too_deep",
    }
    assert report.turns == 1
    assert before == {path: path.read_bytes() for path in logs.glob("*.json*") if path.is_file()}


def test_a_file_in_quarantine_is_read_again_when_it_changes(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    line = orjson.dumps(call("s", 0, "a", "b"))
    logs.mkdir()
    (logs / "a.jsonl").write_bytes(line + b"\n" + line[:40])
    first = run(logs, tmp_path / "one")
    (logs / "a.jsonl").write_bytes(line + b"\n" + line.replace(b'"step":0', b'"step":1') + b"\n")
    second = run(logs, tmp_path / "two", tmp_path / "one")
    assert ([row["reason"] for row in first.quarantine], first.turns) == (["truncated"], 1)
    assert (second.quarantine, second.turns) == ([], 2)


def test_a_file_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_lines(logs / "rests.jsonl", [call("a", 0, "a", "b")])
    busy = write_lines(logs / "grows.jsonl", [call("b", step, f"p{step}", "a") for step in range(20)])
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.02):
            with busy.open("ab") as stream:
                stream.write(b" ")

    writer = threading.Thread(target=write)
    writer.start()
    output = tmp_path / "out"
    output.mkdir()
    try:
        report = ingest(logs, AGENTS, None, output, settle_seconds=0.3, workers=1)
    finally:
        stop.set()
        writer.join()
    assert (report.turns, report.quarantine) == (21, [])
    with busy.open("ab") as stream:
        stream.write(b"\n" + orjson.dumps(call("b", 20, "more", "a")) + b"\n")
    again = run(logs, tmp_path / "again", output)
    assert (again.turns, again.quarantined) == (22, 0)


def test_names_with_personal_data_are_stored_without_it(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name in ("ana@example.org", "eva@example.org"):
        write_lines(logs / name / "a.jsonl", [call(f"chat of {name}", 0, "a", "b")])
    report = run(logs, tmp_path / "out")
    stored = (
        (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8") + str(turns(tmp_path / "out")) + str(report)
    )
    assert "example.org" not in stored
    assert (report.turns, report.sessions) == (2, 2)


STEP = st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.sampled_from(["x", "password=zebra!42", "mail a@b.org"]))
FILE = st.lists(STEP, max_size=4)
LOGS = st.dictionaries(st.sampled_from(["one.jsonl", "two.jsonl", "d/three.jsonl", "verdict.jsonl"]), FILE, max_size=4)


def _write(logs: Path, files: dict[str, list[tuple[str, int, str]]]) -> None:
    for name, steps in files.items():
        lines = [call(session, step, text, f"answer to {text}") for session, step, text in steps]
        if name == "verdict.jsonl":
            lines = [
                outcome(session, "failure" if step % 2 else "success", blame={"step": step})
                for session, step, _ in steps
            ]
        if not (logs / name).exists() or (logs / name).read_bytes() != b"".join(orjson.dumps(x) + b"\n" for x in lines):
            write_lines(logs / name, lines)  # a file with the same lines stays as it is


@settings(max_examples=40)
@given(LOGS, LOGS)
def test_incremental_gives_the_same_bytes_as_from_scratch(
    before: dict[str, list[tuple[str, int, str]]], after: dict[str, list[tuple[str, int, str]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "logs").mkdir()
        _write(root / "logs", before)
        run(root / "logs", root / "first")
        for path in (root / "logs").rglob("*.jsonl"):
            if path.relative_to(root / "logs").as_posix() not in after:
                path.unlink()
        _write(root / "logs", after)
        incremental = run(root / "logs", root / "second", root / "first")
        scratch = run(root / "logs", root / "third")
        assert incremental.version == scratch.version
        assert contents(root / "second") == contents(root / "third")
        assert incremental.by_status == scratch.by_status


def test_a_pool_of_processes_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grokora_pipeline.sessions import ingest as module

    logs = tmp_path / "logs"
    for number in range(8):
        write_lines(
            logs / f"{number}.jsonl", [call(f"s{number}", step, f"mail {number}@b.org", "a") for step in range(5)]
        )
    alone = run(logs, tmp_path / "alone")
    for name in ("POOL_FROM_BYTES", "POOL_FROM_ROWS", "CHUNK_BYTES"):
        monkeypatch.setattr(module, name, 1)
    (tmp_path / "pool").mkdir()
    pooled = ingest(logs, AGENTS, None, tmp_path / "pool", settle_seconds=0, workers=2)
    assert pooled.version == alone.version
    assert contents(tmp_path / "pool") == contents(tmp_path / "alone")
    shutil.rmtree(tmp_path / "pool")


def test_a_session_log_that_is_finished_later_changes_the_turns_of_its_session(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "session_1"
    iteration = {"iteration_number": 1, "api_call_success": True, "tool_results": [], "grok_response": "done"}
    document = {"session_id": "session_1", "metadata": {"task": "x"}, "iterations": [iteration]}
    folder.mkdir(parents=True)
    (folder / "session.json").write_bytes(orjson.dumps(document))
    first = run(tmp_path / "logs", tmp_path / "one")
    (folder / "session.log").write_text("2025-11-12 12:07:11 - INFO - SESSION ENDED: completed\n", encoding="utf-8")
    second = run(tmp_path / "logs", tmp_path / "two", tmp_path / "one")
    assert (first.by_status, second.by_status) == ({"unknown": 1}, {"success": 1})
    assert second.turns_per_day == {"undated": 1}


V1: dict[str, Any] = {
    "session_id": "session_20251112_120711",
    "start_time": "2025-11-12T12:07:11.123456",
    "metadata": {"task": 'open the "vault"', "start_time": "2025-11-12T12:07:11", "debug_mode": False},
    "iterations": [
        {
            "iteration_number": number,
            "start_time": 1762949231.5 + number,
            "api_call_success": True,
            "tool_results": [],
            "grok_response": f"step {number}: žé ]}}",
        }
        for number in (1, 2, 3)
    ],
}


@pytest.mark.parametrize("form", ["ascii", "utf-8", "utf-8-sig", "crlf"])
def test_a_session_that_was_killed_while_it_was_written_keeps_what_was_finished(tmp_path: Path, form: str) -> None:
    text = json.dumps(V1, indent=2, ensure_ascii=form in {"ascii", "crlf"})
    raw = text.replace("\n", "\r\n" if form == "crlf" else "\n").encode("utf-8-sig" if form == "utf-8-sig" else "utf-8")
    ends = [match.end() for match in re.finditer(rb"\r?\n    \}", raw)][-3:]  # where each iteration is complete
    for cut in {*range(40, len(raw) - 3, 13), *ends, *(end - 1 for end in ends)}:
        path = tmp_path / f"{cut}" / "session.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(raw[:cut])
    report = run(tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    found = Counter(
        file
        for turn in turns(tmp_path.parent / f"{tmp_path.name}-out")
        for file in (turn["source_file"], *turn["copies"])
    )
    for row in report.quarantine:
        cut = int(row["file"].partition("/")[0])
        whole = [end for end in ends if end <= cut]
        assert row["reason"] == "truncated", row
        assert found[row["file"]] == len(whole), row
        assert (whole[-1] if whole else 0) <= row["byte_offset"] <= cut, row
    assert len(report.quarantine) == report.files


ODD: dict[str, bytes] = {
    "a step that is true": orjson.dumps(call("s", 0, "a", "b") | {"step": True}),
    "a step of 64 bits": orjson.dumps(call("s", 0, "a", "b")).replace(b'"step":0', b'"step":18446744073709551615'),
    "a reason that is an object": orjson.dumps(
        call("s", 0, "a", "b") | {"response": {"choices": [{"message": {"content": "b"}, "finish_reason": {"a": 1}}]}}
    ),
    "tool calls that are none": orjson.dumps(call("s", 0, "a", {"role": "assistant", "tool_calls": [1, None]})),
    "a content that is a number": orjson.dumps(call("s", 0, "a", {"role": "assistant", "content": 7})),
    "a role that is a number": orjson.dumps(call("s", 0, "a", "b")).replace(b'"role":"user"', b'"role":1'),
    "a rating that is true": orjson.dumps(outcome("good", "success", rating=True, blame={"step": 10**18 * 9})),
    "a huge rating": b'{"session_id": "good", "outcome": {"rating": 1' + b"0" * 400 + b"}}",
    "nested lists": b"[" * 100_000,
    "rounds of a plan": "# Collaboration Plan\n**Correlation ID**: c\n**Rounds**: 1²\n".encode(),
    "v1 with a rating that is true": json.dumps(V1 | {"metadata": {"task": "x", "user_rating": True}}).encode(),
    "v1 with odd entries": json.dumps(V1 | {"iterations": [1, None, {}, {"tool_results": {"a": 1}}]}).encode(),
    "UTF-16": json.dumps(V1).encode("utf-16"),
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_odd_content_stops_nothing_else(tmp_path: Path, content: bytes) -> None:
    logs = tmp_path / "logs"
    write_lines(logs / "good.jsonl", [call("good", 0, "a", "b")])
    (logs / "odd.json").write_bytes(content)
    run(logs, tmp_path / "out")
    (good,) = [turn for turn in turns(tmp_path / "out") if turn["source_file"] == "good.jsonl"]
    assert (good["session_id"], good["rating"]) == ("good", None)


@pytest.mark.parametrize("first", [b"\0" * 4096, b'ration": 0.2}}', b"{" * 300, b'{"a":' * 20_000])
def test_a_damaged_first_line_hides_none_of_the_lines_after_it(tmp_path: Path, first: bytes) -> None:
    path = write_lines(tmp_path / "logs" / "a.jsonl", [call("s", 0, "a", "b")])
    path.write_bytes(first[: 60 << 10] + b"\n" + path.read_bytes())
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, report.quarantined) == (1, 1)


def test_json_nested_without_end_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.json").write_bytes(b'{"a":' * 100_000)
    assert run(tmp_path / "logs", tmp_path / "out").quarantine[0]["reason"] == "too_deep"


def test_what_python_writes_as_json_is_read(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    line = json.dumps(call("s", 0, "a", "half \ud83d") | {"seconds": float("nan"), "limit": float("inf"), "n": 10**400})
    logs.mkdir()
    (logs / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\n")
    report = run(logs, tmp_path / "out")
    assert (report.turns, report.quarantine) == (1, [])
    assert orjson.loads(turns(tmp_path / "out")[0]["completion"])["content"] == "half \ufffd"


def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_lines(logs / "good.jsonl", [call("good", 0, "a", "b")])
    os.mkfifo(logs / "pipe.jsonl")
    (logs / "zero.jsonl").symlink_to("/dev/zero")
    assert run(logs, tmp_path / "out").turns == 1


def test_session_ids_that_leave_their_folder_are_refused_in_every_format(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_lines(logs / "a.jsonl", [call("../../x", 0, "a", "b")])
    (logs / "v1.json").write_text(json.dumps(V1 | {"session_id": "..\\x"}), encoding="utf-8")
    executed = [{"tool": "bash", "params": {"command": "ls"}, "status": "success"}]
    swarm = {"session_id": "../x", "task": "x", "iterations": 1, "tool_executions": executed}
    (logs / "v2.json").write_text(json.dumps(swarm), encoding="utf-8")
    report = run(logs, tmp_path / "out")
    assert (report.turns, [row["reason"] for row in report.quarantine]) == (0, ["path_traversal"] * 3)


def test_agents_that_count_their_own_steps_are_one_session_and_a_second_run_is_another(tmp_path: Path) -> None:
    lines = [call("s", step, f"p{agent}{step}", "a", agent=agent) for agent in ("actor", "observer") for step in (0, 1)]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    assert run(tmp_path / "logs", tmp_path / "one").sessions == 1
    write_lines(tmp_path / "logs" / "a.jsonl", [*lines, *lines])
    assert run(tmp_path / "logs", tmp_path / "two").sessions == 2


def test_a_table_of_an_older_version_is_read_with_the_columns_that_it_did_not_have(tmp_path: Path) -> None:
    write_lines(tmp_path / "logs" / "a.jsonl", [call("s", 0, "a", "b"), call("s", 3, "c", "d")])
    run(tmp_path / "logs", tmp_path / "out")
    (path,) = (tmp_path / "out" / "turns").glob("*.parquet")
    new = ["completeness", "tools_known", "recorded_agent", "model", "call", "parent_session_id", "result_known"]
    old = pq.read_table(path).drop_columns(new).append_column("reconstructed", pa.array([True, False]))
    pq.write_table(old, path)
    rows = turns(tmp_path / "out")
    assert [row["completeness"] for row in rows] == ["reconstructed", "whole"]
    assert (rows[0]["tools_known"], rows[0]["recorded_agent"], rows[0]["result_known"]) == ("none", None, False)
    narrow = [dict(row) for row in read_turns(tmp_path / "out", ["session_id", "completeness"])]
    assert narrow == [{"session_id": "s", "completeness": value} for value in ("reconstructed", "whole")]


def test_the_name_and_the_model_in_the_log_are_kept_even_if_they_are_nobodys(tmp_path: Path) -> None:
    line = call("s", 0, "a", "b", agent="airline") | {"call": "rec-1", "parent_session_id": "outer"}
    write_lines(tmp_path / "logs" / "a.jsonl", [line, call("s", 1, "c", "d")])
    run(tmp_path / "logs", tmp_path / "out")
    kept = [(row["agent"], row["recorded_agent"], row["model"], row["call"]) for row in turns(tmp_path / "out")]
    assert kept == [(None, "airline", "m", "rec-1"), ("actor", "actor", "m", "")]
    assert [row["parent_session_id"] for row in turns(tmp_path / "out")] == ["outer", ""]
