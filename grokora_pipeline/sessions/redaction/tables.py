"""Passwords in tables and lists: a heading says what stands below it, in whatever notation both are written."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from grokora_pipeline.sessions.redaction.detector import (
    PHRASE,
    TELLING_GATE,
    TELLING_HINT,
    detector,
    hint_starts,
    is_mixed_value,
    is_plain_password,
    is_value,
    looks_random,
)
from grokora_pipeline.sessions.redaction.names import Meaning, meaning
from grokora_pipeline.sessions.redaction.passwords import CHOSEN, is_secret
from grokora_pipeline.sessions.redaction.sentences import is_strong

Span = tuple[int, int]
_MOST_ROWS = 200
_LONGEST_HEADING = 1000  # characters
_INSERT = re.compile(r"\) ?values\b", re.IGNORECASE)  # behind the columns of an INSERT, which are a heading
_TUPLE = re.compile(r"\((?P<row>[^()\n]*)\)")
_LINE = re.compile(r"^(?P<row>[^\n]*)$", re.MULTILINE)
_HTML_ROW = re.compile(r"<tr\b[^<>]*>(?P<row>.{0,4000}?)</tr>|<table\b", re.IGNORECASE | re.DOTALL)
_HTML_CELL = re.compile(r"<t[hd]\b[^<>]*>(?:\s|<[a-z][^<>]*>)*(?P<cell>[^<]*)", re.IGNORECASE)
_NAME = re.compile(r"(?:[\w./-]{1,40}(?: [\w./()-]{1,40}){0,2})?")  # of a column
_CELL = re.compile(rf"(?P<value>{PHRASE}|[^\s]{{3,128}})")
_DRESS = " \t\r\n\"'`*\u2502\u2503\u2551"  # around a cell
_BETWEEN = {  # a cell of CSV, whose quotes may hold its mark; Markdown and databases know no such quotes
    "|": re.compile(r"[^|]*(?=\||\Z)"),
    **{mark: re.compile(rf'(?: *"(?P<quoted>(?:[^"]|"")*)"[ \r]*|[^{mark}]*)(?=[{mark}]|\Z)') for mark in "\t;,"},
}
_APART, _WORDS = re.compile(r"\S+(?: \S+)*"), re.compile(r"\S+")
_WHO = re.compile(  # the heading of a column of users
    r"(?i)(?:[\w ]{0,16}[ _-])?(?:users?|user[ _-]?(?:name|id)s?|log-?in|account|e-?mail|uid|benutzer(?:name)?|nutzer|"
    r"konto|utilisateur|identifiant|usuario|usu\u00e1rio|utente|gebruiker\w*|u\u017cytkownik|"
    r"\u043b\u043e\u0433\u0438\u043d|\u8d26\u53f7|\u7528\u6237\u540d?|\uc544\uc774\ub514|\u30e6\u30fc\u30b6\u30fc\w*)"
)
# the headings of a table that has a name and a value in each row
_NAMES = "key|field|name|property|setting|parameter|item|variable|feld|eigenschaft|champ|campo"
_CONTENTS = "value|setting|wert|valeur|valore?|inhalt|content"
_HEAD = r"[\w \t\r./()\"'`*|,;+\x{80}-\x{10ffff}-]"  # what a heading is written with
_MARK = r"[|,;\t]"  # and what parts its cells, beside spaces


def _bare(text: str, start: int, end: int) -> Span:
    """A cell without what dresses it."""
    cell = text[start:end]
    left = start + len(cell) - len(cell.lstrip(_DRESS))
    return left, max(left, start + len(cell.rstrip(_DRESS)))


def _split(text: str, start: int, end: int, mark: str) -> list[Span]:
    """Where the cells of a line are, without quotes and what dresses them; spaces part them where no mark does."""
    line, spans, at = text[start:end], [], 0
    if not mark:
        return [(start + one.start(), start + one.end()) for one in _APART.finditer(line)]
    while at <= len(line) and (cell := _BETWEEN[mark].match(line, at)):
        left, right = cell.span("quoted") if cell.groupdict().get("quoted") is not None else cell.span()
        spans.append(_bare(text, start + left, start + right))
        at = cell.end() + 1
    return spans


def _below(text: str, end: int, mark: str, count: int) -> Iterator[list[Span]]:
    """The rows below a heading of `count` cells that ends there: up to an empty line, or one of another form."""
    insert = _INSERT.match(text, end)
    for row in (_TUPLE if insert else _LINE).finditer(text, insert.end() if insert else end + 1):
        start, stop = row.span("row")
        if not row["row"].strip():
            return
        if not re.search(r"\w", row["row"]):
            continue  # a rule
        cells = _split(text, start, stop, mark)
        if not mark and len(cells) != count:  # a long cell leaves one space
            cells = [(start + one.start(), start + one.end()) for one in _WORDS.finditer(row["row"])]
        if len(cells) == count + 1 and text[slice(*cells[0])].isdigit():
            del cells[0]  # the number of a row
        if len(cells) != count:
            return
        yield cells


class _Heading(NamedTuple):
    """What the columns of a table hold; in a table of names and values each row says it of its own value."""

    columns: list[Meaning]
    name: int
    value: int
    users: bool  # stand beside the passwords, which then may be plain words

    def secret(self, text: str, row: list[Span]) -> Iterator[re.Match[str]]:
        """The cells of a row that are secret."""
        columns = self.columns
        if self.value >= 0:
            columns = [meaning(text[slice(*row[self.name])]) if at == self.value else "" for at in range(len(row))]
        for means, span in zip(columns, row, strict=True):
            cell = _CELL.fullmatch(text, *span) if means in {"password", "key"} else None
            if cell and is_secret(means, cell["value"], quoted=True):
                marked = self.users or text[span[0] - 1 : span[0]] == "`"
                plain = marked and means == "password" and is_plain_password(cell["value"])
                pin = self.users and means == "password" and cell["value"].isdigit()
                if plain or pin or is_mixed_value(cell):
                    yield cell


def _heading(names: list[str]) -> _Heading | None:
    """What the names of columns say; None if they say nothing of secrets, or are a line of a program or a sentence."""
    constants = all(one.isupper() and "_" in one for one in names if one)  # of a program
    numbers = any(re.fullmatch(r"\d+[a-z]?(?: .*)?|\d+(?:[.:~+-]\w+)+", one) for one in names)  # a row, versions too
    if sum(map(bool, names)) < 2 or constants or numbers or not all(map(_NAME.fullmatch, names)):
        return None
    value = next((at for at, one in enumerate(names) if re.fullmatch(_CONTENTS, one, re.IGNORECASE)), -1)
    named = [at for at, one in enumerate(names) if re.fullmatch(_NAMES, one, re.IGNORECASE) and at != value]
    name = max((at for at in named if at < value), default=named[0] if named else -1)  # NAME, PROPERTY, VALUE
    columns = [meaning(one) for one in names]
    pairs = name >= 0 and value >= 0
    if not pairs and not {"password", "key"}.intersection(columns):
        return None
    return _Heading(columns, name, value if pairs else -1, pairs or any(map(_WHO.fullmatch, names)))


def _secret_cells(text: str) -> Iterator[re.Match[str]]:
    """The cells that a heading says are secret, or the name that stands beside them under "field" and "value"."""
    found: list[re.Match[str]] = []
    heading, count = None, 0
    for row in _HTML_ROW.finditer(text) if "<t" in text else ():
        cells = [_bare(text, *one.span("cell")) for one in _HTML_CELL.finditer(text, *row.span())] if row["row"] else []
        if heading and len(cells) == count:
            found += heading.secret(text, cells)
        else:
            heading, count = _heading([text[slice(*cell)] for cell in cells]), len(cells)
    end = -1
    for start in hint_starts(rf"{TELLING_GATE}|(?i:\b(?:{_CONTENTS})\b)", text):
        if start <= end:
            continue
        left, end = text.rfind("\n", 0, start) + 1, text.find("\n", start)
        end = end if end >= 0 else len(text)
        opened, closed = text.rfind("(", left, start) + 1, text.find(")", start, end)
        left, end = max(left, opened), closed if opened and _INSERT.match(text, closed) else end
        if end - left > _LONGEST_HEADING:
            continue
        mark = next((mark for mark in _BETWEEN if mark in text[left:end].strip("| ")), "")
        names = _split(text, left, end, mark)
        if heading := _heading([text[slice(*name)] for name in names]):
            for row_cells in islice(_below(text, end, mark, len(names)), _MOST_ROWS):
                found += heading.secret(text, row_cells)
                end = row_cells[-1][1]  # a row is no heading
    yield from sorted(found, key=re.Match.start)


_USERS = re.compile(  # USERS = {"bob": "x1"}, CREDENTIALS = [("bob", "x1")], $logins = ["bob" => "x1"]
    r"(?:users|accounts|log-?ins|admins|credentials|creds|passwords)(?-i:(?![a-z]))\w{0,16}[\"']?\s?"
    r"(?::[^\n=]{0,40})?[:=]\s?"
    r"(?:new \w+|array)?"
    r"[\[({](?P<items>[^{}]{4,2000}?)(?:\n[ \t]*)?[\])}](?=[ \t]*[;,)}]?[ \t]*(?:\n|\Z))",
    re.IGNORECASE,
)
_PAIR = re.compile(
    r"(?P<quote>[\"'])[\w.@+-]{2,40}(?P=quote)\s?(?:,|:|=>)\s?(?P<other>[\"'])(?P<value>(?!#/)[^\s\"']{4,64})(?=(?P=other))"
)
_BLOCK = re.compile(  # [admins] and users: with a user and a password in each line
    r"(?:\A|\n)(?P<indent>[ \t]*)(?:\[(?:\w{1,16}[._-])?(?:users|accounts|log-?ins|admins|credentials|passwords)\]|"
    r"(?:users|accounts|"
    r"log-?ins|admins):)[ \t]*(?P<lines>"
    r"(?:\n[ \t]*[\"']?[\w.@-]{2,40}[\"']?[ \t]?[:=][ \t]?[^\s=:{}\[\](),]{4,66}[ \t]*(?=\n|\Z)){1,100})",
    re.IGNORECASE,
)
_SET = re.compile(r"[:=][ \t]?[\"']?(?P<value>[^\s\"']+)")


def _users(text: str) -> Iterator[re.Match[str]]:
    """The passwords of a list of users, if all of its values can only be passwords."""
    for users, group, entry in ((_USERS, "items", _PAIR), (_BLOCK, "lines", _SET)):
        for match in users.finditer(text):
            pairs = list(entry.finditer(text, *match.span(group)))
            if pairs and all(map(is_strong, pairs)):
                yield from pairs


_LISTS = (
    "passwords|password list|passwortliste|pw[ds]?|passw\u00f6rter|kennw\u00f6rter|log-?ins|credentials|creds|"
    "(?:test|demo|default) (?:users|accounts)|zugangsdaten|contrase\u00f1as|mots de passe|"
    "senhas|wachtwoorden|has\u0142a|\u043f\u0430\u0440\u043e\u043b\u0438|\u5bc6\u7801"
)
_HEADING = re.compile(  # passwords:, # Our logins
    rf"(?:\A|\n)[ \t]*(?P<mark>[#*>=-]{{0,4}}|h\d\.) ?(?!(?:import|from|return) )(?:[\w'-]{{1,16}} ){{0,3}}(?:{_LISTS})"
    r"(?: [\w'(),-]{1,16}){0,3} ?(?P<colon>:?)[*=]{0,2}[ \t\r]*(?:\n[-=~]{3,}[ \t\r]*)?(?=\n)|"
    r"\b(?P<tool>(?:chpasswd|newusers)(?: ?<<-?[\"']?\w+[\"']?|:\s+(?:expire: \w+\s+)?list: ?\|?-?)|"
    r"(?:pgbouncer\W{1,3}userlist|userlist\.txt|auth_file)[^\n\w]{0,6})[ \t]*(?=\n)",
    re.IGNORECASE,
)
_ENTRY = re.compile(
    r"\n(?P<indent>[ \t]*)(?P<bullet>(?:[-*+\u2022]|\d{1,2}[.)])[ \t]+)?[\"'`*]*(?P<name>[^\n:=|]{1,60}?)[\"'`*]*"
    r"(?:[ \t]?(?P<set>[:=|\u2192\uff1a]|->|=>)[ \t]?|[ \t]+(?:[/\u2014\u2013-][ \t]+)?)"
    rf"[\"'`*]*(?P<value>{PHRASE}|[^\s\"'`|]{{5,64}})[\"'`*,;]*[ \t\r]*(?=\n|\Z)",
)
_DESCRIBED = re.compile(
    r"(?i)(?:id|at|time|date|url|uri|host|server|port|user|login|name|type|expir\w*|hash|scopes?|e?mail|region|zone|"
    r"profile|version|provider|project|file|path|role|bucket|kind|source|backend)\Z"
)


def _entries(text: str) -> Iterator[re.Match[str]]:
    """The last words of the lines of a list whose heading says that they are passwords or logins."""
    done = 0
    for heading in _HEADING.finditer(text):
        if heading.start() < done:
            continue
        at, config = heading.end(), heading["colon"] and not heading["mark"]
        for _ in range(_MOST_ROWS):
            entry = _ENTRY.match(text, at)
            if not entry:
                break
            at = done = entry.end()
            value, block = entry["value"], config and entry["indent"] and not entry["bullet"]  # of YAML
            told = CHOSEN.fullmatch(value) or looks_random(value) if block else is_strong(entry)
            if is_value(entry) and (heading["tool"] or (told and not _DESCRIBED.search(entry["name"]))):
                yield entry


DETECTORS = (
    detector(
        "password",
        _CELL.pattern,
        rf"(?im:(?:{TELLING_HINT}){_HEAD}*(?:{_MARK}| {{2,}}[^ \n]){_HEAD}*$|(?:{_MARK}|[^ \n] {{2,}}){_HEAD}*"
        rf"(?:{TELLING_HINT}){_HEAD}*(?:$|\) ?values)|</t[hd]|"
        rf"(?:{_NAMES}){_HEAD}*(?:{_MARK}| {{2}}){_HEAD}*(?:{_CONTENTS}){_HEAD}*$)",
        "value",
        find=_secret_cells,
        gate=TELLING_GATE,
    ),
    detector(
        "password",
        _ENTRY.pattern,
        rf"(?i:(?:{_LISTS}|chpasswd|newusers|userlist|auth_file)[^\n]*\n[^\n]*[\s:=|/])",
        "value",
        find=_entries,
        gate=rf"(?i:{_LISTS}|chpasswd|newusers|userlist|auth_file)",
    ),
    detector(
        "password",
        _PAIR.pattern,
        r"(?i:(?:users|accounts|log-?ins|admins|credentials|creds|passwords)\w{0,16}[\\\"']{0,4}\s?[:=\]])",
        "value",
        find=_users,
    ),
)
