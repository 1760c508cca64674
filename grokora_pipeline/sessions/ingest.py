"""Session logs into `session_logs`: a Parquet file of turns a day, rebuilt only where that day's files changed.

The result depends on the logs alone: getting there from an earlier result or from nothing gives the same bytes. The one
exception is mercy: what was read from a file stays while the file cannot be read.
"""

import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.days import DayJob, FileRows, build_day
from grokora_pipeline.sessions.extract import Extracted, FileRecord, extract, load_rules
from grokora_pipeline.sessions.processes import run_jobs
from grokora_pipeline.sessions.readers.common import Source, UnreadableError
from grokora_pipeline.sessions.redaction import redactor as redaction
from grokora_pipeline.sessions.scan import LogFile, Scan, scan, settled
from grokora_pipeline.sessions.table import base_session
from grokora_pipeline.sessions.verdicts import COPIES_FILE, RESULTS_FILE, SESSIONS_FILE, Judgement, judge
from grokora_pipeline.store import content_version

CODE_VERSION = 15  # raise it when the same logs give other rows
CHUNK_BYTES = 10 << 20  # of logs a job: what a process holds grows with it, and each begins with cold caches
POOL_FROM_BYTES = 128 << 20  # below this, starting processes costs more than it saves
POOL_FROM_ROWS = 20_000
CLOCK_TICK = 20_000_000  # ns by which a folder's time of change may lie before the clock's
QUARANTINE = pa.schema(
    [("file", pa.string()), ("reason", pa.string()), ("byte_offset", pa.int64()), ("detail", pa.string())]
)
FILES = pa.schema([("file", pa.string()), ("format", pa.string()), ("turns", pa.int64()), ("reason", pa.string())])
# The reasons that say what a file without turns is, if it is no fault that it has none.
_NO_LOG = {"companion": "goes with a session whose log is another file", "no log": "no reader knows its content"}
_NO_LOG |= {"archive": "an archive; unpack it", "empty": "empty", "": "not read"}
_STATE = "state.json"
_BESIDE = {one.name: one.beside for one in readers.FORMATS if one.beside}
_SAYS_MORE = {"companion", "no log", "", "openai_batch"}  # formats of what may say more of a log beside it


@dataclass(slots=True)
class IngestReport:
    """What an ingest tree and did. `version` is equal for equal turns and quarantine, however they were reached."""

    version: str
    turns: int = 0
    copies: int = 0  # rows that repeat a call of another row; they are no turns
    sessions: int = 0
    files: int = 0
    files_read: int = 0
    days_rebuilt: list[str] = field(default_factory=list)
    days_kept: list[str] = field(default_factory=list)
    quarantined: int = 0
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)  # files that are no logs, by reason
    screenshots_dropped: int = 0
    redactions: dict[str, int] = field(default_factory=dict)
    by_format: dict[str, int] = field(default_factory=dict)
    by_agent: dict[str, int] = field(default_factory=dict)  # "" for turns that no agent recognises
    by_recorded_agent: dict[str, int] = field(default_factory=dict)  # whose those are in the logs, "" for nobody's
    by_status: dict[str, int] = field(default_factory=dict)
    unheard_verdicts: int = 0  # on sessions that stand in no log
    skipped: dict[str, int] = field(default_factory=dict)
    turns_per_day: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _State:
    """What a published folder says about itself."""

    folder: Path | None = None
    files: dict[str, FileRecord] = field(default_factory=dict)
    days: dict[str, str] = field(default_factory=dict)  # day -> SHA-256 of its file


@dataclass(slots=True)
class _Work:
    """An ingest that is running."""

    before: _State
    output: Path
    parts: Path
    workers: int | None
    agents: tuple[AgentSpec, ...]
    files: dict[str, FileRecord] = field(default_factory=dict)  # everything that is there now
    read: set[str] = field(default_factory=set)  # the files whose rows were made anew
    places: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)  # (file, day) -> part, first row


def ingest(
    logs: Path,
    agents: Sequence[AgentSpec],
    previous: Path | None,
    output: Path,
    *,
    settle_seconds: float,
    workers: int | None = None,
) -> IngestReport:
    """Read the logs below `logs` into the empty folder `output`.

    Writes `turns/<day>.parquet`, the session tables (see `verdicts`), `quarantine.parquet`, `files.parquet` (every file
    with what became of it), `manifest.json` and `report.json`. Of `previous`, the last published folder, files that did
    not change are not read again and days whose files did not change are linked. No log is ever changed. Raises
    GrokoraError if the log folder does not exist; an empty one gives an empty result.
    """
    listed = time.time_ns() - (CLOCK_TICK if settle_seconds else 0)
    entries, growing = settled(logs, settle_seconds)
    # It changes when the same logs would give other rows. A file that no reader knew is looked at anew by a new one.
    formats = [known.name for known in readers.FORMATS]
    rules = [(agent.name, agent.match.model_dump()) for agent in agents]
    fingerprint = content_version(CODE_VERSION, formats, redaction.VERSION, rules)
    listing = content_version(entries)
    if not growing and (unchanged := _unchanged(previous, fingerprint, listing, output)):
        return unchanged
    before = _load(previous, fingerprint)
    tree = scan(logs, entries, growing, {record.path_id: record.name for record in before.files.values()})
    work = _Work(before, output, output / ".parts", workers, tuple(agents))
    _read(work, tree)
    _keep_rotated(work, tree, logs, listed)
    days = _write_days(work)
    shutil.rmtree(work.parts, ignore_errors=True)
    judgement = judge(output, work.files)
    quarantine = [(name, problem.reason, problem.offset, problem.detail) for name, problem in tree.aside]
    quarantine += [(record.name, *problem) for record in work.files.values() for problem in record.problems]
    quarantine += [(name, problem.reason, problem.offset, problem.detail) for name, problem in judgement.problems]
    quarantine.sort()
    _write_table(output / "quarantine.parquet", QUARANTINE, quarantine)
    _write_table(output / "files.parquet", FILES, _file_rows(work, tree))
    report = _report(work, tree, days, quarantine, judgement)
    at_rest = not tree.closed and not any(record.again for record in work.files.values())
    _save(work, fingerprint, listing if at_rest else "", days, report)
    return report


def _unchanged(previous: Path | None, fingerprint: str, listing: str, output: Path) -> IngestReport | None:
    """The report of the earlier folder, linked to `output`, if no file below the root has changed since."""
    if previous is None or not (previous / _STATE).is_file():
        return None
    if orjson.loads((previous / _STATE).read_bytes()) != {"fingerprint": fingerprint, "listing": listing}:
        return None
    (output / "turns").mkdir(parents=True, exist_ok=True)
    own = {_STATE, "manifest.json", "quarantine.parquet", "files.parquet", SESSIONS_FILE, COPIES_FILE, RESULTS_FILE}
    for path in [*sorted((previous / "turns").glob("*.parquet")), *(previous / name for name in sorted(own))]:
        _link(path, output / path.relative_to(previous))
    report = IngestReport(**orjson.loads((previous / "report.json").read_bytes()))
    report.files_read, report.days_rebuilt, report.days_kept = 0, [], sorted(report.turns_per_day)
    _write_report(output, report)
    return report


def _read(work: _Work, tree: Scan) -> None:
    """Read the files that are new or changed, then those that share a session with them whose secrets must agree."""
    before = work.before.files
    changed = []
    for file in tree.files:
        record = before.get(file.name)
        is_as_it_was = record is not None and tuple(record.signature) == file.signature and not record.again
        goes_on = record is not None and record.waits and record.newer_size != file.newer_size
        if file.growing or goes_on or not is_as_it_was:
            changed.append(file)
    records = _extract(work, [[file] for file in changed], "0")
    if told_anew := _told_anew(work, tree, records):
        records |= _extract(work, [[file] for file in told_anew], "2")
    closed = tuple(f"{folder}/" if folder else "" for folder in tree.closed)
    kept = {name: record for name, record in before.items() if closed and name.startswith(closed)}
    current = {file.name: records.get(file.name) or before[file.name] for file in tree.files}
    for name, record in (kept | current).items():
        earlier = before.get(name)
        # what a file gave before stays while it cannot be read, and the reason is noted
        if record.failed and earlier is not None:
            work.files[name] = replace(earlier, problems=record.problems, again=True)
        else:
            work.files[name] = record
    work.read = {name for name, record in records.items() if not record.failed}
    units = _shared_units(work, {file.name: file for file in tree.files})
    if units:
        again = _extract(work, units, "1")
        readable = {name: record for name, record in again.items() if not record.failed}
        work.files |= readable
        work.read |= readable.keys()


def _told_anew(work: _Work, tree: Scan, records: dict[str, FileRecord]) -> list[LogFile]:
    """The unchanged files of which another file says more or less than it did, as the other half of a batch does."""
    before = work.before.files
    gone = {name: before[name] for name in before.keys() - {file.name for file in tree.files}}
    names: defaultdict[str, list[str]] = defaultdict(list)  # by folder: what is no log of its own
    for name, record in (gone | records).items():
        if record.format in _SAYS_MORE:
            folder, base = os.path.split(name)
            names[folder].append(f"{record.format}/{base}")
    found = []
    for file in tree.files if names else ():
        known = before.get(file.name)
        # spans that have all their contents need no more of those that are uploaded all the time
        is_whole = (
            known and known.format == "otel" and all(reason != "contents_missing" for reason, *_ in known.problems)
        )
        if known and not is_whole and file.name not in records and (pattern := _BESIDE.get(known.format)):
            folder = os.path.dirname(file.name)  # noqa: PTH120 – a Path a file costs seconds
            near = (folder, os.path.dirname(folder))  # noqa: PTH120
            places = (*near, *(os.path.join(one, "verifier") for one in near))  # noqa: PTH118
            if any(pattern.fullmatch(one) for place in places for one in names.get(place, ())):
                found.append(file)
    return found


def _keep_rotated(work: _Work, tree: Scan, logs: Path, listed: int) -> None:
    """Where a log was rotated while we looked, let the earlier reading of all its files stay until next time.

    Between the listing and the reading, turns may move to a name that was not listed, or was read before. `listed` is
    when the listing began, in ns since 1970: only folders that changed since then are looked at.
    """
    before, paths = work.before.files, {file.name: file.path for file in tree.files}
    changes: dict[Path, bool] = {}
    for name in sorted(work.read & before.keys() | before.keys() - work.files.keys()):
        path, earlier = paths.get(name, logs / name), before[name]
        if path.parent not in changes:
            changes[path.parent] = path.parent.is_dir() and path.parent.stat().st_mtime_ns >= listed
        if earlier.days and changes[path.parent] and not _goes_on(path, earlier):
            rotated = ("rotated", 0, "another file took its place while it was read; both are read next time")
            work.files[name] = replace(earlier, problems=[rotated], again=True)
            work.read.discard(name)


def _goes_on(path: Path, earlier: FileRecord) -> bool:
    """Whether a file begins with all that was read of it before."""
    try:
        return Source(path, earlier.name, size=earlier.size).digest() == earlier.sha256
    except (OSError, UnreadableError):
        return False


def _shared_units(work: _Work, files: dict[str, LogFile]) -> list[list[LogFile]]:
    """The files to read together: those of a session that names a secret and stands in several files.

    One value has one placeholder in a session, and leaves all its files, whichever names it. Only sessions of files
    that changed are looked at, and what hangs on them.
    """
    before = work.before.files
    now, then = _files_by_session(work.files.values()), _files_by_session(before.values())
    secretive = {name for record in (*work.files.values(), *before.values()) for name in record.secretive}
    touched = work.read | (before.keys() - work.files.keys())
    changed = {
        base_session(session)
        for name in touched
        for record in (work.files.get(name), before.get(name))
        if record
        for session in record.sessions
    }
    pending = [name for name in changed & secretive if len(now[name]) > 1 or len(then[name]) > 1]
    units: list[list[LogFile]] = []
    seen: set[str] = set()
    while pending:
        unit: set[str] = set()
        sessions = [pending.pop()]
        while sessions:
            for name in now[sessions.pop()] - unit:
                unit.add(name)
                shared = {base_session(session) for session in work.files[name].sessions} & secretive
                sessions += [session for session in shared if len(now[session]) > 1]
        readable = sorted((unit & files.keys()) - seen)
        seen.update(readable)
        if readable:
            units.append([files[name] for name in readable])
    return units


def _files_by_session(records: Iterable[FileRecord]) -> defaultdict[str, set[str]]:
    names: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        for session in record.sessions:
            names[base_session(session)].add(record.name)
    return names


def _extract(work: _Work, units: Sequence[Sequence[LogFile]], part: str) -> dict[str, FileRecord]:
    """The records of the files of some units; where their rows lie is noted in `work`."""
    kept = frozenset(name for name, record in work.before.files.items() if record.days)
    jobs = [
        (chunk, work.agents, kept.intersection(file.name for unit in chunk for file in unit), work.parts / part, number)
        for number, chunk in enumerate(_chunks(units))
    ]
    size = sum(file.size for unit in units for file in unit)
    results: list[Extracted] = run_jobs(extract, jobs, work.workers if size >= POOL_FROM_BYTES else 1, load_rules)
    for result in results:
        work.places |= result.places
    return {record.name: record for result in results for record in result.records}


def _chunks(units: Sequence[Sequence[LogFile]]) -> Iterable[list[Sequence[LogFile]]]:
    """Units in order, in shares of about CHUNK_BYTES."""
    chunk: list[Sequence[LogFile]] = []
    size = 0
    for unit in units:
        chunk.append(unit)
        size += sum(file.size for file in unit)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _write_days(work: _Work) -> dict[str, str]:
    """Write or link every day; returns the hash of each."""
    before = work.before
    touched = {day for name in work.read for day in work.files[name].days}
    for name, record in before.files.items():
        if name in work.read or name not in work.files:
            touched |= record.days.keys()
    turns = work.output / "turns"
    turns.mkdir(parents=True, exist_ok=True)
    runs, rows = _runs(work), 0
    jobs: list[DayJob] = []
    known: dict[str, str] = {}
    for day in sorted(runs):
        old = before.folder / "turns" / f"{day}.parquet" if before.folder and day in before.days else None
        if old and day not in touched:
            _link(old, turns / old.name)
            known[day] = before.days[day]
        else:
            jobs.append(DayJob(day, runs[day], old, turns / f"{day}.parquet"))
            rows += sum(run.rows for run in runs[day])
    return known | dict(run_jobs(build_day, [(job,) for job in jobs], work.workers if rows > POOL_FROM_ROWS else 1))


def _runs(work: _Work) -> dict[str, list[FileRows]]:
    """Where each file's rows of each day are."""
    starts: dict[tuple[str, str], int] = {}
    ends: Counter[str] = Counter()
    for name in sorted(work.before.files):
        for day, rows in work.before.files[name].days.items():
            starts[name, day] = ends[day]
            ends[day] += rows
    runs: defaultdict[str, list[FileRows]] = defaultdict(list)
    for name, record in sorted(work.files.items()):
        for day, rows in record.days.items():
            part, start = work.places[name, day] if name in work.read else ("", starts[name, day])
            runs[day].append(FileRows(name, part, start, rows))
    return runs


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _file_rows(work: _Work, tree: Scan) -> list[tuple[Any, ...]]:
    """Every file below the root: its format, its turns, and why it gave none (or not all)."""
    rows: list[tuple[Any, ...]] = [(name, "", 0, reason) for name, reason in tree.left_out]
    rows += [(name, "", 0, problem.reason) for name, problem in tree.aside]
    for record in work.files.values():
        turns = sum(record.days.values())
        reason = record.problems[0][0] if record.problems else ""
        rows.append(
            (record.name, record.format, turns, reason or ("" if turns else _NO_LOG.get(record.format, "no calls")))
        )
    return sorted(rows)


def _write_table(path: Path, schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> None:
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)


def _save(work: _Work, fingerprint: str, listing: str, days: dict[str, str], report: IngestReport) -> None:
    document = {
        "fingerprint": fingerprint,
        "days": days,
        "files": [record for _, record in sorted(work.files.items())],
    }
    (work.output / "manifest.json").write_bytes(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
    (work.output / _STATE).write_bytes(orjson.dumps({"fingerprint": fingerprint, "listing": listing}))
    _write_report(work.output, report)


def _write_report(output: Path, report: IngestReport) -> None:
    (output / "report.json").write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2))


def _load(folder: Path | None, fingerprint: str) -> _State:
    """The state of a published folder; nothing if there is none, or where its rules were others."""
    try:
        document = orjson.loads((folder / "manifest.json").read_bytes()) if folder else {}
    except FileNotFoundError:
        document = {}
    if document.get("fingerprint") != fingerprint:
        return _State()
    return _State(folder, {entry["name"]: FileRecord(**entry) for entry in document["files"]}, document["days"])


def _report(
    work: _Work, tree: Scan, days: dict[str, str], quarantine: Sequence[tuple[Any, ...]], judgement: Judgement
) -> IngestReport:
    skipped, redactions = Counter[str](), Counter[str]()
    left_out = Counter(reason for _, reason in tree.left_out)
    for record in work.files.values():
        skipped.update(record.skipped)
        redactions.update(record.redactions)
        if not record.days and not record.problems and record.format in _NO_LOG:
            left_out[record.format or "not read"] += 1
    kept = sorted(day for day, digest in days.items() if work.before.days.get(day) == digest)
    return IngestReport(
        version=content_version(sorted(days.items()), judgement.version, quarantine),
        turns=judgement.turns,
        copies=judgement.copies,
        sessions=judgement.sessions,
        files=len(work.files),
        files_read=len(work.read),
        days_rebuilt=sorted(days.keys() - set(kept)),
        days_kept=kept,
        quarantined=len(quarantine),
        quarantine=[dict(zip(QUARANTINE.names, row, strict=True)) for row in quarantine],
        left_out=dict(left_out.most_common()),
        screenshots_dropped=redactions.pop("screenshot", 0),
        redactions=dict(redactions.most_common()),
        by_format=judgement.by_format,
        by_agent=judgement.by_agent,
        by_recorded_agent=judgement.by_recorded_agent,
        by_status=judgement.by_status,
        unheard_verdicts=judgement.unheard,
        skipped=dict(skipped.most_common()),
        turns_per_day=judgement.per_day,
    )
