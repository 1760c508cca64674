"""Plain functions on files: versions from content, and a file that is replaced in one step."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import FileIO
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


@contextmanager
def locked(path: Path, mode: str, permissions: int = 0o666) -> Iterator[FileIO]:
    """The file under a path, locked; another process may have put a new file there while this one waited."""
    while True:
        with FileIO(path, mode, opener=partial(os.open, mode=permissions)) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                yield stream
                return


def write_whole(stream: FileIO, payload: bytes) -> None:
    """Write all of it and wait until it is on the disk: one `write` of a system may take a part."""
    rest = memoryview(payload)
    while rest:
        rest = rest[stream.write(rest) :]
    os.fsync(stream)


def write_atomic(path: Path, payload: bytes, permissions: int = 0o600) -> None:
    """Replace a file in one step, durably: a concurrent reader sees the old or the new bytes, never a part.

    The draft has one name: what a writer that was killed left is written over by the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    with locked(draft, "ab", permissions) as stream:
        try:
            stream.truncate(0)
            write_whole(stream, payload)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
