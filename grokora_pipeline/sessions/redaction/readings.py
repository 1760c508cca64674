"""Other readings of a text: without the margin of a tool, wraps of a terminal or escapes, and the JSON within it."""

import html
import json
import re
import urllib.parse
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from grokora_pipeline.sessions.redaction.detectors import ESCAPES
from grokora_pipeline.sessions.redaction.names import undisguised

_MARGINS = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        # a log, a build; its level
        r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\w.,:+-]*\]?(?: -)?[ \t](?:\[?(?:DEBUG|INFO|WARN\w*|ERROR)\]?:? )?",
        r"[ \t]*\d{1,6}(?:\t|\u2192|[:|] ?| {2})",  # cat -n, an agent's view of a file
        r"[\w./@+-]{1,120}[:-]\d{1,6}[:-]",  # grep -n
        r"[\w.-]{1,40} *\| ?",  # docker compose logs
        r"[ \t]*(?:[>%;\u2502\u2503|]|#+|//[/!]?|--|\*)(?: |$)",  # a quotation, a comment, a box
        r"[+ @\\-]",  # a diff
    )
)
_STARTED = re.compile(rf"{_MARGINS[0].pattern}|[ \t]*\d{{1,6}}[\t\u2192]", re.ASCII)  # no line that goes on begins so
_LABEL = re.compile(r"[A-Z][a-z]+[:=\s]")  # behind a small letter no rest of a word
_TAG = re.compile(r"</?(?:pre|code|samp|kbd|td|output|stdout|stderr|result)\b[^<>\n]{0,200}>")  # around what is shown
DUMP = re.compile(  # as xxd and hexdump -C print bytes
    r"^[0-9a-f]{6,8}:? {1,2}(?:[0-9a-f]{2}(?:[0-9a-f]{2})?  ?){2,16}[^\n]*"
    r"(?:\n[0-9a-f]{6,8}:? {1,2}(?:[0-9a-f]{2,4}  ?)+[^\n]*)*",
    re.MULTILINE,
)
_BYTES = re.compile(r"^[0-9a-f]{6,8}:? {1,2}((?:[0-9a-f]{2}(?:[0-9a-f]{2})?(?:  ?|$))+)", re.MULTILINE)
_EDGE = re.compile(r"[ \t]+[\u2502\u2503|][ \t]*$", re.MULTILINE)
_ESCAPE = re.compile(r"\\+([\"'`ntr])")
_ESCAPED = {"n": "\n", "t": "\t", "r": ""}
_JSON_START = re.compile(r"(?<![\w\\])[{\[](?=\s{0,20}[\"{\[])")
_MOST_STARTS = 8  # of JSON in a text
_LONGEST = 64 << 10  # characters
_FORM = re.compile(  # a field of a form that was sent, in which + is a space
    r"(?<![^\s?&\"'])[\w.-]{1,40}=[\w%.*~<>:-]*(?:\+[\w%.*~<>:-]*)+(?![^\s&\"'])", re.ASCII
)
_MARKS = frozenset("%\\&\x1b")  # of what is escaped in ASCII
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_HASH_END = re.compile(r"\b(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})\Z")  # a whole one is not cut off
_RULE = re.compile(r"[\W_]+")  # below a heading
_NARROWEST, _WIDEST = 40, 400  # columns of a terminal


def from_dump(text: str) -> str:
    """What the bytes of a dump say as text."""
    return bytes.fromhex("".join(_BYTES.findall(text))).decode("utf-8", "replace")


def other_readings(text: str) -> Iterator[Any]:
    """Texts and values as JSON that a text holds beside what it says as it stands; at most ten, nothing within them.

    Only what is found in them counts: it is replaced where it stands, and the text keeps its form.
    """
    if len(text) > _LONGEST:
        return
    inner = _without_margin(_TAG.sub("", text) if "</" in text else text)
    if inner != text:
        yield inner
    if "\\" in text:
        plain = _without_margin(_ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), inner))
        if plain != inner:
            yield plain
    end = 0
    for start in [match.start() for match in _JSON_START.finditer(inner)][:_MOST_STARTS]:
        if start < end:
            continue
        try:
            value, end = json.JSONDecoder().raw_decode(inner, start)
        except (ValueError, RecursionError):
            continue
        yield value


def _without_margin(text: str) -> str:
    lines = text.split("\n")
    first = [line for line in lines[:5] if line][:3]
    indented = all(line.startswith(" ") for line in first)  # a program, not only lines of a diff that stay
    margins = _MARGINS[:-1] if indented else _MARGINS
    margin = next((one for one in margins if first and all(map(one.match, first))), None)
    return text if margin is None else _EDGE.sub("", "\n".join(margin.sub("", line, count=1) for line in lines))


def without_wraps(text: str) -> str:
    """A text whose lines a terminal cut at its width: one as long as the longest goes on in the next."""
    lines = text.split("\n")
    width = max(map(len, lines))
    if len(lines) == 1 or not _NARROWEST <= width <= _WIDEST:
        return text
    joined = [lines[0]]
    for before, line in pairwise(lines):
        goes_on = (
            len(before) == width
            and line
            and not (before[-1].isspace() or line[0].isspace() or _HASH_END.search(before) or _HASH_END.match(line))
            and not (_STARTED.match(line) or _RULE.fullmatch(before) or (before[-1].islower() and _LABEL.match(line)))
        )
        joined.append(line if goes_on else f"\n{line}")
    return "".join(joined)


def without_escapes(text: str) -> str:
    """A text with one level of its escapes undone: of forms, mail, URLs, HTML, JSON and terminals."""
    if "+" in text:
        text = _FORM.sub(lambda match: match.group().replace("+", " "), text)
    if "=3D" in text or "=\n" in text:  # quoted-printable, as in mail
        text = re.sub(r"(?<![=\s])=\n", "", text).replace("=3D", "=")
    text = undisguised(text)
    return text if text.isascii() and _MARKS.isdisjoint(text) else ESCAPES.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    text = match.group()
    if text[0] == "&":
        return html.unescape(text)
    if text.count("%") > 1:
        return urllib.parse.unquote(text)
    if "[" in text:
        return ""
    start = text.lstrip("\\%")
    char = chr(int(start.lstrip("uUxX"), 16)) if start.isascii() else text
    return "\n" if char == "\n" else " " if char.isspace() else "" if char in _INVISIBLE else char
