"""Answers and likelihoods that were computed before: a re-evaluation costs only the new adapter.

One JSONL file for each (model, adapter, decoding); a line for each prompt. Lines are appended in one write, and a line
that is no JSON (a write cut short) is skipped, so that an interrupted run costs nothing but its own work.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson


def tokens_key(*parts: Sequence[int]) -> str:
    """The hash of token ids."""
    return hashlib.sha256(orjson.dumps([list(part) for part in parts])).hexdigest()


class AnswerCache(dict[str, Any]):
    """What the system of this identity gave, by key. Without a folder it is remembered by this object alone."""

    def __init__(self, folder: Path | None, identity: str) -> None:
        super().__init__()
        self._path = folder / f"{identity}.jsonl" if folder else None
        if self._path and self._path.exists():
            for line in self._path.read_bytes().splitlines():
                try:
                    entry = orjson.loads(line)
                except orjson.JSONDecodeError:  # a write that was cut short
                    continue
                self[entry["key"]] = entry["value"]

    def add(self, entries: Iterable[tuple[str, Any]]) -> None:
        """Remember values, on disk too."""
        fresh = dict(entries)
        self.update(fresh)
        if not self._path or not fresh:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = b"".join(orjson.dumps({"key": key, "value": value}) + b"\n" for key, value in fresh.items())
        # one write to a file that is open for appending: lines of two processes do not mix
        with self._path.open("ab") as stream:
            stream.write(lines)

    def remove(self) -> None:
        """Delete what is on disk."""
        if self._path:
            self._path.unlink(missing_ok=True)
