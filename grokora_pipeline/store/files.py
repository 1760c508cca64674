"""Plain functions on files: versions from content, and a file that is replaced in one step."""

import hashlib
import json
import os
import tempfile
from pathlib import Path


def content_version(*parts: object) -> str:
    """A version from any JSON-able parts: the first 16 hex digits of the SHA-256 of their canonical JSON."""
    payload = json.dumps(parts, sort_keys=True, default=str)  # orjson refuses integers beyond 64 bits
    return hashlib.sha256(payload.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listing(folder: Path) -> dict[str, Path]:
    """All files below a folder by their relative names, sorted."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def folder_version(folder: Path) -> str:
    """A version from the names and bytes of all files below a folder."""
    return content_version([(name, file_sha256(path)) for name, path in listing(folder).items()])


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
