"""One day's Parquet file, from the rows read anew and the rows of the day's earlier file, with the verdicts applied."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from grokora_pipeline.sessions.table import ROW_GROUP, SCHEMA, row_groups, write_parquet
from grokora_pipeline.store import file_sha256

Day = dict[str, Any]  # "sha256" of the file, "statuses": turns by status


class Run(NamedTuple):
    """A file's rows of one day: read anew, or in the day's earlier Parquet file from row `start` on."""

    file: str
    anew: bool
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class DayJob:
    """What it takes to write a day."""

    day: str
    runs: Sequence[Run]
    old: Path | None
    parts: Path
    verdicts: dict[str, list[Any]]  # session -> status, rating, blamed agent, blamed step
    target: Path


def build_day(job: DayJob) -> tuple[str, Day]:
    """Write the day's rows sorted by file, as each file gave them; returns what the manifest keeps about the day."""
    statuses: Counter[str] = Counter()

    def judged() -> Iterator[pa.Table]:
        for unjudged in row_groups(_tables(job)):
            table = _apply(unjudged, job.verdicts)
            statuses.update({pair["values"]: pair["counts"] for pair in table["status"].value_counts().to_pylist()})
            yield table

    write_parquet(job.target, judged())
    return job.day, {"sha256": file_sha256(job.target), "statuses": dict(sorted(statuses.items()))}


def _tables(job: DayJob) -> Iterator[pa.Table]:
    fresh = [_Fresh(sorted((job.parts / number / job.day).glob("*.arrow"))) for number in ("0", "1")]
    kept = _Kept(job.old) if job.old else None
    for run in job.runs:
        if kept and not run.anew:
            yield from kept.slice(run.start, run.rows)
        else:
            source = next(found for found in fresh if found.next_file() == run.file)
            yield from source.take(run.rows)


class _Fresh:
    """The rows of the parts, in order: parts hold whole files, and files follow each other by name."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._batches = self._read(paths)
        self._table: pa.Table = next(self._batches, SCHEMA.empty_table())

    @staticmethod
    def _read(paths: Sequence[Path]) -> Iterator[pa.Table]:
        for path in paths:
            with pa.memory_map(str(path)) as stream:
                reader = pa.ipc.open_file(stream)
                for number in range(reader.num_record_batches):
                    yield pa.Table.from_batches([reader.get_batch(number)])

    def next_file(self) -> str | None:
        """The file that the next row came from."""
        return self._table["source_file"][0].as_py() if self._table.num_rows else None

    def take(self, rows: int) -> Iterator[pa.Table]:
        """The next rows."""
        while rows:
            piece = self._table.slice(0, rows)
            yield piece
            rows -= piece.num_rows
            self._table = self._table.slice(piece.num_rows)
            if not self._table.num_rows:
                self._table = next(self._batches, SCHEMA.empty_table())


class _Kept:
    """Rows of an earlier Parquet file, read row group by row group, only forward."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        self._number = -1
        self._table = SCHEMA.empty_table()

    def slice(self, start: int, rows: int) -> Iterator[pa.Table]:
        """Rows from `start` on."""
        while rows:
            number, first = divmod(start, ROW_GROUP)
            if number != self._number:
                self._number, self._table = number, self._file.read_row_group(number)
            piece = self._table.slice(first, rows)
            yield piece
            start += piece.num_rows
            rows -= piece.num_rows


def _apply(table: pa.Table, verdicts: dict[str, list[Any]]) -> pa.Table:
    """Status, rating and blame of the sessions that have a verdict of their own."""
    sessions = table["session_id"].to_pylist()
    if not any(session in verdicts for session in sessions):
        return table
    rows = table.select(["agent", "step", "status", "rating", "blamed"]).to_pylist()
    judged = [_judged(row, verdicts.get(session)) for row, session in zip(rows, sessions, strict=True)]
    for place, name in enumerate(("status", "rating", "blamed")):
        index = SCHEMA.get_field_index(name)
        table = table.set_column(
            index, SCHEMA.field(index), pa.array([row[place] for row in judged], SCHEMA.field(index).type)
        )
    return table


def _judged(row: dict[str, Any], verdict: list[Any] | None) -> tuple[str, int | None, bool]:
    if verdict is None:
        return row["status"], row["rating"], row["blamed"]
    status, rating, agent, step = verdict
    by_step = step is not None and row["step"] == step
    by_agent = step is None and agent is not None and row["agent"] == agent
    return status or row["status"], row["rating"] if rating is None else rating, by_step or by_agent
