"""What lies under the log root: files worth reading, files to set aside, and which of them are still being written."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.sessions.readers.session_json import COMPANION
from grokora_pipeline.sessions.table import public_name
from grokora_pipeline.sessions.turns import Problem

MAX_BYTES = 256 << 20
MAX_FOLDERS = 32
_TEXT = {".json", ".jsonl", ".ndjson", ".log", ".md", ".txt", ""}
Signature = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file under the log root. `signature` changes when its bytes, or those of its session.log, may have changed."""

    path: Path
    name: str
    size: int
    signature: Signature


@dataclass(frozen=True, slots=True)
class Scan:
    """The files to read, sorted by name, and those set aside with the reason."""

    files: list[LogFile]
    aside: list[tuple[str, Problem]]


def scan(root: Path, settle_seconds: float) -> Scan:
    """Look at every file once; wait once, at most `settle_seconds`, for those that changed just now.

    Raises GrokoraError where the log root is missing or no folder. Links are never followed: one that leaves the root
    is set aside, one that stays inside leads to a file that is found anyway.
    """
    _require(root)
    files: list[LogFile] = []
    aside: list[tuple[str, Problem]] = []
    for path in _walk(root, root.resolve(), aside):
        name = _name(root, path)
        try:
            mark = signature(path)
        except OSError as error:
            aside.append((name, Problem("unreadable", 0, error.strerror or "")))
            continue
        if mark[0] > MAX_BYTES:
            aside.append((name, Problem("gigantic", 0, f"{mark[0] >> 20} MiB, more than {MAX_BYTES >> 20}")))
        else:
            files.append(LogFile(path, name, mark[0], mark))
    files, growing = _settled(files, settle_seconds)
    aside += [(file.name, Problem("growing", file.size, f"changed within {settle_seconds:g} s")) for file in growing]
    return Scan(sorted(files, key=lambda file: file.name), sorted(aside, key=lambda row: row[0]))


def manifest(root: Path) -> list[tuple[str, int, int]]:
    """(path, size, mtime in ns) of every file below the log root that may be a log, sorted: what there is, unread.

    Raises GrokoraError where the root is missing.
    """
    _require(root)
    found, pending = [], [str(root)]
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except OSError:
            continue  # unreadable, or gone since it was listed
        with entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.is_symlink():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif mark := _stat(entry):
                    found.append((entry.path[len(str(root)) + 1 :], *mark))
    return sorted(found)


def _stat(entry: "os.DirEntry[str]") -> tuple[int, int] | None:
    try:
        stat = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _require(root: Path) -> None:
    if not root.is_dir():
        raise GrokoraError(
            f"The log folder {root} does not exist; point GROKORA_LOGS at the folder of your session logs."
        )


def signature(path: Path) -> Signature:
    """Size and modification time of a file, and of the session.log beside a session.json."""
    found = path.stat()
    parts = [found.st_size, found.st_mtime_ns]
    if path.suffix == ".json":
        log = path.with_name(COMPANION)
        beside = log.lstat() if log.is_file() else None
        parts += [beside.st_size, beside.st_mtime_ns] if beside else []
    return tuple(parts)


def _name(root: Path, path: Path) -> str:
    return public_name(path.relative_to(root).as_posix())


def _walk(root: Path, resolved: Path, aside: list[tuple[str, Problem]]) -> Iterator[Path]:
    """Regular files that may be text, hidden ones left out; what is no ordinary file or folder is reported."""
    pending = [(root, 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda found: found.name)
        except OSError as error:
            aside.append((_name(root, folder), Problem("unreadable", 0, error.strerror or "")))
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                if not _stays_inside(path, resolved):
                    aside.append((_name(root, path), Problem("outside_root", 0, "a link that leaves the log folder")))
            elif entry.is_dir() and depth >= MAX_FOLDERS:
                aside.append((_name(root, path), Problem("too_deep", 0, f"more than {MAX_FOLDERS} folders deep")))
            elif entry.is_dir():
                pending.append((path, depth + 1))
            elif entry.is_file() and path.suffix.lower() in _TEXT:
                yield path


def _stays_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads in a circle leads nowhere
        return True


def _settled(files: list[LogFile], settle_seconds: float) -> tuple[list[LogFile], list[LogFile]]:
    """Files that are quiet, and those that changed while we waited."""
    if settle_seconds <= 0:
        return files, []
    now = time.time_ns()
    window = int(settle_seconds * 1e9)
    fresh = {file.path for file in files if max(file.signature[1::2]) > now - window}
    if not fresh:
        return files, []
    newest = max(max(file.signature[1::2]) for file in files if file.path in fresh)
    time.sleep(min(settle_seconds, max(0.0, (newest + window - now) / 1e9)))
    growing = [file for file in files if file.path in fresh and not _same(file)]
    return [file for file in files if file not in growing], growing


def _same(file: LogFile) -> bool:
    try:
        return signature(file.path) == file.signature
    except OSError:
        return False
