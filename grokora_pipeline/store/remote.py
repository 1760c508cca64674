"""Files of a store on an fsspec URL, such as `s3://bucket/prefix`, and this machine's mirror of them."""

import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store.folder import content_version, file_sha256, listing, move_in

COMPLETE = "complete"  # in a folder of unfinished work, the file that says a part is whole; it is copied last
_PUBLISHED = ".complete"  # what follows the version's name in the object that makes a remote artifact visible
_SYNC_SECONDS = 2.0
_Signatures = dict[str, tuple[int, int]]  # (time of the last change in ns, size) by name


class RemoteFiles:
    """A store on an fsspec URL, with a mirror of what this machine has seen of it below `root`.

    An object store has no rename: a version's files go to `<key>/<version>/<hash of its content>/`, and the object
    `<key>/<version>.complete`, which lists them, is created last and by one writer only. The mirror's folders are
    called by content too (`<key>/<hash>/<version>/`), so it holds nothing stale; it may be deleted when nothing runs.
    """

    def __init__(self, url: str, cache: Path) -> None:
        import fsspec
        from fsspec.implementations.dirfs import DirFileSystem

        try:
            filesystem, base = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise GrokoraError(f"GROKORA_STORE={url} cannot be opened: {error}.") from error
        self._fs = DirFileSystem(base.rstrip("/"), filesystem)  # its paths are the store's names
        self.url = url.rstrip("/")
        self.root = cache.joinpath(
            *(part for part in self.url.replace("://", "/").split("/") if part not in {"", ".."})
        )

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """A bucket that is not there and credentials that do not fit are mistakes of a person, and said as such."""
        try:
            yield
        except Exception as error:
            # botocore's NoCredentialsError and its like, which cannot be named where that client is not installed
            if not isinstance(error, PermissionError | FileNotFoundError) and "Credentials" not in type(error).__name__:
                raise
            raise GrokoraError(f"GROKORA_STORE={self.url}: {error}; check the bucket and your credentials.") from error

    def _mirror(self, name: str, content: str) -> Path:
        return self.root / Path(name).parent / content / Path(name).name

    def _names(self, name: str) -> list[str]:
        """The names of all objects below a name, sorted."""
        # fsspec keeps listings for the life of the process, in which another machine's new objects are missing
        self._fs.fs.invalidate_cache()
        return sorted(self._fs.find(f"{name}/"))

    def read(self, name: str) -> bytes | None:
        """The bytes of a small object; None if it is not there."""
        with self._usable():
            try:
                payload: bytes = self._fs.cat_file(name)
            except FileNotFoundError:
                return None
            return payload

    def write(self, name: str, payload: bytes) -> None:
        """Replace a small object; object stores do that atomically."""
        with self._usable():
            self._fs.pipe_file(name, payload)

    def append(self, name: str, line: bytes) -> None:
        """Add a line to the journal `name`: an object a line, since objects cannot be appended to."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        self.write(f"{name}/{stamp}-{uuid.uuid4().hex[:8]}.json", line)

    def lines(self, name: str) -> list[bytes]:
        """The lines of a journal, oldest first."""
        names = self._names(name)
        by_name: dict[str, bytes] = self._fs.cat(names) if names else {}
        return [by_name[name] for name in names]

    def publish(self, staged: Path, name: str) -> None:
        """Upload a staged folder, then the record that makes it a version; the first of two machines wins."""
        if self.exists(name):
            return
        files = {part: file_sha256(path) for part, path in listing(staged).items()}
        content = content_version(files)
        with self._usable():
            self._upload(staged, f"{name}/{content}", list(files))
        record = orjson.dumps({"at": datetime.now(UTC).isoformat(), "content": content, "files": files})
        try:
            self._fs.pipe_file(name + _PUBLISHED, record, mode="create")
        except OSError:
            if not self.exists(name):  # else another machine was first, and its version is as good
                raise
        move_in(staged, self._mirror(name, content))

    def exists(self, name: str) -> bool:
        """Whether a version is published."""
        return self.read(name + _PUBLISHED) is not None

    def fetch(self, name: str) -> Path:
        """The folder of a version in this machine's mirror, downloaded and compared with its checksums if it is new."""
        record = self._record(name)
        folder = self._mirror(name, record["content"])
        if folder.is_dir():
            return folder
        staging = self.root / ".staging"
        staging.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=staging, prefix="fetch-", ignore_cleanup_errors=True) as parent:
            fetched = Path(parent) / "artifact"
            fetched.mkdir()
            self._download(f"{name}/{record['content']}", fetched, list(record["files"]))
            damaged = [part for part, digest in record["files"].items() if file_sha256(fetched / part) != digest]
            if damaged:
                raise GrokoraError(f"{self.url}/{name}: {damaged[0]} is damaged; delete {name}{_PUBLISHED} there.")
            move_in(fetched, folder)
        return folder

    def read_part(self, name: str, part: str) -> bytes:
        """One file of a version, without downloading the others."""
        content = self._record(name)["content"]
        kept = self._mirror(name, content) / part
        return kept.read_bytes() if kept.is_file() else bytes(self._fs.cat_file(f"{name}/{content}/{part}"))

    def versions(self, key: str) -> list[str]:
        """The published versions of a key, oldest first."""
        self._fs.fs.invalidate_cache()
        published = self._fs.glob(f"{key}/*{_PUBLISHED}")
        records = self._fs.cat(published) if published else {}
        oldest_first = sorted(records, key=lambda path: str(orjson.loads(records[path])["at"]))
        return [path.rpartition("/")[2].removesuffix(_PUBLISHED) for path in oldest_first]

    def _record(self, name: str) -> dict[str, Any]:
        """The record of a published version: when it came, the hash of its content, its files with their hashes."""
        payload = self.read(name + _PUBLISHED)
        if payload is None:
            raise GrokoraError(f"{self.url}/{name} is not there any more; materialize it again.")
        record: dict[str, Any] = orjson.loads(payload)
        return record

    def _upload(self, folder: Path, name: str, parts: list[str]) -> None:
        if parts:  # fsspec refuses an empty list
            self._fs.put([str(folder / part) for part in parts], [f"{name}/{part}" for part in parts])

    def _download(self, name: str, folder: Path, parts: list[str]) -> None:
        if parts:
            self._fs.get([f"{name}/{part}" for part in parts], [str(folder / part) for part in parts])

    @contextmanager
    def shared(self, name: str) -> Iterator[Path]:
        """A copy of a work folder that is uploaded every few seconds, so that a later attempt may run elsewhere."""
        folder, done = self.root / name, threading.Event()
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._download(name, folder, [path.removeprefix(f"{name}/") for path in self._names(name)])
        with ThreadPoolExecutor(1, "store") as pool:
            copying = pool.submit(self._follow, folder, name, _signatures(folder), done)
            try:
                yield folder
            finally:
                done.set()
                copying.result()  # raises what the thread met, such as a bucket that is full

    def _follow(self, folder: Path, name: str, known: _Signatures, done: threading.Event) -> None:
        """Copy what changes in the folder until `done`, and once more."""
        last = False
        while not last:
            last = done.wait(_SYNC_SECONDS)
            now = _signatures(folder)
            changed = [part for part in now if now[part] != known.get(part)]
            # oldest first, and a `complete` after what it vouches for: whoever reads meanwhile sees no half of a part
            for part in sorted(changed, key=lambda part: (Path(part).name == COMPLETE, now[part])):
                with suppress(FileNotFoundError):  # it was removed meanwhile
                    self._upload(folder, name, [part])
            for part in known.keys() - now.keys():
                with suppress(FileNotFoundError):
                    self._fs.rm_file(f"{name}/{part}")
            known = now


def _signatures(folder: Path) -> _Signatures:
    signatures = {}
    for part, path in listing(folder).items():
        with suppress(FileNotFoundError):
            facts = path.stat()
            signatures[part] = (facts.st_mtime_ns, facts.st_size)
    return signatures
