"""Other readings of a text: what it says without the margin of a tool, without escapes, and the JSON within it.

Only what is found counts: a secret that such a reading shows is replaced where it stands, and the text keeps its form.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

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
STARTED = re.compile(rf"{_MARGINS[0].pattern}|[ \t]*\d{{1,6}}[\t\u2192]", re.ASCII)  # no line that goes on begins so
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


def from_dump(text: str) -> str:
    """What the bytes of a dump say as text."""
    return bytes.fromhex("".join(_BYTES.findall(text))).decode("utf-8", "replace")


def other_readings(text: str) -> Iterator[Any]:
    """Texts and values as JSON that a text holds beside what it says as it stands; at most ten, nothing within them."""
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
