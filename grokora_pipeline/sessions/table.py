"""Turns as a table: the schema of `session_logs`, redacted rows, and Parquet files with the same bytes each time."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from grokora_pipeline.agents import AgentSpec, recognise
from grokora_pipeline.sessions.redaction.detectors import is_suspicious
from grokora_pipeline.sessions.redaction.redactor import Redactor
from grokora_pipeline.sessions.turns import Turn, TurnRow, turn_id

UNDATED = "undated"
ROW_GROUP = 2048
MAX_SESSIONS = 512  # whose placeholders are remembered at once, within a file
SCHEMA = pa.schema(
    [
        ("turn_id", pa.string()),
        ("session_id", pa.string()),
        ("agent", pa.string()),
        ("step", pa.int64()),
        ("started_at", pa.string()),
        ("source_file", pa.string()),
        ("source_sha256", pa.string()),
        ("source_format", pa.string()),
        ("line", pa.int64()),
        ("task", pa.string()),
        ("prompt", pa.string()),
        ("tools", pa.string()),
        ("completion", pa.string()),
        ("status", pa.string()),
        ("rating", pa.int8()),
        ("blamed", pa.bool_()),
        ("step_failed", pa.bool_()),
        ("completeness", pa.string()),
        ("tools_known", pa.string()),
        ("recorded_agent", pa.string()),
        ("model", pa.string()),
        ("call", pa.string()),
        ("parent_session_id", pa.string()),
        ("result_known", pa.bool_()),
        ("redactions", pa.string()),
    ]
)
_DICTIONARY = [
    "session_id",
    "agent",
    "source_file",
    "source_sha256",
    "source_format",
    "task",
    "tools",
    "status",
    "completeness",
    "tools_known",
    "recorded_agent",
    "model",
    "parent_session_id",
    "redactions",
]
# What a row of a store that was written before a column existed says in it; `completeness` is told by `reconstructed`.
_DEFAULTS: dict[str, Any] = {
    "tools_known": "none",
    "recorded_agent": None,
    "model": "",
    "call": "",
    "parent_session_id": "",
    "result_known": False,
}
Row = tuple[Any, ...]
Made = tuple[str, Row, Counter[str]]  # the day, the row, what was redacted


class RowMaker:
    """Makes rows of one file's turns: redacts, recognises the agent, and gives the id. Sessions are redacted apart."""

    def __init__(self, agents: Sequence[AgentSpec]) -> None:
        self._agents = agents
        self._redactors: dict[str, Redactor] = {}
        self._names: dict[str, str] = {}
        self._tools: dict[bytes, bytes] = {}

    def secrets(self, session_id: str) -> int:
        """How many secrets a session has named so far."""
        redactor = self._redactors.get(session_id)
        return redactor.secrets if redactor else 0

    def row(self, turn: Turn) -> Made:
        """A turn's day, its row and what was redacted by kind.

        Raises orjson.JSONEncodeError or TooDeepError for what is nested too deep.
        """
        agent = recognise(self._agents, turn.prompt, turn.agent)
        prompt, completion, tools, task, counts = self._texts(turn)
        session = self.session(turn.session_id)
        recorded = turn.agent if turn.recorded_agent is None else turn.recorded_agent
        identity = turn_id((session, turn.step, agent), prompt, tools, completion)
        row = (
            identity,
            session,
            agent,
            turn.step,
            turn.started_at,
            turn.source_file,
            turn.source_sha256,
            turn.source_format,
            turn.line,
            task,
            prompt.decode(),
            tools.decode() if turn.tools else None,
            completion.decode(),
            turn.status,
            turn.rating,
            turn.blamed,
            turn.step_failed,
            turn.completeness,
            turn.tools_known,
            None if recorded is None else self.session(recorded),
            self.session(turn.model),
            public_name(turn.call),
            self.session(turn.parent_session_id) if turn.parent_session_id else "",
            turn.result_known,
            orjson.dumps(dict(sorted(counts.items()))).decode() if counts else "{}",
        )
        return turn.started_at[:10] or UNDATED, row, counts

    def session(self, name: str) -> str:
        """A name (of a session, an agent, a model) as stored: without personal data, different names stay different."""
        public = self._names.get(name)
        if public is None:
            public = self._names[name] = public_name(name)
        return public

    def _texts(self, turn: Turn) -> tuple[bytes, bytes, bytes, str, Counter[str]]:
        prompt, completion = orjson.dumps(turn.prompt), orjson.dumps(turn.completion)
        tools = orjson.dumps(turn.tools) if turn.tools else b""
        redactor = self._redactors.get(turn.session_id)
        counts: Counter[str] = Counter()
        texts = b"\n".join((prompt, completion, turn.task.encode("utf-8", "replace")))
        if not is_suspicious(texts) and (redactor is None or not redactor.recognises(texts)):
            return prompt, completion, self._clean_tools(turn, tools), turn.task, counts
        if redactor is None:
            redactor = self._redactors[turn.session_id] = Redactor()
            if len(self._redactors) > MAX_SESSIONS:
                del self._redactors[next(iter(self._redactors))]
        value: Any = [turn.prompt, turn.completion, turn.task]
        (new_prompt, new_completion, task), counts = redactor.redact(value)
        if counts:
            prompt, completion = orjson.dumps(new_prompt), orjson.dumps(new_completion)
        return prompt, completion, self._clean_tools(turn, tools), task, counts

    def _clean_tools(self, turn: Turn, tools: bytes) -> bytes:
        """Tool schemas repeat in every call: each is redacted once."""
        if not tools:
            return b""
        clean = self._tools.get(tools)
        if clean is None:
            clean = orjson.dumps(Redactor().redact(turn.tools)[0]) if is_suspicious(tools) else tools
            if len(self._tools) < 256:
                self._tools[tools] = clean
        return clean


def public_name(name: str) -> str:
    """A session id or a path as it may be stored: personal data replaced, told apart by a part of its hash."""
    plain = name.encode("utf-8", "backslashreplace").decode()
    clean, counts = Redactor().redact(plain) if is_suspicious(plain.encode()) else (plain, None)
    return f"{clean}~{hashlib.sha256(plain.encode()).hexdigest()[:8]}" if counts else plain


def to_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table with the schema."""
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(SCHEMA)
    return pa.Table.from_arrays(
        [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def write_parquet(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables one after the other as one file; its bytes depend on the rows alone, not on how they were cut."""
    written = 0
    with pq.ParquetWriter(
        path, SCHEMA, compression="zstd", compression_level=1, use_dictionary=_DICTIONARY, write_statistics=False
    ) as writer:
        for table in row_groups(tables):
            writer.write_table(table, row_group_size=ROW_GROUP)
            written += table.num_rows
    return written


def row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of exactly ROW_GROUP rows, and a rest."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        while rows >= ROW_GROUP:
            whole = pa.concat_tables(held)
            yield whole.slice(0, ROW_GROUP).combine_chunks()
            rest = whole.slice(ROW_GROUP)
            held, rows = [rest], rest.num_rows
    if rows:
        yield pa.concat_tables(held).combine_chunks()


def read_turns(
    folder: Path, columns: Sequence[str] | None = None, days: Sequence[str] | None = None
) -> Iterator[TurnRow]:
    """The turns of a published `session_logs` folder, day by day; JSON columns stay text.

    A row holds only `columns` where they are given. Rows of an older store get the columns that it did not have yet.
    """
    wanted = list(columns or SCHEMA.names)
    for path in sorted((folder / "turns").glob("*.parquet")):
        if days is None or path.stem in days:
            yield from _rows(pq.ParquetFile(path), wanted)


def _rows(file: pq.ParquetFile, wanted: Sequence[str]) -> Iterator[TurnRow]:
    stored = set(file.schema_arrow.names)
    missing = [name for name in wanted if name not in stored]
    defaults = {name: _DEFAULTS[name] for name in missing if name != "completeness"}
    old = ["reconstructed"] if "completeness" in missing else []
    for batch in file.iter_batches(ROW_GROUP, columns=[name for name in wanted if name in stored] + old):
        for row in batch.to_pylist():
            row.update(defaults)
            if old:
                row["completeness"] = "reconstructed" if row.pop("reconstructed") else "whole"
            yield row
