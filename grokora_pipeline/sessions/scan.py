"""What lies under the log root: files that may be logs, what is left out and why, and what is still being written."""

import hashlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.sessions.readers.source import ROTATED_HEAD, event_number, rotation
from grokora_pipeline.sessions.table import public_name
from grokora_pipeline.sessions.turns import Problem

MAX_FOLDERS = 32
ROTATED_BEFORE = 3  # rotated files that are read again for a session that began in them
# What is never a log. Everything else is looked into: rotation and editors give logs any name (.log.1, .jsonl.bak).
_BINARY = frozenset(
    """
    .png .jpg .jpeg .gif .webp .bmp .ico .svg .tif .tiff .heic .mp4 .webm .mov .avi .mkv .mp3 .wav .ogg .flac .pdf .docx
    .xlsx .pptx .ttf .woff .woff2 .exe .dll .so .dylib .o .a .pyc .whl .jar .class .arrow
    .feather .npy .npz .safetensors .gguf .bin .pt .pth .onnx .pkl .lock .py .js .ts .css .html .htm .sh .bat .ps1
    """.split()  # noqa: SIM905
)
# Programs such as Cursor, Goose and Crush keep their sessions so, and change them all the time.
_DATABASES = frozenset((".db", ".sqlite", ".sqlite3", ".vscdb"))
_NO_DATABASE = "a database, which is not read; export its sessions as JSON, or record at the gateway"
Signature = tuple[int, int]


class Entry(NamedTuple):
    """A file or folder below the root: its relative path, size and mtime (ns), or why it is not read."""

    path: str
    size: int = 0
    mtime_ns: int = 0
    problem: Problem | None = None

    @property
    def signature(self) -> Signature:
        """Changes when the file's bytes may have changed."""
        return self.size, self.mtime_ns


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file under the log root. `signature` begins with size and mtime (ns).

    It changes when the file's bytes may have changed, or those of the rotated files that it continues.
    """

    path: Path
    name: str  # as stored: relative to the root, without personal data
    size: int
    signature: tuple[int, ...]
    growing: bool = False
    path_id: str = ""  # a hash of the path as it is
    older: tuple[Path, ...] = ()  # the files that this one continues, by rotation, the oldest first
    newer: Path | None = None  # the file that continues this one
    newer_size: int = 0  # how many of its bytes may be looked at


@dataclass(slots=True)
class Scan:
    """The files to look into, sorted by name, and what is left out: with a fault, or because it is no log."""

    files: list[LogFile] = field(default_factory=list)
    aside: list[tuple[str, Problem]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    closed: list[str] = field(default_factory=list)  # folders that cannot be looked into now: their logs still live


def manifest(root: Path) -> list[tuple[str, int, int]]:
    """(path, size, mtime in ns) of every file below the log root that may be a log, sorted: what there is, unread.

    Raises GrokoraError if the root is missing.
    """
    return sorted(entry[:3] for entry in walk(root) if entry.problem is None)


def settled(root: Path, settle_seconds: float) -> tuple[list[Entry], set[str]]:
    """Every entry below the root, sorted, and the paths of those that are growing.

    Waits once, at most `settle_seconds`, for files that changed just now; one that changed while we waited is growing,
    and is listed as it is now. Raises GrokoraError if the log root is missing or no folder.
    """
    entries = list(walk(root))
    growing = _growing(root, entries, settle_seconds)
    return sorted(growing.get(entry.path, entry) for entry in entries), set(growing)


def scan(root: Path, entries: Iterable[Entry], growing: Collection[str], names: Mapping[str, str]) -> Scan:
    """The entries by what is to be done with them, under the names that are stored; `names` are known, by path id."""
    result = Scan()
    entries = list(entries)
    neighbours = _neighbours(entries)
    events: dict[str, tuple[int, int, int]] = {}  # by folder: how many files of one event each, their size, the newest
    for entry in entries:
        folder, name = os.path.split(entry.path)
        if entry.problem is None and event_number(name) is not None:
            count, size, newest = events.get(folder, (0, 0, 0))
            events[folder] = count + 1, size + entry.size, max(newest, entry.mtime_ns)
    for entry in entries:
        path_id = hashlib.sha256(os.fsencode(entry.path)).hexdigest()[:16]
        name = names.get(path_id) or public_name(entry.path)
        if entry.problem is None:
            older, newer = neighbours.get(entry.path, ((), None))
            signature = (*entry.signature, *(part for one in older for part in one.signature))
            folder, base = os.path.split(entry.path)
            if event_number(base) == 0:  # the first event's file stands for all of them
                signature = (*signature, *events[folder])
            file = LogFile(
                root / entry.path,
                name,
                entry.size,
                signature,
                growing=entry.path in growing,
                path_id=path_id,
                older=tuple(root / one.path for one in older),
                newer=root / newer.path if newer else None,
                newer_size=min(newer.size, ROTATED_HEAD) if newer else 0,
            )
            result.files.append(file)
        elif entry.problem.reason == "not_a_log":
            result.left_out.append((name, entry.problem.detail))
        else:
            result.aside.append((name, entry.problem))
            if entry.problem.reason == "closed_folder":
                result.closed.append(name)
    result.files.sort(key=lambda file: file.name)
    result.aside.sort()
    return result


def _neighbours(entries: Iterable[Entry]) -> dict[str, tuple[tuple[Entry, ...], Entry | None]]:
    """The files that each rotated log continues, the oldest first, and the one that continues it, by path.

    A number that is missing among `x.log.1`, `x.log.2` … ends the row: nobody knows what stood in that file.
    """
    families: dict[str, dict[tuple[str, int], Entry]] = {}
    for entry in sorted(entries):
        if entry.problem is None:
            stem, rank = rotation(entry.path)
            families.setdefault(stem, {}).setdefault(rank, entry)  # x.log.1 before its packed copy x.log.1.gz
    neighbours: dict[str, tuple[tuple[Entry, ...], Entry | None]] = {}
    for family in families.values():
        row: list[Entry] = []
        places = sorted(family)
        for before, rank in zip([None, *places], places, strict=False):
            if before and before[0] == "9" and before[1] + 1 != (rank[1] if rank[0] == "9" else 0):
                row = []
            if row:
                neighbours[row[-1].path] = (neighbours.get(row[-1].path, ((), None))[0], family[rank])
                neighbours[family[rank].path] = (tuple(row[-ROTATED_BEFORE:]), None)
            row.append(family[rank])
    return neighbours


def walk(root: Path) -> Iterator[Entry]:
    """Every file below the root, hidden ones left out, in no order; one walk serves the sensor and the ingest.

    Links are never followed: one that leaves the root is a problem, one that stays inside leads to a file that is found
    anyway. Pipes, sockets and devices are never opened. Raises GrokoraError if the root is missing.
    """
    if not root.is_dir():
        raise GrokoraError(
            f"The log folder {root} does not exist; point GROKORA_LOGS at the folder of your session logs."
        )
    start, resolved, pending = len(str(root)) + 1, root.resolve(), [(str(root), 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            yield Entry(folder[start:], problem=Problem("closed_folder", 0, error.strerror or ""))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir(follow_symlinks=False) and depth < MAX_FOLDERS:
                    pending.append((entry.path, depth + 1))
                elif seen := _look_at(entry, entry.path[start:], resolved):
                    yield seen
            except FileNotFoundError:
                continue  # gone since it was listed
            except OSError as error:
                yield Entry(entry.path[start:], problem=Problem("unreadable", 0, error.strerror or ""))


def _look_at(entry: "os.DirEntry[str]", path: str, root: Path) -> Entry | None:
    """What a name in a folder stands for; None for links that stay inside, pipes, sockets and devices."""
    if entry.is_symlink():
        with suppress(OSError, RuntimeError):  # a link that leads in a circle leads nowhere
            if not Path(entry.path).resolve().is_relative_to(root):
                return Entry(path, problem=Problem("outside_root", 0, "a link that leaves the log folder"))
        return None
    if entry.is_dir(follow_symlinks=False):
        return Entry(path, problem=Problem("too_deep", 0, f"more than {MAX_FOLDERS} folders deep"))
    if not entry.is_file(follow_symlinks=False):
        return None
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 – a Path a file costs seconds
    if suffix in _DATABASES:
        return Entry(path, problem=Problem("not_a_log", 0, _NO_DATABASE))
    if suffix in _BINARY:
        return Entry(path, problem=Problem("not_a_log", 0, f"{suffix[1:]} file"))
    stat = entry.stat(follow_symlinks=False)
    return Entry(path, stat.st_size, stat.st_mtime_ns)


def _growing(root: Path, entries: list[Entry], settle_seconds: float) -> dict[str, Entry]:
    """The files that changed while we waited, as they are now."""
    now, window = time.time_ns(), int(settle_seconds * 1e9)
    fresh = [entry for entry in entries if entry.problem is None and entry.mtime_ns > now - window > 0]
    if settle_seconds <= 0 or not fresh:
        return {}
    newest = max(entry.mtime_ns for entry in fresh)
    time.sleep(min(settle_seconds, max(0.0, (newest + window - now) / 1e9)))
    growing = {}
    for entry in fresh:
        try:
            stat = (root / entry.path).stat()
        except OSError:
            continue  # it is reported when it is read
        if (stat.st_size, stat.st_mtime_ns) != entry.signature:
            growing[entry.path] = Entry(entry.path, stat.st_size, stat.st_mtime_ns)
    return growing
