"""Sessions across files: which logs tell of one session, how it ended, and which calls stand in two logs.

The verdict belongs to the session, whatever file states it, so it lies in a table beside the turns (`sessions.parquet`)
and is joined when turns are read: a rating that comes later rewrites no day. `copies.parquet` names the rows that are a
call of another row once more; `read_turns` leaves them out.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from os.path import commonpath
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grokora_pipeline.sessions.extract import FileRecord
from grokora_pipeline.sessions.readers.recordings import Run
from grokora_pipeline.sessions.readers.source import log_name
from grokora_pipeline.sessions.table import NO_TEXT, SCHEMA, base_session, read_rows
from grokora_pipeline.sessions.turns import Problem, Status, TurnRow
from grokora_pipeline.store import content_version

if TYPE_CHECKING:  # pandas, which only an ingest uses, would slow down the loading of definitions
    import pandas as pd

SESSIONS_FILE, COPIES_FILE, RESULTS_FILE = "sessions.parquet", "copies.parquet", "results.parquet"
SESSIONS = pa.schema(
    [
        ("session_id", pa.string()),
        ("recorded_id", pa.string()),  # what the rows call it
        ("files", pa.list_(pa.string())),  # whose rows; null for all rows with this recorded id
        ("status", pa.string()),  # null: as each turn's own file says
        ("rating", pa.int8()),
        ("blamed_agent", pa.string()),
        ("blamed_step", pa.int64()),
        ("blamed_call", pa.string()),
    ]
)
COPIES = pa.schema(
    [
        ("turn_id", pa.string()),
        ("source_file", pa.string()),
        ("line", pa.int64()),
        ("step_failed", pa.bool_()),
        ("kept_turn_id", pa.string()),
        ("kept_file", pa.string()),
        ("kept_line", pa.int64()),
    ]
)
# The calls whose results their own file does not hold, and a later prompt of their session does.
RESULTS = pa.schema(
    [("turn_id", pa.string()), ("source_file", pa.string()), ("line", pa.int64()), ("step_failed", pa.bool_())]
)
MOST_CANDIDATES = 64  # an id that thousands of files use is compared with its latest sessions only
GOOD_RATING = 4  # a lower one is said against a session
_AMBIGUOUS = (
    "several sessions have this id; what is said against one counts for all of them and nothing else does: name a call "
    "(blame.call) or a time (at), or put the file beside the log"
)
SESSION_GAP = timedelta(days=1)  # two logs of one id that lie further apart and do not continue each other are two
_COLUMNS = [
    "turn_id",
    "session_id",
    "agent",
    "recorded_agent",
    "step",
    "started_at",
    "source_file",
    "source_sha256",
    "source_format",
    "line",
    "status",
    "call",
    "step_failed",
    "completeness",
    "result_known",
    "prompt_id",
    "answer_id",
    "calls_id",
    "shown_id",
    "shown_failed",
]
# A session that no log names is called by what it begins with, so equal calls of two such files are one.
_BY_CONTENT = re.compile(r"[a-z-]+-[0-9a-f]{16}")
_BEGINNING = ["session_id", "agent", "step", "prompt_id", "answer_id"]
_WORST: tuple[Status, ...] = ("failure", "success", "unknown")
TurnValues = dict[str, Any]
Segment = tuple[str, str]  # recorded session id, file


@dataclass(slots=True)
class Judgement:
    """What is known across files once all rows are there."""

    version: str
    turns: int
    copies: int
    sessions: int
    by_agent: dict[str, int]
    by_recorded_agent: dict[str, int]  # of turns that are no agent's, but could be
    by_status: dict[str, int]
    by_format: dict[str, int]
    per_day: dict[str, int]
    problems: list[tuple[str, Problem]]  # (file, problem)
    unheard: int  # verdicts on sessions that stand in no log


@dataclass(slots=True)
class _Verdict:
    status: str | None = None
    rating: int | None = None
    agent: str | None = None
    step: int | None = None
    call: str | None = None


@dataclass(slots=True)
class _Cluster:
    """Logs that tell of one session."""

    segments: set[Segment] = field(default_factory=set)
    logs: set[str] = field(default_factory=set)  # what its files are parts of
    steps: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # by agent
    calls: set[tuple[Any, ...]] = field(default_factory=set)  # what tells a call from another
    silent: set[tuple[str, int]] = field(default_factory=set)  # of `grokputer.log`, without an answer's text
    written: set[tuple[str, int]] = field(default_factory=set)  # of `session.json`, which loses none
    rebuilt: bool = False  # prompts were reconstructed from the log
    starts: dict[str, tuple[int, str]] = field(default_factory=dict)  # by agent: its first step, what it was asked
    is_new: bool = False  # its first file says that another one ended before it: by an outcome, or by another run
    ended: bool = False  # its last file states an outcome after its calls
    start: str = ""
    end: str = ""

    def add(self, segment: Segment, row: TurnValues) -> None:
        """Take in a row."""
        agent = row["recorded_agent"] or row["agent"] or ""
        self.segments.add(segment)
        self.steps[agent].add(row["step"])
        if agent not in self.starts or row["step"] < self.starts[agent][0]:
            self.starts[agent] = row["step"], row["prompt_id"]
        # a rebuilt prompt differs from log to log; a recorded one tells two calls with the answer "ok" apart
        self.rebuilt = self.rebuilt or row["completeness"] == "reconstructed"
        asked = "" if row["completeness"] == "reconstructed" else row["prompt_id"]
        self.calls.add((agent, row["step"], row["answer_id"], asked))
        if row["call"]:
            self.calls.add((row["call"], row["answer_id"]))  # two machines may both count from 1
        if row["source_format"] == "grokputer_log" and row["answer_id"].startswith(NO_TEXT):
            self.silent.add((agent, row["step"]))
        elif row["source_format"] == "session_v1":
            self.written.add((agent, row["step"]))
        if at := row["started_at"]:
            self.start, self.end = min(self.start or at, at), max(self.end, at)

    def merge(self, other: "_Cluster") -> None:
        """Take in the rows of another cluster."""
        self.segments |= other.segments
        self.logs |= other.logs
        for agent, steps in other.steps.items():
            self.steps[agent] |= steps
        self.calls |= other.calls
        self.silent |= other.silent
        self.written |= other.written
        self.rebuilt = self.rebuilt or other.rebuilt
        for agent, start in other.starts.items():
            self.starts[agent] = min(start, self.starts.get(agent, start), key=lambda one: one[0])
        self.ended = other.ended if other.end >= self.end else self.ended
        self.start = min(filter(None, (self.start, other.start)), default="")
        self.end = max(self.end, other.end)

    def continues(self, before: "_Cluster") -> bool:
        """Whether it goes on with the session of an earlier part of its log, as two parts of one file would."""
        steps = sorted(step for steps in before.steps.values() for step in steps)
        asked = {agent: question for agent, (step, question) in before.starts.items() if step == steps[0]}
        run = Run(first=steps[0], last=steps[-1], ended=before.ended or self.is_new, latest=before.end, starts=asked)
        agent, (step, question) = min(self.starts.items(), key=lambda one: one[1][0])
        return not run.is_left_by(agent, step, self.start, question)

    @property
    def files(self) -> set[str]:
        """The log files that it stands in."""
        return {file for _, file in self.segments}

    def is_told_by(self, other: "_Cluster") -> bool:
        """Whether two logs that share a call tell of one session.

        Two machines that were asked the same begin alike and then differ: recorded calls must agree in all steps that
        both logs hold. Rebuilt ones lose a line now and then: most of their steps must agree.
        """
        if self.files & other.files:
            return False
        shared = self.calls & other.calls
        if any(len(call) == 2 for call in shared):  # a receipt
            return True
        agreed = {call[:2] for call in shared}
        common = {
            (agent, step)
            for agent in self.steps.keys() & other.steps.keys()
            for step in self.steps[agent] & other.steps[agent]
        } - self._unheard(other)
        return agreed == common or (self.rebuilt and other.rebuilt and 2 * len(agreed) > len(common))

    def goes_with(self, other: "_Cluster") -> bool:
        """Whether both may be of one session: no call contradicts, and one continues the other or is near in time.

        Two machines that use the same id both begin at the first step, with other answers. At the seam of a rotated log
        one step may stand twice: as it was tried last, and as it was tried again.
        """
        if self.files & other.files:
            return False
        first_steps = {id(one): min(map(min, one.steps.values())) for one in (self, other)}
        early, late = sorted((self, other), key=lambda one: (one.start, first_steps[id(one)], min(one.segments)))
        if early.end <= late.start and not early.logs.isdisjoint(late.logs):
            return late.continues(early)
        common = early.steps.keys() & late.steps.keys()
        unheard = self._unheard(other)
        for agent in common:
            before, after = early.steps[agent], late.steps[agent]
            seam = {max(before)} if max(before) == min(after) > min(before) else set[int]()
            same = {step for step in before & after if (agent, step) not in unheard}
            if same - seam or ("" < early.start < late.start and max(after) < min(before)):
                return False
        if common:
            return True
        if not early.end or not late.start:
            return True
        return datetime.fromisoformat(late.start) - datetime.fromisoformat(early.end) <= SESSION_GAP

    def _unheard(self, other: "_Cluster") -> set[tuple[str, int]]:
        """Steps of which one log may have lost the answer's text, so that the other's contradicts nothing.

        Windows drops the lines of `grokputer.log` that its code page cannot write.
        """
        return (self.silent & other.written) | (other.silent & self.written)


def judge(folder: Path, records: Mapping[str, FileRecord]) -> Judgement:
    """Write `sessions.parquet` and `copies.parquet` beside the turns of a folder; returns the counts."""
    rows = _columns(folder)
    names = _session_names(rows, records)
    rows["session"] = [names[segment] for segment in zip(rows["session_id"], rows["source_file"], strict=True)]
    results = _results(rows)
    keys: list[list[str]] = [
        ["session", "turn_id"],
        ["session", "agent", "step", "answer_id"],
        ["source_sha256", "session_id", "line", "step", "answer_id"],
    ]
    repeated = np.logical_or.reduce([rows.duplicated(key, keep=False) for key in keys])
    # forks copy calls of another session, receipt and all
    receipts = rows["call"].ne("") & rows.duplicated(["call", "prompt_id", "answer_id"], keep=False)
    repeated |= receipts.to_numpy()
    lossy = rows["source_format"].isin(("grokputer_log", "session_v1"))
    repeated |= (lossy & rows.duplicated(["session", "agent", "step"], keep=False)).to_numpy()
    begins = rows["session_id"].str.fullmatch(_BY_CONTENT) & rows.duplicated(_BEGINNING, keep=False)
    repeated |= begins.to_numpy(dtype=bool)
    copies, dropped = _copies(_dictionaries(rows[repeated]))
    verdicts, problems, unheard = _verdicts(rows, names, records)
    table = _sessions_table(names, verdicts)
    pq.write_table(table, folder / SESSIONS_FILE, compression="zstd")
    pq.write_table(copies, folder / COPIES_FILE, compression="zstd")
    pq.write_table(results, folder / RESULTS_FILE, compression="zstd")
    kept = rows.drop(index=dropped)
    # of a call without a name or a prompt no rule can say whose it is
    unowned = kept["agent"].isna() & (kept["recorded_agent"].notna() | kept["completeness"].ne("lost"))
    listed = copies.to_pylist()
    statuses = {session: verdict.status for session, verdict in verdicts.items() if verdict.status}
    return Judgement(
        version=content_version(table.to_pylist(), listed, results.to_pylist()),
        turns=len(kept),
        copies=len(dropped),
        sessions=kept["session"].nunique(),
        by_agent=_counts(kept["agent"].fillna("")),
        by_recorded_agent=_counts(kept["recorded_agent"][unowned].fillna("")),
        by_status=_counts(kept["session"].map(statuses).fillna(kept["status"])),
        by_format=_counts(kept["source_format"]),
        per_day=dict(sorted(_counts(kept["day"]).items())),
        problems=problems,
        unheard=unheard,
    )


def _columns(folder: Path) -> "pd.DataFrame":
    """The columns of all rows that tell calls and sessions apart, and the day of each row."""
    tables = []
    for path in sorted((folder / "turns").glob("*.parquet")):
        table = pq.read_table(path, columns=_COLUMNS)
        tables.append(table.append_column("day", pa.array([path.stem] * table.num_rows, pa.string())))
    empty = pa.schema([*(SCHEMA.field(name) for name in _COLUMNS), ("day", pa.string())]).empty_table()
    rows: pd.DataFrame = pa.concat_tables(tables or [empty]).to_pandas()
    return rows


def _dictionaries(rows: "pd.DataFrame") -> list[TurnValues]:
    """Rows as dictionaries, with None for what is missing, and their place in the table as `index`."""
    plain = rows.astype(object).where(rows.notna(), None)
    records = cast("list[TurnValues]", plain.to_dict("records"))
    return [{**record, "index": index} for index, record in zip(rows.index, records, strict=True)]


def _counts(values: "pd.Series[Any]") -> dict[str, int]:
    counts = [(str(value), count) for value, count in values.value_counts().items()]
    return dict(sorted(counts, key=lambda item: (-item[1], item[0])))


def _session_names(rows: "pd.DataFrame", records: Mapping[str, FileRecord]) -> dict[Segment, str]:
    """What each session is called, by its recorded id and the file."""
    pairs = rows[["session_id", "source_file"]].drop_duplicates()
    segments: list[Segment] = list(zip(pairs["session_id"], pairs["source_file"], strict=True))
    files: dict[str, set[str]] = defaultdict(set)
    for recorded, file in segments:
        files[base_session(recorded)].add(file)
    names: dict[Segment, str] = {segment: segment[0] for segment in segments}
    shared = {recorded for recorded, _ in segments if len(files[base_session(recorded)]) > 1}
    several: dict[str, dict[Segment, _Cluster]] = defaultdict(dict)
    firsts: dict[Segment, str] = {}
    for row in _dictionaries(rows[rows["session_id"].isin(shared)]):
        segment = (row["session_id"], row["source_file"])
        if segment not in several[base_session(segment[0])]:
            record = records[segment[1]]
            stated, preceding = len(record.stated.get(segment[0], ())), record.preceding.get(segment[0], 0)
            ended = stated > preceding or segment[0] in record.inferred
            is_new = preceding > 0 or segment[0] != base_session(segment[0])
            several[base_session(segment[0])][segment] = _Cluster(
                logs={log_name(segment[1])}, is_new=is_new, ended=ended
            )
        several[base_session(segment[0])][segment].add(segment, row)
        firsts.setdefault(segment, row["turn_id"])
    for clusters in several.values():
        used: set[str] = set()
        for cluster in sorted(_clusters(clusters), key=lambda one: (one.start, min(one.segments))):
            # the name of its first part, which it keeps while it goes on in other files
            label = min(cluster.segments, key=lambda one: (clusters[one].start, one))[0]
            # Another machine's session with the same id is told apart by when it began: a hash of its texts would be
            # another one after each change of the redaction, and the split would not know the session again.
            marks = [hashlib.sha256(cluster.start.encode()).hexdigest()] if cluster.start else []
            marks.append(min(firsts[segment] for segment in cluster.segments))
            named = [label, *(f"{label}~{mark[:8]}" for mark in marks)]
            label = next((one for one in named if one not in used), named[-1])
            used.add(label)
            names.update(dict.fromkeys(cluster.segments, label))
    return names


def _clusters(segments: Mapping[Segment, _Cluster]) -> list[_Cluster]:
    """The logs of one recorded id, put together by session: first those that share a call, then those that fit."""
    clusters: list[_Cluster] = []
    known: dict[tuple[Any, ...], list[_Cluster]] = defaultdict(list)  # by call
    for _, segment in sorted(segments.items(), key=lambda item: (item[1].start, item[0])):
        sharing = {id(one): one for call in sorted(segment.calls, key=str) for one in known.get(call, ())}
        home = next((one for one in sharing.values() if one.is_told_by(segment)), None)
        for call in segment.calls:
            known[call].append(home or segment)
        if home:
            home.merge(segment)
        else:
            clusters.append(segment)
    merged: list[_Cluster] = []
    for cluster in clusters:
        recent = merged[-MOST_CANDIDATES:]
        latest = {log: one for one in recent for log in one.logs}  # a run that another one followed does not go on
        recent = [one for one in recent if all(latest[log] is one for log in one.logs & cluster.logs)]
        fitting = [one for one in recent if one.goes_with(cluster)]
        if fitting:
            max(fitting, key=lambda one: (_nearness(one.files, cluster.files), one.start)).merge(cluster)
        else:
            merged.append(cluster)
    return merged


def _results(rows: "pd.DataFrame") -> pa.Table:
    """How calls went whose results stand in a later prompt alone; `rows` are told it, too.

    Logs of single calls never hold the results of a call beside it, and a log that is cut loses some. The latest call
    of the agent with this content is the one that a prompt goes on from.
    """
    asked, shown = (rows[rows[name].ne("")] for name in ("calls_id", "shown_id"))
    wanted = set(asked["calls_id"][~asked["result_known"]]) & set(shown["shown_id"])
    related = rows[rows["calls_id"].isin(wanted) | rows["shown_id"].isin(wanted)]
    latest: dict[tuple[Any, ...], TurnValues] = {}
    heard: dict[int, bool] = {}  # by the call's index
    for row in sorted(_dictionaries(related), key=lambda one: (one["started_at"], one["step"], one["line"])):
        agent = row["recorded_agent"] or row["agent"]
        before = latest.get((row["session"], agent, row["shown_id"]))
        if before is not None and not before["result_known"]:
            heard[before["index"]] = heard.get(before["index"], False) or row["shown_failed"]
        latest[row["session"], agent, row["calls_id"]] = row
    told = rows.index.isin(list(heard))
    rows["result_known"] |= told
    rows["step_failed"] |= rows.index.isin([index for index, failed in heard.items() if failed])
    own = rows[told].sort_values(RESULTS.names)
    return pa.Table.from_pandas(own, schema=RESULTS, preserve_index=False)


def _nearness(files: Iterable[str], others: Iterable[str]) -> int:
    """How many folders two sets of files have in common, at best."""
    folders = {str(PurePosixPath(file).parent) for file in others}
    return max(
        (
            len(PurePosixPath(commonpath((str(PurePosixPath(file).parent), folder)) or ".").parts)
            for file in files
            for folder in folders
        ),
        default=0,
    )


def _copies(rows: Sequence[TurnValues]) -> tuple[pa.Table, list[int]]:
    """The rows that repeat a call of another row, as the table of copies and by their place among all rows.

    A file under two names, and a call in two logs of one session.
    """
    groups: dict[tuple[Any, ...], list[TurnValues]] = defaultdict(list)
    for row in rows:
        groups["same", row["session"], row["turn_id"]].append(row)
        if row["call"]:  # forks and sub-agents' logs copy calls of another session, receipt and all
            groups["receipt", row["call"], row["prompt_id"], row["answer_id"]].append(row)
        if _BY_CONTENT.fullmatch(row["session_id"]):  # two files of one conversation that went on in two ways
            groups["beginning", *(row[name] for name in _BEGINNING)].append(row)
        groups["call", row["session"], row["agent"], row["step"], row["answer_id"]].append(row)
        if row["source_format"] in ("grokputer_log", "session_v1"):
            groups["heard", row["session"], row["agent"], row["step"]].append(row)
        groups["file", row["source_sha256"], row["session_id"], row["line"], row["step"], row["answer_id"]].append(row)
    kept: dict[int, TurnValues] = {}  # by the copy's index
    for key, members in groups.items():
        if len(members) == 1:
            continue
        originals: list[TurnValues] = []
        for row in sorted(members, key=_rank):
            original = next((one for one in originals if _is_copy(row, one, key[0])), None)
            if original is None:
                originals.append(row)
            elif row["index"] not in kept:
                kept[row["index"]] = original
    columns: list[tuple[Any, ...]] = []
    for row in rows:
        if row["index"] in kept:
            original = kept[row["index"]]
            while original["index"] in kept:  # ranks are total, so this ends at a row that is no copy
                original = kept[original["index"]]
            columns.append(
                (
                    row["turn_id"],
                    row["source_file"],
                    row["line"],
                    row["step_failed"],
                    original["turn_id"],
                    original["source_file"],
                    original["line"],
                )
            )
    columns.sort()
    values: Sequence[Sequence[Any]] = list(zip(*columns, strict=True)) or [()] * len(COPIES)
    arrays = [pa.array(value, kind.type) for value, kind in zip(values, COPIES, strict=True)]
    return pa.Table.from_arrays(arrays, schema=COPIES), sorted(kept)


def _rank(row: TurnValues) -> tuple[Any, ...]:
    """The best row of a call first.

    Grokputer's global log may have lost the text, but has the arguments that `session.json` only infers.
    """
    whole, inferred = row["completeness"] == "whole", row["source_format"] == "session_v1"
    silent = row["answer_id"].startswith(NO_TEXT)
    return not whole, silent, inferred, not row["result_known"], row["source_file"], row["line"], row["turn_id"]


def _is_copy(row: TurnValues, other: TurnValues, shared: str) -> bool:
    """Whether two rows that share something are one call; within a file a call is repeated word for word.

    `shared` is "heard" for Grokputer's two logs of one step, "call" for one agent, step and answer, and else what no
    two calls have in common.
    """
    if shared == "heard":
        return row["source_format"] != other["source_format"] and bool(row["answer_id"].startswith(NO_TEXT))
    if shared != "call":
        return True
    if row["source_file"] == other["source_file"]:
        return bool(row["turn_id"] == other["turn_id"])
    if "reconstructed" in (row["completeness"], other["completeness"]):
        return True
    return bool(row["prompt_id"] == other["prompt_id"])


def _verdicts(
    rows: "pd.DataFrame", names: Mapping[Segment, str], records: Mapping[str, FileRecord]
) -> tuple[dict[str, _Verdict], list[tuple[str, Problem]], int]:
    """The verdict of each session: the last that was stated, else the worst that a log's own end says.

    Also what is wrong with verdicts, and how many are of no session that stands in a log.
    """
    homes = _Homes(rows, names, records)
    stated: dict[str, list[tuple[str, str, list[Any]]]] = defaultdict(list)
    inferred: dict[str, set[str]] = defaultdict(set)
    problems: list[tuple[str, Problem]] = []
    unheard = 0
    for record in records.values():
        for session in {*record.stated, *record.inferred}:
            near = homes.near(session, record.name)
            is_ambiguous = len(near) > 1 and session in record.inferred
            for number, statement in enumerate(record.stated.get(session, ())):
                is_first = number < record.preceding.get(session, 0)
                possible = homes.of(statement, session, record.name, is_first=is_first)
                is_ambiguous = is_ambiguous or len(possible) > 1
                said = statement[:5] if len(possible) == 1 else _objection(statement)
                for home in possible:
                    stated[home].append((cast("str", statement[5]) or "", record.name, said))
            for home in near if session in record.inferred else ():
                if len(near) == 1 or record.inferred[session] == "failure":
                    inferred[home].add(record.inferred[session])
            if is_ambiguous:
                problems.append((record.name, Problem("ambiguous_verdict", 0, _AMBIGUOUS)))
            unheard += not near
    blamed = {statement[4] for statements in stated.values() for _, _, statement in statements if statement[4]}
    known_calls = rows[rows["call"].isin(blamed)]
    receipts = set(zip(known_calls["session"], known_calls["call"], strict=True))
    verdicts = {}
    for label in {*stated, *inferred}:
        ends = inferred[label]
        verdict = _Verdict(next((status for status in _WORST if status in ends and status != "unknown"), None))
        for _, _, (status, rating, agent, step, call) in sorted(stated[label], key=lambda one: one[:2]):
            verdict.status = status or verdict.status
            verdict.rating = verdict.rating if rating is None else rating
            if agent is not None or step is not None or call:
                # a receipt names one call; without it agent and step do, as far as they can
                known = call if (label, call) in receipts else None
                verdict.agent, verdict.step, verdict.call = agent, step, known
        verdicts[label] = verdict
    return verdicts, problems, unheard


def _objection(statement: Sequence[Any]) -> list[Any]:
    """What a statement says against a session: its failure, low rating and blame."""
    status, rating, *blame = statement[:5]
    is_low = rating is not None and rating < GOOD_RATING
    return [status if status == "failure" else None, rating if is_low else None, *blame]


class _Homes:
    """Which of the sessions that have one id a file speaks of."""

    def __init__(self, rows: "pd.DataFrame", names: Mapping[Segment, str], records: Mapping[str, FileRecord]) -> None:
        self._rows, self._names = rows, names
        self._traces = {trace: session for record in records.values() for trace, session in record.traces.items()}
        self._labels: dict[str, dict[str, set[Segment]]] = defaultdict(lambda: defaultdict(set))
        self._logs: dict[str, set[str]] = defaultdict(set)
        for segment, label in names.items():
            self._labels[base_session(segment[0])][label].add(segment)
            self._logs[label].add(log_name(segment[1]))
        self._begun = cast("dict[str, str]", rows.groupby("session")["started_at"].min().to_dict())
        firsts = rows.groupby(["session_id", "source_file"])["started_at"].min().to_dict()
        self._firsts = cast("dict[Segment, str]", firsts)

    def _recorded(self, session: str) -> str:
        """What the rows call a session: an id as it is, or the session of a trace."""
        return session if base_session(session) in self._labels else self._traces.get(session, session)

    def near(self, session: str, file: str) -> list[str]:
        """The sessions that a file may speak of: its own, else those whose logs lie nearest.

        Of several runs of one log, the one with exactly this recorded id, if the id says which run it means.
        """
        recorded = self._recorded(session)
        if own := self._names.get((recorded, file)):
            return [own]
        labels = self._labels[base_session(recorded)]
        if len(labels) < 2:
            return list(labels)
        names_run = recorded != base_session(recorded)
        closeness = {
            label: (_nearness((name for _, name in segments), [file]), names_run and (recorded in dict(segments)))
            for label, segments in labels.items()
        }
        return [label for label, close in closeness.items() if close == max(closeness.values())]

    def of(self, statement: Sequence[Any], session: str, file: str, *, is_first: bool) -> list[str]:
        """The sessions that a statement of a file can be of.

        One that stands before the file's calls of the session (`is_first`) is of the run that the parts of the log
        before this one hold. One in a file without these calls is of the session that alone holds the call which it
        names, or alone had begun when it was made; of the runs of one log, of the latest that had.
        """
        near, log = self.near(session, file), log_name(file)
        recorded = self._recorded(session)
        if own := self._names.get((recorded, file)):
            runs = [one for one in self._labels[base_session(recorded)] if log in self._logs[one]]
            earlier = [one for one in runs if is_first and self._begun[one] < self._firsts[recorded, file]]
            return [max(earlier, key=self._begun.__getitem__, default=own)]
        if len(near) < 2:
            return near
        _, _, agent, step, call, at = statement
        named = rows = self._rows[self._rows["session"].isin(near)]
        if call:
            named = rows[rows["call"].eq(call)]
        elif agent is not None or step is not None:
            of_agent = rows["agent"].eq(agent) | rows["recorded_agent"].eq(agent) | (agent is None)
            named = rows[of_agent & (rows["step"].eq(step) | (step is None))]
        begun = (named if len(named) else rows).groupby("session")["started_at"].min().sort_values()
        before = begun[begun.le(at)] if at else begun
        possible = list(map(str, before.index if len(before) else begun.index))
        latest = {one: label for label in possible for one in self._logs[label]}
        if log in latest:
            return [latest[log]]
        return sorted({*latest.values()} if at else possible)


def _sessions_table(names: Mapping[Segment, str], verdicts: Mapping[str, _Verdict]) -> pa.Table:
    """A row a session and recorded id; `files` only where another session has the same recorded id."""
    labels: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (recorded, file), label in names.items():
        labels[recorded][label].append(file)
    rows = []
    for recorded in sorted(labels):
        for label, files in sorted(labels[recorded].items()):
            verdict = verdicts.get(label) or _Verdict()
            own = sorted(files) if len(labels[recorded]) > 1 else None
            said = (verdict.status, verdict.rating, verdict.agent, verdict.step, verdict.call)
            rows.append(dict(zip(SESSIONS.names, (label, recorded, own, *said), strict=True)))
    return pa.Table.from_pylist(rows, schema=SESSIONS)


def _places(copy: TurnValues) -> tuple[tuple[str, str, int], tuple[str, str, int]]:
    """Where a copy's row is, and where the row is that stays for it: turn, file and line each."""
    return (
        (copy["turn_id"], copy["source_file"], copy["line"]),
        (copy["kept_turn_id"], copy["kept_file"], copy["kept_line"]),
    )


class _Join:
    """The session tables of one folder, to look up a row's session and its copies."""

    def __init__(self, folder: Path) -> None:
        self._sessions: dict[str, list[TurnValues]] = defaultdict(list)
        self._dropped: set[tuple[str, str, int]] = set()
        self._repeated: set[tuple[str, str, int]] = set()  # a call twice in one line, of which the first row stays
        self._copies: dict[tuple[str, str, int], list[TurnValues]] = defaultdict(list)
        self._results: dict[tuple[str, str, int], bool] = {}  # whether the call failed, as a later prompt shows
        if (folder / RESULTS_FILE).is_file():
            listed = pq.read_table(folder / RESULTS_FILE).to_pylist()
            self._results = {(one["turn_id"], one["source_file"], one["line"]): one["step_failed"] for one in listed}
        self.known = (folder / SESSIONS_FILE).is_file()  # an older store has its verdicts in the rows
        if self.known:
            for session in pq.read_table(folder / SESSIONS_FILE).to_pylist():
                self._sessions[session["recorded_id"]].append(session)
            for copy in pq.read_table(folder / COPIES_FILE).to_pylist():
                position, kept = _places(copy)
                (self._repeated if position == kept else self._dropped).add(position)
                self._copies[kept].append(copy)

    def judged(self, row: TurnValues) -> TurnValues | None:
        """The row with its session's verdict; None for a copy of another row."""
        key = (row["turn_id"], row["source_file"], row["line"])
        if key in self._dropped:
            return None
        if key in self._repeated:
            self._repeated.remove(key)
            self._dropped.add(key)
        copies = self._copies.get(key, ())
        row["copies"] = sorted({copy["source_file"] for copy in copies} - {row["source_file"]})
        if key in self._results:
            row["result_known"], row["step_failed"] = True, self._results[key]
        row["step_failed"] = row["step_failed"] or any(copy["step_failed"] for copy in copies)
        sessions = self._sessions.get(row["session_id"], ())
        session = next((one for one in sessions if one["files"] is None or row["source_file"] in one["files"]), None)
        if session is not None:
            if session["files"] is not None and session["session_id"] != row["session_id"]:
                # another machine's session with this id: the same call there is another turn
                row["turn_id"] = hashlib.sha256(f"{session['session_id']}\n{row['turn_id']}".encode()).hexdigest()
            row["session_id"] = session["session_id"]
            row["status"] = session["status"] or row["status"]
            row["rating"] = row["rating"] if session["rating"] is None else session["rating"]
            row["blamed"] = row["blamed"] or _is_blamed(row, session)
        return row


def _is_blamed(row: TurnValues, session: TurnValues) -> bool:
    if session["blamed_call"]:
        return bool(row["call"] == session["blamed_call"])
    agent, step = session["blamed_agent"], session["blamed_step"]
    if agent is None and step is None:
        return False
    of_agent = agent is None or agent in (row["agent"], row["recorded_agent"])
    return of_agent and (step is None or bool(row["step"] == step))


def read_turns(folder: Path, columns: Sequence[str] | None = None) -> Iterator[TurnRow]:
    """The turns of a published `session_logs` folder, day by day, each once and with its session's verdict.

    `status`, `rating` and `blamed` are the session's, whichever file stated them, and `session_id` tells apart sessions
    of different machines that have one id. `copies` names the other files that the call stands in. A row holds only
    `columns` if they are given; JSON columns stay text. Older stores are read, too.
    """
    join = _Join(folder)
    wanted = list(columns or [*SCHEMA.names, "copies"])
    needed = [name for name in SCHEMA.names if name in {*wanted, *_JOINED}]
    for row in read_rows(folder, needed):
        judged = join.judged(row) if join.known else row
        if judged is not None:
            judged.setdefault("copies", [])
            yield cast("TurnRow", judged if columns is None else {name: judged[name] for name in wanted})


_JOINED = {"turn_id", "session_id", "source_file", "line", "agent", "recorded_agent", "step", "call", "step_failed"}
_JOINED |= {"status", "rating", "blamed"}
