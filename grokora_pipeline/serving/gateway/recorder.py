"""Every exchange, redacted, as a line of `<recordings>/<day>/<session>.jsonl`: the log format that ingest reads.

A line is written whole, by one `write`, and is on the disk (`fsync` of the file, and of the folder when the file is
new) before the caller gets the end of the answer: a crash, even of the machine, loses at most the calls in flight.
Calls of a session that end at the same time share one fsync, and no session waits for the lines of another. A part of
a line that a crash of the machine may have left is cut off before the next line is written. A file that has grown to
16 MiB is followed by `<session>.2.jsonl`, and so on.

What a later call names as secret leaves the session's earlier lines too. The hidden folder `.redaction` holds the key
of the hashes by which a session's secrets are recognised after a restart; it holds no secret.
"""

import asyncio
import errno
import hashlib
import logging
import os
import uuid
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from io import BytesIO
from itertools import count, takewhile
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any

import orjson

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.gateway.protocol import Json
from grokora_pipeline.sessions.redaction.detector import PLACEHOLDER
from grokora_pipeline.sessions.redaction.detectors import is_suspicious
from grokora_pipeline.sessions.redaction.memory import Finding, Trace, load_key
from grokora_pipeline.sessions.redaction.redactor import Redactor
from grokora_pipeline.store.files import locked, write_atomic, write_whole

LOG = logging.getLogger("grokora.serving")
ROTATE_BYTES = 16 << 20
MEMORY = ".redaction"  # hidden, so that ingest never reads it as a log
RECEIPT_LENGTH = 16  # hexadecimal digits; half of them say which session
_MOST_RECEIPTS = 100_000
_MOST_READ = 256 << 20
_SMALLEST_ROOM = 1 << 16  # bytes that a disk must have free
_SAFE_ERRORS = (GrokoraError, orjson.JSONEncodeError, OSError)  # errors whose text holds nothing of a line
_MOST_SESSIONS = 512  # whose redactors and steps are held at once; the others' traces are read again
# Redacting a few megabytes takes seconds: as many sessions may do so before another one waits for its own small line.
_WRITERS = 8


@dataclass(slots=True)
class _Line:
    content: Json
    secrets: Sequence[str]
    written: Future[None]
    raw: bytes = b""
    error: Exception | None = None


@dataclass(slots=True)
class _Session:
    """What is remembered of a session, so that a secret keeps its placeholder and steps go on counting."""

    redactor: Redactor
    next_step: int
    traces: int  # how many of the redactor's traces are on the disk


def new_receipt(session: str) -> str:
    """An id for a call of a session, by which its recording is found."""
    return _session_hash(session) + uuid.uuid4().hex[: RECEIPT_LENGTH // 2]


def _session_hash(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()[: RECEIPT_LENGTH // 2]


class Recorder:
    """Appends to a folder of recordings; several processes may write to the same one. Use from any thread."""

    def __init__(self, folder: Path, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.folder, self._rotate_bytes = folder, rotate_bytes
        self._key = cache(partial(load_key, folder / MEMORY / "key"))
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="recorder")
        self._guard = Lock()  # what follows; held for moments only
        self._waiting: dict[str, list[_Line]] = {}  # by session; one that is here has a writer, and no second one
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._receipts: OrderedDict[str, str] = OrderedDict()  # of the latest calls, with their sessions
        self.counts: Counter[str] = Counter()  # written, failed, fsyncs
        self.trouble = ""  # why the latest lines are not on the disk, "" if they are
        # who reads a session's files lets others of the same name wait, and hardly any of another
        self._reading = [Lock() for _ in range(64)]

    def call(
        self,
        session: str,
        agent: str | None,
        at: datetime,
        request: Json,
        response: Json,
        *,
        receipt: str = "",
        api: str = "chat",
        secrets: Sequence[str] = (),
    ) -> Future[None]:
        """Record an exchange that began `at`; done when it is on the disk, with the error if it cannot be.

        `request` and `response` are bodies of `api`; `receipt` is the id by which feedback may name the call.
        `secrets` are values known to be secret wherever they stand, such as the caller's own key.
        """
        line = {"session_id": session, "agent": agent, "step": None, "started_at": at.astimezone(UTC).isoformat()}
        line |= {"call": receipt} if receipt else {}
        line |= {"api": api} if api != "chat" else {}
        if receipt:
            self._receipts[receipt] = session
            if len(self._receipts) > _MOST_RECEIPTS:
                self._receipts.popitem(last=False)
        return self.append(session, {**line, "request": request, "response": response}, secrets)

    def append(self, session: str, content: Json, secrets: Sequence[str] = ()) -> Future[None]:
        """Write a line of a session, redacted; done when it is on the disk, with the error if it cannot be."""
        line = _Line(content, secrets, Future())
        line.written.set_running_or_notify_cancel()  # from now on nobody can take it back
        with self._guard:
            has_writer = session in self._waiting
            self._waiting.setdefault(session, []).append(line)
        if not has_writer:
            self._writers.submit(self._write_waiting, session)
        return line.written

    def session_of(self, receipt: str) -> str:
        """The session of a recorded call, "" if there is none. Blocks: of older calls the files' names are read.

        A receipt begins with a hash of its session's name, so that a stranger's costs one listing of the recordings.
        """
        if receipt in self._receipts:
            return self._receipts[receipt]
        names = {path.name.partition(".")[0] for path in self.folder.glob("*/*.jsonl")}
        wanted = orjson.dumps({"call": receipt})[1:-1]
        named = (name for name in names if receipt.startswith(_session_hash(name)))
        return next((name for name in named if any(self.calls_of(name, wanted))), "")

    def calls_of(self, session: str, wanted: bytes) -> Iterator[Json]:
        """The recorded calls of a session whose lines hold `wanted`, the latest first, out of the latest 256 MiB.

        A file that cannot be read is passed over, with an alert in the log: one caller's damaged file is no reason to
        refuse another's call.
        """
        read = 0
        for path in reversed(self._files(session)):
            try:
                read += path.stat().st_size
                lines = path.read_bytes().splitlines() if read <= _MOST_READ else []
            except OSError as error:
                LOG.error("ALERT %s cannot be read: %s", path, error)
                continue
            for raw in reversed(lines):
                if wanted in raw and isinstance(content := _parsed(raw), dict):
                    yield content

    def outcome(self, session: str, outcome: Json) -> Future[None]:
        """Record how a session ended: `status`, `rating`, `blame`; GrokoraError if nothing of it was recorded."""
        if not self.knows(session):
            raise GrokoraError(f"There is no recording of a session {session!r} in {self.folder}.")
        return self.append(session, {"session_id": session, "outcome": outcome})

    def check_writable(self) -> None:
        """GrokoraError if nothing can be recorded in the folder: that is told before a call is answered.

        Once a disk that was full has room again, `trouble` no longer says that it is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.folder, buffering=0) as stream:
                stream.write(bytes(_SMALLEST_ROOM))
        except OSError as error:
            raise GrokoraError(
                f"Recordings cannot be written to {self.folder} ({error.strerror}); make it writable, or set "
                "GROKORA_RECORDINGS to a folder that is."
            ) from error
        self.trouble = "" if self.trouble == os.strerror(errno.ENOSPC) else self.trouble

    def knows(self, session: str) -> bool:
        """Whether anything of a session was recorded, on whatever day."""
        return session in self._sessions or bool(self._files(session))

    def latest(self) -> str:
        """The session that was written to last; GrokoraError if there is none."""
        files = sorted(self.folder.glob("*/*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        if not files:
            raise GrokoraError(f"{self.folder} holds no recording yet; run `grokora serve` and send it a request.")
        return files[-1].name.partition(".")[0]

    async def close(self) -> None:
        """Wait until everything is written."""
        await asyncio.to_thread(self._writers.shutdown)

    def redactor(self, session: str) -> Redactor:
        """The session's redactor, with what it remembers from before a restart. Blocks: it may read the disk."""
        return self._session(session).redactor

    def _write_waiting(self, session: str) -> None:
        """Write a session's lines until none waits: those that came while others were written, all at once."""
        while True:
            with self._guard:
                lines, self._waiting[session] = self._waiting[session], []
                if not lines:
                    del self._waiting[session]
                    return
            self._write_lines(session, lines)

    def _write_lines(self, name: str, lines: Sequence[_Line]) -> None:
        """Redact lines in two passes, so that what one names as secret leaves all, write them at once, and say how it
        went with each. Whatever a line does to redaction, the others are written."""
        for redact in (_find_secrets, _replace_secrets):
            for line in (line for line in lines if line.error is None):
                try:
                    redact(self._session(name), line)
                except Exception as error:  # noqa: BLE001 - a caller's text may do what nobody thought of
                    line.error = error
        good = [line for line in lines if line.error is None]
        try:
            if good:
                self._keep_memory(name)
                self._write(name, b"".join(line.raw for line in good))
        except Exception as error:  # noqa: BLE001 - whoever waits for a line must hear of it
            for line in good:
                line.error = error
        disk_errors = [line.error for line in lines if isinstance(line.error, OSError)]
        self.trouble = disk_errors[0].strerror or type(disk_errors[0]).__name__ if disk_errors else ""
        failed = sum(line.error is not None for line in lines)
        with self._guard:
            self.counts.update(failed=failed, written=len(lines) - failed)
        for line in lines:
            if line.error:
                # the text of an error that nobody thought of may quote the line
                reason = line.error if isinstance(line.error, _SAFE_ERRORS) else type(line.error).__name__
                LOG.error("ALERT a line of a session could not be recorded: %s", reason)
                line.written.set_exception(line.error)
            else:
                line.written.set_result(None)

    def _session(self, name: str) -> _Session:
        with self._reading[hash(name) % len(self._reading)]:
            with self._guard:
                if session := self._sessions.get(name):
                    self._sessions.move_to_end(name)
                    return session
            traces = list[Trace]()
            # a file that is missing or was damaged costs only the numbers of its secrets
            with suppress(FileNotFoundError, orjson.JSONDecodeError, TypeError):
                traces = [Trace(*trace) for trace in orjson.loads((self.folder / MEMORY / f"{name}.json").read_bytes())]
            redactor, next_step = Redactor(self._key, traces), 0
            for path in self._files(name):
                step, text = _last_step(path)
                next_step = max(next_step, step + 1)
                redactor.reserve(text)
            session = _Session(redactor, next_step, len(traces))
            with self._guard:
                self._sessions[name] = session
                if len(self._sessions) > _MOST_SESSIONS:
                    # one that is written now stays: its numbers are not stored yet
                    self._sessions.pop(next((one for one in self._sessions if one not in self._waiting), name))
            return session

    def _keep_memory(self, name: str) -> None:
        """Before a session's lines are written: store its new traces, and take its new secrets out of earlier lines."""
        session = self._session(name)
        traces = session.redactor.traces
        if len(traces) == session.traces:
            return
        _replace(self.folder / MEMORY / f"{name}.json", orjson.dumps([list(trace) for trace in traces]))
        session.traces = len(traces)
        for file in self._files(name):
            if session.redactor.recognises(file.read_bytes()):
                with locked(file, "rb") as stream:
                    lines = list[bytes]()
                    for raw in BytesIO(stream.read()):
                        content = _parsed(raw) if session.redactor.recognises(raw) else None
                        lines.append(_redacted(content, session.redactor) + b"\n" if isinstance(content, dict) else raw)
                    _replace(file, b"".join(lines))

    def _files(self, session: str) -> list[Path]:
        """All files of a session, oldest first.

        They are asked for by name, day by day: a pattern would go through all names of all days for each new session.
        """
        days = sorted(one for one in self.folder.iterdir() if one.is_dir()) if self.folder.is_dir() else []
        return [path for day in days for path in takewhile(Path.exists, _parts(day, session))]

    def _write(self, session: str, lines: bytes) -> None:
        today = _parts(self.folder / f"{datetime.now(UTC):%Y-%m-%d}", session)
        path = next(one for one in today if not one.exists() or one.stat().st_size < self._rotate_bytes)
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, "ab") as stream:
            size = _whole_bytes(path)
            try:
                stream.truncate(size)
                write_whole(stream, lines)
            except OSError:
                stream.truncate(size)  # a full disk: complete lines only
                raise
        if new:
            _sync_folder(path.parent)
        with self._guard:
            self.counts["fsyncs"] += 1


def _find_secrets(session: _Session, line: _Line) -> None:
    """First pass: number the step, and remember what the line holds that is secret."""
    if "request" in line.content:
        line.content["step"] = session.next_step
        session.next_step += 1
    line.raw = orjson.dumps(line.content)
    # clients of a local server send dummies such as "anything", which would leave every text that says so
    keys = {key for key in line.secrets if len(key) >= 8 and not key.isalpha()}
    keys = {key for key in keys if len(key) >= 12 or any(map(str.isdigit, key))}
    findings = [Finding("SECRET", "api_key", key) for key in sorted(keys) if key.encode("utf-8", "replace") in line.raw]
    session.redactor.learn(findings, everywhere=True)
    if is_suspicious(line.raw):
        session.redactor.find(line.content)


def _replace_secrets(session: _Session, line: _Line) -> None:
    """Second pass: the line as it is stored."""
    if is_suspicious(line.raw) or session.redactor.recognises(line.raw):
        line.raw = _redacted(line.content, session.redactor)
    line.raw += b"\n"


def _parts(day: Path, session: str) -> Iterator[Path]:
    """The paths of a session's files of a day, one after the other, whether they exist or not."""
    return (day / (f"{session}.jsonl" if part == 1 else f"{session}.{part}.jsonl") for part in count(1))


def _whole_bytes(path: Path) -> int:
    """The length of a file up to the end of its last complete line."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        while size:
            start = max(0, size - (64 << 10))
            stream.seek(start)
            end = stream.read(size - start).rfind(b"\n")
            if end >= 0:
                return start + end + 1
            size = start
    return 0


def _last_step(path: Path) -> tuple[int, str]:
    """The highest step in a file, -1 if there is none, and all placeholders in it."""
    last, placeholders = -1, set[str]()
    with path.open("rb") as stream:
        for raw in stream:
            placeholders.update(match.group() for match in PLACEHOLDER.finditer(raw.decode("utf-8", "replace")))
            try:
                step = orjson.loads(raw).get("step")
            except (orjson.JSONDecodeError, AttributeError):
                continue
            last = max(last, step) if isinstance(step, int) else last
    return last, " ".join(sorted(placeholders))


def _redacted(content: Json, redactor: Redactor) -> bytes:
    """A line as it is stored: everything redacted but its session, its time, its receipt and its API."""
    kept = {name: content[name] for name in ("session_id", "started_at", "call", "api") if name in content}
    return orjson.dumps(redactor.redact(content)[0] | kept)


def _replace(path: Path, content: bytes) -> None:
    """Write a file anew: after a crash it is the old file or the new one."""
    write_atomic(path, content, permissions=0o666)  # the pipeline, which reads it, may run as another user
    _sync_folder(path.parent)


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def _sync_folder(folder: Path) -> None:
    for one in (folder, folder.parent):
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
