"""Versioned artifacts: `<store>/<asset key>/<version>/`, published whole or not at all, found by JSON pointers.

An artifact is a folder. What is published never changes. A pointer (`current`, `champion`) names the version in
service. The store is a local folder, or any fsspec URL (`s3://bucket/prefix`): then every machine keeps a mirror of
what it has read or written, and code works on local paths either way.
"""

import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psutil
from filelock import FileLock

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import Settings
from grokora_pipeline.store.files import content_version, file_sha256, folder_version, listing, write_atomic

_LOG = logging.getLogger(__name__)
__all__ = ["COMPLETE", "Artifact", "Store", "content_version", "file_sha256", "folder_version", "write_atomic"]
COMPLETE = "complete"  # in a folder of unfinished work, the file that says a part is whole; it is copied last
_SIZES = ".sizes.json"  # what follows a version's name in the file that lists its files and their bytes


@dataclass(frozen=True, slots=True)
class Artifact:
    """One published version of an asset."""

    key: str
    version: str
    store: "Store" = field(repr=False)

    @property
    def name(self) -> str:
        """Its path within the store: key and version."""
        return f"{self.key}/{self.version}"

    @property
    def path(self) -> Path:
        """Its folder on this machine, downloaded first if the store is remote and this machine has no copy."""
        return self.store.fetch(self.name)

    def link(self, part: str = "") -> str:
        """The path of it or of one of its files, or the URL if the store is remote; to be shown to a person."""
        return "/".join(filter(None, (self.store.url, self.name, part)))

    def read(self, part: str) -> bytes:
        """One of its files, without fetching the others."""
        return self.store.read_part(self.name, part)

    def read_json(self, part: str) -> dict[str, Any]:
        """One of its JSON files, without fetching the others."""
        document: dict[str, Any] = orjson.loads(self.read(part))
        return document


class Store:
    """The artifact store in a folder; `Store("s3://bucket/prefix")` is a `RemoteStore`, which does the same there.

    Keys are asset keys joined by `/`. `root` is the store's folder, or this machine's mirror of a remote store: for
    caches and logs that need not be shared. Whoever moves a pointer after looking at it does both under `lock`, which
    the processes and threads of this machine wait for, and which a thread may take again while it holds it.
    """

    remote = False

    def __new__(cls, url: str, cache: Path | None = None) -> "Store":
        """The class that the URL asks for, as `pathlib.Path` has one for each system."""
        if "://" not in url.removeprefix("file://"):
            return super().__new__(cls)
        from grokora_pipeline.store.remote import RemoteStore

        return super().__new__(RemoteStore)

    def __init__(self, url: str, cache: Path | None = None) -> None:
        """`cache` holds this machine's mirrors of remote stores; a local store needs none."""
        self.url = url.removeprefix("file://")
        self.root = Path(self.url)
        self.lock = FileLock(self.root / ".lock", is_singleton=True)  # one for all stores of this folder

    @classmethod
    def of(cls, settings: Settings) -> "Store":
        """The store that the settings name."""
        return cls(settings.store, settings.cache)

    def read(self, name: str) -> bytes | None:
        """A small file of the store, or None if there is none."""
        try:
            return (self.root / checked(name)).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, payload: bytes) -> None:
        """Replace a small file of the store, atomically."""
        write_atomic(self.root / checked(name), payload)

    @contextmanager
    def stage(self, key: str) -> Iterator[Path]:
        """A fresh folder to write an artifact into; what is not published by the end is removed.

        What killed processes left is swept first, so that no more than the last one's stays, whoever starts the next.
        """
        # below the store, so on the artifacts' disk: a rename between two disks is a copy, and a crash would leave half
        # of it in service
        base = self.root / ".staging"
        base.mkdir(parents=True, exist_ok=True)
        self.sweep()
        owner = f"{socket.gethostname()}.{os.getpid()}"
        staged = Path(tempfile.mkdtemp(dir=base, prefix=f"{key.replace('/', '-')}.{owner}."))
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def sweep(self) -> int:
        """Remove what dead processes of this machine left in `.staging`; returns how many folders those were."""
        swept = 0
        for path in (self.root / ".staging").glob("*"):
            match = re.search(r"\.(?P<pid>\d+)\.[^.]+(\.plan.*)?$", path.name)
            # a dead process's number may be another one's by now: then the folder stays until that one ends, too
            is_ours = match and path.name[: match.start()].endswith(f".{socket.gethostname()}")
            if match and is_ours and not psutil.pid_exists(int(match["pid"])):
                swept += path.is_dir()  # another process may sweep, too
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return swept

    @contextmanager
    def work(self, key: str, version: str) -> Iterator[Path]:
        """The (perhaps missing) folder of unfinished work on a version, in which a later attempt finds it.

        Of a remote store it is a copy, brought up to date every few seconds and at the end, so that the attempt may
        run on another machine. Files called `complete` follow what they vouch for.
        """
        folder = self.root / ".work" / checked(key).replace("/", "-") / version
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield folder

    def publish(self, key: str, version: str, staged: Path, **facts: Any) -> Artifact:
        """Make a staged folder the version of a key and point `current` at it.

        A whole version that is there already stays, of two processes that publish one the first counts, and a damaged
        version goes. GrokoraError if the staged folder is gone.
        """
        artifact = Artifact(checked(key), version, self)
        if not staged.is_dir():  # whoever moves a store takes along what is being made in it
            raise GrokoraError(f"{staged} is gone, so {key} is not published: was the store moved? Start again.")
        self._keep(staged, artifact.name)
        self.point(key, "current", version, **facts)
        return artifact

    def _keep(self, staged: Path, name: str) -> None:
        """Give a staged folder its name, unless a whole version has it."""
        target = self.root / name
        with self.lock:
            if self._is_whole(name):
                return
            if target.is_dir():
                shutil.rmtree(target)
            # before the folder, so that no version is without: a version that is not there is not whole either way
            sizes = {part: path.stat().st_size for part, path in listing(staged).items()}
            self.write(name + _SIZES, orjson.dumps(sizes))
            staged.rename(target)

    def _is_whole(self, name: str) -> bool:
        """Whether a version is published and none of its files was deleted or cut since then."""
        folder, sizes = self.root / name, self.read(name + _SIZES) or b"{}"  # there is none in older stores
        try:
            return folder.is_dir() and all(
                (folder / part).stat().st_size == size for part, size in orjson.loads(sizes).items()
            )
        except (FileNotFoundError, NotADirectoryError):
            return False

    def find(self, key: str, version: str) -> Artifact | None:
        """A published version, or None."""
        artifact = Artifact(checked(key), version, self)
        return artifact if self._is_whole(artifact.name) else None

    def versions(self, key: str) -> list[Artifact]:
        """All published versions of a key, oldest first."""
        folder = self.root / checked(key)
        folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        return [Artifact(key, path.name, self) for path in sorted(folders, key=lambda path: path.stat().st_mtime_ns)]

    def fetch(self, name: str) -> Path:
        """The folder of a version, by its name (`Artifact.name`), on this machine."""
        return self.root / name

    def read_part(self, name: str, part: str) -> bytes:
        """One file of a version."""
        return (self.root / name / part).read_bytes()

    def point(self, key: str, pointer: str, version: str, **facts: Any) -> None:
        """Move a pointer, atomically, and add a line to its history. Pointing at the same version changes nothing.

        The pointer moves first: its history never tells of a move that did not happen.
        """
        wanted = {"version": version, **facts}
        if wanted.items() <= (self.pointer(key, pointer) or {}).items():  # nothing to write, also in a read-only store
            return
        with self.lock:
            now = self.pointer(key, pointer)
            if now and wanted.items() <= now.items():  # another process has moved it meanwhile
                return
            if now and now not in self._moves(key, pointer, newest=2)[0]:  # who moved it died before the line was there
                self._append(f"{key}/{pointer}.history", orjson.dumps(now))
            # never earlier than the move before, whatever the clock says: events are told in this order
            at = max(datetime.now(UTC).isoformat(timespec="seconds"), str(now["at"]) if now else "")
            record = orjson.dumps({"version": version, "at": at, **facts})
            self.write(f"{key}/{pointer}.json", record)
            self._append(f"{key}/{pointer}.history", record)

    def pointer(self, key: str, pointer: str) -> dict[str, Any] | None:
        """The record of a pointer, or None if it was never set; if it is torn, its history's last record."""
        raw = self.read(f"{key}/{pointer}.json")
        record = None if raw is None else _record(raw)
        if raw is not None and record is None:
            _LOG.warning("%s/%s/%s.json is torn; the last line of its history counts.", self.url, key, pointer)
            record = next(reversed(self._moves(key, pointer)[0]), None)
        return record

    def history(self, key: str, pointer: str) -> list[dict[str, Any]]:
        """All records of a pointer, oldest first; lines that a full disk or a crash tore are left out and counted."""
        records, torn = self._moves(key, pointer)
        if torn:
            _LOG.warning("%s/%s/%s.history: %d lines are torn and were left out.", self.url, key, pointer, torn)
        now = self.pointer(key, pointer)
        return [*records, now] if now and now not in records else records  # the last move's line may be missing

    def _moves(self, key: str, pointer: str, newest: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The records of the newest lines of a pointer's history, or of all, and how many of them are torn."""
        records = [_record(line) for line in self._lines(f"{checked(key)}/{pointer}.history", newest)]
        return [record for record in records if record], records.count(None)

    def _append(self, name: str, line: bytes) -> None:
        """Add a line to the journal `name`; in one step, so that a full disk cuts no line."""
        self.write(f"{name}.jsonl", b"".join(one + b"\n" for one in [*self._lines(name), line]))

    def _lines(self, name: str, newest: int = 0) -> list[bytes]:
        """The lines of a journal, oldest first; so many of the newest, or all."""
        return [line for line in (self.read(f"{name}.jsonl") or b"").splitlines() if line][-newest:]

    def current(self, key: str) -> Artifact | None:
        """The version that `current` points at, or None."""
        record = self.pointer(key, "current")
        return self.find(key, record["version"]) if record else None

    def require(self, key: str) -> Artifact:
        """The current version; GrokoraError says which asset to materialize first."""
        artifact = self.current(key)
        if artifact is None:
            raise GrokoraError(f"{key} is not in the store {self.url}; materialize that asset first.")
        return artifact


def _record(raw: bytes) -> dict[str, Any] | None:
    """A pointer's record, or None if these bytes are none: a full disk or a crash tore them."""
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and {"version", "at"} <= record.keys() else None


def checked(key: str) -> str:
    """The key; refuses one that would leave the store."""
    if not all(part and part not in {".", ".."} and "\\" not in part for part in key.split("/")):
        raise GrokoraError(f"{key!r} is no artifact key.")
    return key
