"""A log file as readers see it: its bytes, unpacked, up to where they stood when the folder was scanned."""

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from grokora_pipeline.sessions.turns import Problem

MAX_DOCUMENT = 128 << 20  # of a file that is one JSON document, which is read whole: some 400 MB of memory
MAX_LINE = 64 << 20
ROTATED_HEAD = 16 << 20  # bytes of the file that continues a rotated one in which the end of what is cut is looked for
MAX_UNPACKED = 64 << 30  # what a packed file may unpack to: a bomb ends there
_BLOCK = 1 << 20
# What stands around records and is no part of them: holes of NUL that a crash leaves, the mark before each record of a
# JSON text sequence (RFC 7464), and the end of a file of DOS.
PADDING = b"\0\x1e\x1a"
_ZSTD, _SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
# What rotation makes of `x.log`: x.log.1 (the newest), x.log.2.gz, x.log-20260131, x.log.2026-01-31_10, and (what
# OpenTelemetry's collector writes) x-2026-01-31T10-00-00.000.log
_ROTATED = re.compile(
    r"(?P<stem>.+?)(?:\.(?P<number>\d{1,3})|[.-](?P<date>\d{4}-?\d\d-?\d\d[\d_T-]*)|"
    r"-(?P<moment>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3})(?P<suffix>\.\w+))(?:\.(?:gz|zst|bz2|xz))?",
    re.DOTALL,
)
# What differs in the names of the files that one log is cut into: a date, a number, how it is packed.
_PART = re.compile(r"[._-]?\d{4}-?\d\d-?\d\d[\dT_-]*|\.\d{1,3}(?=\.|$)|\.(?:gz|zst|bz2|xz)$")
# OpenHands keeps an event a file: events/event-00003-<id>.json, or events/3.json; Strands messages/message_3.json
_EVENT = re.compile(r"(?:event-|message_)?(\d+)(?:-[\w-]+)?\.json")
_COLUMN = rb"\"?[A-Za-z_][\w.$ \[\]-]*\"?"
_CSV = re.compile(rb"(?:\xef\xbb\xbf)?" + _COLUMN + rb"(?:(?P<comma>[,;\t])" + _COLUMN + rb")+\r?\n")
# Columns of which a table with calls or conversations has at least one set.
_COLUMNS: tuple[set[bytes], ...] = (
    *({name} for name in (b"messages", b"conversations", b"conversation", b"trajectory")),
    *({b"input", name} for name in (b"output", b"traceid", b"trace_id")),
    *({b"prompt", name} for name in (b"completion", b"response", b"chosen", b"output")),
    *({b"instruction", name} for name in (b"output", b"response")),
    *({b"question", name} for name in (b"answer", b"response")),
    *({b"role", b"content"}, {b"spanattributes"}, {b"customdimensions"}),
    *({b"inputs", b"outputs"}, {b"chosen", b"rejected"}, {b"event", b"properties"}),
    *({b"request_body", b"response_body"}, {b"request", b"response"}, {b"user_input", b"response"}),
)
# What Docker (as JSON), other container runtimes and CloudWatch's exports put around each line of a program's output.
_SHIPPED = re.compile(
    rb'\{"log":"|\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d) (?:(?P<stream>std(?:out|err)) (?P<end>[FP]) )?'
)
# A call that a program's logger writes as JSON behind a time, a level and a name.
_LOGGED = re.compile(
    rb"\[?(?P<at>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,]*(?:Z|[+-]\d\d:?\d\d)?|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d)"
    rb'[^{\n]{0,200}(?P<call>\{"(?:messages|request|request_body|input_messages|model|resourceSpans)":.*\})\s*$'
)
_ARCHIVES = (b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!", b"ustar")


class UnreadableError(Exception):
    """A file that cannot be read at all; carries the row of the quarantine."""

    def __init__(self, reason: str, offset: int = 0, detail: str = "") -> None:
        super().__init__(reason)
        self.problem = Problem(reason, offset, detail)


class Line(NamedTuple):
    """A line of a log: its number from 1, the offset of its first byte, its bytes with the line break.

    `problem` says why a line has no bytes, or not all: it is too long, the packed file is damaged from here on, or a
    crash left zeros before it.
    """

    number: int
    offset: int
    raw: bytes
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A log file: where it is, and what it is called in everything that is stored.

    `size` limits what is read to the bytes that the file had when it was scanned (-1: all there is), so that a file
    that is appended to is read as it was at one moment. Of a `growing` file the last line counts once it is whole.
    """

    path: Path
    name: str
    sha256: str = ""
    format: str = ""
    size: int = -1
    growing: bool = False
    older: tuple[Path, ...] = ()  # the files that this one continues, the oldest first: rotation cuts logs anywhere
    newer: Path | None = None  # the file that continues this one
    newer_size: int = 0  # how many of its bytes may be looked at
    open_ends: list[str] = field(default_factory=list)  # what of this file the newer one may still tell more of
    data: bytes | None = None  # the file's bytes, if they are held: opening a small file three times costs the most

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file's bytes; gzip, zstd, bzip2 and xz are unpacked, whatever the file is called.

        The rows of a Parquet or a CSV file are JSON lines: so data sets and platforms export traces. So are the samples
        of a log of Inspect AI, the JSON lines of a program whose output a container runtime keeps, and the calls that
        a logger writes as JSON behind a time. Raises OSError, and UnreadableError for a file of which nothing can be
        unpacked.
        """
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(self._unpacked(stack))
            except DAMAGED as error:  # what is looked at first is damaged already
                raise UnreadableError("damaged", 0, cause(error)) from error
            yield stream

    def _unpacked(self, stack: ExitStack) -> IO[bytes]:
        """The stream that `open` gives; `stack` closes the file below it."""
        if self.data is not None:
            stream: IO[bytes] = io.BufferedReader(io.BytesIO(self.data), _BLOCK)
        else:
            file = stack.enter_context(self.path.open("rb", buffering=0))
            limited = _Limited(file, self.size if self.size >= 0 else MAX_UNPACKED)
            stream = io.BufferedReader(limited, _BLOCK)
        unpacked = _unpacked(stream)
        magic = stream.peek(4)[:4]  # type: ignore[attr-defined]  # of BufferedReader
        if magic == b"PAR1":
            unpacked = _JsonLines(_parquet_lines(self.path if self.data is None else pa.BufferReader(self.data)))
        elif magic == b"PK\x03\x04":
            lines = _eval_lines(self.path if self.data is None else io.BytesIO(self.data))
            unpacked = lines and _JsonLines(lines)
        elif isinstance(unpacked, zstandard.ZstdDecompressionReader):
            packed = stack.enter_context(self.path.open("rb")) if self.data is None else io.BytesIO(self.data)
            unpacked = _WholeFrames(unpacked, packed, self.size)
        if unpacked is not None:
            stream = io.BufferedReader(_Limited(unpacked, MAX_UNPACKED), _BLOCK)
        if stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # type: ignore[attr-defined]
            stream = io.BufferedReader(_Limited(_Utf8(stream), MAX_UNPACKED), _BLOCK)
        ways = (_csv_lines, _document_lines, _shipped_lines, _logged_lines)
        if (rows := next((lines for way in ways if (lines := way(stream)) is not None), None)) is not None:
            stream = io.BufferedReader(_Limited(_JsonLines(rows), MAX_UNPACKED), _BLOCK)
        return stream

    def head(self, size: int) -> bytes:
        """The first bytes, unpacked; fewer if the file is damaged or still being written."""
        head = b""
        with self.open() as stream:
            try:
                while len(head) < size and (block := stream.read1(size - len(head))):  # type: ignore[attr-defined]
                    head = (head + block).lstrip(PADDING)
            except DAMAGED as error:
                cause(error)
        return head

    def read(self, limit: int = MAX_DOCUMENT) -> bytes:
        """The whole file. Raises UnreadableError if it is larger than `limit`, or damaged."""
        with self.open() as stream:
            try:
                raw = stream.read(limit + 1)
            except DAMAGED as error:
                raise UnreadableError("damaged", 0, cause(error)) from error
        if len(raw) > limit:
            raise UnreadableError("gigantic", 0, f"one document of more than {limit >> 20} MiB")
        return raw.strip(PADDING)

    def holding(self) -> "Source":
        """The same source with its bytes held in memory. Raises OSError."""
        with self.path.open("rb") as stream:
            return replace(self, data=stream.read(self.size))

    def lines(self) -> Iterator[Line]:
        """The file line by line, whatever its size; a line that cannot be read carries a problem instead of bytes."""
        number = offset = 0
        with self.open() as stream:
            while True:
                number += 1
                try:
                    raw = end = stream.readline(MAX_LINE)
                    size = len(raw)
                    while len(end) == MAX_LINE and not end.endswith(b"\n"):
                        end = stream.readline(MAX_LINE)
                        size += len(end)
                except DAMAGED as error:
                    if not self.growing:
                        yield Line(number, offset, b"", Problem("damaged", offset, f"line {number}: {cause(error)}"))
                    return
                if not raw or (self.growing and not end.endswith(b"\n")):
                    return
                if size > len(raw):
                    longest = f"line {number} is longer than {MAX_LINE >> 20} MiB"
                    yield Line(number, offset, b"", Problem("line_too_long", offset, longest))
                else:
                    hole = Problem("damaged", offset, f"line {number}: zeros") if raw.startswith(b"\0") else None
                    yield Line(number, offset, raw.lstrip(PADDING), hole)
                offset += size

    def digest(self) -> str:
        """SHA-256 of the unpacked bytes: a file and its packed copy are the same log. Raises UnreadableError."""
        digest = hashlib.sha256()
        with self.open() as stream:
            try:
                while block := stream.read(_BLOCK):
                    digest.update(block)
            except DAMAGED as error:
                digest.update(cause(error).encode())  # what could be unpacked, and that it was not all
        return digest.hexdigest()


def rotation(name: str) -> tuple[str, tuple[str, int]]:
    """The name that a log had before it was rotated, and its place among the rotated ones: the oldest sorts first."""
    match = _ROTATED.fullmatch(name)
    if match is None:
        return name, ("~", 0)
    if match["number"]:
        return match["stem"], ("9", -int(match["number"]))
    return match["stem"] + (match["suffix"] or ""), (match["date"] or match["moment"], 0)


def log_name(path: str) -> str:
    """The same for all files that one log is cut into: `2026-01-31/s.jsonl`, `2026-02-01/s.jsonl`, `s.2.jsonl.gz`."""
    return _PART.sub("", path).lstrip("/")


def event_number(name: str) -> int | None:
    """Which event of a conversation a file holds, if each event is a file of its own; None for any other name."""
    match = _EVENT.fullmatch(name)
    return int(match[1]) if match else None


def is_archive(head: bytes) -> bool:
    """Whether a file holds several files (zip, 7z, rar, tar), which are not looked into."""
    return head.startswith(_ARCHIVES[:3]) or head[257:262] == _ARCHIVES[3]


class _Limited(io.RawIOBase):
    """The first `size` bytes of a stream."""

    def __init__(self, stream: Any, size: int) -> None:
        # `read1` gives what could be unpacked before a fault; `read` would lose it
        self._read, self._left = getattr(stream, "read1", stream.read), size

    def readable(self) -> bool:
        """Always, as io.RawIOBase asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what is left of the file's part; the number of bytes."""
        block = self._read(min(len(buffer), self._left)) if self._left > 0 else b""
        buffer[: len(block)] = block
        self._left -= len(block)
        return len(block)


def without_nulls(value: Any) -> Any:
    """A value without members that are null. A table gives each object the members of all others in its column."""
    if isinstance(value, dict):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    return list(map(without_nulls, value)) if isinstance(value, list) else value


def _parquet_lines(file: Any) -> Iterator[bytes]:
    """The rows of a Parquet file as JSON lines, a few of them in memory at a time."""
    try:
        batches = pq.ParquetFile(file, buffer_size=_BLOCK, pre_buffer=False).iter_batches(batch_size=16)
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError("damaged", 0, "a Parquet file that is not whole") from error
    for batch in batches:
        # pictures and sounds are bytes, which JSON does not have
        for row in batch.to_pylist():
            plain = {name: without_nulls(value) for name, value in row.items()}
            yield orjson.dumps(plain, default=lambda value: None, option=orjson.OPT_APPEND_NEWLINE)


def _eval_lines(file: Any) -> Iterator[bytes] | None:
    """The samples of a log of Inspect AI (`.eval`, a zip) as JSON lines, each with the facts of its run.

    None for any other archive. The header is written when a run ends; before that there is `_journal/start.json`.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError):
        return None
    names = archive.namelist()
    header = next((one for one in ("header.json", "_journal/start.json") if one in names), "")
    samples = sorted(one for one in names if one.startswith("samples/") and one.endswith(".json"))

    def document(name: str) -> Any:
        if archive.getinfo(name).file_size > MAX_LINE:  # a packed file may unpack to anything
            raise UnreadableError("gigantic", 0, f"a sample of more than {MAX_LINE >> 20} MiB")
        return json.loads(archive.read(name))  # the standard library's reads NaN

    def lines() -> Iterator[bytes]:
        with archive:
            try:
                run = document(header)["eval"]
                for name in samples:
                    yield json.dumps({"eval": run, "samples": [document(name)]}).encode() + b"\n"
            except (zipfile.BadZipFile, NotImplementedError, ValueError, LookupError, TypeError) as error:
                raise UnreadableError("damaged", 0, "convert it: inspect log convert --to json") from error

    return lines() if header and samples else None


def _csv_lines(stream: Any) -> Iterator[bytes] | None:
    """The rows of a CSV file as JSON lines; a row without all its columns is a line that is no JSON.

    None for a text that does not begin with the names of columns that hold calls or conversations.
    """
    head = stream.peek(1)[:4096]
    match = _CSV.match(head)
    if match is None:
        return None
    first = head.partition(b"\n")[0].strip(b"\xef\xbb\xbf\r").lower().split(match["comma"])
    if not any(own <= {name.strip(b'"') for name in first} for own in _COLUMNS):
        return None
    csv.field_size_limit(MAX_LINE)
    text = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
    rows = csv.reader(text, delimiter=match["comma"].decode(), strict=True)
    names = next(rows)

    def lines() -> Iterator[bytes]:
        try:
            for row in rows:
                whole = dict(zip(names, (value or None for value in row), strict=False))
                yield orjson.dumps(whole, option=orjson.OPT_APPEND_NEWLINE) if len(row) == len(names) else b"{\n"
        except csv.Error as error:
            if "end of data" not in str(error):
                raise OSError(0, f"row {rows.line_num} is no CSV") from error
            yield b"{"  # cut within a text

    return lines()


def _document_lines(stream: Any) -> Iterator[bytes] | None:
    """JSON documents one behind the other, each over several lines (`jq .`, an SDK's console exporter), as JSON lines.

    None for anything else: the first documents' ends are looked for in the first block.
    """
    if not re.match(rb"\s*\{\s*\n", start := stream.peek(1)[:_BLOCK]) or not re.search(rb"\n\}\r?\n\s*\{", start):
        return None

    def lines() -> Iterator[bytes]:
        document: list[bytes] = []
        for line in stream:
            document.append(line.rstrip(b"\r\n"))
            if line.startswith(b"}"):
                yield b"".join(document) + b"\n"
                document = []
        yield b"".join(document)

    return lines()


def _shipped_lines(stream: Any) -> Iterator[bytes] | None:
    """The JSON lines of a program whose output a container runtime or a cloud keeps; what else it prints is left out.

    None for anything else, and for a program whose first block of output holds no JSON.
    """
    start = stream.peek(1)[:_BLOCK]
    whole = start.split(b"\n")[:-1]
    if not _SHIPPED.match(start) or not any(_unshipped(line)[1].startswith(b"{") for line in whole):
        return None

    def lines() -> Iterator[bytes]:
        held: dict[bytes, bytes] = {}  # by stream: a line of more than 16 KiB comes in pieces
        for line in stream:
            name, text, is_end = _unshipped(line)
            held[name] = held.get(name, b"") + text
            if is_end and (text := held.pop(name)).startswith(b"{"):
                yield text.rstrip() + b"\n"
        yield b"".join(text for text in held.values() if text.startswith(b"{"))

    return lines()


def _logged_lines(stream: Any) -> Iterator[bytes] | None:
    """The calls that a program's logger writes as JSON behind a time, as JSON lines with that time, and nothing else.

    None for anything else, and for a log whose first block holds none.
    """
    start = stream.peek(1)[:_BLOCK]
    if start[:1] == b"{" or start[:2] == b"[{" or not any(map(_LOGGED.match, start.split(b"\n"))):
        return None

    def lines() -> Iterator[bytes]:
        for line in stream:
            if match := _LOGGED.match(line):
                try:
                    told = {"timestamp": match["at"].decode(), **orjson.loads(match["call"])}
                    yield orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
                except orjson.JSONDecodeError:
                    yield match["call"] + b"\n"  # its fault is told where it is read

    return lines()


def _unshipped(line: bytes) -> tuple[bytes, bytes, bool]:
    """The stream that a line of output is of, its text, and whether it ends there; a line without a shipper's marks."""
    if line.startswith(b'{"log":"'):
        try:
            value = orjson.loads(line)
            text = str(value["log"]).encode()
        except orjson.JSONDecodeError:
            return b"", line, line.endswith(b"\n")  # it is being written, or damaged
        return str(value.get("stream")).encode(), text, text.endswith(b"\n")
    match = _SHIPPED.match(line)
    if match is None:
        return b"", line, True
    return match["stream"] or b"", line[match.end() :].rstrip(b"\r\n"), match["end"] != b"P"


class _Utf8:
    """A UTF-16 stream with its mark (what PowerShell's `>` writes) as UTF-8."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-16")("replace")

    def read(self, size: int) -> bytes:
        """At most `size` bytes of UTF-8: two bytes of UTF-16 give three at most."""
        block = b""
        while not block and (raw := self._stream.read(max(2, size // 2))):
            block = self._decoder.decode(raw).encode()
        return block


class _JsonLines:
    """Lines that are made one by one, as a stream."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines, self._held = lines, b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes of the lines."""
        while len(self._held) < size and (line := next(self._lines, b"")):
            self._held += line
        block, self._held = self._held[:size], self._held[size:]
        return block


def _unpacked(stream: IO[bytes]) -> Any:
    """A stream of what a packed one holds, known by its first bytes; None for a plain one."""
    magic = stream.peek(6)[:6]  # type: ignore[attr-defined]  # of BufferedReader
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)
    if magic.startswith(_ZSTD) or (magic[1:4] == _SKIPPABLE and magic[0] >> 4 == 5):
        # a log that is rotated by appending frames has several: without `read_across_frames` only the first is read
        return zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(stream, read_across_frames=True)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    return lzma.LZMAFile(stream) if magic == b"\xfd7zXZ\x00" else None


class _WholeFrames:
    """What zstd's reader unpacks, with an error where the last frame is cut: it takes any end for a right one."""

    def __init__(self, reader: Any, packed: IO[bytes], size: int) -> None:
        self._reader, self._packed, self._size = reader, packed, size

    def read(self, size: int) -> bytes:
        """At most `size` unpacked bytes. Raises EOFError at an end within a frame."""
        block: bytes = self._reader.read1(size)
        if not block and size and self._is_cut():
            raise EOFError
        return block

    def _is_cut(self) -> bool:
        """Whether the packed bytes end within a frame, as the headers of its blocks tell (RFC 8878)."""
        end, at = self._packed.seek(0, io.SEEK_END), 0
        end = min(end, self._size) if self._size >= 0 else end
        while at < end:
            self._packed.seek(at)
            head = self._packed.read(18)
            if head[1:4] == _SKIPPABLE:
                at += 8 + int.from_bytes(head[4:8], "little")
                continue
            try:
                at += zstandard.frame_header_size(head)
                has_checksum, is_last = zstandard.get_frame_parameters(head).has_checksum, False
            except zstandard.ZstdError:  # of a header that is cut, too
                return True
            while not is_last and at < end:
                self._packed.seek(at)
                header = int.from_bytes(self._packed.read(3), "little")
                is_last, is_repeated = bool(header & 1), header >> 1 & 3 == 1
                at += 3 + (1 if is_repeated else header >> 3)
            if not is_last:
                return True
            at += 4 * has_checksum
        return at > end


def cause(error: BaseException) -> str:
    """Why a packed file could not be unpacked; what the system itself could not read is raised again."""
    if isinstance(error, OSError) and error.errno:
        raise error
    return "the packed file ends early" if isinstance(error, EOFError) else "the packed file is damaged"
