"""Every exchange, redacted, as a line of `<recordings>/<day>/<session>.jsonl`: the log format that ingest reads.

A line is written whole, by one `write`, and is on the disk (`fsync` of the file, and of the folder when the file is
new) before the caller gets the end of the answer: a crash, even of the machine, loses at most the calls in flight.
Calls that end at the same time share one fsync. A part of a line that a crash of the machine may have left is cut off
before the next line is written. A file that has grown to 16 MiB is followed by `<session>.2.jsonl`, and so on.
"""

import asyncio
import fcntl
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.sessions.redaction.detectors import is_suspicious
from grokora_pipeline.sessions.redaction.redactor import Redactor

Json = dict[str, Any]
ROTATE_BYTES = 16 << 20
_MOST_SESSIONS = 512  # whose placeholders and steps are remembered at once


@dataclass(slots=True)
class _Line:
    session: str
    content: Json
    raw: bytes = b""
    error: Exception | None = None


@dataclass(slots=True)
class _Session:
    """What is remembered of a session, so that a secret keeps its placeholder and steps go on counting."""

    redactor: Redactor
    next_step: int


class Recorder:
    """Appends to a folder of recordings; several processes may write to the same one. Use from any thread."""

    def __init__(self, folder: Path, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.folder, self._rotate_bytes = folder, rotate_bytes
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._waiting: deque[_Line] = deque()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self.counts: Counter[str] = Counter()  # written, failed, fsyncs

    def call(self, session: str, agent: str | None, at: datetime, request: Json, response: Json) -> Future[None]:
        """Record an exchange that began `at`; done when it is on the disk, with the error where it cannot be."""
        line = {"session_id": session, "agent": agent, "step": None, "started_at": at.astimezone(UTC).isoformat()}
        return self._append(session, {**line, "request": request, "response": response})

    def outcome(self, session: str, outcome: Json) -> Future[None]:
        """Record how a session ended: `status`, `rating`, `blame`; GrokoraError if nothing of it was recorded."""
        if not self.knows(session):
            raise GrokoraError(f"There is no recording of a session {session!r} in {self.folder}.")
        return self._append(session, {"session_id": session, "outcome": outcome})

    def knows(self, session: str) -> bool:
        """Whether anything of a session was recorded, on whatever day."""
        return session in self._sessions or bool(self._files(session))

    def latest(self) -> str:
        """The session that was written to last; GrokoraError where there is none."""
        files = sorted(self.folder.glob("*/*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        if not files:
            raise GrokoraError(f"{self.folder} holds no recording yet; run `grokora serve` and send it a request.")
        return files[-1].name.partition(".")[0]

    async def close(self) -> None:
        """Wait until everything is written."""
        await asyncio.to_thread(self._writer.shutdown)

    def _append(self, session: str, content: Json) -> Future[None]:
        line = _Line(session, content)
        self._waiting.append(line)
        return self._writer.submit(self._commit, line)

    def _commit(self, line: _Line) -> None:
        """Write all that waits, then say how it went with this line, which may have been written by an earlier turn."""
        batch: dict[str, list[_Line]] = {}
        while self._waiting:
            waiting = self._waiting.popleft()
            try:
                waiting.raw = self._encode(waiting)
            except (GrokoraError, orjson.JSONEncodeError, OSError) as error:
                waiting.error = error
            batch.setdefault(waiting.session, []).append(waiting)
        for session, lines in batch.items():
            self._write_lines(session, lines)
        if line.error:
            raise line.error

    def _write_lines(self, session: str, lines: Sequence[_Line]) -> None:
        good = [one for one in lines if one.error is None]
        try:
            if good:
                self._write(session, b"".join(one.raw for one in good))
        except OSError as error:
            for one in good:
                one.error = error
        failed = sum(one.error is not None for one in lines)
        self.counts.update(failed=failed, written=len(lines) - failed)

    def _encode(self, line: _Line) -> bytes:
        session = self._session(line.session)
        if "request" in line.content:
            line.content["step"] = session.next_step
            session.next_step += 1
        raw = orjson.dumps(line.content)
        if is_suspicious(raw) or session.redactor.recognises(raw):
            content, found = session.redactor.redact(line.content)
            if found:  # a value found late may also stand at the start
                content, _ = session.redactor.redact(content)
                kept = {name: line.content[name] for name in ("session_id", "started_at") if name in line.content}
                raw = orjson.dumps(content | kept)
        return raw + b"\n"

    def _session(self, name: str) -> _Session:
        known = self._sessions.pop(name, None)
        if known is None:
            known = _Session(Redactor(), max((_last_step(path) + 1 for path in self._files(name)), default=0))
        self._sessions[name] = known
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return known

    def _files(self, session: str) -> list[Path]:
        return [*self.folder.glob(f"*/{session}.jsonl"), *self.folder.glob(f"*/{session}.[0-9]*.jsonl")]

    def _write(self, session: str, lines: bytes) -> None:
        path = self._path(session)
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            size = _whole_bytes(path)
            try:
                stream.truncate(size)
                rest = memoryview(lines)
                while rest:
                    rest = rest[stream.write(rest) :]
                os.fsync(stream)
            except OSError:
                stream.truncate(size)  # a full disk: complete lines only
                raise
        if new:
            _sync_folder(path.parent)
        self.counts["fsyncs"] += 1

    def _path(self, session: str) -> Path:
        """Today's file of a session that is not full yet."""
        day = self.folder / f"{datetime.now(UTC):%Y-%m-%d}"
        names = (f"{session}.jsonl" if part == 1 else f"{session}.{part}.jsonl" for part in count(1))
        paths = (day / name for name in names)
        return next(path for path in paths if not path.exists() or path.stat().st_size < self._rotate_bytes)


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


def _last_step(path: Path) -> int:
    """The highest step in a file, -1 where there is none."""
    last = -1
    with path.open("rb") as stream:
        for raw in stream:
            try:
                step = orjson.loads(raw).get("step")
            except (orjson.JSONDecodeError, AttributeError):
                continue
            last = max(last, step) if isinstance(step, int) else last
    return last


def _sync_folder(folder: Path) -> None:
    for one in (folder, folder.parent):
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
