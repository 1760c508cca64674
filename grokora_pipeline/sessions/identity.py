"""Which logs tell of one session, which rows are one call, and whose results a later prompt shows.

A session is not a file: its calls lie in parts of a log, in the logs of several agents, and twice if two programs or
copies hold them; and two machines may call two sessions alike.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from os.path import commonpath
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from grokora_pipeline.sessions.extract import FileRecord
from grokora_pipeline.sessions.readers.chats import RESTART_GAP
from grokora_pipeline.sessions.readers.recordings import Run
from grokora_pipeline.sessions.readers.source import log_name
from grokora_pipeline.sessions.table import NO_TEXT, base_session

if TYPE_CHECKING:  # pandas, which only an ingest uses, would slow down the loading of definitions
    import pandas as pd

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
SESSION_GAP = timedelta(days=1)  # two logs of one id that lie further apart and do not continue each other are two
# Platforms' logs name a session by an id of their own and do not number its calls: their readers do, file by file.
_UNNUMBERED = ("otel", "langfuse", "litellm", "mlflow", "langsmith")
# A session that no log names is called by what it begins with, so equal calls of two such files are one.
_BY_CONTENT = re.compile(r"[a-z-]+-[0-9a-f]{16}")
_BEGINNING = ["session_id", "agent", "step", "prompt_id", "answer_id"]
_HEARD = ["session", "agent", "recorded_agent", "started_at", "step", "line", "calls_id", "shown_id", "shown_failed"]
_HEARD += ["result_known"]
TurnValues = dict[str, Any]
Segment = tuple[str, str]  # recorded session id, file


@dataclass(slots=True)
class Cluster:
    """Logs that tell of one session."""

    segments: set[Segment] = field(default_factory=set)
    logs: set[str] = field(default_factory=set)  # what its files are parts of
    steps: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # by agent
    calls: set[tuple[Any, ...]] = field(default_factory=set)  # what tells a call from another
    silent: set[tuple[str, int]] = field(default_factory=set)  # of `grokputer.log`, without an answer's text
    written: set[tuple[str, int]] = field(default_factory=set)  # of `session.json`, which loses none
    unnumbered: bool = False  # a step of one file says nothing about the same step of another
    rebuilt: bool = False  # prompts were reconstructed from the log
    starts: dict[str, tuple[int, str]] = field(default_factory=dict)  # by agent: its first step, what it was asked
    is_new: bool = False  # its first file says that another one ended before it: by an outcome, or by another run
    ended: bool = False  # its last file states an outcome after its calls
    first_turn: str = ""
    start: str = ""
    end: str = ""

    def add(self, row: TurnValues) -> None:
        """Take in a row."""
        agent = row["recorded_agent"] or row["agent"] or ""
        self.first_turn = self.first_turn or row["turn_id"]
        self.steps[agent].add(row["step"])
        if agent not in self.starts or row["step"] < self.starts[agent][0]:
            self.starts[agent] = row["step"], row["prompt_id"]
        self.unnumbered = row["source_format"] in _UNNUMBERED
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

    def merge(self, other: "Cluster") -> None:
        """Take in the rows of another cluster."""
        self.segments |= other.segments
        self.first_turn = min(self.first_turn, other.first_turn)
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

    def continues(self, before: "Cluster") -> bool:
        """Whether it goes on with the session of an earlier part of its log, as two parts of one file would."""
        steps = sorted(step for steps in before.steps.values() for step in steps)
        asked = {agent: question for agent, (step, question) in before.starts.items() if step == steps[0]}
        run = Run(first=steps[0], last=steps[-1], ended=before.ended or self.is_new, latest=before.end, starts=asked)
        agent, (step, question) = min(self.starts.items(), key=lambda one: one[1][0])
        return not run.is_left_by(agent, step, self.start, question)

    def tries_again(self, before: "Cluster") -> bool:
        """Whether it asks again, soon after and in the same folder, what a session that has not ended began with."""
        folders, others = ({str(PurePosixPath(file).parent) for file in one.files} for one in (self, before))
        pause = datetime.fromisoformat(self.start) - datetime.fromisoformat(before.end)
        asked = self.starts.keys() & before.starts.keys()
        is_same = bool(asked) and all(self.starts[agent] == before.starts[agent] for agent in asked)
        return is_same and pause <= RESTART_GAP and not (before.ended or self.is_new or folders.isdisjoint(others))

    @property
    def files(self) -> set[str]:
        """The log files that it stands in."""
        return {file for _, file in self.segments}

    def is_told_by(self, other: "Cluster") -> bool:
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

    def goes_with(self, other: "Cluster") -> bool:
        """Whether both may be of one session: no call contradicts, and one continues the other or is near in time.

        Two machines that use the same id both begin at the first step, with other answers. At the seam of a rotated log
        one step may stand twice: as it was tried last, and as it was tried again. A session that a program begins anew
        in another file of one folder is a try of the same one, as it would be in one file.
        """
        if self.files & other.files:
            return False
        first_steps = {id(one): min(map(min, one.steps.values())) for one in (self, other)}
        early, late = sorted((self, other), key=lambda one: (one.start, first_steps[id(one)], min(one.segments)))
        is_dated = bool(early.end and late.start)
        is_near = not is_dated or datetime.fromisoformat(late.start) - datetime.fromisoformat(early.end) <= SESSION_GAP
        if early.unnumbered and late.unnumbered:
            return is_near
        is_one_log = not early.logs.isdisjoint(late.logs)
        if is_one_log and early.end <= late.start:
            return late.continues(early)
        if is_dated and early.end < late.start and late.tries_again(early):
            return True
        common = early.steps.keys() & late.steps.keys()
        unheard = self._unheard(other)
        for agent in common:
            before, after = early.steps[agent], late.steps[agent]
            seam = {max(before)} if max(before) == min(after) > min(before) else set[int]()
            same = {step for step in before & after if (agent, step) not in unheard}
            falls_back = "" < early.start < late.start and max(after) < min(before)
            if same - seam or (falls_back and not is_one_log):  # in one log it is the clock that was set back
                return False
        return bool(common) or is_near

    def _unheard(self, other: "Cluster") -> set[tuple[str, int]]:
        """Steps of which one log may have lost the answer's text, so that the other's contradicts nothing.

        Windows drops the lines of `grokputer.log` that its code page cannot write.
        """
        return (self.silent & other.written) | (other.silent & self.written)


def session_names(rows: "pd.DataFrame", records: Mapping[str, FileRecord]) -> dict[Segment, str]:
    """What each session is called, by its recorded id and the file."""
    pairs = rows[["session_id", "source_file"]].drop_duplicates()
    segments: list[Segment] = list(zip(pairs["session_id"], pairs["source_file"], strict=True))
    names: dict[Segment, str] = {segment: segment[0] for segment in segments}
    for clusters in _shared(segments, rows, records).values():
        used: set[str] = set()
        for cluster in sorted(_clusters(clusters), key=lambda one: (one.start, min(one.segments))):
            # the name of its first part, which it keeps while it goes on in other files
            label = min(cluster.segments, key=lambda one: (clusters[one].start, one))[0]
            # Another machine's session with the same id is told apart by when it began: a hash of its texts would be
            # another one after each change of the redaction, and the split would not know the session again.
            marks = [hashlib.sha256(cluster.start.encode()).hexdigest()] if cluster.start else []
            named = [label, *(f"{label}~{mark[:8]}" for mark in (*marks, cluster.first_turn))]
            label = next((one for one in named if one not in used), named[-1])
            used.add(label)
            names.update(dict.fromkeys(cluster.segments, label))
    return names


def _shared(
    segments: Iterable[Segment], rows: "pd.DataFrame", records: Mapping[str, FileRecord]
) -> dict[str, dict[Segment, Cluster]]:
    """By recorded id, what each log says of its sessions; only of ids that stand in several logs."""
    files: dict[str, set[str]] = defaultdict(set)
    for recorded, file in segments:
        files[base_session(recorded)].add(file)
    shared: dict[str, dict[Segment, Cluster]] = defaultdict(dict)
    for recorded, file in segments:
        if len(files[base_session(recorded)]) > 1:
            record = records[file]
            stated, preceding = len(record.stated.get(recorded, ())), record.preceding.get(recorded, 0)
            shared[base_session(recorded)][recorded, file] = Cluster(
                {(recorded, file)},
                {log_name(file)},
                is_new=preceding > 0 or recorded != base_session(recorded),
                ended=stated > preceding or recorded in record.inferred,
            )
    wanted = {recorded for clusters in shared.values() for recorded, _ in clusters}
    for row in _dictionaries(rows[rows["session_id"].isin(wanted)]):
        shared[base_session(row["session_id"])][row["session_id"], row["source_file"]].add(row)
    return shared


def _clusters(segments: Mapping[Segment, Cluster]) -> list[Cluster]:
    """The logs of one recorded id, put together by session: first those that share a call, then those that fit."""
    clusters: list[Cluster] = []
    known: dict[tuple[Any, ...], list[Cluster]] = defaultdict(list)  # by call
    for _, segment in sorted(segments.items(), key=lambda item: (item[1].start, item[0])):
        sharing = {id(one): one for call in sorted(segment.calls, key=str) for one in known.get(call, ())}
        home = next((one for one in sharing.values() if one.is_told_by(segment)), None)
        for call in segment.calls:
            known[call].append(home or segment)
        if home:
            home.merge(segment)
        else:
            clusters.append(segment)
    merged: list[Cluster] = []
    for cluster in clusters:
        recent = merged[-MOST_CANDIDATES:]
        latest = {log: one for one in recent for log in one.logs}  # a run that another one followed does not go on
        recent = [one for one in recent if all(latest[log] is one for log in one.logs & cluster.logs)]
        fitting = [one for one in recent if one.goes_with(cluster)]
        if fitting:
            max(fitting, key=lambda one: (nearness(one.files, cluster.files), one.start)).merge(cluster)
        else:
            merged.append(cluster)
    return merged


def nearness(files: Iterable[str], others: Iterable[str]) -> int:
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


def _have_twins(rows: "pd.DataFrame") -> Any:
    """Whether each row has something in common with another one that two rows of one call have."""
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
    return repeated | begins.to_numpy(dtype=bool)


def find_copies(rows: "pd.DataFrame") -> tuple[pa.Table, list[int]]:
    """The rows that repeat a call of another row, as the table of copies and by their place among all rows.

    A file under two names, and a call in two logs of one session.
    """
    repeated = _dictionaries(rows[_have_twins(rows)])
    groups: dict[tuple[Any, ...], list[TurnValues]] = defaultdict(list)
    for row in repeated:
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
    for row in repeated:
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


def find_results(rows: "pd.DataFrame") -> pa.Table:
    """How calls went whose results stand in a later prompt alone; `rows` are told it, too.

    Logs of single calls never hold the results of a call beside it, and a log that is cut loses some. The latest call
    of the agent with this content is the one that a prompt goes on from.
    """
    asked, shown = (rows[rows[name].ne("")] for name in ("calls_id", "shown_id"))
    wanted = set(asked["calls_id"][~asked["result_known"]]) & set(shown["shown_id"])
    related = rows.loc[rows["calls_id"].isin(wanted) | rows["shown_id"].isin(wanted), _HEARD]
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


def _dictionaries(rows: "pd.DataFrame") -> list[TurnValues]:
    """Rows as dictionaries, with None for what is missing, and their place in the table as `index`."""
    plain = rows.astype(object).where(rows.notna(), None)
    records = cast("list[TurnValues]", plain.to_dict("records"))
    return [{**record, "index": index} for index, record in zip(rows.index, records, strict=True)]
