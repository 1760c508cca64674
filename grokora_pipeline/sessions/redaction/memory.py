"""What is remembered of a session's secrets: the placeholder of each, by value in this process, by keyed hash outside.

A trace names a secret without holding it: BLAKE2b keyed with bytes that lie in a file of their own (mode 0600), so that
a value keeps its number after a restart and is recognised where it stands alone, while nobody who reads the traces
without the key can try out guesses.
"""

import base64
import hashlib
import html
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, lru_cache, partial
from pathlib import Path
from threading import get_ident
from typing import NamedTuple
from urllib.parse import quote

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.messages import PICTURE
from grokora_pipeline.sessions.redaction.detector import (
    PLACEHOLDER,
    chunk_length,
    entropy,
    is_generated,
    is_scrambled,
    looks_random,
)

KEY_BYTES = 32
SHORTEST_SPREADING = 6  # characters; a shorter value is too often a part of something else
LONGEST_SPREADING = 4096
_MOST_SPREADING = 1000  # values of a session that are looked for in its other texts
_SHORTEST_ENCODED = 10  # characters
_ALONE_BELOW = 8  # shorter values are replaced only between characters that are no letters and digits
_ORDINARY = re.compile(  # words, numbers, dates and versions stand in many texts, even if one calls it a password
    r"[A-Za-z_ -]+|\d{1,9}|(?=\d*[^\d])[\d.,:_/TZ+ -]{1,25}|v?\d+(?:\.\d+)+[\w.+-]{0,12}|"
    r"[a-z][a-z-]*(?:\.[a-z-]+)*:\d{2,5}|[\w-]+(?:\.[\w-]+)*\.[a-z]{2,4}|"  # host:port, a file, a host
    r"[a-z]+(?:[._-][a-z]+)*[._-]\d(?:\.\d{1,2})?"  # python-3, user_name_1
)
_WORD = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9]")


class Finding(NamedTuple):
    """A secret or a personal datum in a text. `family` is SECRET or PII; "" for a screenshot, which is only dropped."""

    family: str
    kind: str
    value: str

    @property
    def spreads(self) -> bool:
        """Whether the value is secret wherever it stands: no word, number, date, path, or piece of a program."""
        value = self.value
        if self.kind == "passphrase":  # fewer words with dashes are also a name in a program
            return " " in value or value.count("-") > 2
        return (
            (self.family == "SECRET" or (self.kind == "user" and not re.search(r"\.\w{1,4}\Z", value)))
            and SHORTEST_SPREADING <= len(value) <= LONGEST_SPREADING
            and not _is_program(value)
            and (self.kind == "user" or entropy(value) >= 2.2)
            and not (_is_ordinary(value) or _is_path(value))
        )


def _is_ordinary(value: str) -> bool:
    """Whether a value may stand in many texts; letters of both cases that take turns without order do not."""
    jumbled = value.isalpha() and chunk_length(value) <= 2.75 and looks_random(value)
    return bool(_ORDINARY.fullmatch(value)) and not jumbled


def _is_program(value: str) -> bool:
    """Whether a value with brackets may be a piece of a program: only a generator of passwords makes the others."""
    return bool(re.search(r"[(\[{]", value)) and not (is_generated(value) or is_scrambled(value))


def _is_path(value: str) -> bool:
    """Whether a value is a path or an address of names and short numbers: a key in Base64 has stranger parts."""
    parts = [part for part in re.split(r"[/\\.:?&=_-]+", value) if part]
    named = all(re.fullmatch(r"\w{1,4}|\d+|[A-Z]?[a-z]{1,20}\d{0,2}", part) for part in parts)
    return bool(re.search(r"[/\\]", value)) and len(parts) > 1 and named and sum(map(str.isdigit, value)) <= 8


class Trace(NamedTuple):
    """A placeholder of a session and the keyed hash of its value; "" for one that the log itself holds.

    `length` is that of the value in characters if it is to be recognised wherever it stands, else 0.
    """

    placeholder: str
    digest: str
    length: int


def load_key(path: Path) -> bytes:
    """The key in a file, made with mode 0600 if there is none; several processes and threads get the same one.

    Raises GrokoraError if the file holds something else.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.{get_ident()}")
        draft.touch(0o600)
        draft.write_bytes(os.urandom(KEY_BYTES))
        try:
            os.link(draft, path)  # fails if another process was first: then its key counts
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise GrokoraError(f"{path} should hold {KEY_BYTES} random bytes; delete it, and secrets are numbered anew.")
    return key


class Memory:
    """The placeholders of one session. Numbers are given in the order of `add`, after those that its logs hold.

    `key` is called for the key once the first value is hashed; without it the traces are of use to this process only.
    """

    def __init__(self, key: Callable[[], bytes] | None = None, traces: Iterable[Trace] = ()) -> None:
        self._key = cache(key or partial(os.urandom, KEY_BYTES))
        self._traces: dict[str, Trace] = {}  # by placeholder
        self._by_digest: dict[str, str] = {}
        self._placeholders: dict[str, str] = {}  # by value
        self._numbers: Counter[str] = Counter()  # the highest number given, by family and kind
        self._pending: dict[str, tuple[Finding, bool]] = {}  # with whether it is secret wherever it stands
        self._unseen: dict[int, set[str]] = {}  # digests of values that this process has not seen, by their length
        self._spreading: dict[str, str] = {}
        for trace in traces:
            self._keep(Trace(*trace))
            if trace.length:
                self._unseen.setdefault(trace.length, set()).add(trace.digest)

    def _keep(self, trace: Trace) -> None:
        kind, _, number = trace.placeholder[:-1].rpartition(":")
        self._numbers[kind] = max(self._numbers[kind], int(number))
        self._traces[trace.placeholder] = trace
        if trace.digest:
            self._by_digest[trace.digest] = trace.placeholder

    def _digest(self, value: str) -> str:
        raw = value.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, key=self._key(), digest_size=16).hexdigest()

    def reserve(self, text: str) -> None:
        """Leave the placeholders that a text holds to whatever they stand for."""
        for match in PLACEHOLDER.finditer(text):
            if match.group() not in self._traces and len(match.group()) < 64:
                self._keep(Trace(match.group(), "", 0))

    def add(self, finding: Finding, everywhere: bool = False) -> None:
        """Remember a value; it gets its number once the first placeholder is asked for."""
        if finding.family and finding.value not in self._placeholders:
            _, before = self._pending.get(finding.value, (finding, False))
            self._pending[finding.value] = finding, everywhere or before or finding.spreads

    def settle(self) -> None:
        """Give the values added since the last time their numbers."""
        for value, (finding, spreads) in self._pending.items():
            digest = self._digest(value)
            placeholder = self._by_digest.get(digest)
            if placeholder is None:
                kind = f"<{finding.family}:{finding.kind}"
                placeholder = f"{kind}:{self._numbers[kind] + 1}>"
            self._know(value, Trace(placeholder, digest, len(value) if spreads else 0))
        self._pending.clear()

    def _know(self, value: str, trace: Trace) -> None:
        self._keep(trace)
        self._placeholders[value] = trace.placeholder
        self._unseen.get(len(value), set()).discard(trace.digest)
        if trace.length and len(self._spreading) < _MOST_SPREADING:
            self._spreading[value] = trace.placeholder

    def placeholder(self, finding: Finding) -> str:
        """The placeholder of a value that was added."""
        return self._placeholders[finding.value] if finding.family else PICTURE

    @property
    def traces(self) -> list[Trace]:
        """All placeholders of the session with their hashes, in the order of their numbers; safe to store."""
        self.settle()
        return list(self._traces.values())

    @property
    def spreading(self) -> dict[str, str]:
        """The values seen by this process that are secret wherever they stand, with their placeholders."""
        self.settle()
        return self._spreading

    def recall(self, text: str) -> None:
        """Recognise, by their hashes, values in a text that an earlier process saw."""
        if not any(self._unseen.values()):
            return
        starts = [match.start() for match in _WORD.finditer(text)]
        ends = {*starts, len(text)}
        for length in sorted(self._unseen, reverse=True):
            digests = self._unseen[length]
            for start in starts if digests else ():
                if start + length in ends and (digest := self._digest(text[start : start + length])) in digests:
                    self._know(text[start : start + length], self._traces[self._by_digest[digest]])


@lru_cache(maxsize=4096)
def occurrences(value: str) -> tuple[tuple[str, re.Pattern[str] | None], ...]:
    """How a value may stand in a text: as it is, as in JSON, as in JSON inside JSON; with a pattern if it is short."""
    forms = [value]
    for ascii_only in (False, True):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        forms += [once, json.dumps(once, ensure_ascii=ascii_only)[1:-1]]
    return tuple(
        (form, re.compile(rf"(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])") if len(form) < _ALONE_BELOW else None)
        for form in dict.fromkeys(forms)
    )


@lru_cache(maxsize=4096)
def encodings(value: str) -> tuple[str, ...]:
    """What of a value stands in texts that hold it in Base64, in hexadecimal digits, in an address or in HTML.

    In Base64 what surrounds a value decides where it begins in four characters: the ones it shares are left out.
    """
    raw = value.encode("utf-8", "surrogatepass")
    forms = [raw.hex(), quote(raw, safe=""), html.escape(value), base64.b64encode(raw).decode().rstrip("=")]
    for before in (1, 2):
        coded = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        forms.append(coded[2 if before == 1 else 3 : -1 if (before + len(raw)) % 3 else None])
    return tuple(form for form in dict.fromkeys(forms) if form != value and len(form) >= _SHORTEST_ENCODED)
