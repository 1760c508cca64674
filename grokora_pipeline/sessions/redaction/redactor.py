"""Redaction: secrets and personal data become typed placeholders before anything is stored.

`<SECRET:aws_key:1>`, `<PII:email:2>`: the same value gives the same placeholder within a session, so that a key in a
tool's result and in the next command's argument stay one thing. Screenshots in base64 are dropped and counted.
"""

import html
import json
import re
from collections import Counter
from functools import lru_cache
from typing import Any

import orjson

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.messages import PICTURE
from grokora_pipeline.sessions.redaction import detectors
from grokora_pipeline.sessions.redaction.detector import (
    NOT_A_SECRET,
    PLACEHOLDER,
    Detector,
    is_hash,
    is_mixed,
    is_random,
    is_random_token,
)
from grokora_pipeline.sessions.redaction.detectors import is_suspicious
from grokora_pipeline.sessions.redaction.tokens import BASE64, UNORDERED, from_base64, is_known_id

VERSION = 3  # part of every manifest: raise it when the rules change, and everything is read again
MAX_DEPTH = 100
_MEANINGS = {  # what the name of a member, without its separators, says about its value
    "password": re.compile(r"\w*(?:passw(?:or)?ds?|passwort|passphrase|passcode|pwd)|pin(?:code)?|otp(?:code)?"),
    "secret": re.compile(
        r"\w*(?:secrets?|secret(?:access)?key|secretstring|privatekeyid|connectionstring|mnemonic|(?:seed|recovery)phrase|"
        r"(?:api|access|private|auth|signing|encryption|master|subscription|application|app|account)keys?|"
        r"(?:access|auth|refresh|session|bearer|security|bot|api|oauth)token)"
    ),
    "phone": re.compile(r"\w*(?:phone|mobile|telephone|tel|fax|gsm)(?:number|no|nr)?"),
    "header": re.compile(r"\w*(?:authorization|cookies?|credentials?)"),
    "token": re.compile(r"\w*(?:token|auth|signature|key|sig)"),
}
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_FILE = re.compile(r"\.\w{1,4}\Z")
_SHORTEST_KNOWN = 6
_CACHED_TEXTS = 64  # the latest texts of a session: the next call repeats them
_MOST_KNOWN = 1000


class TooDeepError(GrokoraError):
    """The value is nested deeper than any chat message is."""


class Redactor:
    """Redacts the texts of one session. Keeps which value got which placeholder, in memory only."""

    def __init__(self) -> None:
        self._placeholders: dict[str, str] = {}
        self._telling: dict[str, str] = {}  # those that no ordinary word could be
        self._numbers: Counter[str] = Counter()
        self._texts: dict[str, tuple[str, Counter[str]]] = {}

    @property
    def secrets(self) -> int:
        """How many values are known that are secret wherever they stand."""
        return len(self._telling)

    def recognises(self, text: bytes) -> bool:
        """Whether JSON text may hold a secret that was found before, which it can without looking suspicious."""
        return any(_escaped(value) or value.encode("utf-8", "replace") in text for value in self._telling)

    def redact(self, value: Any) -> tuple[Any, Counter[str]]:
        """A JSON-like value without secrets, and how many were replaced by kind; the value itself is not changed.

        Raises TooDeepError where it is nested deeper than 100 levels.
        """
        found: Counter[str] = Counter()
        return self._walk(value, found, 0), found

    def _walk(self, value: Any, found: Counter[str], depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise TooDeepError(f"a message is nested deeper than {MAX_DEPTH} levels; it cannot be a chat message.")
        if isinstance(value, str):
            return self._text(value, found, depth)
        if isinstance(value, dict):
            named = value.get("name", value.get("key")) if "value" in value else None
            return {
                self._text(str(k), found, depth): self._member(named if k == "value" else k, v, found, depth)
                for k, v in value.items()
            }
        if isinstance(value, list):
            flags = [one if isinstance(one, str) and one.startswith("-") else None for one in ("", *value)]
            return [self._member(flag, one, found, depth) for flag, one in zip(flags, value, strict=False)]
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**12:
            text = self._text(str(value), found, depth)
            return value if text == str(value) else text
        return value

    def _member(self, key: object, value: Any, found: Counter[str], depth: int) -> Any:
        """A value under a telling key is a secret whatever it looks like."""
        means = _meaning(key) if isinstance(key, str) else ""
        if means and isinstance(value, list) and depth < MAX_DEPTH:
            return [self._member(key, element, found, depth + 1) for element in value]
        if means == "password" and isinstance(value, int) and not isinstance(value, bool):
            return self._replace("SECRET", "password", str(value), found)
        if means == "phone":
            known = isinstance(value, int) and not isinstance(value, bool) and value >= 10**6
            return self._replace("PII", "phone", str(value), found) if known else self._walk(value, found, depth + 1)
        if means and isinstance(value, str) and _is_secret_value(value, means):
            redacted = self._text(value, found, depth)
            return self._replace("SECRET", "password", value, found) if redacted == value else redacted
        return self._walk(value, found, depth + 1)

    def _text(self, text: str, found: Counter[str], depth: int) -> str:
        if len(text) < 4:
            return text
        if text[0] in "{[" and text[-1] in "}]" and depth < MAX_DEPTH:
            whole = self._json(text, found, depth)
            if whole is not None:
                return whole
        known = self._texts.get(text)
        if known is None:
            counts: Counter[str] = Counter()
            known = (self._scan(text, counts), counts)
            if len(self._texts) >= _CACHED_TEXTS:
                self._texts.clear()
            self._texts[text] = known
        found.update(known[1])
        return self._known_values(known[0], found)

    def _json(self, text: str, found: Counter[str], depth: int) -> str | None:
        """JSON inside a string (a tool's arguments or result) is redacted member by member and stays JSON."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        if not is_suspicious(orjson.dumps(value)) and not self._placeholders:
            return text
        redacted = self._walk(value, found, depth + 1)
        return text if redacted == value else json.dumps(redacted, ensure_ascii=False)

    def _scan(self, text: str, found: Counter[str]) -> str:
        """The text redacted as it stands, then without its escapes, then what it holds in Base64."""
        text = self._detect(text, found)
        if detectors.ESCAPES.search(text):
            plain = detectors.ESCAPES.sub(_unescaped, text)
            redacted = self._detect(plain, found)
            text = text if redacted == plain else redacted
        return text

    def _detect(self, text: str, found: Counter[str]) -> str:
        for detector in detectors.candidates(text):
            if detector is UNORDERED:
                text = BASE64.sub(lambda match: self._decoded(match.group(), found), text)
            text = self._apply(detector, text, found)
        return text

    def _decoded(self, text: str, found: Counter[str]) -> str:
        """Base64 that holds a secret becomes a placeholder as a whole."""
        plain = from_base64(text)
        counts: Counter[str] = Counter()
        if plain is None or self._detect(plain, counts) == plain:
            return text
        return self._replace("SECRET", "encoded", text, found)

    def _apply(self, detector: Detector, text: str, found: Counter[str]) -> str:
        pieces: list[str] = []
        end = 0
        for match in detectors.matches(detector, text):
            pieces += [text[end : match.start()], self._swap(detector, match, found)]
            end = match.end()
        return "".join((*pieces, text[end:]))

    def _swap(self, detector: Detector, match: re.Match[str], found: Counter[str]) -> str:
        """What a match becomes: its value replaced by a placeholder, unless it is no finding after all."""
        whole, value = match.group(), match.group(detector.group)
        if value is None or "<SECRET:" in value or "<PII:" in value or (detector.accept and not detector.accept(match)):
            return whole
        start = match.start(detector.group) - match.start()
        return whole[:start] + self._replace(detector.family, detector.kind, value, found) + whole[start + len(value) :]

    def _replace(self, family: str, kind: str, value: str, found: Counter[str]) -> str:
        found[kind] += 1
        if not family:
            return PICTURE
        placeholder = self._placeholders.get(value)
        if placeholder is None:
            self._numbers[kind] += 1
            placeholder = self._placeholders[value] = f"<{family}:{kind}:{self._numbers[kind]}>"
            if (
                (family == "SECRET" or (kind == "user" and not _FILE.search(value)))
                and len(value) >= _SHORTEST_KNOWN
                and not value.isalpha()
                and len(self._telling) < _MOST_KNOWN
            ):
                self._telling[value] = placeholder
        return placeholder

    def _known_values(self, text: str, found: Counter[str]) -> str:
        """A secret that was seen beside a telling word is a secret where it stands alone, too."""
        for value, placeholder in self._telling.items():
            if value in text:
                found[placeholder.split(":")[1]] += text.count(value)
                text = text.replace(value, placeholder)
        return text


@lru_cache(maxsize=4096)
def _meaning(key: str) -> str:
    """What a name says about its value; "" for nothing."""
    plain = re.sub(r"[^a-z0-9]", "", key.lower())
    return next((kind for kind, pattern in _MEANINGS.items() if pattern.fullmatch(plain)), "")


def _is_secret_value(value: str, means: str) -> bool:
    if not value or PLACEHOLDER.fullmatch(value) or NOT_A_SECRET.fullmatch(value):
        return False
    if means == "header":
        return is_mixed(value) or "=" in value
    if means == "token":
        return is_random(value) and (is_hash(value) or is_random_token(value, 3.2)) and not is_known_id(value)
    return True


def _unescaped(match: re.Match[str]) -> str:
    text = match.group()
    if text[0] == "&":
        return html.unescape(text)
    if "[" in text:
        return ""
    start = text.lstrip("\\%")
    char = chr(int(start.lstrip("uUxX"), 16)) if start.isascii() else text
    return " " if char.isspace() else "" if char in _INVISIBLE else char


def _escaped(value: str) -> bool:
    """Whether a value looks different inside JSON."""
    return '"' in value or "\\" in value or not value.isprintable()
