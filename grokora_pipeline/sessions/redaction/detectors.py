"""All detectors of secrets and of personal data, and the prefilter: text without a hint is clean, and most text is."""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import chain, takewhile
from typing import Any

import orjson
import re2

from grokora_pipeline.sessions.redaction import commands, cuts, notations, passwords, personal, sentences, tables
from grokora_pipeline.sessions.redaction.detector import (
    PLACEHOLDER,
    TELLING_GATE,
    Detector,
    hint_starts,
    re2_options,
    re2_pattern,
    wallet_words,
)
from grokora_pipeline.sessions.redaction.passwords import SEED_PHRASE
from grokora_pipeline.sessions.redaction.published import published_findings
from grokora_pipeline.sessions.redaction.tokens import (
    BASE64_KEY,
    HIGH_ENTROPY,
    LABELLED,
    is_high_entropy,
    is_labelled,
    tokens,
)

__all__ = ["ESCAPES", "PERSONAL", "PLACEHOLDER", "candidates", "detectors", "is_suspicious", "matches"]

PERSONAL = personal.DETECTORS
_PASSWORDS = (notations.DETECTORS, commands.DETECTORS, sentences.DETECTORS, tables.DETECTORS, passwords.DETECTORS)
ESCAPES = re.compile(
    r"%(?=[2-7][0-9A-F])(?!7F)[0-9A-F]{2}|"
    r"%0[AD]|%[c-f][0-9a-f](?:%[89ab][0-9a-f]){1,3}|"  # a letter beyond ASCII
    r"\\{1,3}(?:u(?!00[01]|d[89a-f])[0-9a-f]{4}|x(?![01])[0-9a-f]{2})|&(?:#x?[0-9a-f]{2,4}|quot|apos|amp|commat|equals|lt|gt|nbsp);|"
    r"(?:\x1b|\\{1,3}(?:x1b|u001b|033|e))\[[0-9;]*[a-z]|"  # colours of a terminal
    "[\u00ad\u200b-\u200d\u2060\ufeff\u00a0\u2007\u202f]",  # invisible, or a space that is none
    re.IGNORECASE,
)
_ESCAPED = (  # : = @ " ', letters beyond ASCII in JSON inside JSON, a number with spaces that are none
    r"(?i:%(?:3[AD]|40|2[27])|\\u00(?:3[ad]|40|2[27]|[a-f])|\\u(?:0[1-9a-f]|[1-9a-f])|&(?:#|quot;|commat;|equals;|gt;))|"
    r"(?:[\x{a0}\x{2007}\x{202f}]|\\xa0)[0-9]|"
    r"[A-Za-z][\x{3bf}\x{400}-\x{52f}]|[\x{3bf}\x{400}-\x{52f}][A-Za-z]|[\x{ff10}-\x{ff19}\x{ff21}-\x{ff5a}]"
)
_HINTS_IN_A_SET = 6  # the automaton of many is slow to build: of 60 0.3 s, of ten sets of 6 0.07 s, and as fast to run
_CHUNKS = 8  # of a stream that names its chunks `content` or `text`
_LONG = 200  # characters of a match
# a letter beside a digit, or cases that take turns as in no word
_MIXED = re.compile(
    "[A-Za-z][^0-9A-Za-z]{0,2}[0-9]|[0-9][^0-9A-Za-z]{0,2}[A-Za-z]|[a-z][A-Z][a-z][A-Z]|[A-Z][a-z][A-Z][a-z]"
)
_LETTERS_ONLY = bytes(byte | 32 if chr(byte).isascii() and chr(byte).isalpha() else 32 for byte in range(256))
_MEMBERS = (  # names whose values the redactor looks at by themselves
    r"(?i:(?:auth|phrase|keys?|cookies?|words|answer|webhook|tokens)\\{0,3}\"\s?:)"
)


_BY_LOOKS = (
    SEED_PHRASE,
    LABELLED,
    BASE64_KEY,
    HIGH_ENTROPY,
)  # whose hints would match most texts: a function looks for them instead


@cache
def detectors() -> tuple[Detector, ...]:
    """All detectors: pictures, secrets with the most telling first, personal data, and what is told by looks."""
    return (*tokens(), *chain.from_iterable(_PASSWORDS), passwords.BESIDE_A_PROVIDER, *PERSONAL, *_BY_LOOKS)


@cache
def _gate() -> Any:
    """All gates, and what is no detector's but the redactor looks into, as one RE2 pattern."""
    gates = dict.fromkeys(one.gate or one.hint for one in detectors() if one not in _BY_LOOKS)
    return re2_pattern("|".join([*gates, _ESCAPED, _MEMBERS]).encode())


@cache
def _telling() -> Any:
    return re2_pattern(TELLING_GATE.encode())


def is_telling(text: str) -> bool:
    """Whether a text holds a word that says of what follows that it is secret."""
    return _telling().search(text.encode("utf-8", "replace")) is not None


@cache
def _groups() -> tuple[tuple[Any, tuple[tuple[Any, tuple[Detector, ...]], ...]], ...]:
    """The detectors in groups, each with a pattern of its gates, and in it sets of hints: one pass tells which of a set
    a text has. What lets many texts in is a group of its own.
    """
    groups = []
    for group in (tokens(), *_PASSWORDS, (passwords.BESIDE_A_PROVIDER,), PERSONAL):
        sets = []
        for start in range(0, len(group), _HINTS_IN_A_SET):
            hints = re2.Set.SearchSet(re2_options())
            for one in group[start : start + _HINTS_IN_A_SET]:
                hints.Add(one.hint)
            hints.Compile()
            sets.append((hints, group[start : start + _HINTS_IN_A_SET]))
        gates = "|".join(dict.fromkeys(one.gate or one.hint for one in group))
        groups.append((re2_pattern(gates.encode()), tuple(sets)))
    return tuple(groups)


def is_suspicious(text: bytes) -> bool:
    """Whether some detector could find something, by a scan at memory speed. False is certain."""
    wraps = b"\n".join(
        text[max(0, match.start() - 40) : match.start() + 40] + text[match.end() - 1 : match.end() + 80]
        for match in _wraps().finditer(text)
    )
    return any(
        _gate().search(one) is not None or _has_high_entropy(one) or _has_seed_phrase(one) or published_findings(one)
        for one in chain((text, wraps), _streams(text))
        if one
    )


def _streams(text: bytes) -> Iterator[bytes]:
    """What the streams in JSON text say, put together from their chunks."""
    if _streamed().search(text) is not None or text.count(b"content") + text.count(b"text") >= _CHUNKS:
        try:
            pending = [orjson.loads(text)]
        except orjson.JSONDecodeError:
            pending = [text.decode("utf-8", "replace")]
        while pending:
            value = pending.pop()
            if isinstance(value, str):
                yield from (reading.text.encode("utf-8", "replace") for reading in cuts.streams(value))
            elif isinstance(value, dict | list):
                pending += value.values() if isinstance(value, dict) else value


@cache
def _streamed() -> Any:
    """What a text has that holds the chunks of a stream, whatever words they are cut from."""
    return re2_pattern(
        rb"(?i:delta|partial|chunk|keypress|keydown|key_?event|"
        rb"(?:parts|output|stdout|data)\\*\": ?\[|\\*\"[oi]\\*\", ?\\*\")"
    )


@cache
def _wraps() -> Any:
    """Where a terminal may have cut a word: a long line of JSON text that ends and goes on without a space."""
    return re2_pattern(rb"[^\\\n]{39}[\w+/=.:\"'-]\\{1,4}n[\w+/=.:\\\"'-]")


@cache
def _run() -> Any:
    return re2_pattern(rb"[A-Za-z0-9+/_.~-]{20,}")


@lru_cache(maxsize=8192)  # paths and names come again and again
def _is_token_run(run: bytes) -> bool:
    text = run.decode()
    if not _MIXED.search(text):  # a path, a domain, dots, a name of several words
        return False
    parts = [part for piece in re.split("[.~]", text) for part in (piece, *re.split("[/+]", piece)) if len(part) >= 20]
    return any(is_high_entropy(part, limit=3.0) for part in parts) or is_labelled(text.strip("./-~"))


def _has_high_entropy(text: bytes) -> bool:
    """Whether a run of characters looks like a token, alone or as a part of a path."""
    offset = 0
    while match := _run().search(text, offset):
        offset = match.end()
        if _is_token_run(match.group()):
            return True
    return False


@cache
def _words() -> Any:
    return re2_pattern(SEED_PHRASE.hint.encode())


def _has_seed_phrase(text: bytes) -> bool:
    """Whether twelve words of the wallets' list follow each other; "the", "a" and "of" are none of them."""
    if _words().search(text) is None:
        return False
    words, known = text.replace(b"\\n", b" ").translate(_LETTERS_ONLY).split(), _wallet_words()
    for at in range(11, len(words), 12):  # of twelve that follow each other one is at such a place
        if words[at] in known:
            run = takewhile(known.__contains__, words[max(0, at - 11) : at][::-1])
            if sum(1 for _ in run) + sum(1 for _ in takewhile(known.__contains__, words[at : at + 12])) >= 12:
                return True
    return False


@cache
def _wallet_words() -> frozenset[bytes]:
    return frozenset(word.encode() for word in wallet_words())


def candidates(text: str) -> list[Detector]:
    """The detectors that could find something in a text, in their order."""
    raw = text.encode("utf-8", "replace")
    possible = [
        members[number]
        for gate, sets in (_groups() if _gate().search(raw) is not None else ())
        if gate.search(raw) is not None
        for hints, members in sets
        for number in sorted(hints.Match(raw) or ())  # None for none
    ]
    possible += [SEED_PHRASE] if _has_seed_phrase(raw) else []
    return [*possible, LABELLED, BASE64_KEY, HIGH_ENTROPY] if _has_high_entropy(raw) else possible


def matches(detector: Detector, text: str) -> Iterator[re.Match[str]]:
    """Where a detector's pattern matches; an anchored one is tried only where its hint is found."""
    if detector.find:
        yield from detector.find(text)
        return
    if not detector.anchored:
        yield from detector.pattern.finditer(text)
        return
    end = 0
    covered = {offset for placeholder in PLACEHOLDER.finditer(text) for offset in range(*placeholder.span())}
    for start in hint_starts(detector.hint, text):
        if start < end or start in covered:
            continue
        if match := detector.pattern.match(text, start):
            yield match
            # a short one may be refused, and what it holds be another; to look into each long one takes quadratic time
            end = match.end() if len(match[0]) > _LONG else end
