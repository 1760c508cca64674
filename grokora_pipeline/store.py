"""Versioned artifacts: `<store>/<asset key>/<version>/`, published atomically, found by one-line JSON pointers.

An artifact is a folder. It is written to a staging folder and renamed into place, so that a reader sees all of it or
nothing, and what is published never changes. A pointer (`current`, `champion`) names the version in service.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.errors import GrokoraError

VERSION_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Artifact:
    """One published version of an asset."""

    key: str
    version: str
    path: Path


def content_version(*parts: object) -> str:
    """A version from any JSON-able parts: the first 16 hex digits of the SHA-256 of their canonical JSON."""
    payload = json.dumps(parts, sort_keys=True, default=str)  # orjson refuses integers beyond 64 bits
    return hashlib.sha256(payload.encode()).hexdigest()[:VERSION_LENGTH]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_version(folder: Path) -> str:
    """A version from the names and bytes of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return content_version([(path.relative_to(folder).as_posix(), file_sha256(path)) for path in files])


def write_atomic(path: Path, payload: bytes) -> None:
    """Replace a file in one step, durably: a concurrent reader sees the old or the new bytes, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class Store:
    """The artifact store on a local folder. Keys are asset keys joined by `/`."""

    def __init__(self, url: str) -> None:
        if "://" in url:
            raise GrokoraError(f"GROKORA_STORE={url}: only local folders are supported so far; give a folder.")
        self.root = Path(url)

    def folder(self, key: str) -> Path:
        """The folder of all versions of a key; refuses keys that would leave the store."""
        parts = key.split("/")
        if not all(part and part not in {".", ".."} and "\\" not in part for part in parts):
            raise GrokoraError(f"{key!r} is no artifact key.")
        return self.root.joinpath(*parts)

    @contextmanager
    def stage(self, key: str) -> Iterator[Path]:
        """A fresh folder to write an artifact into; what is not published by the end is removed."""
        base = self.root / ".staging"
        base.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=base, prefix=key.replace("/", "-") + "-"))
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def publish(self, key: str, version: str, staged: Path, **facts: Any) -> Artifact:
        """Rename a staged folder into place and point `current` at it. An existing version is kept."""
        target = self.folder(key) / version
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        self.point(key, "current", version, **facts)
        return Artifact(key, version, target)

    def find(self, key: str, version: str) -> Artifact | None:
        """A published version, or None."""
        path = self.folder(key) / version
        return Artifact(key, version, path) if path.is_dir() else None

    def versions(self, key: str) -> list[Artifact]:
        """All published versions of a key, oldest first."""
        folder = self.folder(key)
        found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        return [Artifact(key, path.name, path) for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]

    def point(self, key: str, pointer: str, version: str, **facts: Any) -> None:
        """Move a pointer, atomically, and add a line to its history. Pointing at the same version changes nothing."""
        now = self.pointer(key, pointer)
        if now and now["version"] == version and all(now.get(name) == value for name, value in facts.items()):
            return
        record = orjson.dumps({"version": version, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts})
        with (self._made(key) / f"{pointer}.history.jsonl").open("ab") as history:
            history.write(record + b"\n")
        write_atomic(self.folder(key) / f"{pointer}.json", record)

    def pointer(self, key: str, pointer: str) -> dict[str, Any] | None:
        """The record of a pointer, or None where it was never set."""
        try:
            record: dict[str, Any] = orjson.loads((self.folder(key) / f"{pointer}.json").read_bytes())
        except FileNotFoundError:
            return None
        return record

    def history(self, key: str, pointer: str) -> list[dict[str, Any]]:
        """All records of a pointer, oldest first."""
        try:
            lines = (self.folder(key) / f"{pointer}.history.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [orjson.loads(line) for line in lines if line]

    def current(self, key: str) -> Artifact | None:
        """The version that `current` points at, or None."""
        record = self.pointer(key, "current")
        return self.find(key, record["version"]) if record else None

    def require(self, key: str) -> Artifact:
        """The current version; GrokoraError says which asset to materialize first."""
        artifact = self.current(key)
        if artifact is None:
            raise GrokoraError(f"{key} is not in the store {self.root}; materialize that asset first.")
        return artifact

    def _made(self, key: str) -> Path:
        folder = self.folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
