"""A turn: one call of one agent, as every log format is read into it and as `session_logs` stores it."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Message = dict[str, Any]
Status = Literal["success", "failure", "unknown"]


@dataclass(slots=True)
class Turn:
    """One LLM call. `prompt` and `completion` are OpenAI-shaped chat messages; `completion` may carry tool_calls."""

    session_id: str
    agent: str | None  # as recorded by the reader, as recognised once ingested
    step: int
    started_at: str  # ISO 8601, UTC, "" where the log has no time
    source_file: str  # relative to the log root
    source_sha256: str
    source_format: str
    prompt: list[Message]
    completion: Message
    tools: list[dict[str, Any]] | None = None
    status: Status = "unknown"
    rating: int | None = None
    blamed: bool = False
    reconstructed: bool = False
    redactions: dict[str, int] = field(default_factory=dict)
    line: int = 0  # 1-based line (or iteration) in the source, 0 where it has none
    task: str = ""  # the goal as the session states it, "" where the log does not say
    step_failed: bool = False  # this very step's tool result was an error, or its command returned non-zero
    turn_id: str = ""  # set once the text is redacted


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a session ended, told by a line of its own or with a turn; the last word in a file counts."""

    session_id: str
    status: Status = "unknown"
    rating: int | None = None
    blamed_agent: str | None = None
    blamed_step: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What could not be read: a row of the quarantine. `detail` never quotes the log."""

    reason: str
    offset: int = 0  # bytes from the start of the file
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step that is in the log but cannot honestly become a turn; counted by reason."""

    reason: str


Item = Turn | Verdict | Problem | Skipped


def turn_id(who: tuple[str, int, str | None], prompt: bytes, tools: bytes, completion: bytes) -> str:
    """SHA-256 of what the turn is: (session, step, agent) and its texts as JSON, redacted. Equal text, equal id."""
    head = orjson.dumps(who)
    return hashlib.sha256(b"\n".join((head, prompt, tools, completion))).hexdigest()
