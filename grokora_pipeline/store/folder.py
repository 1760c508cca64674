"""Files of a local store, and what they are called by: hashes of content, folders that appear whole or not at all."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION_LENGTH = 16
_SIZES = ".sizes.json"  # beside a version: its files and their bytes


def content_version(*parts: object) -> str:
    """A version from any JSON-able parts: the first 16 hex digits of the SHA-256 of their canonical JSON."""
    payload = json.dumps(parts, sort_keys=True, default=str)  # orjson refuses integers beyond 64 bits
    return hashlib.sha256(payload.encode()).hexdigest()[:VERSION_LENGTH]


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


def move_in(staged: Path, target: Path) -> bool:
    """Put a staged folder in its place; what is there already is kept, and False returned."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        return False
    return True


class LocalFiles:
    """A store in a folder. Names are relative to it; a version is staged beside its place and renamed into it."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)

    def read(self, name: str) -> bytes | None:
        """The bytes of a small file; None if it is not there."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, payload: bytes) -> None:
        """Replace a small file atomically."""
        write_atomic(self.root / name, payload)

    def append(self, name: str, line: bytes) -> None:
        """Add a line to the journal `name`."""
        path = self.root / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as stream:  # every write goes to the end, wherever was read
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1))
            torn = size > 0 and stream.read(1) != b"\n"  # a line that a full disk cut: the next stays whole
            stream.write((b"\n" if torn else b"") + line + b"\n")

    def lines(self, name: str) -> list[bytes]:
        """The lines of a journal, oldest first."""
        return [line for line in (self.read(f"{name}.jsonl") or b"").splitlines() if line]

    def publish(self, staged: Path, name: str) -> None:
        """Move a staged folder into its place; a whole version that is there already stays, a damaged one goes."""
        sizes = {part: path.stat().st_size for part, path in listing(staged).items()}
        if (self.root / name).is_dir() and not self.exists(name):
            (self.root / (name + _SIZES)).unlink(missing_ok=True)
            shutil.rmtree(self.root / name)
        if move_in(staged, self.root / name):  # of two processes, the one whose folder stands there
            self.write(name + _SIZES, json.dumps(sizes).encode())

    def exists(self, name: str) -> bool:
        """Whether a version is published and none of its files was deleted or cut since then."""
        folder = self.root / name
        sizes = self.read(name + _SIZES) or b"{}"  # there is none in older stores
        try:
            return folder.is_dir() and all(
                (folder / part).stat().st_size == size for part, size in json.loads(sizes).items()
            )
        except (FileNotFoundError, NotADirectoryError):
            return False

    def fetch(self, name: str) -> Path:
        """The folder of a version on this machine."""
        return self.root / name

    def read_part(self, name: str, part: str) -> bytes:
        """One file of a version."""
        return (self.root / name / part).read_bytes()

    def versions(self, key: str) -> list[str]:
        """The published versions of a key, oldest first."""
        folder = self.root / key
        folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        return [path.name for path in sorted(folders, key=lambda path: path.stat().st_mtime_ns)]

    @contextmanager
    def shared(self, name: str) -> Iterator[Path]:
        """A work folder that a later attempt finds again."""
        folder = self.root / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield folder
