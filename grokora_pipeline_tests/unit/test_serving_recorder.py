"""Recordings: complete, durable, redacted lines that ingest reads, whatever happens to the process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import orjson
import pytest

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.gateway.feedback import Feedback, give
from grokora_pipeline.serving.gateway.recorder import Recorder, new_receipt
from grokora_pipeline.serving.gateway.sessions import Sessions, session_name
from grokora_pipeline.sessions.ingest import ingest
from grokora_pipeline.sessions.redaction.memory import load_key
from grokora_pipeline.sessions.redaction.redactor import Redactor
from grokora_pipeline.sessions.turns import TurnRow
from grokora_pipeline.sessions.verdicts import read_turns

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
AGENTS = [AgentSpec(name="actor", description="acts")]
KEY = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"


def request(text: str) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}]}


def reply(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"id": "chatcmpl-0123456789abcdef", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def record(recorder: Recorder, session: str, text: str = "Task: look", answer: str = "done") -> None:
    recorder.call(session, "actor", NOW, request(text), reply(answer)).result(10)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for file in sorted(folder.glob("*/*.jsonl")) for line in file.read_bytes().splitlines()]


def turns_of(logs: Path, output: Path) -> tuple[Any, list[TurnRow]]:
    output.mkdir()
    report = ingest(logs, AGENTS, None, output, settle_seconds=0)
    return report, list(read_turns(output))


def test_what_is_recorded_is_what_ingest_reads(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "logs" / "recordings")
    record(recorder, "night", "Task: open the vault")
    record(recorder, "night", "Task: close it", "closed")
    recorder.outcome("night", {"status": "success", "rating": 5}).result(10)
    report, turns = turns_of(tmp_path / "logs", tmp_path / "out")
    assert report.quarantined == 0
    assert [(turn["session_id"], turn["agent"], turn["step"], turn["status"], turn["rating"]) for turn in turns] == [
        ("night", "actor", 0, "success", 5),
        ("night", "actor", 1, "success", 5),
    ]
    assert turns[0]["started_at"].startswith("2026-03-04T05:06:07")
    assert orjson.loads(turns[1]["completion"])["content"] == "closed"


def test_secrets_are_gone_before_anything_is_on_the_disk(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    record(recorder, "s", f"Task: use {KEY} please", f"used {KEY}")
    record(recorder, "s", f"again {KEY}")
    recorder.outcome("s", {"blame": {"reason": f"it leaked {KEY} to bob@example.com"}}).result(10)
    raw = b"".join(file.read_bytes() for file in tmp_path.glob("*/*.jsonl"))
    assert KEY.encode() not in raw
    assert b"bob@example.com" not in raw
    first, second, _ = lines(tmp_path)
    placeholder = "<SECRET:stripe_key:1>"
    assert first["request"]["messages"][0]["content"] == f"Task: use {placeholder} please"
    assert first["response"]["choices"][0]["message"]["content"] == f"used {placeholder}"
    assert second["request"]["messages"][0]["content"] == f"again {placeholder}"
    assert first["response"]["id"] == "chatcmpl-0123456789abcdef"
    assert first["started_at"] == "2026-03-04T05:06:07+00:00"


def test_secrets_in_tool_calls_and_tool_results_are_gone_too(tmp_path: Path) -> None:
    arguments = orjson.dumps({"command": f"export STRIPE={KEY}"}).decode()
    call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": arguments}}
    asked = request("Task: pay")
    asked["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": f'{{"stdout": "STRIPE={KEY}"}}'},
    ]
    answered = reply("")
    answered["choices"][0]["message"]["tool_calls"] = [call]
    Recorder(tmp_path).call("s", None, NOW, {**asked, "user": "bob@example.com"}, answered).result(10)
    raw = b"".join(file.read_bytes() for file in tmp_path.glob("*/*.jsonl"))
    assert KEY.encode() not in raw
    assert b"bob@example.com" not in raw
    [line] = lines(tmp_path)
    kept = orjson.loads(line["response"]["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
    assert kept == {"command": "export STRIPE=<SECRET:stripe_key:1>"}


def test_an_earlier_recording_that_cannot_be_read_fails_its_own_session_only(tmp_path: Path) -> None:
    (tmp_path / "2026-03-03" / "bad.jsonl").mkdir(parents=True)  # reading it is an OSError
    recorder = Recorder(tmp_path)
    bad = recorder.call("bad", None, NOW, request("hello"), reply("fine"))
    good = recorder.call("good", None, NOW, request("hello"), reply("fine"))
    with pytest.raises(OSError, match="directory"):
        bad.result(10)
    good.result(10)
    assert recorder.counts["failed"] == 1
    assert (tmp_path / f"{datetime.now(UTC):%Y-%m-%d}" / "good.jsonl").read_bytes().endswith(b"\n")


def test_steps_go_on_after_a_restart_so_that_a_session_stays_one(tmp_path: Path) -> None:
    record(Recorder(tmp_path), "s")
    again = Recorder(tmp_path)
    record(again, "s")
    record(again, "other")
    assert [(line["session_id"], line["step"]) for line in lines(tmp_path)] == [("other", 0), ("s", 0), ("s", 1)]


def test_a_new_session_looks_at_no_other_sessions_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        (tmp_path / day).mkdir()
        for number in range(50):
            (tmp_path / day / f"old-{number}.jsonl").touch()
    recorder, listed = Recorder(tmp_path), set[str]()

    def noting(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def noted(path: Any) -> Any:
            listed.add(str(path))
            return function(path)

        return noted

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, noting(getattr(os, name)))
    assert not recorder.knows("new")
    assert recorder.knows("old-7")
    assert listed <= {str(tmp_path)}


def test_a_full_file_is_followed_by_a_next_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, rotate_bytes=500)
    for _ in range(6):
        record(recorder, "s")
    names = sorted(file.name for file in tmp_path.glob("*/*.jsonl"))
    assert names[:2] == ["s.2.jsonl", "s.3.jsonl"]
    assert "s.jsonl" in names
    assert sorted(line["step"] for line in lines(tmp_path)) == list(range(6))
    record(Recorder(tmp_path, rotate_bytes=500), "s")
    assert max(line["step"] for line in lines(tmp_path)) == 6


def test_half_a_line_left_by_a_crash_is_cut_off_before_the_next_one(tmp_path: Path) -> None:
    record(Recorder(tmp_path), "s")
    file = next(tmp_path.glob("*/s.jsonl"))
    with file.open("ab") as stream:
        stream.write(b'{"session_id": "s", "request": {"messages"')
    record(Recorder(tmp_path), "s")
    assert [line["step"] for line in lines(tmp_path)] == [0, 1]


def test_a_full_disk_leaves_complete_lines_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path)
    record(recorder, "s")

    def full(stream: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        record(recorder, "s")
    assert recorder.trouble == "No space left on device"
    monkeypatch.undo()
    recorder.check_writable()
    assert recorder.trouble == ""
    record(recorder, "s")
    assert [line["step"] for line in lines(tmp_path)] == [0, 2]
    assert (recorder.counts["written"], recorder.counts["failed"]) == (2, 1)


def test_a_full_disk_keeps_no_draft_of_what_a_session_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path)
    secret = {"messages": [{"role": "user", "content": "password: Sesame7open!"}]}
    recorder.call("s", None, datetime.now(UTC), secret, {}).result()

    def full(draft: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    other = {"messages": [{"role": "user", "content": "password: Hunter2hunter!"}]}
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            recorder.call("s", None, datetime.now(UTC), other, {}).result()
    assert sorted(path.name for path in (tmp_path / ".redaction").iterdir()) == ["key", "s.json"]
    recorder.call("s", None, datetime.now(UTC), other, {}).result()
    assert [line["step"] for line in lines(tmp_path)] == [0, 2]
    assert "Hunter2" not in "".join(path.read_text() for path in tmp_path.glob("*/*.jsonl"))


def test_a_reply_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    bad = recorder.call("s", None, NOW, request("hello"), {"choices": deep})
    good = recorder.call("s", None, NOW, request("hello"), reply("fine"))
    with pytest.raises((GrokoraError, TypeError)):
        bad.result(10)
    good.result(10)
    assert len(lines(tmp_path)) == 1


def test_calls_that_end_together_share_one_fsync(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    done = [recorder.call("s", None, NOW, request(str(number)), reply("fine")) for number in range(200)]
    for one in done:
        one.result(10)
    assert len(lines(tmp_path)) == recorder.counts["written"] == 200
    assert recorder.counts["fsyncs"] < 200


def test_a_session_that_takes_long_to_redact_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, find = Event(), Redactor.find

    def slow(redactor: Redactor, value: Any) -> None:
        if value["session_id"] == "slow":
            assert go_on.wait(30)
        find(redactor, value)

    monkeypatch.setattr(Redactor, "find", slow)
    recorder = Recorder(tmp_path)
    secret = request("password: Sesame7open!")
    late = [recorder.call("slow", None, NOW, secret, reply("fine")) for _ in range(20)]
    recorder.call("quick", None, NOW, secret, reply("fine")).result(10)
    recorder.redactor("quick")
    assert not any(one.done() for one in late)
    go_on.set()
    for one in late:
        one.result(10)
    assert [line["step"] for line in lines(tmp_path) if line["session_id"] == "slow"] == list(range(20))


def test_what_nobody_thought_of_in_one_line_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find = Redactor.find

    def failing(redactor: Redactor, value: Any) -> None:
        if "Sesame" in str(value):
            raise RuntimeError("what a library raises for such a text: Sesame7open!")
        find(redactor, value)

    monkeypatch.setattr(Redactor, "find", failing)
    recorder = Recorder(tmp_path)
    told = [
        recorder.call("s", None, NOW, request(text), reply("fine")) for text in ("a", "password: Sesame7open!", "b")
    ]
    assert [type(one.exception(10)) for one in told] == [type(None), RuntimeError, type(None)]
    assert [line["step"] for line in lines(tmp_path)] == [0, 2]
    assert (recorder.counts["written"], recorder.counts["failed"]) == (2, 1)
    assert "RuntimeError" in caplog.text
    assert "Sesame" not in caplog.text


def test_sessions_that_begin_together_get_one_key(tmp_path: Path) -> None:
    for turn in range(20):
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(load_key, [tmp_path / str(turn) / "key"] * 8))) == 1


_WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from grokora_pipeline.serving.gateway.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]))
number = 0
while True:
    body = {"messages": [{"role": "user", "content": f"call {number} " + "x" * 20000}]}
    answer = {"choices": [{"message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]}
    recorder.call(f"s{number % 3}", None, datetime.now(UTC), body, answer).result()
    print(number, flush=True)
    number += 1
"""


def test_a_killed_gateway_loses_at_most_the_call_in_flight(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(logs)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    told = [int(writer.stdout.readline()) for _ in range(40)]
    os.kill(writer.pid, signal.SIGKILL)
    told += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    report, turns = turns_of(logs, tmp_path / "out")
    assert report.quarantined == 0
    seen = {orjson.loads(turn["prompt"])[0]["content"].split()[1] for turn in turns}
    assert {str(number) for number in told} <= seen
    assert len(seen) <= len(told) + 1


@pytest.mark.parametrize("given", ["../../etc/passwd", "a/b", "", "x" * 300, "bob@example.com", "né", "-rf", "a.b"])
def test_a_session_id_never_becomes_a_path_or_stores_personal_data(tmp_path: Path, given: str) -> None:
    name = session_name(given)
    record(Recorder(tmp_path / "recordings"), name)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files] == [f"{name}.jsonl"]
    assert "bob@example.com" not in name
    assert session_name(name) == name
    assert session_name(given) != session_name(given + "2")


def test_a_quiet_client_starts_a_new_session() -> None:
    now = 0.0
    sessions = Sessions(gap=10, clock=lambda: now)
    first = sessions.name(None, "a")
    now = 9.0
    assert sessions.name(None, "a") == first
    assert sessions.name(None, "b") != first
    now = 20.0
    assert sessions.name(None, "a") != first
    assert sessions.name("given", "a") == "given"


def test_feedback_reaches_the_recordings_where_no_gateway_runs(tmp_path: Path) -> None:
    record(Recorder(tmp_path), "s")
    nobody = "http://127.0.0.1:9"
    told = give(Feedback(session_id="last", rating=4), nobody, None, tmp_path)
    assert told.startswith("s: written to")
    assert lines(tmp_path)[-1] == {"session_id": "s", "outcome": {"rating": 4}}
    with pytest.raises(GrokoraError, match="no recording of a session"):
        give(Feedback(session_id="t", rating=4), nobody, None, tmp_path)
    with pytest.raises(GrokoraError, match="holds no recording yet"):
        give(Feedback(session_id="last", rating=4), nobody, None, tmp_path / "empty")
    with pytest.raises(GrokoraError, match=r"blame\.reason: String should have at most 2000"):
        Feedback.of({"session_id": "s", "blame": {"reason": "x" * 3000}})


def stored(folder: Path) -> str:
    return "".join(file.read_text() for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "key")


def test_a_session_knows_its_secrets_after_a_restart_without_storing_them(tmp_path: Path) -> None:
    record(Recorder(tmp_path), "s", "DB_PASSWORD=zebra!42x and OTHER_PASSWORD=tiger!17y")
    again = Recorder(tmp_path)
    record(again, "s", "type tiger!17y", "typed; the new password=lion!99z")
    record(again, "t", "tiger!17y")
    [_, second, other] = lines(tmp_path)
    assert second["request"]["messages"][0]["content"] == "type <SECRET:password:2>"
    assert second["response"]["choices"][0]["message"]["content"] == "typed; the new password=<SECRET:password:3>"
    assert other["request"]["messages"][0]["content"] == "tiger!17y"  # another session's secret is no secret here
    assert "zebra!42x" not in stored(tmp_path)
    assert (tmp_path / ".redaction" / "key").stat().st_mode & 0o777 == 0o600


def test_a_session_knows_its_secrets_after_many_other_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grokora_pipeline.serving.gateway.recorder._MOST_SESSIONS", 2)
    recorder = Recorder(tmp_path)
    record(recorder, "s", "DB_PASSWORD=zebra!42x")
    for name in ("a", "b", "c"):
        record(recorder, name, "PASSWORD=other!77q")
    record(recorder, "s", "type zebra!42x")
    assert lines(tmp_path)[-1]["request"]["messages"][0]["content"] == "type <SECRET:password:1>"


def test_what_a_later_call_names_as_secret_leaves_the_earlier_lines_of_all_days(tmp_path: Path) -> None:
    record(Recorder(tmp_path), "s", "type zebra!42x", "typed zebra!42x")
    [file] = tmp_path.glob("*/s.jsonl")
    file.parent.rename(tmp_path / "2026-03-03")
    record(Recorder(tmp_path), "s", "it was saved as password=zebra!42x")
    first, second = lines(tmp_path)
    assert first["response"]["choices"][0]["message"]["content"] == "typed <SECRET:password:1>"
    assert second["request"]["messages"][0]["content"] == "it was saved as password=<SECRET:password:1>"
    assert (first["step"], second["step"]) == (0, 1)
    assert "zebra" not in stored(tmp_path)


def test_placeholders_that_a_caller_types_keep_their_numbers(tmp_path: Path) -> None:
    record(Recorder(tmp_path), "s", "type <SECRET:password:1>, then PASSWORD=zebra!42x")
    [line] = lines(tmp_path)
    assert line["request"]["messages"][0]["content"].endswith("PASSWORD=<SECRET:password:2>")


def test_the_callers_own_key_is_recorded_nowhere(tmp_path: Path) -> None:
    key = "local-key-of-ana"
    recorder = Recorder(tmp_path)
    recorder.call("s", None, NOW, request("hello"), reply(f"your key is {key}"), secrets=[key]).result(10)
    assert key not in stored(tmp_path)


def test_a_strangers_receipt_reads_no_file_and_a_known_one_its_own_sessions_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = {name: new_receipt(name) for name in ("a", "b", "c")}
    for name, receipt in receipts.items():
        Recorder(tmp_path).call(name, None, NOW, request("hi"), reply("ok"), receipt=receipt).result(10)
    read: list[str] = []
    original = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    recorder = Recorder(tmp_path)  # as after a restart
    assert [recorder.session_of(receipt) for receipt in ("nope", "0" * 16, "")] == ["", "", ""]
    assert read == []
    assert recorder.session_of(receipts["b"]) == "b"
    assert read == ["b.jsonl"]
