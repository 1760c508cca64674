"""`grokputer.log`: all single-agent sessions one after the other, with full answers and full tool arguments.

Lines get lost (Windows drops those that its code page cannot write), so every line that can only stand at a session's
edge ends the run that is open. Rotation cuts a session in two: a file that does not begin with a session goes on with
the run that its older file leaves open. Each iteration is a turn of the file that it began in.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from grokora_pipeline.sessions.readers import grokputer
from grokora_pipeline.sessions.readers.common import Source, decode, leaves_folder, to_utc
from grokora_pipeline.sessions.readers.documents import literal
from grokora_pipeline.sessions.readers.outcomes import outcome_status, verdict
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Status, Verdict

# Today's logger writes `time,ms - module - LEVEL - text`, a newer one `time [LEVEL] module (file.py:line): text`.
_LINE = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:,(?P<ms>\d{3}) - (?P<module>\S+) - (?P<level>[A-Z]+) - "
    r"|(?:[.,](?P<ms2>\d{3}))? \[(?P<level2>[A-Z]+)\] (?P<module2>\S+) \([^)\n]*\): )(?P<text>.*)",
    re.DOTALL,
)
_HEAD = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:,\d{3} - \S+ - [A-Z]+ - |(?:[.,]\d{3})? \[[A-Z]+\] \S+ \([^)\n]*\): )"
)
_ITERATION = re.compile(r"-* ?Iteration (\d+)(?:/\d+)?\b.*-")
_REQUESTED = re.compile(r"Grok requested (\d+) tool calls?")
_CALL = re.compile(r"Executing tool: (\w+) with args: (.*)", re.DOTALL)
_RESULT = re.compile(r"Tool result: (\w+) -> (.*)", re.DOTALL)
_SESSION = re.compile(r"grokputer\.(\S+)")
_EDGE = ("GROKPUTER INITIALIZED", "Starting boot sequence", "Task execution finished")
_STARTS = ("SESSION STARTED", *_EDGE[:2])  # before these no session of an older file goes on
_ENDS = ("SESSION ", "Starting task: ", *_EDGE)  # after these no step goes on
_MAX_GAP = timedelta(hours=6)  # between the last line of a rotated file and the next: else they are not one session
_MAX_ENTRY = 16 << 20  # characters of one entry: lines without a time belong to the entry before


class Entry(NamedTuple):
    """An entry of the log: the line it starts at, and what it says."""

    number: int
    moment: str
    module: str
    level: str
    text: str


def looks_like(head: bytes) -> bool:
    """Whether the first line has a time, a module and a level, or the first that has a time does.

    Rotation may cut an entry of several lines, so that the file starts with the rest of it.
    """
    lines = head.split(b"\n")
    if lines[0].startswith((b"{", b"[", b"<", b"#")):
        return False
    return any(_HEAD.match(line) for line in lines[:50])


def read(source: Source) -> Iterator[Item]:
    """The turns of every session, and how it ended."""
    parser = _Parser(source)
    for number, entry in enumerate(_entries(source)):
        if isinstance(entry, Problem):
            yield entry
            continue
        if not number and source.older and not entry.text.startswith(_STARTS):
            parser.go_on(source.older, entry)
        yield from parser.feed(entry)
    if source.newer is None or parser.end_in(source.newer):
        source.open_ends.append("an iteration")
    yield from parser.finish()


def _entries(source: Source) -> Iterator["Entry | Problem"]:
    """The log's entries; lines without a time belong to the entry before."""
    pending: list[str] = []
    start = size = 0
    warned = False
    for line in source.lines():
        if line.problem:
            yield line.problem
        text, problem = decode(line.raw)
        if problem and not warned:
            warned = True
            yield Problem("not_utf8", line.offset + problem.offset, f"line {line.number}, read as Windows-1252")
        text = text.replace("\r\n", "\n")
        if _LINE.match(text):
            yield from _entry(pending, start)
            pending, start, size = [text], line.number, len(text)
        elif size < _MAX_ENTRY:
            pending.append(text)
            size += len(text)
    if pending and not pending[-1].endswith("\n") and "Grok response: " in pending[0]:
        yield Problem("truncated", 0, f"line {start}: the log ends within an answer")
    else:
        yield from _entry(pending, start)


def _entry(lines: list[str], number: int) -> Iterator[Entry]:
    match = _LINE.match("".join(lines).rstrip("\n"))
    if match:
        part = match.groupdict()
        moment = to_utc(f"{part['day']}.{part['ms'] or part['ms2'] or '000'}")
        module, level = part["module"] or part["module2"], part["level"] or part["level2"]
        yield Entry(number, moment, module, level, part["text"])


class _Parser:
    """Collects one run at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._run: grokputer.AgentRun | None = None
        self._name = ""  # of the session whose logger wrote last
        self._model = self._moment = ""
        self._used: set[str] = set()
        self._last = ""  # the session that ended last: the user rates it afterwards
        self._results = 0  # how many calls of the iteration already have their result
        self._explicit: Status | None = None  # what SESSION ENDED said

    def go_on(self, older: tuple[Path, ...], first: Entry) -> None:
        """Go on with the run that older files leave open, if `first`, the file's first entry, may belong to it."""
        for entry in chain.from_iterable(_entries(self._of(path)) for path in older):
            if isinstance(entry, Entry):
                list(self.feed(entry))  # the turns are those of that file
        if self._run is None:
            return
        for iteration in self._run.iterations:
            iteration.elsewhere = True
        number = _ITERATION.match(first.text)
        last = self._run.iterations[-1].number if self._run.iterations else 0
        if (number and int(number.group(1)) != last + 1) or _are_apart(self._moment, first.moment):
            self._run, self._name = None, ""

    def end_in(self, newer: Path) -> bool:
        """Take in what a newer file says of the iteration that the end of this file cut; whether it may say more."""
        for entry in _entries(self._of(newer, self._source.newer_size)):
            if isinstance(entry, Problem) or self._run is None:
                return False
            if _ITERATION.match(entry.text) or entry.text.startswith(_ENDS) or _are_apart(self._moment, entry.moment):
                return False
            self._event(self._run, entry)
        return True

    def _of(self, path: Path, size: int = -1) -> Source:
        return replace(self._source, path=path, size=size, growing=False, data=None)

    def feed(self, entry: Entry) -> Iterator[Item]:
        """Take one entry in; hands out the turns of a run when it has ended."""
        text, self._moment = entry.text, entry.moment
        name = _SESSION.fullmatch(entry.module)
        if name and name.group(1) != self._name:
            yield from self.finish()
            self._name = "" if leaves_folder(name.group(1)) else name.group(1)
        if name:
            yield from self._session_line(text, entry.moment)
        elif text.startswith("Initialized Grok client: model="):
            self._model = text.removeprefix("Initialized Grok client: model=").partition(",")[0]
        elif text.startswith("Starting task: "):
            # the session's own logger has named the task already: the same run goes on
            task = text.removeprefix("Starting task: ")
            if self._run is None or self._run.iterations or self._run.task != task:
                yield from self.finish()
                self._start(task, entry.moment)
        elif text.startswith(_EDGE):
            yield from self.finish()
            self._name = "" if text.startswith(_EDGE[:2]) else self._name
        elif iteration := _ITERATION.match(text):
            yield from self._iteration(int(iteration.group(1)), entry)
        elif self._run is not None:
            self._event(self._run, entry)

    def finish(self) -> Iterator[Item]:
        """The turns of the run that is open, and its verdict."""
        run, self._run = self._run, None
        if run is None:
            return
        run.status, self._last = self._explicit or run.status, run.session_id
        yield from grokputer.turns(self._source, run)
        if run.status != "unknown":
            yield Verdict(run.session_id, run.status, inferred=True)
        self._explicit = None

    def _session_line(self, text: str, moment: str) -> Iterator[Item]:
        """A line of the session's own logger: where it starts and ends, and what the user said of it."""
        if text.startswith("SESSION STARTED"):
            yield from self.finish()
        elif text.startswith("Task: ") and self._run is None:
            self._start(text.removeprefix("Task: "), moment)
        elif text.startswith("SESSION ENDED:"):
            status = outcome_status(text.partition(":")[2])
            if status is None:
                yield Problem("unknown_outcome", 0, "SESSION ENDED with a word that is not for an outcome")
            # a summary that could not be written logs `completed` and then `error`: the first word counts
            if self._run is not None:
                self._explicit = status or "failure"
                yield from self.finish()
            elif self._name and self._name not in self._used:  # the line with its task is lost, the session is not
                self._used.add(self._name)
                yield Verdict(self._name, status or "failure", inferred=True)
        elif text.strip().startswith("Rating:"):
            session = self._run.session_id if self._run else self._last or self._name
            yield from verdict(session, "the session's rating", 0, rating=text.partition(":")[2])

    def _iteration(self, number: int, entry: Entry) -> Iterator[Item]:
        """A new iteration; one that falls back belongs to another session, whose start the log has lost."""
        if self._run is not None and self._run.iterations and number <= self._run.iterations[-1].number:
            yield from self.finish()
        if self._run is None:
            yield Skipped("no_task")
            return
        self._run.iterations.append(grokputer.Iteration(number, entry.moment, "", line=entry.number))
        self._results = 0

    def _start(self, task: str, moment: str) -> None:
        base = self._name or f"grokputer@{moment}"
        session, count = base, 1
        while session in self._used:  # two runs within one second share an id
            count += 1
            session = f"{base}#{count}"
        self._used.add(session)
        self._run = grokputer.AgentRun(session, task, model=self._model)
        self._explicit, self._results = None, 0

    def _event(self, run: grokputer.AgentRun, entry: Entry) -> None:
        text = entry.text
        current = run.iterations[-1] if run.iterations else None
        if text.startswith("Task stopped: reached max iterations"):
            run.status = "failure"
        elif text.startswith(("No tool calls requested", "Grok indicated task completion")):
            run.status = "success"
        elif current is None:
            return
        elif text.startswith("Grok response: "):
            current.torn = current.torn or bool(current.response or current.calls)
            current.response = text.removeprefix("Grok response: ")
            current.line = entry.number
        elif requested := _REQUESTED.match(text):
            current.requested = int(requested.group(1))
        elif entry.level == "ERROR" and text.startswith("Grok API error"):
            current.failed_call = True
            run.status = "failure"
        elif entry.module.endswith("executor") and (call := _CALL.match(text)):
            current.calls.append(grokputer.ToolUse(call.group(1), literal(call.group(2))))
        elif (result := _RESULT.match(text)) and self._results < len(current.calls):
            current.calls[self._results].result = literal(result.group(2)) or result.group(2)
            self._results += 1


def _are_apart(before: str, after: str) -> bool:
    """Whether two lines are too far apart in time to be of one session."""
    return bool(before and after) and abs(datetime.fromisoformat(after) - datetime.fromisoformat(before)) > _MAX_GAP
