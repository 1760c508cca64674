"""Turns as a table: the schema of `session_logs`, redacted rows, and Parquet files with the same bytes each time."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from grokora_pipeline.agents import AgentSpec, recognise
from grokora_pipeline.models.messages import Message, plain_message, tool_function
from grokora_pipeline.sessions.readers.common import json_text
from grokora_pipeline.sessions.redaction.detectors import is_suspicious
from grokora_pipeline.sessions.redaction.redactor import Redactor, TooDeepError
from grokora_pipeline.sessions.redaction.structure import answers
from grokora_pipeline.sessions.turns import Turn, turn_id

UNDATED = "undated"
NO_TEXT = "calls:"  # what the answer_id of an answer begins with that is calls alone
ROW_GROUP = 256  # rows; of a long coding session's, whose prompts may have 192,000 characters each, some 50 MB
MAX_CLEANED = 16 << 20  # bytes of redacted messages that are kept for the next prompt that repeats them
_RUN = re.compile(r"#\d+\Z")
_MADE_UP = re.compile(r"call_\d+(?:_\d+)?")  # the id that readers give to a call without one
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
        ("prompt_id", pa.string()),  # hashes by which calls that stand in two logs are recognised
        ("answer_id", pa.string()),
        ("calls_id", pa.string()),  # hashes by which a call's results are found in a later prompt of its session
        ("shown_id", pa.string()),
        ("shown_failed", pa.bool_()),
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
    "prompt_id": "",
    "answer_id": "",
    "calls_id": "",
    "shown_id": "",
    "shown_failed": False,
}
RowValues = tuple[Any, ...]
Made = tuple[str, RowValues, Counter[str]]  # the day, the row, what was redacted


class RowMaker:
    """Makes rows of turns: redacts, recognises the agent, and gives the id.

    Two passes: `find` over all turns of a session, from whatever file, then `row`. So what a later step shows to be a
    secret leaves the earlier ones too. Sessions are redacted apart from each other.
    """

    def __init__(self, agents: Sequence[AgentSpec]) -> None:
        self._agents = agents
        self._redactors: dict[str, Redactor] = {}  # only of sessions that hold something
        self._names: dict[str, str] = {}
        self._tools: dict[bytes, bytes] = {}
        # by session and digest of a message: whether it needs redaction, and what it became (None: it stays)
        self._suspicious: dict[tuple[str, bytes], bool] = {}
        self._cleaned: dict[tuple[str, bytes], tuple[bytes | None, Counter[str]]] = {}
        self._cleaned_bytes = 0

    def find(self, turn: Turn) -> None:
        """First pass: remember what the turn's texts show to be secret. A message that comes again is not read again.

        Of a conversation of n calls the last prompt holds all the others, so this is what keeps the work linear.
        """
        session = base_session(turn.session_id)
        with suppress(TooDeepError, orjson.JSONEncodeError):  # nested too deep: the second pass says so
            messages = (*turn.prompt, turn.completion)
            for value in (*messages, turn.task, *answers(messages)):
                text = orjson.dumps(value)
                key = session, _digest(text)
                if key in self._suspicious:
                    continue
                # placeholders that the log itself holds keep their numbers
                self._suspicious[key] = is_suspicious(text) or b"<SECRET:" in text or b"<PII:" in text
                if self._suspicious[key]:
                    self._redactors.setdefault(session, Redactor()).find(value)

    def row(self, turn: Turn) -> Made:
        """Second pass: a turn's day, its row and what was redacted by kind.

        Raises orjson.JSONEncodeError or TooDeepError for what is nested too deep.
        """
        agent = recognise(self._agents, turn.prompt, turn.agent, turn.tools)
        base, counts = base_session(turn.session_id), Counter[str]()
        *texts, completion, task = [
            self._clean(base, value, counts) for value in (*turn.prompt, turn.completion, turn.task)
        ]
        prompt, answer = b"[" + b",".join(texts) + b"]", orjson.loads(completion)
        shown = list(map(orjson.loads, texts[turn.shown :])) if turn.shown >= 0 else []
        tools = self._clean_tools(turn)
        session = self.public(turn.session_id)
        recorded = turn.agent if turn.recorded_agent is None else turn.recorded_agent
        row = (
            turn_id((session, turn.step, agent), prompt, tools, completion),
            session,
            agent,
            turn.step,
            turn.started_at,
            turn.source_file,
            turn.source_sha256,
            turn.source_format,
            turn.line,
            orjson.loads(task),
            prompt.decode(),
            tools.decode() if turn.tools else None,
            completion.decode(),
            turn.status,
            turn.rating,
            turn.blamed,
            turn.step_failed,
            turn.completeness,
            turn.tools_known,
            None if recorded is None else self.public(recorded),
            self.public(turn.model),
            public_name(turn.call),
            self.public(turn.parent_session_id),
            turn.result_known,
            orjson.dumps(dict(sorted(counts.items()))).decode() if counts else "{}",
            hashlib.sha256(prompt).hexdigest()[:16],
            _answer_id(answer),
            _calls_id([answer]),
            _calls_id(shown),
            turn.shown_failed,
        )
        return turn.started_at[:10] or UNDATED, row, counts

    def public(self, name: str) -> str:
        """A name (of a session, an agent, a model) as stored: without personal data, different names stay different."""
        public = self._names.get(name)
        if public is None:
            base = base_session(name)
            public = self._names[name] = public_name(base) + name[len(base) :]
        return public

    def _clean(self, session: str, value: Any, counts: Counter[str]) -> bytes:
        """A message or a text as JSON without secrets; what was replaced is added to `counts`."""
        text = orjson.dumps(value)
        key = session, _digest(text)
        redactor, suspicious = self._redactors.get(session), self._suspicious.get(key, True)
        if redactor is None and not suspicious:  # of a session that holds nothing, which most are
            return text
        if key not in self._cleaned:
            clean, replaced = None, Counter[str]()
            if suspicious or (redactor is not None and redactor.recognises(text)):
                redacted, replaced = (redactor or self._redactors.setdefault(session, Redactor())).redact(value)
                clean = orjson.dumps(redacted) if replaced else None
            if clean and (held := self._cleaned_bytes + len(clean)) > MAX_CLEANED:
                self._cleaned.clear()
                held = len(clean)
            self._cleaned_bytes = held if clean else self._cleaned_bytes
            self._cleaned[key] = clean, replaced
        clean, replaced = self._cleaned[key]
        counts.update(replaced)
        return clean or text

    def _clean_tools(self, turn: Turn) -> bytes:
        """Tool schemas repeat in every call: each is redacted once."""
        if not turn.tools:
            return b""
        tools = orjson.dumps(turn.tools)
        clean = self._tools.get(tools)
        if clean is None:
            clean = orjson.dumps(Redactor().redact(turn.tools)[0]) if is_suspicious(tools) else tools
            if len(self._tools) < 256:
                self._tools[tools] = clean
        return clean


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def base_session(name: str) -> str:
    """A session's recorded id: without the `#2` that tells apart two runs of one file with the same id."""
    return _RUN.sub("", name)


def _answer_id(completion: Message) -> str:
    """What was answered, as far as two logs of one call agree on it: the text; if there is none, the calls."""
    content = completion.get("content")
    if isinstance(content, str) and content.strip():
        return hashlib.sha256(orjson.dumps(content.strip())).hexdigest()[:16]
    calls = [content, [call.get("function") for call in completion.get("tool_calls") or ()]]
    return NO_TEXT + hashlib.sha256(orjson.dumps(calls)).hexdigest()[:16]


def _calls_id(messages: Sequence[Message]) -> str:
    """A hash of the tool calls of a message, with their results behind it or these alone; "" for none.

    Of their ids, or of what they say if an API has no ids and a reader made them up.
    """
    calls = plain_message(messages[0]).get("tool_calls") or () if messages else ()
    ids = [call.get("id") for call in calls] or [one["tool_call_id"] for one in messages if one.get("tool_call_id")]
    names = sorted(one for one in ids if isinstance(one, str) and not _MADE_UP.fullmatch(one))
    if len(names) < len(ids):
        names = [json_text([one.get("name"), one.get("arguments")]) for one in map(tool_function, calls)]
    return hashlib.sha256(orjson.dumps(names)).hexdigest()[:16] if names else ""


def public_name(name: str) -> str:
    """A session id or a path as it may be stored: personal data replaced, told apart by a part of its hash."""
    plain = name.encode("utf-8", "backslashreplace").decode()
    clean, counts = Redactor().redact(plain) if is_suspicious(plain.encode()) else (plain, None)
    return f"{clean}~{hashlib.sha256(plain.encode()).hexdigest()[:8]}" if counts else plain


def to_table(rows: Sequence[RowValues]) -> pa.Table:
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


def read_rows(folder: Path, columns: Sequence[str], days: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a published `session_logs` folder as they are stored, day by day, copies of calls included.

    A row holds `columns` alone. Rows of an older store get the columns that it did not have yet.
    """
    for path in sorted((folder / "turns").glob("*.parquet")):
        if days is None or path.stem in days:
            yield from _rows(pq.ParquetFile(path), columns)


def _rows(file: pq.ParquetFile, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
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
