"""Redaction: secrets and personal data become typed placeholders before anything is stored.

`<SECRET:aws_key:1>`, `<PII:email:2>`: the same value gives the same placeholder within a session, so that a key in a
tool's result and in the next command's argument stay one thing. Screenshots in base64 are dropped and counted.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any

from grokora_pipeline.sessions.redaction.detection import TextOrFinding, scan
from grokora_pipeline.sessions.redaction.memory import Finding, Memory, Trace, encodings, occurrences
from grokora_pipeline.sessions.redaction.published import in_text
from grokora_pipeline.sessions.redaction.structure import TooDeepError, walk

__all__ = ["VERSION", "Redactor", "TooDeepError", "restore", "restore_growing"]

VERSION = 15  # part of every manifest: raise it when the rules change, and everything is read again


class Redactor:
    """Redacts the texts of one session, in two passes: `find` over all of them, from whatever file, then `redact`.

    What any text names as secret leaves all others too, and a value has one placeholder in all of them. Numbers are
    given in the order of the first pass, hence the same files in the same order give the same text. The values live
    in this process's memory alone. `traces` (keyed hashes) may be stored: a redactor that starts from them, with the
    same key, gives the same numbers, and recognises the old secrets where they stand alone. `findings` hold the values
    and may only be handed to another process: a redactor that was given them by `learn` replaces them everywhere.

    `key` returns the key of the hashes, such as `partial(load_key, path)`. May be used from several threads.
    """

    def __init__(self, key: Callable[[], bytes] | None = None, traces: Iterable[Trace] = ()) -> None:
        self._memory = Memory(key, traces)
        self._findings: dict[Finding, None] = {}
        self._lock = Lock()

    @property
    def secrets(self) -> int:
        """How many values are known that are secret wherever they stand."""
        with self._lock:
            return len(self._memory.spreading)

    @property
    def traces(self) -> list[Trace]:
        """The session's placeholders with keyed hashes of their values, by number; safe to store beside the key."""
        with self._lock:
            return self._memory.traces

    def reserve(self, text: str) -> None:
        """Keep the numbers of the placeholders in a text, which stand for values that nobody here knows."""
        with self._lock:
            self._memory.reserve(text)

    @property
    def findings(self) -> list[Finding]:
        """What this redactor found itself, in that order. It holds the secrets: for memory, not for a file."""
        return list(self._findings)

    def learn(self, findings: Iterable[Finding], *, everywhere: bool = False) -> None:
        """Take over what was found elsewhere in the session, in the order in which it is to be numbered.

        `everywhere`: the values are secret wherever they stand, even if they look like words (a caller's own key).
        """
        with self._lock:
            for finding in findings:
                self._memory.add(finding, everywhere)

    def recognises(self, text: bytes) -> bool:
        """Whether JSON text may hold a secret that was found before, which it can without looking suspicious."""
        with self._lock:
            self._memory.recall(text.decode("utf-8", "replace"))
            return any(
                form.encode("utf-8", "replace") in text
                for value in self._memory.spreading
                for form in (*(form for form, _ in occurrences(value)), *encodings(value))
            )

    def find(self, value: Any) -> None:
        """First pass: remember what a JSON-like value holds. Raises TooDeepError, as `redact` does."""
        with self._lock:
            self._find(value)

    def _find(self, value: Any) -> dict[tuple[str, str], tuple[TextOrFinding, ...]]:
        """Remember what a value holds; returns how each of its texts was cut, by the text and its name."""
        scans: dict[tuple[str, str], tuple[TextOrFinding, ...]] = {}

        def remember(text: str, name: str, _: int) -> str:
            """Scan a text once, and note the secrets in it."""
            if (text, name) not in scans:
                self._memory.reserve(text)
                self._memory.recall(text)
                scans[text, name] = scan(text, name)
                for piece in scans[text, name]:
                    if isinstance(piece, Finding) and piece.family:
                        self._findings.setdefault(piece)
                        self._memory.add(piece)
            return text

        walk(value, remember)
        return scans

    def redact(self, value: Any) -> tuple[Any, Counter[str]]:
        """Second pass: the value without secrets, and how many were replaced by kind; the value itself is not changed.

        What the first pass has not seen is found first. Raises TooDeepError if it is nested deeper than 100 levels.
        """
        redacted, counts, _ = self.redact_reversibly(value)
        return redacted, counts

    def redact_reversibly(self, value: Any) -> tuple[Any, Counter[str], dict[str, str]]:
        """As `redact`, and the values of those placeholders that stand for something in this very value.

        With them `restore` gives a caller its own values back, and never those of another call of the session.
        """
        counts: Counter[str] = Counter()
        originals: dict[str, str] = {}
        with self._lock:
            scans = self._find(value)
            spreading = self._memory.spreading

            def replace(text: str, name: str, _: int) -> str:
                """The text with placeholders for what was found in it."""
                pieces = []
                for piece in scans[text, name]:
                    if isinstance(piece, Finding):
                        placeholder = self._memory.placeholder(piece)
                        originals[placeholder] = piece.value
                        counts[piece.kind] += 1
                        pieces.append(placeholder)
                    else:
                        pieces.append(self._encoded(_spread(piece, spreading, counts, originals), counts, originals))
                return self._once_more("".join(pieces), counts) if len(pieces) > 1 or pieces[0] != text else text

            return walk(value, replace), counts, originals

    def _encoded(self, text: str, counts: Counter[str], originals: dict[str, str]) -> str:
        """A text without the known values in Base64, hexadecimal digits, URLs and HTML, each form with a number."""
        for form in [form for value in self._memory.spreading for form in encodings(value) if form in text]:
            finding = Finding("SECRET", "encoded", form)
            self._memory.add(finding)
            self._memory.settle()
            placeholder = self._memory.placeholder(finding)
            counts["encoded"] += text.count(form)
            originals[placeholder] = form
            text = text.replace(form, placeholder)
        return text

    def _once_more(self, text: str, counts: Counter[str]) -> str:
        """The last look at a text that was changed: what published rules find in it now is replaced as well."""
        for finding in reversed(in_text(text)):
            secret = Finding("SECRET", finding.kind, text[finding.start : finding.end])
            self._memory.add(secret)
            self._memory.settle()
            counts[finding.kind] += 1
            text = text[: finding.start] + self._memory.placeholder(secret) + text[finding.end :]
        return text


def _spread(text: str, spreading: dict[str, str], counts: Counter[str], originals: dict[str, str]) -> str:
    """A text in which every known value is replaced, wherever it stands."""
    for value, placeholder in spreading.items():
        for form, pattern in occurrences(value):
            if form not in text:
                continue
            text, count = (
                pattern.subn(placeholder, text) if pattern else (text.replace(form, placeholder), text.count(form))
            )
            if count:
                originals[placeholder] = value
                counts[placeholder.split(":")[1]] += count
    return text


def restore(value: Any, originals: Mapping[str, str]) -> Any:
    """An answer in which the caller's own values stand in place of their placeholders.

    `originals` is what `redact_reversibly` gave for the prompt of the same call. A string that begins as JSON does (the
    arguments of a tool call) gets them with JSON's escapes, so that it stays JSON.
    """
    if isinstance(value, dict):
        return {name: restore(one, originals) for name, one in value.items()}
    if isinstance(value, list):
        return [restore(one, originals) for one in value]
    if not isinstance(value, str):
        return value
    in_json = value.lstrip()[:1] in {"{", "["}
    for placeholder, original in originals.items():
        value = value.replace(placeholder, json.dumps(original, ensure_ascii=False)[1:-1] if in_json else original)
    return value


def restore_growing(text: str, originals: Mapping[str, str]) -> str:
    """The same for the beginning of an answer: a placeholder that may have just begun is held back."""
    begun = text.rfind("<")
    if begun >= 0 and any(
        placeholder.startswith(text[begun:]) and placeholder != text[begun:] for placeholder in originals
    ):
        text = text[:begun]
    restored: str = restore(text, originals)
    return restored
