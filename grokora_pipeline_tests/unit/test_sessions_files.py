"""Log files as they live: they grow, are rotated, packed, renamed, and cannot be read for a while."""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import zstandard

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.sessions import ingest as ingest_module
from grokora_pipeline.sessions import readers, scan
from grokora_pipeline.sessions.ingest import IngestReport, ingest
from grokora_pipeline.sessions.readers import chat_datasets, documents, source
from grokora_pipeline.sessions.turns import Item, Problem
from grokora_pipeline_tests.unit.session_logs import AGENTS, SHARED, call, contents, run, turns, write_lines

FAILING = SHARED / "data" / "failing_inputs"


def lines(count: int, session: str = "s") -> bytes:
    """A recording of so many calls."""
    calls = (call(session, step, f"p{step}", f"a{step}") for step in range(count))
    return b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in calls)


def write(path: Path, raw: bytes) -> Path:
    """A file with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def settled_run(
    logs: Path, output: Path, previous: Path | None, patch: pytest.MonkeyPatch, growing: str
) -> IngestReport:
    """Ingest while a file is seen to change."""
    real = scan._growing

    def grows(root: Path, entries: list[scan.Entry], _: float) -> dict[str, scan.Entry]:
        return {entry.path: entry for entry in entries if entry.path == growing}

    patch.setattr(scan, "_growing", grows)
    output.mkdir()
    report = ingest(logs, AGENTS, previous, output, settle_seconds=1, workers=1)
    patch.setattr(scan, "_growing", real)
    return report


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "zst of two frames": lambda raw: b"".join(
        zstandard.ZstdCompressor().compress(half) for half in (raw[: len(raw) // 2], raw[len(raw) // 2 :])
    ),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("packer", PACKERS.values(), ids=PACKERS)
@pytest.mark.parametrize("name", ["old.jsonl.gz", "old.jsonl", "old.1"])
def test_packed_logs_are_opened_whatever_they_are_called(
    tmp_path: Path, packer: Callable[[bytes], bytes], name: str
) -> None:
    write(tmp_path / "logs" / name, packer(lines(3)))
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, report.quarantine) == (3, [])


def test_a_log_and_its_packed_copy_are_one_log(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "a.jsonl", lines(3))
    write(tmp_path / "logs" / "a.jsonl.gz", gzip.compress(lines(3)))
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, report.copies) == (3, 3)
    assert len({turn["source_sha256"] for turn in turns(tmp_path / "out")}) == 1


def test_a_packed_log_that_is_damaged_gives_what_comes_before_the_damage(tmp_path: Path) -> None:
    calls = [orjson.dumps(call("s", step, os.urandom(64).hex(), "a")) + b"\n" for step in range(300)]
    raw = gzip.compress(b"".join(calls))
    write(tmp_path / "logs" / "a.jsonl.gz", raw[: len(raw) // 2])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert 50 < report.turns < 250
    assert "damaged" in {row["reason"] for row in report.quarantine}


def gzip_flushed(raw: bytes) -> bytes:
    """A gzip that its program goes on with."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(raw) + packer.flush(zlib.Z_SYNC_FLUSH)


def zstd_flushed(raw: bytes) -> bytes:
    """A frame of zstd that its program goes on with."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(raw) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


CUT_AT_A_LINE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip_flushed,
    "gzip without its sum": lambda raw: gzip.compress(raw)[:-8],
    "zstd": zstd_flushed,
    "zstd without its sum": lambda raw: zstandard.ZstdCompressor(write_checksum=True).compress(raw)[:-4],
    "zstd behind a whole frame": lambda raw: zstandard.compress(lines(1, "first")) + zstd_flushed(raw),
    "zstd with a frame's first bytes": lambda raw: zstandard.compress(raw) + b"\x28\xb5\x2f",
    "bzip2 without its end": lambda raw: bz2.compress(raw)[:-4],
    "xz without its index": lambda raw: lzma.compress(raw)[:-12],
}


@pytest.mark.parametrize("cut", CUT_AT_A_LINE.values(), ids=CUT_AT_A_LINE)
def test_a_packed_log_that_is_cut_at_a_lines_end_is_read_and_said_to_end_early(
    tmp_path: Path, cut: Callable[[bytes], bytes]
) -> None:
    write(tmp_path / "logs" / "a.jsonl.packed", cut(lines(3)))
    report = run(tmp_path / "logs", tmp_path / "out")
    assert {turn["step"] for turn in turns(tmp_path / "out") if turn["session_id"] == "s"} == {0, 1, 2}
    assert [(row["reason"], row["detail"].split(": ")[1]) for row in report.quarantine] == [
        ("damaged", "the packed file ends early")
    ]


def test_a_frame_of_zstd_that_holds_no_log_is_passed_over(tmp_path: Path) -> None:
    note = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    repeated = b'{"note": "' + b" " * 300_000 + b'"}\n'  # blocks that repeat a byte
    write(tmp_path / "logs" / "a.zst", note + zstandard.compress(lines(2) + repeated) + note)
    report = run(tmp_path / "logs", tmp_path / "out")
    assert report.turns == 2
    assert {row["reason"] for row in report.quarantine} == {"wrong_schema"}


@pytest.mark.parametrize("packer", PACKERS.values(), ids=PACKERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_packed_log_may_end_anywhere_or_be_damaged_anywhere_and_stops_nothing_else(
    tmp_path: Path, packer: Callable[[bytes], bytes], encoding: str
) -> None:
    """Such a file is one that is being copied: nothing of it, not even its first byte, can be unpacked yet."""
    packed = packer(lines(3).decode().encode(encoding))
    for end in range(1, len(packed), 5):
        write(tmp_path / "logs" / f"{end}.jsonl.gz", packed[:end])
        write(tmp_path / "logs" / f"{end}.bak", packed[:end] + bytes([packed[end] ^ 255]) + packed[end + 1 :])
    write_lines(tmp_path / "logs" / "good.jsonl", [call("good", 0, "p", "a")])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert "good" in {turn["session_id"] for turn in turns(tmp_path / "out")}
    reasons = {row["file"]: row["reason"] for row in report.quarantine}
    assert all(reasons[f"{end}.jsonl.gz"] in ("damaged", "truncated") for end in range(6, len(packed), 5))


@pytest.mark.skipif(not FAILING.is_dir(), reason="needs ../shared/data/failing_inputs")
def test_every_rotated_log_is_read_and_every_file_is_listed(tmp_path: Path) -> None:
    logs = FAILING / "6-rotated-logs" / "logs"
    report = run(logs, tmp_path / "out")
    answers = {str(orjson.loads(turn["completion"])["content"]) for turn in turns(tmp_path / "out")}
    names = {path.name for path in logs.iterdir()}
    spoken = {f"{name} pressed" for name in names if not name.startswith(("grokputer", "old", "night.jsonl"))}
    assert spoken | {f"night.jsonl{end} pressed" for end in (".1", ".bak", "-20250101", ".2025-01-01")} <= answers
    assert report.by_format == {"recording": 7, "grokputer_log": 2}
    assert report.copies == 1  # old.jsonl.gz is the packed night.jsonl
    assert report.quarantine == []
    assert {row["file"] for row in pq.read_table(tmp_path / "out" / "files.parquet").to_pylist()} == names


@pytest.mark.skipif(not FAILING.is_dir(), reason="needs ../shared/data/failing_inputs")
def test_what_current_grokputer_writes_beside_its_logs_is_known(tmp_path: Path) -> None:
    report = run(FAILING / "7-current-grokputer-logs" / "logs", tmp_path / "out")
    assert (report.turns, report.quarantine) == (0, [])


def test_whatever_is_not_read_is_listed_with_its_reason(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write(logs / "a.jsonl", lines(1))
    for name, raw in {
        "shot.png": b"\x89PNG",
        "all.zip": b"PK\x03\x04zip",
        "state.vscdb": b"SQLite format 3\0",
        "notes.txt": b"remember the milk\n",
        "odd.jsonl": b'{"what": 1}\n',
        "alerts_20251120.log": b"[2025-11-20 08:32:23] [CRITICAL] disk full\n",
    }.items():
        write(logs / name, raw)
    report = run(logs, tmp_path / "out")
    files = {row["file"]: row for row in pq.read_table(tmp_path / "out" / "files.parquet").to_pylist()}
    assert {name: row["reason"] for name, row in files.items() if not row["turns"]} == {
        "shot.png": "png file",
        "all.zip": "an archive; unpack it",
        "state.vscdb": "a database, which is not read; export its sessions as JSON, or record at the gateway",
        "notes.txt": "no reader knows its content",
        "odd.jsonl": "wrong_schema",
        "alerts_20251120.log": "goes with a session whose log is another file",
    }
    assert [row["file"] for row in report.quarantine] == ["odd.jsonl"]


def test_a_picture_beside_the_logs_makes_nothing_stale(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "a.jsonl", lines(1))
    before = scan.manifest(tmp_path / "logs")
    write(tmp_path / "logs" / "screen.png", b"\x89PNG")
    assert scan.manifest(tmp_path / "logs") == before


def test_the_half_line_of_a_growing_log_is_read_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = lines(3)
    path = write(tmp_path / "logs" / "a.jsonl", raw[:-40])
    first = settled_run(tmp_path / "logs", tmp_path / "one", None, monkeypatch, "a.jsonl")
    assert (first.turns, first.quarantine) == (2, [])
    path.write_bytes(raw)
    second = run(tmp_path / "logs", tmp_path / "two", tmp_path / "one")
    assert (second.turns, second.files_read) == (3, 1)


def test_a_growing_log_is_read_again_even_if_nothing_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "logs" / "a.jsonl", lines(3)[:-1])
    first = settled_run(tmp_path / "logs", tmp_path / "one", None, monkeypatch, "a.jsonl")
    second = run(tmp_path / "logs", tmp_path / "two", tmp_path / "one")
    assert (first.turns, second.turns, second.quarantine) == (2, 3, [])


def test_a_document_that_is_being_rewritten_keeps_its_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterations: list[dict[str, Any]] = [
        {"iteration_number": n, "api_call_success": True, "tool_results": [], "grok_response": f"r{n}"} for n in (1, 2)
    ]
    document = orjson.dumps({"session_id": "s1", "metadata": {"task": "x"}, "iterations": iterations})
    path = write(tmp_path / "logs" / "s1" / "session.json", document)
    run(tmp_path / "logs", tmp_path / "one")
    path.write_bytes(document[: len(document) // 2])
    second = settled_run(tmp_path / "logs", tmp_path / "two", tmp_path / "one", monkeypatch, "s1/session.json")
    assert second.turns == 2
    path.write_bytes(document)
    assert run(tmp_path / "logs", tmp_path / "three", tmp_path / "two").quarantine == []


def _refuse(self: source.Source) -> source.Source:
    raise PermissionError(13, "Permission denied")


def test_a_log_that_cannot_be_read_for_a_while_keeps_its_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "logs" / "a.jsonl", lines(2))
    write(tmp_path / "logs" / "b.jsonl", lines(1, "t"))
    first = run(tmp_path / "logs", tmp_path / "one")
    path.write_bytes(lines(3))
    with monkeypatch.context() as patch:
        patch.setattr(source.Source, "holding", _refuse)
        second = run(tmp_path / "logs", tmp_path / "two", tmp_path / "one")
    assert (first.turns, second.turns) == (3, 3)
    assert [(row["file"], row["reason"]) for row in second.quarantine] == [("a.jsonl", "unreadable")]
    third = run(tmp_path / "logs", tmp_path / "three", tmp_path / "two")
    assert (third.turns, third.quarantine) == (4, [])


def test_a_folder_that_cannot_be_listed_for_a_while_keeps_its_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "logs" / "away" / "a.jsonl", lines(2))
    write(tmp_path / "logs" / "b.jsonl", lines(1, "t"))
    run(tmp_path / "logs", tmp_path / "one")
    listed = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("away"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        second = run(tmp_path / "logs", tmp_path / "two", tmp_path / "one")
    assert second.turns == 3
    assert [(row["file"], row["reason"]) for row in second.quarantine] == [("away", "closed_folder")]
    third = run(tmp_path / "logs", tmp_path / "three", tmp_path / "two")
    assert (third.turns, third.quarantine) == (3, [])


def test_a_log_that_is_rotated_while_it_is_read_loses_no_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing holds the log's new beginning, and the older file under a name that now is another's."""
    logs, real, whole = tmp_path / "logs", scan.settled, lines(9).splitlines(keepends=True)
    write(logs / "a.jsonl.1", b"".join(whole[:3]))
    write(logs / "a.jsonl", b"".join(whole[3:6]))
    run(logs, tmp_path / "one")

    def rotating(root: Path, seconds: float) -> tuple[list[scan.Entry], set[str]]:
        entries, _ = real(root, seconds)
        (logs / "a.jsonl.1").rename(logs / "a.jsonl.2")
        (logs / "a.jsonl").rename(logs / "a.jsonl.1")
        write(logs / "a.jsonl", b"".join(whole[6:]))
        return entries, {entry.path for entry in entries}

    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "settled", rotating)
        during = run(logs, tmp_path / "two", tmp_path / "one")
    assert during.turns == 6
    assert {row["reason"] for row in during.quarantine} == {"rotated"}
    assert run(logs, tmp_path / "three", tmp_path / "two").turns == 9
    run(logs, tmp_path / "anew")
    assert contents(tmp_path / "three") == contents(tmp_path / "anew")


def test_logs_of_any_size_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond what is held in memory are read twice, line by line, with the same result."""
    from grokora_pipeline.sessions import extract

    write(tmp_path / "logs" / "a.jsonl", lines(40) + orjson.dumps(call("s", 40, "password: hunter2!x", "a")) + b"\n")
    run(tmp_path / "logs", tmp_path / "held")
    monkeypatch.setattr(extract, "MAX_HELD", 100)
    monkeypatch.setattr(extract, "MAX_DATA", 100)
    monkeypatch.setattr(source, "MAX_DOCUMENT", 100)
    run(tmp_path / "logs", tmp_path / "streamed")
    assert contents(tmp_path / "held") == contents(tmp_path / "streamed")


def test_a_document_beyond_the_limit_is_said_to_be_too_large(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", b"{" + b" " * 100)
    with pytest.raises(source.UnreadableError) as raised:
        source.Source(path, "a.json").read(100)
    assert raised.value.problem.reason == "gigantic"


def test_an_endless_line_is_passed_over_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_LINE", 2000)
    write(tmp_path / "logs" / "a.jsonl", lines(1) + b"x" * 9000 + b"\n" + lines(2)[len(lines(1)) :])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, [row["reason"] for row in report.quarantine]) == (2, ["line_too_long"])
    assert report.quarantine[0]["byte_offset"] == len(lines(1))


def test_a_rotated_log_gives_the_same_turns_under_its_new_name(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    path = write(logs / "a.jsonl", lines(5))
    run(logs, tmp_path / "one")
    path.rename(logs / "a.jsonl.1")
    write(path, orjson.dumps(call("s", 5, "p5", "a5")) + b"\n")
    report = run(logs, tmp_path / "two", tmp_path / "one")
    assert (report.turns, report.sessions) == (6, 1)
    ids = [{turn["turn_id"] for turn in turns(tmp_path / name)} for name in ("one", "two")]
    assert ids[0] < ids[1]


def test_nothing_new_opens_no_log_and_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "logs" / "a.jsonl", [call("s", 0, "a", "b")])
    first = run(tmp_path / "logs", tmp_path / "one")
    monkeypatch.setattr(source.Source, "holding", _refuse)
    monkeypatch.setattr(pq, "ParquetFile", None)
    second = run(tmp_path / "logs", tmp_path / "two", tmp_path / "one")
    assert (second.version, second.turns, second.files_read) == (first.version, 1, 0)
    assert (tmp_path / "two" / "report.json").is_file()


def test_a_missing_root_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GrokoraError, match="GROKORA_LOGS"):
        scan.manifest(tmp_path / "nowhere")


KNOWN = ("recording", "wrapped_calls")  # which know a recording


def test_a_new_reader_looks_anew_at_files_that_no_reader_knew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "logs" / "a.jsonl", lines(1))
    monkeypatch.setattr(readers, "FORMATS", tuple(known for known in readers.FORMATS if known.name not in KNOWN))
    first = run(tmp_path / "logs", tmp_path / "one")
    monkeypatch.undo()
    second = run(tmp_path / "logs", tmp_path / "two", tmp_path / "one")
    assert (first.turns, second.turns, path.read_bytes()) == (0, 1, lines(1))


def test_a_small_packed_file_with_large_turns_is_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grokora_pipeline.sessions import extract

    raw = b"".join(orjson.dumps(call("s", step, f"{step} " * 5000, "a")) + b"\n" for step in range(40))
    packed = write(tmp_path / "logs" / "a.jsonl.gz", gzip.compress(raw))
    held: list[int] = []
    real = extract._take

    def counted(items: Iterator[Item], *rest: Any) -> None:
        held.append(isinstance(items, type(iter([]))))
        real(items, *rest)

    monkeypatch.setattr(extract, "_take", counted)
    monkeypatch.setattr(extract, "MAX_HELD", packed.stat().st_size + 100_000)
    assert run(tmp_path / "logs", tmp_path / "out").turns == 40
    assert held == [False]


def rows_of(count: int) -> list[dict[str, Any]]:
    """Rows of a training set, no two alike."""
    return [
        {"messages": [{"role": "user", "content": f"ü {n}"}, {"role": "assistant", "content": "a"}]}
        for n in range(count)
    ]


LINES = b"".join(orjson.dumps(row) + b"\n" for row in rows_of(4))
DAMAGED = {
    "a first line that began in an older file": (b'tent": "x"}]}\n' + LINES, ["malformed_json"]),
    "zeros that a crash left": (b"\0" * 4096 + LINES, ["damaged"]),
    "zeros within": (LINES[: len(LINES) // 2] + b"\0" * 512 + LINES[len(LINES) // 2 :], ["damaged"]),
    "UTF-16": (LINES.decode().encode("utf-16"), []),
    "UTF-16, packed": (gzip.compress(b"\xfe\xff" + LINES.decode().encode("utf-16-be")), []),
    "Windows-1252": (LINES.decode().encode("cp1252"), ["not_utf8"]),
    "marks before records": (b"".join(b"\x1e" + line for line in LINES.splitlines(keepends=True)), []),
    "the end of a file of DOS": (orjson.dumps(rows_of(4)) + b"\x1a", []),
    "a list that ends early": (orjson.dumps(rows_of(5))[:-20], ["truncated"]),
    "a page that ends early": (orjson.dumps({"data": rows_of(5)})[:-20], ["truncated"]),
}


@pytest.mark.parametrize(("content", "reasons"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_whole_of_a_damaged_or_oddly_written_file_is_read(
    tmp_path: Path, content: bytes, reasons: list[str]
) -> None:
    write(tmp_path / "logs" / "a.jsonl", content)
    report = run(tmp_path / "logs", tmp_path / "out")
    assert (report.turns, sorted({row["reason"] for row in report.quarantine})) == (4, reasons)


def test_a_long_list_is_read_element_by_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [{"role": "user", "content": "Größe?"}, {"role": "assistant", "content": "1.5"}]
    rows = [{"messages": [{**said[0], "content": f"{n} {said[0]['content']}"}, said[1]], "x": n / 8} for n in range(40)]
    path = write(tmp_path / "data.json", orjson.dumps(rows, option=orjson.OPT_INDENT_2))
    log = source.Source(path, path.name)
    whole = list(chat_datasets.read(log))
    monkeypatch.setattr(documents, "STREAMED_FROM", 1000)
    monkeypatch.setattr(source.Source, "read", None)  # what reads the whole document
    assert list(chat_datasets.read(log)) == whole
    packed = write(tmp_path / "data.json.gz", gzip.compress(path.read_bytes()))
    assert list(chat_datasets.read(source.Source(packed, path.name))) == whole
    for cut, reason in ((b"", "truncated"), (b'{"a": nope}]', "malformed_json")):
        path.write_bytes(path.read_bytes()[:3000] + cut if not cut else b"[" + orjson.dumps(rows)[1:-1] + b"," + cut)
        items = list(chat_datasets.read(log))
        assert items[:-1] == whole[: len(items) - 1]
        assert len(items) > 5
        assert isinstance(items[-1], Problem)
        assert items[-1].reason == reason
