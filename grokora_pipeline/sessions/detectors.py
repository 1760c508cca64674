"""All detectors of secrets and of personal data, and the prefilter: text without a hint is clean, and most text is."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import re2

from grokora_pipeline.sessions import passwords, personal
from grokora_pipeline.sessions.detector import PLACEHOLDER, Detector
from grokora_pipeline.sessions.tokens import UNORDERED, is_unordered, tokens

__all__ = ["ESCAPES", "PERSONAL", "PLACEHOLDER", "candidates", "detectors", "is_suspicious", "matches"]

PERSONAL = personal.DETECTORS
ESCAPES = re.compile(
    r"%(?=[2-7][0-9A-F])(?!7F)[0-9A-F]{2}|\\{1,3}u00[2-7][0-9a-f]|&(?:#x?[0-9a-f]{2,4}|quot|apos|amp|commat|equals);",
    re.IGNORECASE,
)
_ESCAPED = r"(?i:%(?:3[AD]|40|2[27])|\\u00(?:3[ad]|40|2[27])|&(?:#|quot;|commat;|equals;))"  # : = @ " '
_MEMBERS = (  # names whose values the redactor looks at by themselves
    r"(?i:(?:pin|otp|pincode|otpcode|auth|signature|mnemonic|phrase|connection_?string|keys?|cookies?)\\{0,3}\"\s?:)"
)


@cache
def detectors() -> tuple[Detector, ...]:
    """All detectors: pictures, secrets with the most telling first, personal data."""
    return (*tokens(), *passwords.DETECTORS, UNORDERED, *PERSONAL)


@cache
def _compiled() -> tuple[Any, Any, Any]:
    """RE2 patterns: is there a hint of anything, or a run that may be a token; and what could it be?"""
    options = re2.Options()
    options.max_mem = 256 << 20
    every = re2.Set.SearchSet(options)
    for detector in detectors():
        every.Add(detector.hint.encode())
    every.Compile()
    hints = dict.fromkeys(one.hint for one in detectors() if one is not UNORDERED)
    return (
        re2.compile("|".join([*hints, _ESCAPED, _MEMBERS]).encode(), options),
        every,
        re2.compile(rb"[A-Za-z0-9+/_-]{20,}"),
    )


def is_suspicious(text: bytes) -> bool:
    """Whether some detector could find something, by a scan at memory speed. False is certain."""
    hints, _, run = _compiled()
    if hints.search(text) is not None:
        return True
    place = 0
    while match := run.search(text, place):
        whole = match.group().decode()
        if any(is_unordered(part, limit=3.0) for part in (whole, *whole.split("/")) if len(part) >= 20):
            return True
        place = match.end()
    return False


def candidates(text: str) -> list[Detector]:
    """The detectors that could find something in a text, in their order."""
    every = detectors()
    found = _compiled()[1].Match(text.encode("utf-8", "surrogatepass"))
    return [every[place] for place in sorted(found or ())]


def matches(detector: Detector, text: str) -> Iterator[re.Match[str]]:
    """Where a detector's pattern matches; an anchored one is tried only where its hint is found."""
    if not detector.anchored:
        yield from detector.pattern.finditer(text)
        return
    end = 0
    done = {place for placeholder in PLACEHOLDER.finditer(text) for place in range(*placeholder.span())}
    for hint in re2.finditer(detector.hint, text):
        if hint.start() < end or hint.start() in done:
            continue
        if match := detector.pattern.match(text, hint.start()):
            yield match
            end = match.end()
