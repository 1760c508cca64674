"""Session logs into `session_logs`: a Parquet file of turns a day, rebuilt only where that day's files changed.

The result depends on the logs alone. Getting there from an earlier result or from nothing gives the same bytes.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.sessions.days import Day, DayJob, Run, build_day
from grokora_pipeline.sessions.extract import FileRecord, extract
from grokora_pipeline.sessions.redaction import redactor as redaction
from grokora_pipeline.sessions.scan import LogFile, scan
from grokora_pipeline.store import content_version

CODE_VERSION = 2  # raise it when the same logs give other rows
CHUNK_BYTES = 16 << 20
POOL_FROM_BYTES = 128 << 20  # below this, starting processes costs more than it saves
POOL_FROM_ROWS = 20_000
QUARANTINE = pa.schema(
    [("file", pa.string()), ("reason", pa.string()), ("byte_offset", pa.int64()), ("detail", pa.string())]
)
Verdicts = dict[str, list[Any]]


@dataclass(slots=True)
class IngestReport:
    """What an ingest found and did. `version` is equal for equal turns and quarantine, however they were reached."""

    version: str
    turns: int = 0
    sessions: int = 0
    files: int = 0
    files_read: int = 0
    days_rebuilt: list[str] = field(default_factory=list)
    days_kept: list[str] = field(default_factory=list)
    quarantined: int = 0
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    screenshots_dropped: int = 0
    redactions: dict[str, int] = field(default_factory=dict)
    by_format: dict[str, int] = field(default_factory=dict)
    by_agent: dict[str, int] = field(default_factory=dict)  # "" for turns that no agent recognises
    by_status: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    turns_per_day: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _State:
    """What a published folder says about itself."""

    folder: Path | None = None
    files: dict[str, FileRecord] = field(default_factory=dict)
    days: dict[str, Day] = field(default_factory=dict)
    verdicts: Verdicts = field(default_factory=dict)


@dataclass(slots=True)
class _Work:
    """One ingest under way."""

    before: _State
    output: Path
    parts: Path
    workers: int | None
    read: dict[str, FileRecord] = field(default_factory=dict)  # what was read anew
    files: dict[str, FileRecord] = field(default_factory=dict)  # everything that is there now
    verdicts: Verdicts = field(default_factory=dict)


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

    Writes `turns/<day>.parquet`, `quarantine.parquet` and `manifest.json`. Of `previous`, the last published folder,
    files that did not change are not read again and days whose files did not change are linked. No log is ever
    changed. Raises GrokoraError where the log folder does not exist; an empty one gives an empty result.
    """
    found = scan(logs, settle_seconds)
    fingerprint = _fingerprint(agents)
    work = _Work(_load(previous, fingerprint), output, output / ".parts", workers)
    _read(work, found.files, agents)
    days = _write_days(work)
    shutil.rmtree(work.parts, ignore_errors=True)
    quarantine = [(name, problem.reason, problem.offset, problem.detail) for name, problem in found.aside]
    quarantine += [(record.name, *problem) for record in work.files.values() for problem in record.problems]
    quarantine.sort()
    _write_quarantine(output / "quarantine.parquet", quarantine)
    _save(output, fingerprint, work.files, days)
    return _report(work, days, quarantine)


def _fingerprint(agents: Sequence[AgentSpec]) -> str:
    """Changes when the same logs would give other rows: the code, the redaction rules, who is recognised how."""
    rules = [(agent.name, agent.match.model_dump()) for agent in agents]
    return content_version(CODE_VERSION, redaction.VERSION, rules)


def _read(work: _Work, files: Sequence[LogFile], agents: Sequence[AgentSpec]) -> None:
    """Read the files that are new or changed, then those whose sessions got another verdict by that."""
    before = work.before
    changed = [file for file in files if not _known(file, before)]
    work.read = _extract_all(changed, agents, work.parts / "0", work.workers)
    work.files = {file.name: work.read.get(file.name) or before.files[file.name] for file in files}
    work.verdicts = _merge_verdicts(work.files.values())
    names = before.verdicts.keys() | work.verdicts.keys()
    judged = {name for name in names if before.verdicts.get(name) != work.verdicts.get(name)}
    again = [
        file for file in files if file.name not in work.read and not judged.isdisjoint(work.files[file.name].sessions)
    ]
    if again:
        read = _extract_all(again, agents, work.parts / "1", work.workers)
        work.read |= read
        work.files |= read


def _known(file: LogFile, before: _State) -> bool:
    record = before.files.get(file.name)
    return record is not None and tuple(record.signature) == file.signature and not _growing(record)


def _growing(record: FileRecord) -> bool:
    return any(reason == "growing" for reason, _, _ in record.problems)


def _extract_all(
    files: Sequence[LogFile], agents: Sequence[AgentSpec], parts: Path, workers: int | None
) -> dict[str, FileRecord]:
    chunks = list(_chunks(files))
    jobs = [(chunk, tuple(agents), parts, number) for number, chunk in enumerate(chunks)]
    results = _map(extract, jobs, workers if sum(file.size for file in files) >= POOL_FROM_BYTES else 1)
    return {record.name: record for records in results for record in records}


def _chunks(files: Sequence[LogFile]) -> Iterable[list[LogFile]]:
    """Files in order, in shares of about CHUNK_BYTES."""
    chunk: list[LogFile] = []
    size = 0
    for file in files:
        chunk.append(file)
        size += file.size
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _map(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int | None) -> list[Any]:
    """The results in the order of the jobs, from a pool of processes where that pays."""
    count = min(
        len(jobs), workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if count <= 1:
        return [function(*job) for job in jobs]
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(function, *job) for job in jobs]]


def _merge_verdicts(records: Iterable[FileRecord]) -> Verdicts:
    """The verdict of each session over all files; files are taken by name, what a later one does not say stays."""
    merged: Verdicts = {}
    for record in sorted(records, key=lambda found: found.name):
        for session, verdict in record.verdicts.items():
            old = merged.get(session, [None] * 4)
            merged[session] = [then if now is None else now for now, then in zip(verdict, old, strict=True)]
    return merged


def _write_days(work: _Work) -> dict[str, Day]:
    """Write or link every day; returns what is known about each."""
    before = work.before
    touched = {day for record in work.read.values() for day in record.days}
    for name, record in before.files.items():
        if name in work.read or name not in work.files:
            touched |= record.days.keys()
    turns = work.output / "turns"
    turns.mkdir(parents=True, exist_ok=True)
    jobs, known, rows = [], {}, 0
    for day in sorted({day for record in work.files.values() for day in record.days}):
        old = before.folder / "turns" / f"{day}.parquet" if before.folder and day in before.days else None
        if old and day not in touched:
            _link(old, turns / old.name)
            known[day] = before.days[day]
        else:
            jobs.append(DayJob(day, _runs(day, work), old, work.parts, _verdicts(day, work), turns / f"{day}.parquet"))
            rows += sum(record.days.get(day, 0) for record in work.files.values())
    built = _map(build_day, [(job,) for job in jobs], work.workers if rows > POOL_FROM_ROWS else 1)
    return known | dict(built)


def _verdicts(day: str, work: _Work) -> Verdicts:
    """The verdicts of the sessions that have turns on a day."""
    sessions = {session for record in work.files.values() if day in record.days for session in record.sessions}
    return {session: work.verdicts[session] for session in sessions & work.verdicts.keys()}


def _runs(day: str, work: _Work) -> list[Run]:
    """Where each file's rows of a day are."""
    starts: dict[str, int] = {}
    start = 0
    for name in sorted(work.before.files):
        starts[name] = start
        start += work.before.files[name].days.get(day, 0)
    return [
        Run(name, name in work.read, starts.get(name, 0), record.days[day])
        for name, record in sorted(work.files.items())
        if day in record.days
    ]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_quarantine(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(QUARANTINE)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, QUARANTINE, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=QUARANTINE), path)


def _save(output: Path, fingerprint: str, files: dict[str, FileRecord], days: dict[str, Day]) -> None:
    document = {
        "fingerprint": fingerprint,
        "days": days,
        "files": [record for _, record in sorted(files.items())],
    }
    (output / "manifest.json").write_bytes(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))


def _load(folder: Path | None, fingerprint: str) -> _State:
    """The state of a published folder; nothing where there is none, or where its rules were others."""
    try:
        document = orjson.loads((folder / "manifest.json").read_bytes()) if folder else {}
    except FileNotFoundError:
        document = {}
    if document.get("fingerprint") != fingerprint:
        return _State()
    files = {entry["name"]: FileRecord(**entry) for entry in document["files"]}
    return _State(folder, files, document["days"], _merge_verdicts(files.values()))


def _report(work: _Work, days: dict[str, Day], quarantine: Sequence[tuple[Any, ...]]) -> IngestReport:
    sums: dict[str, Counter[str]] = {name: Counter() for name in ("agents", "skipped", "redactions", "days")}
    formats: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    for record in work.files.values():
        formats[record.format] += sum(record.days.values())
        for name, counter in sums.items():
            counter.update(getattr(record, name))
    for day in days.values():
        statuses.update(day["statuses"])
    kept = sorted(day for day, facts in days.items() if work.before.days.get(day) == facts)
    return IngestReport(
        version=content_version([(day, facts["sha256"]) for day, facts in sorted(days.items())], quarantine),
        turns=sums["days"].total(),
        sessions=len({session for record in work.files.values() for session in record.sessions}),
        files=len(work.files),
        files_read=len(work.read),
        days_rebuilt=sorted(days.keys() - set(kept)),
        days_kept=kept,
        quarantined=len(quarantine),
        quarantine=[dict(zip(QUARANTINE.names, row, strict=True)) for row in quarantine],
        screenshots_dropped=sums["redactions"].pop("screenshot", 0),
        redactions=dict(sums["redactions"].most_common()),
        by_format={name: count for name, count in formats.most_common() if count},
        by_agent=dict(sums["agents"].most_common()),
        by_status=dict(statuses.most_common()),
        skipped=dict(sums["skipped"].most_common()),
        turns_per_day=dict(sorted(sums["days"].items())),
    )
