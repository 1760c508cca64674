"""Where a text holds secrets and personal data: a function of the text (and of the name it stands under) alone.

Detectors run one after the other over a draft in which what was found already is a token, so that none looks into
another's finding. Numbers are given later, by session.
"""

import html
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson

from grokora_pipeline.errors import GrokoraError
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
from grokora_pipeline.sessions.redaction.memory import Finding
from grokora_pipeline.sessions.redaction.tokens import BASE64, UNORDERED, from_base64, is_known_id

MAX_DEPTH = 100
Piece = str | Finding
_FIRST_TOKEN = 10**15  # of a draft; no session has as many placeholders
_TOKEN = re.compile(r"<(?:SECRET|PII):[a-z_]+:\d{16}>")
_CACHED_CHARS = 64 << 10  # longer texts are not kept in the cache, which thus holds at most some 100 MB
_MEANINGS = {  # what the name of a member, without its separators, says about its value
    "password": re.compile(
        r"\w*(?:passw(?:or)?ds?|passwort|passphrase|passcode|pwd)|pin(?:code)?|otp(?:code)?|pass|pw"
    ),
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


class TooDeepError(GrokoraError):
    """The value is nested deeper than any chat message is."""


def scan(text: str, means: str = "") -> tuple[Piece, ...]:
    """A text cut into pieces: what stays, and what was found. `means` is what `walk` says about the member's name."""
    return _cached(text, means) if len(text) <= _CACHED_CHARS else _scan(text, means)


@lru_cache(maxsize=512)  # system prompts and the history of a chat come again with every call
def _cached(text: str, means: str) -> tuple[Piece, ...]:
    return _scan(text, means)


def _scan(text: str, means: str) -> tuple[Piece, ...]:
    draft = _Draft()
    return tuple(draft.pieces(draft.member(text, means, 0)))


@lru_cache(maxsize=4096)
def _meaning(name: str) -> str:
    """What a name says about its value; "" for nothing."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((kind for kind, pattern in _MEANINGS.items() if pattern.fullmatch(plain)), "")


class _Draft:
    """One text under way: findings are tokens in it."""

    def __init__(self) -> None:
        self._findings: dict[str, Finding] = {}

    def pieces(self, text: str) -> Iterator[Piece]:
        """The finished text with its findings in place of their tokens."""
        end = 0
        for match in _TOKEN.finditer(text):
            if finding := self._findings.get(match.group()):
                yield text[end : match.start()]
                yield finding
                end = match.end()
        yield text[end:]

    def member(self, text: str, means: str, depth: int) -> str:
        """A value under a telling name is a secret whatever it looks like."""
        if means == "phone":
            return self._token("PII", "phone", text)
        redacted = self._text(text, depth)
        if redacted == text and means and _is_secret_value(text, means):
            return self._token("SECRET", "password", text)
        return redacted

    def _text(self, text: str, depth: int) -> str:
        if len(text) < 4:
            return text
        if text[0] in "{[" and text[-1] in "}]" and depth < MAX_DEPTH:
            whole = self._json(text, depth)
            if whole is not None:
                return whole
        redacted = self._detect(text)
        if detectors.ESCAPES.search(redacted):
            plain = detectors.ESCAPES.sub(_unescaped, redacted)
            again = self._detect(plain)
            redacted = redacted if again == plain else again
        return redacted

    def _json(self, text: str, depth: int) -> str | None:
        """JSON inside a string (a tool's arguments or result) is looked at member by member and stays JSON."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        if not is_suspicious(orjson.dumps(value)):
            return text
        redacted = walk(value, self.member, depth + 1)
        return text if redacted == value else json.dumps(redacted, ensure_ascii=False)

    def _detect(self, text: str) -> str:
        for detector in detectors.candidates(text):
            if detector is UNORDERED:
                text = BASE64.sub(lambda match: self._decoded(match.group()), text)
            text = self._apply(detector, text)
        return text

    def _decoded(self, text: str) -> str:
        """Base64 that holds a secret is one as a whole."""
        plain = from_base64(text)
        if plain is None or _Draft()._detect(plain) == plain:
            return text
        return self._token("SECRET", "encoded", text)

    def _apply(self, detector: Detector, text: str) -> str:
        pieces: list[str] = []
        end = 0
        for match in detectors.matches(detector, text):
            pieces += [text[end : match.start()], self._swap(detector, match)]
            end = match.end()
        return "".join((*pieces, text[end:]))

    def _swap(self, detector: Detector, match: re.Match[str]) -> str:
        """What a match becomes: its value replaced by a token, unless it is no finding after all."""
        whole, value = match.group(), match.group(detector.group)
        if value is None or "<SECRET:" in value or "<PII:" in value or (detector.accept and not detector.accept(match)):
            return whole
        start = match.start(detector.group) - match.start()
        return whole[:start] + self._token(detector.family, detector.kind, value) + whole[start + len(value) :]

    def _token(self, family: str, kind: str, value: str) -> str:
        token = f"<{family or 'SECRET'}:{kind}:{_FIRST_TOKEN + len(self._findings)}>"
        self._findings[token] = Finding(family, kind, value if family else "")
        return token


def walk(value: Any, visit: Any, depth: int = 0) -> Any:
    """A copy of a JSON-like value with each string replaced by `visit(string, meaning of its name, depth)`.

    An integer that is a finding becomes a round one with as many digits, so that it still fits its schema.
    Raises TooDeepError where the value is nested deeper than 100 levels.
    """
    if depth > MAX_DEPTH:
        raise TooDeepError(f"a message is nested deeper than {MAX_DEPTH} levels; it cannot be a chat message.")
    if isinstance(value, str):
        return visit(value, "", depth)
    if isinstance(value, dict):
        named = value.get("name", value.get("key")) if "value" in value else None
        return {
            visit(str(name), "", depth): _walk_member(named if name == "value" else name, one, visit, depth)
            for name, one in value.items()
        }
    if isinstance(value, list):
        flags = [one if isinstance(one, str) and one.startswith("-") else None for one in ("", *value)]
        return [_walk_member(flag, one, visit, depth) for flag, one in zip(flags, value, strict=False)]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**12:
        return _number(value, "", visit, depth)
    return value


def _walk_member(name: object, value: Any, visit: Any, depth: int) -> Any:
    means = _meaning(name) if isinstance(name, str) else ""
    if means and isinstance(value, list) and depth < MAX_DEPTH:
        return [_walk_member(name, element, visit, depth + 1) for element in value]
    if isinstance(value, int) and not isinstance(value, bool):
        telling = means == "password" or (means == "phone" and value >= 10**6)
        return _number(value, means if telling else "", visit, depth) if telling else walk(value, visit, depth + 1)
    if isinstance(value, str):
        return visit(value, "" if means == "phone" else means, depth)
    return walk(value, visit, depth + 1)


def _number(value: int, means: str, visit: Any, depth: int) -> int:
    text = str(abs(value))
    changed = visit(text, means, depth) != text
    return int(f"{'-' if value < 0 else ''}1{'0' * (len(text) - 1)}") if changed else value


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
