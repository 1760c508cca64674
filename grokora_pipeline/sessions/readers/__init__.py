"""The one registry of log formats. A format is known by its content, never by a folder's or a file's name."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from grokora_pipeline.sessions.readers import (
    collaboration,
    global_log,
    instructions,
    recordings,
    session_json,
    swarm,
)
from grokora_pipeline.sessions.readers.source import Source, UnreadableError, is_archive
from grokora_pipeline.sessions.turns import Item

__all__ = [
    "FORMATS",
    "HEAD_BYTES",
    "Format",
    "Source",
    "UnreadableError",
    "detect",
    "detect_by_line",
    "is_archive",
    "is_companion",
]

HEAD_BYTES = 64 << 10
_COMPANION_STARTS = (b"Session: ", b"=====")  # v2 session.log, summary.txt
_PROGRAM_LOG = re.compile(rb"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")  # alerts_*, monitoring_*, automation_*
_COMPANION_KEYS = (
    (b'"api_success_rate"', b'"total_tool_calls"'),  # v1 metrics.json
    (b'"tool_executions"', b'"swarm_mode"'),  # v2 metrics.json
    (b'"recommendations"', b'"strengths"'),  # improvement_analysis.json
)


class Format(NamedTuple):
    """A log format: how its first bytes look, and how it is read."""

    name: str
    looks_like: Callable[[bytes], bool]
    read: Callable[[Source], Iterator[Item]]


FORMATS: tuple[Format, ...] = (
    Format("recording", recordings.looks_like, recordings.read),
    Format("instructions", instructions.looks_like, instructions.read),
    Format("swarm_v2", swarm.looks_like, swarm.read),
    Format("session_v1", session_json.looks_like, session_json.read),
    Format("session_log", session_json.looks_like_log, session_json.read_log),
    Format("grokputer_log", global_log.looks_like, global_log.read),
    Format("collaboration", collaboration.looks_like, collaboration.read),
)


def detect(head: bytes) -> Format | None:
    """The format of a file from its first bytes; None if no reader knows it."""
    return next((known for known in FORMATS if known.looks_like(head)), None)


def detect_by_line(head: bytes) -> Format | None:
    """The format of JSONL whose first line is damaged, from the lines after it."""
    rest = [line for line in head.split(b"\n")[1:] if line.startswith(b"{")]
    return next((known for known in FORMATS[:2] if any(known.looks_like(line) for line in rest)), None)


def is_companion(head: bytes) -> bool:
    """Whether a file only goes with a session that is told elsewhere: a session.log, metrics, a summary, an index."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(_COMPANION_STARTS) or _PROGRAM_LOG.match(start):
        return True
    known = any(all(key in head for key in keys) for keys in _COMPANION_KEYS) or _index(head)
    return start.startswith(b"{") and (start.strip() == b"{}" or known)


def _index(head: bytes) -> bool:
    """session_index.json, whose entries name no session: a session.json that was cut early does."""
    return b'"debug_mode"' in head and b'"start_time"' in head and b'"session_id"' not in head
