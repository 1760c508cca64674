"""Grokputer's v1 and v1.1 sessions: `session.json` with a list of iterations, beside it `session.log`."""

import re
from collections.abc import Iterator
from typing import Any

from grokora_pipeline.sessions.readers import grokputer
from grokora_pipeline.sessions.readers.common import (
    Source,
    UnreadableError,
    decode,
    first_of,
    leaves_folder,
    name_text,
    parse_object,
    to_utc,
    whole_number,
)
from grokora_pipeline.sessions.readers.outcomes import opinion, outcome_status, verdict
from grokora_pipeline.sessions.turns import Item, Problem, Status, Verdict

_EVENT = re.compile(r"SESSION (STARTED|ENDED): *(\S*)|^.{22,35} {2,}Rating: *(\S+)|Session logger initialized: *(\S+)")
_ITERATIONS = re.compile(rb'"iterations"\s*:\s*\[')
_LOG_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - [A-Z]+ - ")


def looks_like(head: bytes) -> bool:
    """Whether it is an object with a session id, whose iterations are a list."""
    return head.startswith(b"{") and (b'"session_id"' in head and bool(_ITERATIONS.search(head)))


def read(source: Source) -> Iterator[Item]:
    """The turns of the session and its rating; of a truncated file, those of the iterations that are complete."""
    document, problems = parse_object(source.read())
    yield from problems
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    iterations = document.get("iterations")
    if not isinstance(iterations, list):
        raise UnreadableError("wrong_schema", 0, "`iterations` is no list")
    session = name_text(first_of({"a": document.get("session_id"), "b": metadata.get("session_id")}, "a", "b"))
    session = session or source.path.parent.name
    if leaves_folder(session):
        raise UnreadableError("path_traversal", 0, "the session id is a path that leaves its folder")
    run = grokputer.AgentRun(
        session_id=session,
        task=name_text(metadata.get("task")),
        rating=opinion(metadata.get("user_rating"))[0],
        model=name_text(metadata.get("model")),
        iterations=[
            _iteration(entry, position) for position, entry in enumerate(iterations, 1) if isinstance(entry, dict)
        ],
    )
    if run.task:
        yield from grokputer.turns(source, run)
    elif run.iterations:
        raise UnreadableError("wrong_schema", 0, "the session does not name its task")
    if (rating := metadata.get("user_rating")) is not None:
        yield from verdict(session, "user_rating", 0, rating=rating)


def _iteration(entry: dict[str, Any], position: int) -> grokputer.Iteration:
    results, calls = entry.get("tool_results"), []
    for one in results if isinstance(results, list) else ():
        if isinstance(one, dict):
            name, result = name_text(one.get("function_name")), one.get("result")
            known = grokputer.arguments_from_result(name, result) if isinstance(result, dict) else None
            calls.append(grokputer.ToolUse(name, known, result))
    number = whole_number(entry.get("iteration_number"))
    return grokputer.Iteration(
        number=position if number is None else number,
        started_at=to_utc(entry.get("start_time")),
        response=name_text(entry.get("grok_response")),
        calls=calls,
        line=position,
        failed_call=entry.get("api_call_success") is False,
    )


def looks_like_log(head: bytes) -> bool:
    """Whether it is a v1 `session.log`: `time - LEVEL - text`, without milliseconds."""
    return bool(_LOG_LINE.match(head))


def read_log(source: Source) -> Iterator[Item]:
    """How `session.log` says that the session ended, and how the user rated it. It holds no whole answers: no turns.

    Two runs within one second share a folder: the log then holds both, and `session.json` is the last one's.
    """
    session, rating = source.path.parent.name, None
    status: Status | None = None
    for line in source.lines():
        text, _ = decode(line.raw)
        if line.problem:
            yield line.problem
        if not (event := _EVENT.search(text)):
            continue
        what, word, stars, name = event.groups()
        if what == "STARTED" or name:
            session, status, rating = word or name or session, None, None
        elif what == "ENDED":
            if outcome_status(word) is None:
                yield Problem("unknown_outcome", line.offset, f"line {line.number}: not a word for an outcome")
            # a summary that could not be written logs `completed` and then `error`: the first word counts
            status = status or outcome_status(word) or "failure"
        elif stars:
            rating = stars
    if leaves_folder(session):
        raise UnreadableError("path_traversal", 0, "the session id is a path that leaves its folder")
    if status:
        yield Verdict(session, status, inferred=True)
    if rating is not None:
        yield from verdict(session, "the session's rating", 0, rating=rating)
