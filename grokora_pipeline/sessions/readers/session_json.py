"""Grokputer's v1 and v1.1 sessions: `session.json` with a list of iterations, beside it `session.log`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grokora_pipeline.sessions.readers import grokputer
from grokora_pipeline.sessions.readers.common import (
    Source,
    UnreadableError,
    decode,
    leaves_folder,
    parse_object,
    stars,
    to_utc,
    whole_number,
)
from grokora_pipeline.sessions.turns import Item, Status

COMPANION = "session.log"
_ENDED = re.compile(r"SESSION (STARTED|ENDED): *(\w*)")
_ITERATIONS = re.compile(rb'"iterations"\s*:\s*\[')
_STATUS: dict[str, Status] = {"completed": "success", "max_iterations_reached": "failure", "error": "failure"}
_MAX_LOG = 16 << 20


def looks_like(head: bytes) -> bool:
    """Whether it is an object with a session id, whose iterations are a list."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and (
        b'"session_id"' in head and bool(_ITERATIONS.search(head))
    )


def read(source: Source) -> Iterator[Item]:
    """The turns of the session; of a truncated file, those of the iterations that are complete."""
    document, problems = parse_object(source.path.read_bytes())
    yield from problems
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    iterations = document.get("iterations")
    if not isinstance(iterations, list):
        raise UnreadableError("wrong_schema", 0, "`iterations` is no list")
    session = str(document.get("session_id") or metadata.get("session_id") or source.name)
    if leaves_folder(session):
        raise UnreadableError("path_traversal", 0, "the session id is a path that leaves its folder")
    run = grokputer.Run(
        session_id=session,
        task=str(metadata.get("task") or ""),
        status=end_status(source.path.with_name(COMPANION)),
        rating=stars(metadata.get("user_rating")),
        model=str(metadata.get("model") or ""),
        iterations=[_iteration(entry, place) for place, entry in enumerate(iterations, 1) if isinstance(entry, dict)],
    )
    if run.task:
        yield from grokputer.turns(source, run)
    elif run.iterations:
        raise UnreadableError("wrong_schema", 0, "the session does not name its task")


def end_status(log: Path) -> Status:
    """How `session.log` says the last session in its folder ended; unknown where it does not say.

    Two runs within one second share a folder: the log then holds both, and `session.json` is the last one's.
    """
    if not log.is_file() or log.is_symlink() or log.stat().st_size > _MAX_LOG:
        return "unknown"
    text, _ = decode(log.read_bytes())
    events = _ENDED.findall(text)
    started = max((place for place, event in enumerate(events) if event[0] == "STARTED"), default=-1)
    reasons = [reason for event, reason in events[started + 1 :] if event == "ENDED"]
    # a summary that could not be written logs `completed` and then `error`: the task itself was completed
    return _STATUS.get(reasons[0], "unknown") if reasons else "unknown"


def _iteration(entry: dict[str, Any], place: int) -> grokputer.Iteration:
    results = entry.get("tool_results")
    calls = [_call(result) for result in results if isinstance(result, dict)] if isinstance(results, list) else []
    number = whole_number(entry.get("iteration_number"))
    response = entry.get("grok_response")
    return grokputer.Iteration(
        number=place if number is None else number,
        started_at=to_utc(entry.get("start_time")),
        response=response if isinstance(response, str) else "",
        calls=calls,
        line=place,
        failed_call=entry.get("api_call_success") is False,
    )


def _call(entry: dict[str, Any]) -> grokputer.Call:
    name, result = str(entry.get("function_name") or ""), entry.get("result")
    known = grokputer.arguments_from_result(name, result) if isinstance(result, dict) else None
    return grokputer.Call(name, known, result)
