"""Other readings of a text: without the margin of a tool, wraps of a terminal or escapes, and the JSON within it."""

import html
import json
import re
import urllib.parse
from collections.abc import Iterator
from itertools import pairwise, takewhile
from typing import Any

from grokora_pipeline.sessions.redaction.cuts import Cut, Reading
from grokora_pipeline.sessions.redaction.detectors import ESCAPES
from grokora_pipeline.sessions.redaction.names import undisguised
from grokora_pipeline.sessions.redaction.tokens import is_address

_MARGINS = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        # a log, a build; its level
        r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\w.,:+-]*\]?(?: -)?[ \t]"
        r"(?:\[?(?:DEBUG|INFO|WARN\w*|ERROR)\]?:? {1,4}|std(?:out|err) [PF] )?",
        r"[ \t]*\d{1,6}(?:\t|\u2192|[:|] ?| {2})",  # cat -n, an agent's view of a file
        r"[\w./@+-]{1,120}[:-]\d{1,6}[:-]",  # grep -n
        r"[\w.-]{1,40} *\| ?",  # docker compose logs
        r"[ \t]*(?:>(?: ?>)+|[>%;\u2502\u2503|]|#+|//[/!]?|--|/?\*+/?)(?: |$)",  # a quotation, a comment, a box
        r"[+ @\\-]",  # a diff
    )
)
_DIGITS, _MARGIN_ENDS = re.compile(r"\d+", re.ASCII), " \t|:]>"
_INDENT = re.compile(r"[ \t]*")
_STARTED = re.compile(
    rf"{_MARGINS[0].pattern}|[ \t]*\d{{1,6}}[\t\u2192]|(?:https?|ssh)://|[a-z]+(?:-[a-z]+)+(?:=|: )", re.ASCII
)  # no line that goes on begins so
_RESOURCE = re.compile(r"[au]rn:")  # its name begins so, and goes on
_LABEL = re.compile(r"(?:[A-Z][a-z]+)+[:=\s]")  # behind a small letter no rest of a word
_TAG = re.compile(r"</?(?:pre|code|samp|kbd|td|output|stdout|stderr|result)\b[^<>\n]{0,200}>")  # around what is shown
DUMP = re.compile(  # as xxd and hexdump -C print bytes
    r"^[0-9a-f]{6,8}:? {1,2}(?:[0-9a-f]{2}(?:[0-9a-f]{2})?  ?){2,16}[^\n]*"
    r"(?:\n[0-9a-f]{6,8}:? {1,2}(?:[0-9a-f]{2,4}  ?)+[^\n]*)*",
    re.MULTILINE,
)
_BYTES = re.compile(r"^[0-9a-f]{6,8}:? {1,2}((?:[0-9a-f]{2}(?:[0-9a-f]{2})?(?:  ?|$))+)", re.MULTILINE)
_EDGE = re.compile(r"[ \t]+[\u2502\u2503|][ \t]*$", re.MULTILINE)
_SPACES = re.compile(r"[ \t]{4,}$")  # to the end of a screen
_ESCAPE = re.compile(r"\\+([\"'`ntr])")
_ESCAPED = {"n": "\n", "t": "\t", "r": ""}
_JSON_START = re.compile(r"(?<![\w\\])[{\[](?=\s{0,20}[\"{\[])")
_MOST_STARTS = 8  # of JSON in a text
_LONGEST = 64 << 10  # characters
_FORM = re.compile(  # a field of a form that was sent, in which + is a space
    r"(?<![^\s?&\"'])[\w.-]{1,40}=[\w%.*~<>:-]*(?:\+[\w%.*~<>:-]*)+(?![^\s&\"'])", re.ASCII
)
_QUOTED_PRINTABLE = re.compile(r"=(?:3D|20|[C-F][0-9A-F])")
_SOFT_BREAK = re.compile(r"(?<![=\s])=\n")
_SOFT_BREAK_ALONE = re.compile(r"(?<![=\s])(?<![\w+/]{27})=\n")  # no padding of Base64
_MARKS = frozenset("%\\&\x1b")  # of what is escaped in ASCII
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_HASH_END = re.compile(  # a whole hash or UUID is not cut off
    r"\b(?:(?:0x)?(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64})|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\Z"
)
_RULE = re.compile(r"[\W_]+")  # below a heading
_NARROWEST, _WIDEST, _WIDEST_FILLED = 40, 400, 140  # columns of a terminal, of a text


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


def _margin(lines: list[str]) -> re.Pattern[str] | None:
    """What all lines begin with that is not theirs."""
    first = [line for line in lines[:5] if line][:3]
    indented = all(line.startswith(" ") for line in first)  # a program, not only lines of a diff that stay
    margins = _MARGINS[:-1] if indented else _MARGINS
    return next((one for one in margins if first and all(map(one.match, first))), None)


def _common_margin(lines: list[str]) -> re.Pattern[str] | None:
    """What all lines begin with but for its numbers, up to a mark or a space: a margin that nobody listed."""
    alike = [_DIGITS.sub("0", line) for line in lines if line.strip()]
    if len(alike) < 2:
        return None
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(alike), max(alike), strict=False))
    common = "".join(one for one, _ in same)
    common = common[: 1 + max(map(common.rfind, _MARGIN_ENDS))]
    if common.isspace():
        return _INDENT
    if _RESOURCE.match(common):
        return None
    return re.compile(re.escape(common).replace("0", r"\d+"), re.ASCII) if common else None


def _without_margin(text: str) -> str:
    lines = text.split("\n")
    margin = _margin(lines)
    return text if margin is None else _EDGE.sub("", "\n".join(margin.sub("", line, count=1) for line in lines))


def without_wraps(text: str) -> Reading:
    """The lines of a text that go on where a terminal or an editor broke them, without their margin.

    A terminal breaks at its width, hence a line as long as the longest goes on in the next; an editor between words,
    where the next word would have been too long. Behind a margin that nobody listed all lines are read.
    """
    if "\n" not in text or DUMP.search(text):
        return Reading(text, [])
    lines = text.split("\n")
    margin = _margin(lines)
    unlisted = _common_margin(lines) if margin is None else None
    frame = margin or unlisted
    bodies, at = [], 0
    for line in lines:
        left = frame.match(line) if frame else None
        right = (_EDGE if left else _SPACES).search(line)
        bodies.append((at + (left.end() if left else 0), at + (right.start() if right else len(line))))
        at += len(line) + 1
    width = max(end - start for start, end in bodies)
    joints = ["\n"]
    for (start, end), (begin, stop) in pairwise(bodies):
        joints.append(_joint(text[start:end], text[begin:stop], width) if _NARROWEST <= width <= _WIDEST else "\n")
    every = unlisted is not None and unlisted is not _INDENT
    cuts: list[Cut] = []
    last = 0
    for (start, end), joint, following in zip(bodies, joints, [*joints[1:], "\n"], strict=True):
        if every or joint != "\n" or following != "\n":
            cuts.append((last, start, joint))
            last = end
    return Reading(text, [*cuts, (last, len(text), "")] if cuts else [])


_ROW = re.compile(r"[^\s:]\S*(?: \S+)?? {2,}\S")  # of a table


def _joint(before: str, line: str, width: int) -> str:
    """What two lines of a text are joined by: nothing or a space if they are one, else a line break."""
    if not line or not before or _HASH_END.search(before) or _HASH_END.match(line):
        return "\n"
    if is_address(before.rsplit(" ", maxsplit=1)[-1]):
        return "\n"
    if _STARTED.match(line) or _RULE.fullmatch(before) or line.startswith(("  ", "\t", "```")):
        return "\n"
    row = _ROW.match(line)
    if len(before) == width:
        label = _LABEL.match(line)
        begins = label and (before[-1].islower() or (before[-1].isdigit() and label.end() > 6))
        sentence = before[-1] == "." and re.match(r"\w+:? ", line)  # and the next one
        ended = before[-1] in ",;(){}" or begins or sentence or (row and _ROW.match(before))
        return "\n" if ended else ""
    word = len(line.split(" ", 1)[0])
    filled = (
        width <= _WIDEST_FILLED
        and before.count(" ") > 3
        and line[0].isalnum()
        and len(before) + 1 + word > width
        and not row
    )
    return " " if filled else "\n"


def without_escapes(text: str) -> str:
    """A text with one level of its escapes undone: of forms, mail, URLs, HTML, JSON and terminals."""
    if "+" in text:
        text = _FORM.sub(lambda match: match.group().replace("+", " "), text)
    if "=3D" in text or "=\n" in text:  # quoted-printable, as in mail
        soft = _SOFT_BREAK if _QUOTED_PRINTABLE.search(text) else _SOFT_BREAK_ALONE
        text = soft.sub("", text).replace("=3D", "=")
    text = undisguised(text)
    return text if text.isascii() and _MARKS.isdisjoint(text) else ESCAPES.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    text = match.group()
    if text[0] == "&":
        return html.unescape(text)
    if text.count("%") > 1:
        return urllib.parse.unquote(text)
    if "[" in text:  # to another place of the screen, or another colour
        return " " if text[-1] in "HfGC" else ""
    start = text.lstrip("\\%")
    char = chr(int(start.lstrip("uUxX"), 16)) if start.isascii() else text
    return "\n" if char == "\n" else " " if char.isspace() else "" if char in _INVISIBLE else char
