"""From log files to rows: what a worker process does with its share of the files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
import pyarrow as pa

from grokora_pipeline.agents import AgentSpec, recognise
from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.readers.common import UNFORESEEN, Source, UnreadableError, decode
from grokora_pipeline.sessions.readers.source import DAMAGED, cause
from grokora_pipeline.sessions.redaction.detectors import is_suspicious
from grokora_pipeline.sessions.redaction.redactor import Redactor, TooDeepError
from grokora_pipeline.sessions.scan import LogFile
from grokora_pipeline.sessions.table import SCHEMA, RowMaker, RowValues, base_session, public_name, to_table
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Turn, Verdict

FLUSH_ROWS = 512
FLUSH_BYTES = 4 << 20  # of prompts: one of a coding session may have 192,000 characters
_PROMPT = SCHEMA.names.index("prompt")
MAX_HELD = 24 << 20  # bytes of files and texts that are held between the two passes; larger ones are read twice
MAX_DATA = 16 << 20  # bytes of a file that are held while it is read, so that it is opened once
LOG_SUFFIXES = {".json", ".jsonl", ".ndjson", ".log"}
_UNSETTLED = {"truncated", "malformed_json", "damaged", "empty", "unreadable"}  # what a write that goes on looks like


@dataclass(slots=True)
class FileRecord:
    """What the manifest keeps about a file: enough to know whether it changed, and what came from it."""

    name: str
    path_id: str = ""  # a hash of the path as it is: its stored name is looked up instead of redacted again
    size: int = 0
    signature: tuple[int, ...] = ()
    sha256: str = ""
    format: str = ""
    days: dict[str, int] = field(default_factory=dict)  # day -> turns
    sessions: list[str] = field(default_factory=list)
    secretive: list[str] = field(default_factory=list)  # the sessions of which something was replaced
    traces: dict[str, str] = field(default_factory=dict)  # what else their calls name -> session
    # session -> what was stated of it, in order: status, rating, agent, step, call, time
    stated: dict[str, list[list[object]]] = field(default_factory=dict)
    preceding: dict[str, int] = field(default_factory=dict)  # session -> statements before its first call in the file
    inferred: dict[str, str] = field(default_factory=dict)  # session -> status
    skipped: dict[str, int] = field(default_factory=dict)
    redactions: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, int, str]] = field(default_factory=list)  # reason, byte offset, detail
    newer_size: int = 0  # of what continues the file, how much could be looked at
    waits: bool = False  # what continues the file may still tell more of it
    again: bool = False  # it was being written, or could not be read: look again next time
    failed: bool = False  # an earlier reading of the file holds more than this one

    def note(self, problem: Problem) -> None:
        """Add a row of the quarantine."""
        self.problems.append((problem.reason, problem.offset, problem.detail))


class Extracted:
    """What a worker hands back: the records, and where each file's rows of a day lie (path of the part, first row)."""

    def __init__(self) -> None:
        self.records: list[FileRecord] = []
        self.places: dict[tuple[str, str], tuple[str, int]] = {}  # (file, day)


class Parts:
    """The rows of one worker, one Arrow file a day."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._rows: dict[str, list[RowValues]] = {}
        self._writers: dict[str, pa.ipc.RecordBatchFileWriter] = {}
        self._held = self._bytes = 0
        self.counts: Counter[str] = Counter()

    def path(self, day: str) -> Path:
        """The day's Arrow file."""
        return self._folder / day / f"{self._number:06d}.arrow"

    def add(self, day: str, row: RowValues) -> None:
        """Keep a row; write out when enough are held."""
        self._rows.setdefault(day, []).append(row)
        self.counts[day] += 1
        self._held += 1
        self._bytes += len(row[_PROMPT])
        if self._held >= FLUSH_ROWS or self._bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        for day, rows in self._rows.items():
            if day not in self._writers:
                self.path(day).parent.mkdir(parents=True, exist_ok=True)
                self._writers[day] = pa.ipc.new_file(self.path(day), SCHEMA)
            self._writers[day].write_table(to_table(rows))
        self._rows.clear()
        self._held = self._bytes = 0

    def close(self) -> None:
        """Write out what is left."""
        self._flush()
        for writer in self._writers.values():
            writer.close()


def load_rules() -> None:
    """Compile the rules and patterns that `extract` needs, so that processes which are forked later share them."""
    is_suspicious(b"a text without a finding is tried with everything")
    Redactor().find("password: hunter2")


def extract(
    units: Sequence[Sequence[LogFile]], agents: Sequence[AgentSpec], kept: frozenset[str], folder: Path, number: int
) -> Extracted:
    """Read files into part `number` below `folder`; one bad file never stops the others.

    Files of one unit share what is known to be secret. A file in `kept` has been read before: if it cannot be read now,
    its record is `failed` and has no rows.
    """
    result, parts = Extracted(), Parts(folder, number)
    for unit in units:
        _extract_unit(unit, agents, kept, parts, result)
    parts.close()
    return result


def _extract_unit(
    unit: Sequence[LogFile], agents: Sequence[AgentSpec], kept: frozenset[str], parts: Parts, result: Extracted
) -> None:
    """First pass: find what is secret in any of the files. Second pass: make the rows."""
    maker = RowMaker(agents)
    room = MAX_HELD - sum(file.size for file in unit)
    passes: list[tuple[FileRecord, Source, list[Item]]] = []
    for file in unit:
        record = FileRecord(file.name, file.path_id, file.size, file.signature, again=file.growing)
        record.newer_size = file.newer_size
        source = Source(
            file.path,
            file.name,
            size=file.size,
            growing=file.growing,
            older=file.older,
            newer=file.newer,
            newer_size=file.newer_size,
        )
        items: list[Item] = []
        problems: list[Problem] = []
        for item in _items(source, file, record):
            if isinstance(item, Turn):
                maker.find(item)
                # a packed file is small and its turns are not: what is held is counted as it comes
                room -= sum(len(str(message.get("content"))) for message in item.prompt)
            elif isinstance(item, Problem):
                problems.append(item)
            if room >= 0:
                items.append(item)
        reasons = {problem.reason for problem in problems}
        is_being_written = file.growing and not reasons.isdisjoint(_UNSETTLED)
        if file.name in kept and (is_being_written or not reasons.isdisjoint(("unreadable", "gigantic"))):
            record, items = FileRecord(file.name, file.path_id, file.size, again=True, failed=True), []
            for problem in problems:
                record.note(problem)
        result.records.append(record)
        passes.append((record, source, items))
    for file, (record, source, items) in zip(unit, passes, strict=True):
        before = Counter(parts.counts)
        if room >= 0:
            _take(iter(items), agents, maker, record, parts)
        elif not record.failed:
            # the first pass has noted what is wrong with the file
            _take(_items(source, file, FileRecord(file.name)), agents, maker, record, parts)
        for day in record.days:
            result.places[file.name, day] = (str(parts.path(day)), before[day])


def _items(source: Source, file: LogFile, record: FileRecord) -> Iterator[Item]:
    """What a file holds; what is wrong with it is an item, too, and the last one."""
    try:
        yield from _read(source, file, record)
    except UnreadableError as error:
        yield error.problem
    except OSError as error:
        yield Problem("unreadable", 0, error.strerror or "the system cannot read it")
    except DAMAGED as error:
        yield Problem("damaged", 0, cause(error))
    except UNFORESEEN as error:
        yield Problem("malformed", 0, f"the reader stopped at something unforeseen ({type(error).__name__})")


def _read(source: Source, file: LogFile, record: FileRecord) -> Iterator[Item]:
    if file.size <= MAX_DATA:
        source = source.holding()
    head = source.head(readers.HEAD_BYTES)
    named_log = bool(LOG_SUFFIXES.intersection(suffix.lower() for suffix in file.path.suffixes))
    if not head.strip():
        if named_log:
            raise UnreadableError("empty", 0, "no bytes" if not head else "only white space")
        record.format = "empty"
        return
    known = readers.detect(head)
    if known is None and len(head) < readers.HEAD_BYTES:
        source.read()  # what a damaged file lacks may say what it is
    if known is None and readers.is_companion(head):
        record.format = "companion"
        return
    known = known or readers.detect_by_line(head)
    if known is None:
        if named_log or head.lstrip()[:1] == b"{" or readers.refused(head):
            raise _unknown(file, head)
        record.format = "archive" if readers.is_archive(head) else "no log"
        return
    record.sha256, record.format = source.digest(), known.name
    yield from known.read(replace(source, sha256=record.sha256, format=known.name))
    record.waits = bool(source.open_ends)
    stat = file.path.stat()
    # appended to while it was read: what was read is right, and the rest is read next time
    record.again = record.again or (stat.st_size, stat.st_mtime_ns) != file.signature[:2]


def _unknown(file: LogFile, head: bytes) -> UnreadableError:
    """What is wrong with a log that no reader knows: other content, or too little of it."""
    text, whole = decode(head)[0].lstrip(), file.size <= len(head) and not readers.refused(head)
    try:
        orjson.loads(text if text.startswith("{") else "{}")
    except orjson.JSONDecodeError as error:
        if "limit" in str(error):
            return UnreadableError("too_deep", 0, "nested deeper than 1,024 levels")
        with suppress(orjson.JSONDecodeError):  # JSONL: each line is a document
            orjson.loads(text.split("\n", 1)[0])
            whole = False
        if whole and "unexpected end" in str(error):
            return UnreadableError("truncated", file.size, "ends before it tells what it is")
        if whole:
            return UnreadableError("malformed_json", error.pos, "no reader knows this content")
    return UnreadableError("wrong_schema", 0, f"no reader knows this content; {readers.nearest(head)}")


def _take(
    items: Iterator[Item], agents: Sequence[AgentSpec], maker: RowMaker, record: FileRecord, parts: Parts
) -> None:
    """Take a file's items in; what was counted stands even if the file cannot be read to its end."""
    sessions, secretive, redactions = set[str](), set[str](), Counter[str]()
    for item in items:
        match item:
            case Turn():
                try:
                    day, row, counts = maker.row(item)
                except (TooDeepError, orjson.JSONEncodeError):
                    where = f"line {item.line}: a message is nested too deep to be stored"
                    record.note(Problem("too_deep", 0, where))
                    continue
                parts.add(day, row)
                record.days[day] = record.days.get(day, 0) + 1
                if row[1] not in sessions and row[1] in record.stated:
                    record.preceding[row[1]] = len(record.stated[row[1]])
                sessions.add(str(row[1]))
                if item.trace not in ("", item.session_id):
                    record.traces[maker.public(item.trace)] = str(row[1])
                redactions.update(counts)
                if counts:
                    secretive.add(base_session(str(row[1])))
            case Verdict():
                _state(record, maker.public(item.session_id), item, agents)
            case Problem():
                record.note(item)
            case Skipped():
                record.skipped[item.reason] = record.skipped.get(item.reason, 0) + 1
    record.sessions, record.secretive = sorted(sessions), sorted(secretive)
    record.redactions = dict(sorted(redactions.items()))


def _state(record: FileRecord, session: str, verdict: Verdict, agents: Sequence[AgentSpec]) -> None:
    """Note a verdict. The last one of a file counts, whatever its time: an id may be that of several sessions."""
    if verdict.inferred:
        record.inferred[session] = verdict.status
        return
    name = verdict.blamed_agent
    agent = recognise(agents, [], name) or public_name(name) if name else None
    status = None if verdict.status == "unknown" else verdict.status
    call = public_name(verdict.blamed_call) if verdict.blamed_call else None
    known = record.stated.setdefault(session, [])
    at = max(verdict.at, str(known[-1][-1] or "") if known else "")
    said: list[object] = [status, verdict.rating, agent, verdict.blamed_step, call, at or None]
    if said not in known[record.preceding.get(session, 0) :][-1:]:
        known.append(said)
