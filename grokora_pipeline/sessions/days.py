"""One day's Parquet file: rows read anew, and rows of the day's earlier file, in the order of their log files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from grokora_pipeline.sessions.table import ROW_GROUP, SCHEMA, write_parquet
from grokora_pipeline.store import file_sha256


class FileRows(NamedTuple):
    """A log file's rows of one day: `rows` from `start` on, in an Arrow file, or ("") in the day's earlier Parquet."""

    file: str
    part: str
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class DayJob:
    """What it takes to write a day."""

    day: str
    runs: Sequence[FileRows]
    old: Path | None
    target: Path


def build_day(job: DayJob) -> tuple[str, str]:
    """Write the day's rows sorted by file, as each file gave them; returns the day and the SHA-256 of its file."""
    write_parquet(job.target, _tables(job))
    return job.day, file_sha256(job.target)


def _tables(job: DayJob) -> Iterator[pa.Table]:
    part, table = "", SCHEMA.empty_table()
    old = pq.ParquetFile(job.old) if job.old else None
    number, group = -1, SCHEMA.empty_table()
    for run in job.runs:
        if run.part:
            if run.part != part:  # a part's files stand side by side, so that one part is open at a time
                # mapped, not read: the rows stay on the disk until they are written
                part, table = run.part, pa.ipc.open_file(pa.memory_map(run.part)).read_all()
            yield table.slice(run.start, run.rows)
            continue
        start, rows = run.start, run.rows
        while rows and old is not None:
            wanted, first = divmod(start, ROW_GROUP)
            if wanted != number:
                number, group = wanted, old.read_row_group(wanted)
            piece = group.slice(first, rows)
            yield piece
            start += piece.num_rows
            rows -= piece.num_rows
