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

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store.folder import LocalFiles, content_version, file_sha256, folder_version, write_atomic
from grokora_pipeline.store.remote import COMPLETE, RemoteFiles

_LOG = logging.getLogger(__name__)
__all__ = ["COMPLETE", "Artifact", "Store", "content_version", "file_sha256", "folder_version", "write_atomic"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One published version of an asset."""

    key: str
    version: str
    files: LocalFiles | RemoteFiles = field(repr=False)

    @property
    def name(self) -> str:
        """Its path within the store: key and version."""
        return f"{self.key}/{self.version}"

    @property
    def path(self) -> Path:
        """Its folder on this machine, downloaded first if the store is remote and this machine has no copy."""
        return self.files.fetch(self.name)

    def link(self, part: str = "") -> str:
        """The path of it or of one of its files, or the URL if the store is remote; to be shown to a person."""
        return "/".join(filter(None, (self.files.url, self.name, part)))

    def read(self, part: str) -> bytes:
        """One of its files, without fetching the others."""
        return self.files.read_part(self.name, part)

    def read_json(self, part: str) -> dict[str, Any]:
        """One of its JSON files, without fetching the others."""
        document: dict[str, Any] = orjson.loads(self.read(part))
        return document


class Store:
    """The artifact store at a local folder or fsspec URL. Keys are asset keys joined by `/`.

    `root` is the store's folder, or this machine's mirror of it: for caches and logs that need not be shared.
    """

    def __init__(self, url: str, cache: Path | None = None) -> None:
        """`cache` holds this machine's mirrors of remote stores; a local store needs none."""
        url = url.removeprefix("file://")
        self.files: LocalFiles | RemoteFiles = (
            RemoteFiles(url, cache or Path("~/.cache/grokora").expanduser()) if "://" in url else LocalFiles(Path(url))
        )
        self.root, self.remote = self.files.root, isinstance(self.files, RemoteFiles)

    @contextmanager
    def stage(self, key: str) -> Iterator[Path]:
        """A fresh folder to write an artifact into; what is not published by the end is removed."""
        # below the store, so on the artifacts' disk: a rename between two disks is a copy, and a crash would leave half
        # of it in service
        base = self.root / ".staging"
        base.mkdir(parents=True, exist_ok=True)
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
            here = match and path.name[: match.start()].endswith(f".{socket.gethostname()}")
            if match and here and not psutil.pid_exists(int(match["pid"])):
                swept += path.is_dir()
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return swept

    @contextmanager
    def work(self, key: str, version: str) -> Iterator[Path]:
        """The (perhaps missing) folder of unfinished work on a version, in which a later attempt finds it.

        Of a remote store it is a copy, brought up to date every few seconds and at the end, so that the attempt may
        run on another machine. Files called `complete` follow what they vouch for.
        """
        with self.files.shared(f".work/{_checked(key).replace('/', '-')}/{version}") as folder:
            yield folder

    def publish(self, key: str, version: str, staged: Path, **facts: Any) -> Artifact:
        """Make a staged folder the version of a key and point `current` at it. An existing version is kept."""
        artifact = Artifact(_checked(key), version, self.files)
        self.files.publish(staged, artifact.name)
        self.point(key, "current", version, **facts)
        return artifact

    def find(self, key: str, version: str) -> Artifact | None:
        """A published version, or None."""
        artifact = Artifact(_checked(key), version, self.files)
        return artifact if self.files.exists(artifact.name) else None

    def versions(self, key: str) -> list[Artifact]:
        """All published versions of a key, oldest first."""
        return [Artifact(key, version, self.files) for version in self.files.versions(_checked(key))]

    def read(self, name: str) -> bytes | None:
        """A small file of the store itself, or None if there is none."""
        return self.files.read(_checked(name))

    def write(self, name: str, payload: bytes) -> None:
        """Replace a small file of the store itself, atomically."""
        self.files.write(_checked(name), payload)

    def point(self, key: str, pointer: str, version: str, **facts: Any) -> None:
        """Move a pointer, atomically, and add a line to its history. Pointing at the same version changes nothing.

        The pointer moves first: its history never tells of a move that did not happen.
        """
        now = self.pointer(key, pointer)
        if now and now["version"] == version and all(now.get(name) == value for name, value in facts.items()):
            return
        record = orjson.dumps({"version": version, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts})
        self.write(f"{key}/{pointer}.json", record)
        self.files.append(f"{key}/{pointer}.history", record)

    def pointer(self, key: str, pointer: str) -> dict[str, Any] | None:
        """The record of a pointer, or None if it was never set; if it is torn, its history's last record."""
        raw = self.read(f"{key}/{pointer}.json")
        record = None if raw is None else _record(raw)
        if raw is not None and record is None:
            _LOG.warning("%s/%s/%s.json is torn; the last line of its history counts.", self.files.url, key, pointer)
            record = next(reversed(self._moves(key, pointer)[0]), None)
        return record

    def _moves(self, key: str, pointer: str) -> tuple[list[dict[str, Any]], int]:
        """The records of a pointer's history, oldest first, and how many of its lines are torn."""
        records = [_record(line) for line in self.files.lines(f"{_checked(key)}/{pointer}.history")]
        return [record for record in records if record], records.count(None)

    def history(self, key: str, pointer: str) -> list[dict[str, Any]]:
        """All records of a pointer, oldest first; lines that a full disk or a crash tore are left out and counted."""
        records, torn = self._moves(key, pointer)
        if torn:
            _LOG.warning("%s/%s/%s.history: %d lines are torn and were left out.", self.files.url, key, pointer, torn)
        now = self.pointer(key, pointer)
        return [*records, now] if now and now not in records else records  # the last move's line may be missing

    def current(self, key: str) -> Artifact | None:
        """The version that `current` points at, or None."""
        record = self.pointer(key, "current")
        return self.find(key, record["version"]) if record else None

    def require(self, key: str) -> Artifact:
        """The current version; GrokoraError says which asset to materialize first."""
        artifact = self.current(key)
        if artifact is None:
            raise GrokoraError(f"{key} is not in the store {self.files.url}; materialize that asset first.")
        return artifact


def _record(raw: bytes) -> dict[str, Any] | None:
    """A pointer's record, or None if these bytes are none: a full disk or a crash tore them."""
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and {"version", "at"} <= record.keys() else None


def _checked(key: str) -> str:
    """The key; refuses one that would leave the store."""
    if not all(part and part not in {".", ".."} and "\\" not in part for part in key.split("/")):
        raise GrokoraError(f"{key!r} is no artifact key.")
    return key
