"""`grokputer.log`: all single-agent sessions one after the other, with full answers and full tool arguments."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from grokora_pipeline.sessions.readers import grokputer
from grokora_pipeline.sessions.readers.common import Source, decode, to_utc
from grokora_pipeline.sessions.turns import Item, Problem

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) - (\S+) - ([A-Z]+) - (.*)", re.DOTALL)
_HEAD = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - \S+ - [A-Z]+ - ")
_CALL = re.compile(r"Executing tool: (\w+) with args: (.*)", re.DOTALL)
_RESULT = re.compile(r"Tool result: (\w+) -> (.*)", re.DOTALL)
_SESSION = re.compile(r"grokputer\.(\S+)")
_MAX_REPR = 1 << 20


def looks_like(head: bytes) -> bool:
    """Whether the first line has a time with milliseconds, a module and a level."""
    return bool(_HEAD.match(head.lstrip(b"\xef\xbb\xbf \t\r\n")))


def read(source: Source) -> Iterator[Item]:
    """The turns of every session; a session starts at `Starting task:`."""
    parser = _Parser(source)
    for number, entry in _entries(source):
        if isinstance(entry, Problem):
            yield entry
        else:
            yield from parser.feed(number, entry)
    yield from parser.finish()


def _entries(source: Source) -> Iterator[tuple[int, "re.Match[str] | Problem"]]:
    """The log's entries with the line they start at; lines without a time belong to the entry before."""
    pending, start, offset = "", 0, 0
    warned = False
    with source.path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            text, problem = decode(raw)
            if problem and not warned:
                warned = True
                yield number, Problem("not_utf8", offset + problem.offset, f"line {number}, read as Windows-1252")
            offset += len(raw)
            text = text.replace("\r\n", "\n")
            if _LINE.match(text):
                yield from _entry(pending, start)
                pending, start = text, number
            else:
                pending += text
    yield from _entry(pending, start)


def _entry(text: str, number: int) -> Iterator[tuple[int, "re.Match[str]"]]:
    match = _LINE.match(text.rstrip("\n"))
    if match:
        yield number, match


class _Parser:
    """Collects one run at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._run: grokputer.Run | None = None
        self._name = ""
        self._seen: set[str] = set()
        self._results = 0  # how many calls of the iteration already have their result

    def feed(self, number: int, entry: "re.Match[str]") -> Iterator[Item]:
        """Take one entry in; hands out the turns of a run when it has ended."""
        day, milliseconds, module, _, text = entry.groups()
        moment = to_utc(f"{day}.{milliseconds}")
        if name := _SESSION.fullmatch(module):
            self._name = name.group(1)
        if text.startswith("Starting task: "):
            yield from self.finish()
            self._start(text.removeprefix("Starting task: "), moment)
        elif self._run is not None:
            self._event(self._run, number, moment, entry)

    def finish(self) -> Iterator[Item]:
        """The turns of the run that is open."""
        run, self._run = self._run, None
        if run is not None:
            yield from grokputer.turns(self._source, run)

    def _start(self, task: str, moment: str) -> None:
        base = self._name or f"{self._source.name}@{moment}"
        session, count = base, 1
        while session in self._seen:  # two runs within one second share an id
            count += 1
            session = f"{base}#{count}"
        self._seen.add(session)
        self._run = grokputer.Run(session, task)

    def _event(self, run: grokputer.Run, number: int, moment: str, entry: "re.Match[str]") -> None:
        module, level, text = entry.group(3, 4, 5)
        current = run.iterations[-1] if run.iterations else None
        if text.startswith("--- Iteration "):
            run.iterations.append(grokputer.Iteration(len(run.iterations) + 1, moment, "", line=number))
            self._results = 0
        elif text.startswith("Task stopped: reached max iterations"):
            run.status = "failure"
        elif text.startswith(("No tool calls requested", "Grok indicated task completion")):
            run.status = "success"
        elif current is None:
            return
        elif text.startswith("Grok response: "):
            current.response = text.removeprefix("Grok response: ")
            current.line = number
        elif level == "ERROR" and text.startswith("Grok API error"):
            current.failed_call = True
            run.status = "failure"
        elif module.endswith("executor") and (call := _CALL.match(text)):
            current.calls.append(grokputer.Call(call.group(1), _literal(call.group(2))))
        elif (result := _RESULT.match(text)) and self._results < len(current.calls):
            current.calls[self._results].result = _literal(result.group(2)) or result.group(2)
            self._results += 1


def _literal(text: str) -> dict[str, Any] | None:
    """A Python dict literal, or None; nothing is ever evaluated."""
    if len(text) > _MAX_REPR:
        return None
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
