"""From log files to rows: what a worker process does with its share of the files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pyarrow as pa

from grokora_pipeline.agents import AgentSpec, recognise
from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.readers.common import Source, UnreadableError, decode
from grokora_pipeline.sessions.redaction.redactor import TooDeepError
from grokora_pipeline.sessions.scan import LogFile, Signature, signature
from grokora_pipeline.sessions.table import SCHEMA, Made, Row, RowMaker, public_name, to_table
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Turn, Verdict
from grokora_pipeline.store import file_sha256

FLUSH_ROWS = 512
UNFORESEEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)  # of odd content
_Held = tuple[Turn, Made, int]
LOG_SUFFIXES = {".json", ".jsonl", ".ndjson", ".log"}


@dataclass(slots=True)
class FileRecord:
    """What the manifest keeps about a file: enough to know whether it changed, and what came from it."""

    name: str
    size: int = 0
    signature: Signature = ()
    sha256: str = ""
    format: str = ""
    days: dict[str, int] = field(default_factory=dict)  # day -> turns
    sessions: list[str] = field(default_factory=list)
    verdicts: dict[str, list[object]] = field(default_factory=dict)  # session -> [status, rating, agent, step]
    agents: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    redactions: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, int, str]] = field(default_factory=list)  # reason, byte offset, detail


class Parts:
    """The rows of one worker, one Arrow file a day, in the order of the files."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._rows: dict[str, list[Row]] = {}
        self._writers: dict[str, pa.ipc.RecordBatchFileWriter] = {}
        self._held = 0

    def add(self, day: str, row: Row) -> None:
        """Keep a row; write out when enough are held."""
        self._rows.setdefault(day, []).append(row)
        self._held += 1
        if self._held >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        for day, rows in self._rows.items():
            if day not in self._writers:
                path = self._folder / day / f"{self._number:06d}.arrow"
                path.parent.mkdir(parents=True, exist_ok=True)
                self._writers[day] = pa.ipc.new_file(path, SCHEMA)
            self._writers[day].write_table(to_table(rows))
        self._rows.clear()
        self._held = 0

    def close(self) -> None:
        """Write out what is left."""
        self._flush()
        for writer in self._writers.values():
            writer.close()


def extract(files: Sequence[LogFile], agents: Sequence[AgentSpec], folder: Path, number: int) -> list[FileRecord]:
    """Read files into part `number` below `folder`; one bad file never stops the others."""
    parts = Parts(folder, number)
    records = [_extract_file(file, agents, parts) for file in files]
    parts.close()
    return records


def _extract_file(file: LogFile, agents: Sequence[AgentSpec], parts: Parts) -> FileRecord:
    record = FileRecord(file.name, file.size, file.signature)
    try:
        _read(file, agents, record, parts)
    except UnreadableError as error:
        _note(record, error.problem)
    except OSError as error:
        _note(record, Problem("unreadable", 0, error.strerror or "the system cannot read it"))
    except UNFORESEEN as error:
        _note(record, Problem("malformed", 0, f"the reader stopped at something unforeseen ({type(error).__name__})"))
    return record


def _read(file: LogFile, agents: Sequence[AgentSpec], record: FileRecord, parts: Parts) -> None:
    with file.path.open("rb") as stream:
        head = stream.read(readers.HEAD_BYTES)
    if not head.strip() and file.path.suffix in LOG_SUFFIXES:
        raise UnreadableError("empty", 0, "no bytes" if not head else "only white space")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableError("not_utf8", 0, "UTF-16; save it as UTF-8")
    known = readers.detect(head)
    if known is None and (readers.is_companion(head) or not _claims_to_be_a_log(file, head)):
        record.format = "companion"
        return
    known = known or readers.detect_by_line(head)
    if known is None:
        raise _unknown(file, head)
    record.sha256, record.format = file_sha256(file.path), known.name
    source = Source(file.path, file.name, record.sha256, known.name)
    _collect(known.read(source), agents, record, parts)
    if signature(file.path) != file.signature:
        raise UnreadableError("growing", file.size, "changed while it was read; it is read again next time")


def _unknown(file: LogFile, head: bytes) -> UnreadableError:
    """What is wrong with a log that no reader knows: other content, or too little of it."""
    text, whole = decode(head)[0].lstrip(), file.size <= len(head)
    try:
        orjson.loads(text if text.startswith("{") else "{}")
    except orjson.JSONDecodeError as error:
        if "limit" in str(error):
            return UnreadableError("too_deep", 0, "nested deeper than 1,024 levels")
        if whole and "unexpected end" in str(error):
            return UnreadableError("truncated", file.size, "ends before it tells what it is")
        if whole:
            return UnreadableError("malformed_json", error.pos, "no reader knows this content")
    return UnreadableError("wrong_schema", 0, "no reader knows this content")


def _claims_to_be_a_log(file: LogFile, head: bytes) -> bool:
    return file.path.suffix in LOG_SUFFIXES or head.lstrip()[:1] == b"{"


def _collect(items: Iterator[Item], agents: Sequence[AgentSpec], record: FileRecord, parts: Parts) -> None:
    """Take a file's items in; what was counted stands even if the file cannot be read to its end."""
    maker = RowMaker(agents)
    held: list[_Held] = []
    try:
        for item in items:
            match item:
                case Turn():
                    held += _made(maker, item, record)
                    if len(held) >= FLUSH_ROWS:
                        _store(maker, held, record, parts)
                case Verdict():
                    _judge(record, maker.session(item.session_id), item, agents)
                case Problem():
                    _note(record, item)
                case Skipped():
                    record.skipped[item.reason] = record.skipped.get(item.reason, 0) + 1
    finally:
        _store(maker, held, record, parts)


def _made(maker: RowMaker, turn: Turn, record: FileRecord) -> list[_Held]:
    """A turn with its row, and how many secrets its session had named by then; nothing where it is nested too deep."""
    try:
        made = maker.row(turn)
    except (TooDeepError, orjson.JSONEncodeError):
        _note(record, Problem("too_deep", 0, f"line {turn.line}: a message is nested too deep to be stored"))
        return []
    return [(turn, made, maker.secrets(turn.session_id))]


def _store(maker: RowMaker, held: list[_Held], record: FileRecord, parts: Parts) -> None:
    """Hand rows on. What a later turn showed to be a secret may stand in an earlier one: such a row is made again."""
    sessions, redactions = set(record.sessions), Counter(record.redactions)
    for turn, made, secrets in held:
        day, row, found = maker.row(turn) if maker.secrets(turn.session_id) > secrets else made
        parts.add(day, row)
        sessions.add(str(row[1]))
        redactions.update(found)
        record.days[day] = record.days.get(day, 0) + 1
        record.agents[row[2] or ""] = record.agents.get(row[2] or "", 0) + 1
    record.sessions, record.redactions = sorted(sessions), dict(sorted(redactions.items()))
    held.clear()


def _judge(record: FileRecord, session: str, verdict: Verdict, agents: Sequence[AgentSpec]) -> None:
    """The last verdict counts, but what it does not say stays as an earlier one said it."""
    blamed = verdict.blamed_agent
    agent = recognise(agents, [], blamed) or public_name(blamed) if blamed else None
    new = [None if verdict.status == "unknown" else verdict.status, verdict.rating, agent, verdict.blamed_step]
    old = record.verdicts.get(session, [None] * 4)
    record.verdicts[session] = [then if now is None else now for now, then in zip(new, old, strict=True)]


def _note(record: FileRecord, problem: Problem) -> None:
    record.problems.append((problem.reason, problem.offset, problem.detail))
