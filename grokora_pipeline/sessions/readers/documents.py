"""What a log holds as JSON: its records, whatever their framing, and values that platforms keep as text."""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import ijson
import orjson
import pydantic_core
import zstandard

from grokora_pipeline.sessions.readers.common import (
    UNFORESEEN,
    Source,
    decode,
    first_of,
    loads,
    name_text,
    parse_object,
    to_utc,
)
from grokora_pipeline.sessions.readers.source import DAMAGED, UnreadableError, cause, event_number
from grokora_pipeline.sessions.turns import Item, Problem

Json = dict[str, Any]
BOM = b"\xef\xbb\xbf"
# Bytes from which a list is parsed element by element (ijson, a tenth of orjson's speed): read whole, an export of a
# gigabyte would take several of memory.
STREAMED_FROM = 16 << 20
# Lists of an object whose elements stand alone: pages of platforms' interfaces, and the runs of a benchmark. Of an
# object that is as long as STREAMED_FROM each element is read by itself, with the members before the list.
_PAGES = ("data", "items", "results", "rows", "traces", "runs", "Records")
_RUNS = ("simulations", "samples", "resourceSpans", "resource_spans", "batches", "resourceLogs", "resource_logs")
# What logs call the session of a record.
SESSION_NAMES = (
    "session_id",
    "sessionId",
    "conversation_id",
    "conversationId",
    "thread_id",
    "threadId",
    "chat_id",
    "chatId",
)
# What they call the time of a record: of several the one at which it began.
TIMES = (
    *("started_at", "startedAt", "start_time", "startTime", "start_ns", "start_ms", "start_timestamp", "started"),
    *("startedDateTime", "request_start_time", "request_created_at", "request_timestamp", "timestamp", "Timestamp"),
    *(
        "created_at",
        "createdAt",
        "create_time",
        "createTime",
        "created",
        "time",
        "ts",
        "@timestamp",
        "datetime",
        "date",
    ),
    *("logged_at", "logging_time", "inserted_at", "eventTime", "TimeGenerated", "_time"),
)
MAX_SHELF = 512 << 20  # bytes of packed records that are held until those that belong to them have come
_BETWEEN = ", \r\n"  # what may stand behind a record in its line
MAX_REPR = 1 << 20  # characters of a Python literal
MAX_PROBLEMS = 50  # rows of the quarantine that one file may fill


class Record(NamedTuple):
    """One JSON value of a log: a line of JSONL, an element of a JSON list, or the whole document."""

    value: Any
    number: int  # 1-based line or element
    offset: int


def records(source: Source) -> Iterator[Record | Problem]:
    """The values of a file that is JSONL, a JSON list or one JSON document; JSONL and long documents are streamed.

    The elements of a page (`{"data": […], "meta": …}`) are values of their own. A line that cannot be read is a
    problem, and the next one is tried. Raises UnreadableError for a document that is no JSON.
    """
    for record in _records(source):
        elements = page_of(record.value) if isinstance(record, Record) else None
        if elements is None:
            yield record
        else:
            yield from (Record(one, number, 0) for number, one in enumerate(elements, 1))


def in_files(source: Source) -> list[Any]:
    """The records of a log that keeps each in a numbered file of its own, beside the first, in that order."""
    files = {event_number(path.name): path for path in source.path.parent.glob("*.json") if not path.is_symlink()}
    ordered = [files[number] for number in sorted(key for key in files if key is not None)]
    return [one.value for path in ordered for one in records(Source(path, path.name)) if isinstance(one, Record)]


def page_of(value: Any) -> list[Json] | None:
    """The records of a page of a platform's interface, None for anything else.

    A page is an object whose only list holds objects, beside numbers and names. The data sets of the Hugging Face hub
    wrap each row once more.
    """
    if not isinstance(value, dict) or "harness" in value or "role" in value:
        return None
    lists = [key for key, member in value.items() if isinstance(member, list) and key != "searchedLogStreams"]
    if lists == ["requests"] and all("custom_id" in as_object(one) for one in value["requests"]):
        return objects_in(value["requests"])  # what is sent to make a batch of Anthropic's
    # Braintrust's, and CloudWatch's, which hold a program's output; an agent's session holds events, too
    pages = (*_PAGES, "events") if {"cursor", "searchedLogStreams", "nextForwardToken"} & value.keys() else _PAGES
    elements = value[lists[0]] if len(lists) == 1 and lists[0] in pages else None
    if not elements or not all(isinstance(one, dict) for one in elements) or {"info", "sample"} & value.keys():
        return None
    session = {key: value[key] for key in (*SESSION_NAMES, "has_more") if key in value}
    if lists[0] == "events" and "cursor" not in value:
        return [one for one in (as_object(element.get("message")) for element in elements) if one]
    return [one["row"] if isinstance(one.get("row"), dict) else {**session, **one} for one in elements]


def unbroken(items: Iterable[Item], where: str) -> Iterator[Item]:
    """Items of one record up to something unforeseen in odd content, which is a problem of that record alone."""
    try:
        yield from items
    except UNFORESEEN as error:
        yield Problem("malformed", 0, f"{where}: the reader stopped at something unforeseen ({type(error).__name__})")


def plain(head: bytes) -> bytes:
    """A file's first bytes without the mark of UTF-8 and the white space before its content."""
    return head.lstrip(BOM + b" \t\r\n")


def _records(source: Source) -> Iterator[Record | Problem]:
    head = plain(source.head(64 << 10))
    lines = [line for line in head.split(b"\n")[:64] if line.startswith(b"{")]
    is_lines = b"\n" in head and any(map(_is_json, lines))
    # One first line of more than 64 KiB is as likely a document as the start of JSONL. Reading by line serves both,
    # unless it is very long.
    start = source.head(2 * STREAMED_FROM) if head.startswith(b"{") and b"\n" not in head else b""
    if len(start) == 2 * STREAMED_FROM and b"\n" not in start:
        yield from _streamed(source, "")
    elif b"\n" in start or (start and source.growing) or (is_lines and not head.startswith(b"[")):
        yield from _lines(source)
    elif len(source.head(STREAMED_FROM)) == STREAMED_FROM:
        yield from _streamed(source, "item" if head.startswith(b"[") else "")
    else:
        raw = source.read()
        text, problem = decode(raw)
        try:
            value = loads(text)
        except orjson.JSONDecodeError as error:
            # what is whole before the fault, or after a first line that began elsewhere
            if is_lines or head.startswith(b"["):
                yield from _lines(source) if is_lines else _streamed(source, "item")
                return
            value, problems = parse_object(raw)
            if page_of(value) is None:  # what a document says at its end may be that all of it is wrong
                cut = "end of data" in str(error)
                raise UnreadableError("truncated" if cut else "malformed_json", error.pos) from error
        else:
            problems = [problem] if problem else []
        yield from problems
        values = value if isinstance(value, list) else [value]
        yield from (Record(element, number, 0) for number, element in enumerate(values, 1))


def _streamed(source: Source, prefix: str) -> Iterator[Record | Problem]:
    """The elements of one long list, or an object in pieces, each parsed by itself; those before a fault are kept."""
    number = 0
    with source.open() as stream:
        try:
            values = ijson.items(stream, prefix, use_float=True) if prefix else _pieces(source, stream)
            for number, value in enumerate(values, 1):
                yield Record(value, number, 0)
        except ijson.JSONError as error:
            cut = isinstance(error, ijson.IncompleteJSONError) and "premature EOF" in str(error)
            yield Problem("truncated" if cut else "malformed_json", 0, f"after element {number}")
        except DAMAGED as error:
            yield Problem("damaged", 0, f"after element {number}: {cause(error)}")


def _pieces(source: Source, stream: Any) -> Iterator[Json]:
    """An object once for each element of a list whose elements stand alone, with that element and what came before."""
    members: Json = {}
    key, builder = "", ijson.ObjectBuilder()
    divided = in_list = False
    number, resource = 0, dict[str, Json]()  # of the element that is being read, if it stands behind its spans
    resources: Iterator[Json] | None = None
    for prefix, event, value in ijson.parse(stream, use_float=True):
        if not prefix:
            key, in_list = (value if event == "map_key" else key), False
        elif prefix == key and event == "start_array" and key in (*_PAGES, *_RUNS):
            divided = in_list = True
            builder, number, resources = ijson.ObjectBuilder(), 0, None
        elif prefix != key or not in_list:
            builder.event(event, value)
            # an element of OTLP may be all of the file: its spans stand alone, too
            if event == "end_map" and in_list and prefix.count(".") == 5 and prefix.endswith(".spans.item"):
                scopes = next(one for name, one in builder.value.items() if name == prefix.split(".")[2])
                if "resource" not in builder.value and not resource:
                    resources = resources or islice(_resources(source, key), number, None)
                    resource = {"resource": next(resources, {})}
                yield {**members, key: [{**resource, **builder.value}]}
                scopes[-1][prefix.split(".")[4]].clear()
            # the last event of the member or the element: a scalar, or the end of a map or a list
            if prefix == (f"{key}.item" if in_list else key) and not event.startswith(("start", "map")):
                members[key] = [builder.value] if in_list else builder.value
                if resources and not resource:
                    next(resources, None)
                builder, number, resource = ijson.ObjectBuilder(), number + 1, {}
                if in_list:
                    yield dict(members)
    if not divided:
        yield members


def _resources(source: Source, key: str) -> Iterator[Json]:
    """The resource of each element of a list of OTLP, wherever in the element it stands; {} for none."""
    element, builder = f"{key}.item", ijson.ObjectBuilder()
    with source.open() as stream:
        for prefix, event, value in ijson.parse(stream, use_float=True):
            if prefix == f"{element}.resource" or prefix.startswith(f"{element}.resource."):
                builder.event(event, value)
            elif prefix == element and event == "end_map":
                yield getattr(builder, "value", {})
                builder = ijson.ObjectBuilder()


def _lines(source: Source) -> Iterator[Record | Problem]:
    problems, is_foreign = 0, False
    for line in source.lines():
        raw = line.raw.removeprefix(BOM)
        if line.problem:
            yield line.problem
        if not raw.strip():
            continue
        try:
            yield Record(loads(raw), line.number, line.offset)
        except orjson.JSONDecodeError:
            problems += 1
            text, foreign = decode(raw)
            try:
                yield Record(loads(text.rstrip(_BETWEEN)), line.number, line.offset)
                if foreign and not is_foreign:
                    is_foreign = True
                    yield replace(foreign, offset=line.offset + foreign.offset)
            except orjson.JSONDecodeError:
                if problems <= MAX_PROBLEMS:
                    reason = "malformed_json" if raw.endswith(b"\n") else "truncated"
                    yield Problem(reason, line.offset, f"line {line.number}")


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(decode(text)[0].rstrip(_BETWEEN))
    except orjson.JSONDecodeError:
        return False
    return True


@lru_cache(maxsize=4)
def peek(head: bytes) -> tuple[Any, ...]:
    """The first records that a file's first bytes show: lines of JSONL, elements of a list, or a document cut there."""
    text = head.removeprefix(BOM).strip()
    if not text.startswith((b"{", b"[")):
        return ()
    values = []
    for line in text.split(b"\n")[:64]:
        try:
            values.append(orjson.loads(line.rstrip(_BETWEEN.encode())))
        except orjson.JSONDecodeError:
            if not values:
                break
    if values and not (len(values) == 1 and isinstance(values[0], list)):
        return tuple(element for value in values for element in page_of(value) or (value,))
    try:
        value = pydantic_core.from_json(text.decode("utf-8", "ignore"), allow_partial="trailing-strings")
    except ValueError:
        return ()
    return tuple(value[:64]) if isinstance(value, list) else tuple(page_of(value) or (value,))


def peek_objects(head: bytes) -> list[Json]:
    """Those of the first records that are objects."""
    return [value for value in peek(head) if isinstance(value, dict)]


def as_json(value: object) -> Any:
    """The value of a text that is a JSON object or list; anything else as it is. Platforms store JSON as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def literal(text: str) -> Json | None:
    """An object as JSON, or as Python writes it; None for anything else. Nothing is ever evaluated."""
    value = as_json(text)
    if not isinstance(value, dict) and len(text) <= MAX_REPR:
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(text.removesuffix("<|endoftext|>").strip())
    return value if isinstance(value, dict) else None


def is_cut_json(value: object) -> bool:
    """Whether a text begins as JSON and is none: an exporter or a database shortened it."""
    return isinstance(value, str) and value.lstrip()[:2] in ("[{", '["', '{"') and as_json(value) is value


def as_object(value: object) -> Json:
    """A mapping, or one written as JSON text; {} for anything else."""
    value = as_json(value)
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """A list, or one written as JSON text; [] for anything else."""
    value = as_json(value)
    return value if isinstance(value, list) else []


def moment(*holders: Mapping[str, Any]) -> str:
    """The time that the first of some objects tells of itself, in UTC; "" for none. A small number is a duration."""
    times = (to_utc(own[name]) for own in holders for name in TIMES if name in own)
    return next((at for at in times if at >= "2000"), "")


def objects_in(value: object) -> list[Json]:
    """The objects of a list, or of one written as JSON text; [] for anything else."""
    return [one for one in as_list(value) if isinstance(one, dict)]


def digest(value: object, size: int = 16) -> str:
    """A short hash of a JSON value; equal values have equal hashes."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str)
    except (orjson.JSONEncodeError, TypeError):
        data = repr(type(value)).encode()
    return hashlib.sha256(data).hexdigest()[:size]


class Packer:
    """Packs JSON that is held until the end of a file, since parsed it takes several times its size; not too much."""

    def __init__(self, refusal: str) -> None:
        """`refusal`: what to say of more than MAX_SHELF packed bytes."""
        self._size, self._refusal = 0, refusal

    def pack(self, data: bytes) -> bytes:
        """JSON packed. Raises UnreadableError where all of it together becomes too much."""
        packed = zstandard.compress(data, 1)
        self._size += len(packed)
        if self._size > MAX_SHELF:
            raise UnreadableError("gigantic", 0, self._refusal)
        return packed


def unpack(packed: bytes) -> Any:
    """The value of packed JSON."""
    return orjson.loads(zstandard.decompress(packed))


class Shelf:
    """Records that are read together, by what joins them."""

    def __init__(self) -> None:
        self._packed: dict[str, list[bytes]] = {}
        parts = "a file has too many records that only make sense together; export them in several files"
        self._packer, self._last = Packer(f"{parts}, each session or trace whole in one"), ""

    def add(self, value: Json, name: str | None = None) -> None:
        """Keep a record under a name: that of its session by default, or the one before if it names none.

        Raises UnreadableError where all of them together become too many.
        """
        self._last = name if name is not None else name_text(first_of(value, *SESSION_NAMES)) or self._last
        self._packed.setdefault(self._last, []).append(self._packer.pack(orjson.dumps(value)))

    def take(self, order: Iterable[str] = ()) -> Iterator[tuple[str, list[Json]]]:
        """The records of each name, in the order in which the names came, or in another; they are let go."""
        for name in list(order or self._packed):
            yield name, list(map(unpack, self._packed.pop(name)))
