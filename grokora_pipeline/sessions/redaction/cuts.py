"""Texts that something cut into pieces, read as one: the chunks of a stream, keys one by one, a program's strings.

A reading knows where each of its pieces stands in the text. So a secret that is cut is found whole, and leaves the text
in all of its pieces, while what stands between them stays.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Cut = tuple[int, int, str]  # of a text: from, to, and what is read there instead

_STRING = re.compile(r"(?P<quote>[\"'])(?P<said>(?:(?!(?P=quote))[^\\\n]|\\[^\n])*+)(?P=quote)")
_BESIDE = re.compile(r"\s?[:,=]\s?")
_FEWEST = 4  # chunks of a stream
_LONGEST_CHUNK = 60  # characters, in the mean
_MOST_STREAMS = 4  # of a text
_LONGEST_LINE = 120  # characters before a stream
_EDGE = re.compile(r"\A(?:\s|\\[nt])|(?:\s|\\[nt])\Z")
_STREAMED = re.compile(r"(?i)delta|partial|chunk|arguments|data|output|stdout")
_ESCAPE = re.compile(r"\\(?:u(?P<code>[0-9a-fA-F]{4})|(?P<mark>[^\n]))")
_MARKS = {"n": "\n", "t": "\t", "r": "\r"}
_GLUE = re.compile(  # "x" + "y", "x" "y" in the next line, "x" & _, ['x', 'y'].join(''), X='x' and X+='y' below it
    r"(?<![\s=:([{,+.&])(?P<quote>[\"'`])(?:\s{0,24}(?:\+|\.\.?|&|<>|\|\|)\s{0,3}(?:[_\\]\s{0,3})?\s{0,24}|"
    r"[ \t]?(?:\r?\n[ \t]{1,40}|\\\r?\n[ \t]{0,40}))[bfruN]?(?P=quote)(?![\s,;:)\]}])",
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
    r"(?i)(?<![\w.])(?P<open>(?:[\w.]{0,24}\()?[\[{(]?\s{0,12})(?P<run>0x[0-9a-f]{2}(?:\s?,\s{0,12}0x[0-9a-f]{2}){5,}|[0-9a-f]{2}(?:,(?:\\\s{1,8})?[0-9a-f]{2}){5,}|"
    r"[0-9a-f]{2}(?::[0-9a-f]{2}){5,}|\d{2,3}(?:,\s{0,12}\d{2,3}){5,})(?![\w.])(?P<close>\s{0,12}[\]})]{0,2})"
)
_RULED = "\u2502\u2503"
_PLAINER = re.compile(
    rf"\0|\^@|[{_RULED}]|(?<!\S)(?P<cell>[A-Z]{{1,2}}\d{{1,4}}[:=] ?)(?=\S)|"
    r"(?P<tags>(?:\s{0,20}</?(?:table|thead|tbody|tr|t[hd])\b[^<>]{0,80}>){1,8}\s{0,20})|"
    r"\\[a-z]{2,12}\{(?P<texed>[^\s{}\\]{4,80})\}|\|\|(?P<spoiled>[^\s|]{4,80})\|\|"
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
    before, behind, found = "", 0, 0
    for match in _STRING.finditer(text):
        gap = text[max(behind, match.start() - 40) : match.start()]
        label = before + gap if before and _BESIDE.fullmatch(gap) else gap
        groups.setdefault(re.sub(r"\d+", "0", label), []).append(match.span("said"))
        before, behind = match.group(), match.end()
    for spans in sorted(groups.values(), key=len, reverse=True):
        said = [text[start:end] for start, end in spans if start < end]
        if len(said) < _FEWEST or found == _MOST_STREAMS:
            return
        length = sum(map(len, said)) / len(said)
        if (length > _LONGEST_CHUNK or len(set(said)) < 3) or not (
            length <= 2
            or _STREAMED.search(text, max(0, spans[0][0] - _LONGEST_LINE), spans[0][0])
            or any(map(_EDGE.search, said))
        ):
            continue
        found += 1
        yield Reading(text, _only(text, spans))


def readings(text: str) -> Iterator[Reading]:
    """Other readings of a text in which a telling word stands; most texts have none."""
    for cuts in (_glue(text), _letters(text), _plain(text)):
        if sorted_cuts := sorted(cuts):
            yield Reading(text, sorted_cuts)


def _plain(text: str) -> Iterator[Cut]:
    """What stands for something plainer: NUL between arguments, a line of a table, a place of a cell, a mark."""
    for match in _PLAINER.finditer(text):
        if match["tags"]:  # of a table in HTML
            cell = "|" if "</t" in match["tags"] and not re.search("</?t(?:r|able)", match["tags"]) else "\n"
            yield *match.span(), cell
        elif word := match["texed"] or match["spoiled"]:
            start = text.index(word, match.start() + 2)
            yield match.start(), start, ""
            yield start + len(word), match.end(), ""
        else:
            yield *match.span(), "" if match["cell"] else "|" if match.group() in _RULED else " "


def _only(text: str, spans: Sequence[tuple[int, int]]) -> list[Cut]:
    """The cuts that leave nothing but some parts of a text and the line above, with the escapes in them undone."""
    cuts: list[Cut] = []
    line = text.rfind("\n", 0, spans[0][0]) + 1
    begin = text.rfind("\n", 0, max(0, line - 1)) + 1
    if 0 < line - begin <= _LONGEST_LINE:
        cuts, begin = [(0, begin, "")], line
    for start, end in spans:
        cuts.append((begin, start, ""))
        for match in _ESCAPE.finditer(text, start, end):
            mark = chr(int(match["code"], 16)) if match["code"] else _MARKS.get(match["mark"], match["mark"])
            cuts.append((*match.span(), mark))
        begin = end
    return [*cuts, (begin, len(text), "")]


def _glue(text: str) -> Iterator[Cut]:
    """What joins the strings of a program to one."""
    for match in _GLUE.finditer(text):
        yield *match.span(), ""
    for match in _JOINED.finditer(text):
        inner = re.compile(rf"{match['quote']},\s{{0,24}}{match['quote']}")
        for one in inner.finditer(text, *match.span()):
            yield *one.span(), ""
    for match in _APPENDED.finditer(text):
        yield *match.span("end"), ""


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
