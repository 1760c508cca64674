"""Texts that something cut into pieces, read as one: the chunks of a stream, keys one by one, a program's strings.

A reading knows where each of its pieces stands in the text. So a secret that is cut is found whole, and leaves the text
in all of its pieces, while what stands between them stays.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from grokora_pipeline.sessions.redaction.detector import TELLING

Cut = tuple[int, int, str]  # of a text: from, to, and what is read there instead

_STRING = re.compile(r"(?P<quote>[\"'])(?P<said>(?:(?!(?P=quote))[^\\\n]|\\[^\n])*+)(?P=quote)")
_BESIDE = re.compile(r"\s?[:,=]\s?")
_LONGEST_GAP = 40  # characters between two of them
_FEWEST = 4  # chunks of a stream
_LONGEST_CHUNK = 60  # characters, in the mean
_MOST_STREAMS = 4  # of a text
_LONGEST_LINE = 120  # characters before a stream
_NAMED = re.compile(rf"\w*(?:{TELLING})", re.IGNORECASE)
_EDGE = re.compile(r"\A(?:\s|\\[nt])\w|\w(?:\s|\\[nt])\Z")  # of a chunk that begins or ends between words
_PRESSED = re.compile(r"(?i)press|stroke|typ(?:e|ing)\b|send|\bkeys?\b|\bchar\b|\"[io]\",")  # of single keys
_STREAMED = re.compile(r"(?i)(?<![a-z])(?:delta|partial|chunk|argument|data|output|stdout)s?(?![a-z])")
_ESCAPE = re.compile(r"\\(?:u(?P<code>[0-9a-fA-F]{4})|(?P<mark>[^\n]))")
_MARKS = {"n": "\n", "t": "\t", "r": "\r"}
_GLUE = re.compile(  # "x" + "y", "x" "y" in the next line, "x" & _, ['x', 'y'].join(''), X='x' and X+='y' below it
    r"(?<![\s=:([{,+.&])(?P<quote>[\"'`])(?:\s{0,24}(?:\+|\.\.?|&|<>|\|\|)\s{0,3}(?:[_\\]\s{0,3})?\s{0,24}|"
    r"[ \t]?(?:\r?\n[ \t]{1,40}|\\\r?\n[ \t]{0,40}))[bfruN]?(?P=quote)(?![\s,;:)\]}])",
)
_BROKEN = re.compile(  # a backslash before a line break, a folded header, a cell that goes on below itself
    r"(?<=[^\s\\])(?:\\\r?\n[ \t]{0,16}|\r\n[ \t]{1,8}| *[|\u2502]\n *[|\u2502] {2,80}[|\u2502] {0,2})"
    r"(?=[^\s|\u2502+-])"
)
_JOINED = re.compile(r"\[\s?(?:(?P<quote>[\"'`])[^\"'`\n]{1,80}(?P=quote),?\s{0,24}){2,12}\]\.join\(([\"'`])\2\)")
_APPENDED = re.compile(
    r"\b(?P<name>\w+) ?= ?(?P<quote>[\"'])[^\"'\n]{1,200}"
    r"(?P<end>(?P=quote)\s{0,3};?\n[ \t]{0,24}(?P=name) ?\.?\+?= ?(?:\$?(?P=name) ?\+ ?)?(?P=quote))"
)
_SPELT = re.compile(
    r"(?<!\S)[!-~](?P<gap> {1,3})[!-~](?:(?P=gap)[!-~]){4,}(?!\S)"
)  # a p i k e y, one key after the other
_BYTES = re.compile(  # 0x41, 0x70: as a program's array, \x41 as a string, 41,00 as Windows' registry, [65, 112]
    r"(?i)(?<![\w.])(?P<open>(?:hex(?:\(\w\))?:|[\w.]{0,24}\()?[\[{(]?\s{0,12})(?P<run>0x[0-9a-f]{2}(?:\s?,\s{0,12}0x[0-9a-f]{2}){5,}|[0-9a-f]{2}(?:,(?:\\\s{1,8})?[0-9a-f]{2}){5,}|"
    r"[0-9a-f]{2}(?::[0-9a-f]{2}){5,}|\d{2,3}(?:,\s{0,12}\d{2,3}){5,})(?![\w.])(?P<close>\s{0,12}[\]})]{0,2})"
)
_QUOTED_PRINTABLE = re.compile(r"=(?:\r?\n|(?P<code>[2-7][0-9A-F]))")
_NUL = ("\0", "^@")
_PLAINER = re.compile(
    r"\0|\^@|[\u2502\u2503]|(?<!\S)(?P<cell>[A-Z]{1,2}\d{1,4}[:=] ?)(?=\S)|"
    r"\\[a-z]{2,12}\{(?P<texed>[^\s{}\\]{4,80})\}|\|\|(?P<marked>[^\s|]{4,80})\|\||"
    r"\[-(?P<old>[^\s\[\]]{4,80})-\]|\{\+(?P<new>[^\s{}]{4,80})\+\}|"  # a diff by words
    r"\\(?P<escaped>[_*#$%&.!~-])|(?P<octal>(?:\\(?:0[4-7]|1[0-7])[0-7]){4,})|(?:0x|\\x)(?P<hex>(?:[2-6][0-9a-f]|7[0-9a-e]){6,})\b|"
    r"(?P<nothing></?(?:span|b|i|u|em|strong|mark|wbr|font|code|tt|kbd)\b[^<>\n]{0,80}>|\^\[\[[0-9;]*[A-Za-z])"
)
_BYTE = re.compile(r"(?i)(?:0x)?(?P<hex>[0-9a-f]{2,3})[,:\\\s]{0,12}")


class Reading(NamedTuple):
    """What a text says if parts of it are left out or read as something else."""

    source: str
    cuts: list[Cut]

    @property
    def text(self) -> str:
        """The reading itself."""
        pieces, begin = [], 0
        for start, end, instead in self.cuts:
            pieces += [self.source[begin:start], instead]
            begin = end
        return "".join((*pieces, self.source[begin:]))

    def spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of the source that say what stands from `start` to `end` of the reading."""
        at = begin = 0
        for cut, behind, instead in (*self.cuts, (len(self.source),) * 2 + ("",)):
            low, high = max(start, at), min(end, at + cut - begin)
            if low < high:
                yield begin + low - at, begin + high - at
            at += cut - begin
            if instead and start < at + len(instead) and at < end:
                yield cut, behind
            at, begin = at + len(instead), behind
            if at >= end:
                return


def streams(text: str) -> Iterator[Reading]:
    """Strings that stand in the same place of several records: chunks of an answer, of a terminal, of what is typed.

    Texts that stand below each other are no stream: chunks of one begin and end within words and with spaces.
    """
    if text.count('"') < 2 * _FEWEST and text.count("'") < 2 * _FEWEST:
        return
    groups: dict[str, list[tuple[int, int]]] = {}
    before: re.Match[str] | None = None
    found = 0
    for match in _STRING.finditer(text):
        gap = text[max(before.end() if before else 0, match.start() - _LONGEST_GAP) : match.start()]
        label = before.group() + gap if before and _BESIDE.fullmatch(gap) else re.split(r"[\n,(\[{]", gap)[-1]
        if label.strip():
            groups.setdefault(re.sub(r"\d+", "0", label), []).append(match.span("said"))
        if before and gap.strip() == "," and text[match.end() : match.end() + 2].strip()[:1] != ":":  # of a list
            row = groups.setdefault(",", [])
            row += (
                [match.span("said")] if row[-1:] == [before.span("said")] else [before.span("said"), match.span("said")]
            )
        before = match
    for spans in sorted(groups.values(), key=len, reverse=True):
        said = [text[start:end] for start, end in spans if start < end]
        if len(said) < _FEWEST or found == _MOST_STREAMS:
            return
        length, before_it = sum(map(len, said)) / len(said), max(0, spans[0][0] - _LONGEST_LINE)
        keys = sum(map(len, said)) <= 2 * len(said) and sum(len(one) == 1 for one in said) >= 0.9 * len(said)
        if (length > _LONGEST_CHUNK or len(set(said)) < 3) or not (
            (keys and _PRESSED.search(text, before_it, spans[0][0]) and _NAMED.search(text))
            or _STREAMED.search(text, before_it, spans[0][0])
            or any(map(_EDGE.search, said))
        ):
            continue
        found += 1
        yield Reading(text, _only(text, spans, keys))


def readings(text: str) -> Iterator[Reading]:
    """Other readings of a text in which a telling word stands; most texts have none."""
    for cuts in (_glue(text), _letters(text), _plain(text), _printable(text)):
        if sorted_cuts := sorted(cuts):
            yield Reading(text, sorted_cuts)


def _plain(text: str) -> Iterator[Cut]:
    """What stands for something plainer: NUL between arguments, a line of a table, a place of a cell, a mark."""
    for match in _PLAINER.finditer(text):
        if word := match["texed"] or match["marked"] or match["old"] or match["new"]:
            start = text.index(word, match.start() + 2)
            yield match.start(), start, ""
            yield start + len(word), match.end(), " "
        elif code := match["octal"] or match["hex"]:
            chars = bytes.fromhex(code) if match["hex"] else bytes(int(one, 8) for one in code.split("\\")[1:])
            yield *match.span(), f'"{chars.decode("ascii")}"'
        else:
            gone = match["cell"] or match["nothing"]
            yield *match.span(), match["escaped"] or ("" if gone else " " if match.group() in _NUL else "|")


def _only(text: str, spans: Sequence[tuple[int, int]], keys: bool) -> list[Cut]:
    """The cuts that leave nothing but some parts of a text and the line above, with the escapes in them undone.

    `keys`: the parts are single keys, of which the text may say where they are typed.
    """
    cuts: list[Cut] = []
    line = text.rfind("\n", 0, spans[0][0]) + 1
    begin = text.rfind("\n", 0, max(0, line - 1)) + 1
    if 0 < line - begin <= _LONGEST_LINE:
        cuts, begin = [(0, begin, "")], line
    field = _NAMED.search(text) if keys else None
    for start, end in spans:
        cuts.append((begin, start, f'{field.group()}: "' if field and start == spans[0][0] else ""))
        for match in _ESCAPE.finditer(text, start, end):
            mark = chr(int(match["code"], 16)) if match["code"] else _MARKS.get(match["mark"], match["mark"])
            cuts.append((*match.span(), mark))
        begin = end
    return [*cuts, (begin, len(text), "")]


def _glue(text: str) -> Iterator[Cut]:
    """What joins the strings of a program to one."""
    for match in _BROKEN.finditer(text):
        yield *match.span(), ""
    for match in _GLUE.finditer(text):
        yield *match.span(), ""
    for match in _JOINED.finditer(text):
        inner = re.compile(rf"{match['quote']},\s{{0,24}}{match['quote']}")
        for one in inner.finditer(text, *match.span()):
            yield *one.span(), ""
    for match in _APPENDED.finditer(text):
        yield *match.span("end"), ""


def _printable(text: str) -> Iterator[Cut]:
    """The line breaks and the signs that quoted-printable mail escapes."""
    if "=3D" in text or "quoted-printable" in text:
        for match in _QUOTED_PRINTABLE.finditer(text):
            yield *match.span(), chr(int(match["code"], 16)) if match["code"] else ""


def _letters(text: str) -> Iterator[Cut]:
    """A text letter by letter: with a space behind each, or as the number of each."""
    for match in _SPELT.finditer(text):
        for gap in re.finditer(r" +", text[match.start() : match.end()]):
            yield match.start() + gap.start(), match.start() + gap.end(), ""
    for match in _BYTES.finditer(text):
        numbers = list(_BYTE.finditer(text, *match.span("run")))
        base = (
            10 if all(one["hex"].isdecimal() for one in numbers) and any(len(one["hex"]) > 2 for one in numbers) else 16
        )
        chars = [chr(int(one["hex"], base)) for one in numbers]
        if all(char.isascii() and (char.isprintable() or char in "\0\n\r\t") for char in chars):
            yield *match.span("open"), '"'
            yield from ((*one.span(), char.strip("\0")) for one, char in zip(numbers, chars, strict=True))
            yield *match.span("close"), '"'
