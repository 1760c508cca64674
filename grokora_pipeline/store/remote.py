"""A store on an fsspec URL, such as `s3://bucket/prefix`, and this machine's mirror of it."""

import logging
import shutil
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import COMPLETE, Artifact, Store, checked
from grokora_pipeline.store.files import content_version, file_sha256, listing

_LOG = logging.getLogger(__name__)
_PUBLISHED = ".complete"  # what follows the version's name in the object that makes a remote artifact visible
_SYNC_SECONDS = 2.0
_STAMP = "%Y%m%dT%H%M%S%f"  # with which the name of a history's object begins; 21 letters
_Signatures = dict[str, tuple[int, int]]  # (time of the last change in ns, size) by name


class RemoteStore(Store):
    """A store on an fsspec URL, with a mirror of what this machine has seen of it below `root`.

    An object store has no rename: a version's files go to `<key>/<version>/<hash of its content>/`, and the object
    `<key>/<version>.complete`, which lists them, is created last and by one writer only. The mirror's folders are
    called by content too (`<key>/<hash>/<version>/`), so it holds nothing stale; it may be deleted when nothing runs.
    `lock` is this machine's alone: of two machines that move one pointer at once, the later move counts.
    """

    remote = True

    def __init__(self, url: str, cache: Path | None = None) -> None:
        import fsspec
        from fsspec.implementations.dirfs import DirFileSystem

        try:
            filesystem, base = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise GrokoraError(f"GROKORA_STORE={url} cannot be opened: {error}.") from error
        self._fs = DirFileSystem(base.rstrip("/"), filesystem)  # its paths are the store's names
        self.url = url.rstrip("/")
        parts = (part for part in self.url.replace("://", "/").split("/") if part not in {"", ".."})
        self.root = (cache or Path("~/.cache/grokora").expanduser()).joinpath(*parts)
        self.lock = FileLock(self.root / ".lock", is_singleton=True)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """A bucket that is not there and credentials that do not fit are mistakes of a person, and said as such."""
        try:
            yield
        except Exception as error:
            # botocore's NoCredentialsError and its like, which cannot be named if that client is not installed
            if not isinstance(error, PermissionError | FileNotFoundError) and "Credentials" not in type(error).__name__:
                raise
            raise GrokoraError(f"GROKORA_STORE={self.url}: {error}; check the bucket and your credentials.") from error

    def read(self, name: str) -> bytes | None:
        """The bytes of a small object; None if it is not there."""
        with self._usable():
            try:
                payload: bytes = self._fs.cat_file(checked(name))
            except FileNotFoundError:
                return None
            return payload

    def write(self, name: str, payload: bytes) -> None:
        """Replace a small object; object stores do that atomically."""
        with self._usable():
            self._fs.pipe_file(checked(name), payload)

    def _append(self, name: str, line: bytes) -> None:
        """Add a line to the journal `name`: an object a line, since objects cannot be appended to."""
        last, stamp = next(reversed(self._sizes(name)), ""), datetime.now(UTC).replace(tzinfo=None)
        if last:  # the names are the order, also if this machine's clock is behind another's, or was set back
            before = datetime.strptime(last.rpartition("/")[2][:21], _STAMP)
            stamp = max(stamp, before + timedelta(microseconds=1))
        self.write(f"{name}/{stamp.strftime(_STAMP)}-{uuid.uuid4().hex[:8]}.json", line)

    def _lines(self, name: str, newest: int = 0) -> list[bytes]:
        """The lines of a journal, oldest first; so many of the newest, or all."""
        names = list(self._sizes(name))[-newest:]
        by_name: dict[str, bytes] = self._fs.cat(names) if names else {}
        return [by_name[name] for name in names]

    def _sizes(self, name: str) -> dict[str, int]:
        """The bytes of all objects below a name, by their names, sorted."""
        # fsspec keeps listings for the life of the process, in which another machine's new objects are missing
        self._fs.fs.invalidate_cache()
        objects = sorted(self._fs.find(f"{name}/", detail=True).items())
        # s3fs tells of a folder itself if its first object comes between two of its questions
        return {path: facts["size"] for path, facts in objects if facts["type"] == "file"}

    def _keep(self, staged: Path, name: str) -> None:
        """Upload a staged folder, then the record that makes it a version; the first of two machines wins."""
        if self._is_whole(name):
            return
        files = {part: file_sha256(path) for part, path in listing(staged).items()}
        content = content_version(files)
        with self._usable():
            if files:  # fsspec refuses an empty list
                self._fs.put([str(staged / part) for part in files], [f"{name}/{content}/{part}" for part in files])
        stored = self._sizes(f"{name}/{content}")
        for part in files:
            if stored.get(f"{name}/{content}/{part}") != (staged / part).stat().st_size:
                raise GrokoraError(f"{self.url} took {name}/{part} and does not have it; publish it again.")
        record = orjson.dumps({"at": datetime.now(UTC).isoformat(), "content": content, "files": files})
        try:
            self._fs.pipe_file(name + _PUBLISHED, record, mode="create")
        except OSError:
            if not self._is_whole(name):  # else another machine was first, and its version is as good
                raise
        _move_in(staged, self._mirror(name, content))

    def _is_whole(self, name: str) -> bool:
        """Whether a version is published; whether it is whole is seen when it is fetched."""
        return self.read(name + _PUBLISHED) is not None

    def versions(self, key: str) -> list[Artifact]:
        """All published versions of a key, oldest first."""
        self._fs.fs.invalidate_cache()
        published = self._fs.glob(f"{checked(key)}/*{_PUBLISHED}")
        records = self._fs.cat(published) if published else {}
        oldest_first = sorted(records, key=lambda path: str(orjson.loads(records[path])["at"]))
        return [Artifact(key, path.rpartition("/")[2].removesuffix(_PUBLISHED), self) for path in oldest_first]

    def fetch(self, name: str) -> Path:
        """The folder of a version in this machine's mirror, downloaded and compared with its checksums if it is new."""
        record = self._publication(name)
        folder, files = self._mirror(name, record["content"]), record["files"]
        if folder.is_dir():
            return folder
        with self.stage(name) as fetched:
            with suppress(FileNotFoundError):  # of an object that was lost: it is named below
                if files:
                    objects = [f"{name}/{record['content']}/{part}" for part in files]
                    self._fs.get(objects, [str(fetched / part) for part in files])
            for part, digest in files.items():
                if not (fetched / part).is_file() or file_sha256(fetched / part) != digest:
                    raise GrokoraError(
                        f"{self.url}/{name}: {part} is damaged or lost; delete {name}{_PUBLISHED} and make it again."
                    )
            _move_in(fetched, folder)
        return folder

    def read_part(self, name: str, part: str) -> bytes:
        """One file of a version, without downloading the others."""
        content = self._publication(name)["content"]
        kept = self._mirror(name, content) / part
        return kept.read_bytes() if kept.is_file() else bytes(self._fs.cat_file(f"{name}/{content}/{part}"))

    def _publication(self, name: str) -> dict[str, Any]:
        """The record of a published version: when it came, the hash of its content, its files with their hashes."""
        payload = self.read(name + _PUBLISHED)
        if payload is None:
            raise GrokoraError(f"{self.url}/{name} is not there any more; materialize it again.")
        record: dict[str, Any] = orjson.loads(payload)
        return record

    def _mirror(self, name: str, content: str) -> Path:
        return self.root / Path(name).parent / content / Path(name).name

    @contextmanager
    def work(self, key: str, version: str) -> Iterator[Path]:
        """A copy of a work folder that is uploaded every few seconds, so that a later attempt may run elsewhere."""
        with super().work(key, version) as folder:
            shutil.rmtree(folder, ignore_errors=True)
            name, done = folder.relative_to(self.root).as_posix(), threading.Event()
            if objects := list(self._sizes(name)):
                self._fs.get(objects, [str(self.root / one) for one in objects])
            with ThreadPoolExecutor(1, "store") as pool:
                copying = pool.submit(self._follow, folder, name, _signatures(folder), done)
                try:
                    yield folder
                finally:
                    done.set()
                    copying.result()

    def _follow(self, folder: Path, name: str, known: _Signatures, done: threading.Event) -> None:
        """Copy what changes in the folder until `done`, and once more.

        What the bucket does not take is tried again, and at the end given up: the work itself is not lost by it.
        """
        last = False
        while not last:
            last = done.wait(_SYNC_SECONDS)
            try:
                now = _signatures(folder)
                changed = [part for part in now if now[part] != known.get(part)]
                # oldest first, and a `complete` after what it vouches for: who reads meanwhile sees no half of a part
                for part in sorted(changed, key=lambda part: (Path(part).name == COMPLETE, now[part])):
                    with suppress(FileNotFoundError):  # it was removed meanwhile
                        self._fs.put_file(str(folder / part), f"{name}/{part}")
                for part in known.keys() - now.keys():
                    with suppress(FileNotFoundError):
                        self._fs.rm_file(f"{name}/{part}")
                known = now
            except Exception as error:  # noqa: BLE001 - each kind of store has errors of its own
                _LOG.warning("%s/%s is behind, another machine would start from less: %s", self.url, name, error)


def _signatures(folder: Path) -> _Signatures:
    signatures = {}
    for part, path in listing(folder).items():
        with suppress(FileNotFoundError):
            facts = path.stat()
            signatures[part] = (facts.st_mtime_ns, facts.st_size)
    return signatures


def _move_in(folder: Path, target: Path) -> None:
    """Put a folder in its place of the mirror; one that is there already holds the same and stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise
