"""How sessions went, whatever file says so, and the turns with it.

The verdict belongs to the session, so it lies in a table beside the turns (`sessions.parquet`) and is joined when turns
are read: a rating that comes later rewrites no day. `copies.parquet` names the rows that are a call of another row once
more, which `read_turns` leaves out, and `results.parquet` the calls whose results a later prompt shows.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from grokora_pipeline.sessions.extract import FileRecord
from grokora_pipeline.sessions.identity import (
    Segment,
    TurnValues,
    find_copies,
    find_results,
    nearness,
    session_names,
)
from grokora_pipeline.sessions.readers.source import log_name
from grokora_pipeline.sessions.table import SCHEMA, base_session, read_rows
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
GOOD_RATING = 4  # a lower one is said against a session
_AMBIGUOUS = (
    "several sessions have this id; what is said against one counts for all of them and nothing else does: name a call "
    "(blame.call) or a time (at), or put the file beside the log"
)
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
_WORST: tuple[Status, ...] = ("failure", "success", "unknown")


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


def judge(folder: Path, records: Mapping[str, FileRecord]) -> Judgement:
    """Write the session tables beside the turns of a folder; returns the counts."""
    rows = _columns(folder)
    names = session_names(rows, records)
    rows["session"] = [names[segment] for segment in zip(rows["session_id"], rows["source_file"], strict=True)]
    results = find_results(rows)
    copies, dropped = find_copies(rows)
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


def _counts(values: "pd.Series[Any]") -> dict[str, int]:
    counts = [(str(value), count) for value, count in values.value_counts().items()]
    return dict(sorted(counts, key=lambda item: (-item[1], item[0])))


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
            label: (nearness((name for _, name in segments), [file]), names_run and (recorded in dict(segments)))
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
                position = (copy["turn_id"], copy["source_file"], copy["line"])
                kept = (copy["kept_turn_id"], copy["kept_file"], copy["kept_line"])
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
