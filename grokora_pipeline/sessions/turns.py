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
    agent: str | None
    step: int
    started_at: str  # ISO 8601, UTC
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


def turn_id(turn: Turn) -> str:
    """SHA-256 of what the turn is: session, step, agent, prompt, tools and completion, as redacted."""
    parts = [turn.session_id, turn.step, turn.agent, turn.prompt, turn.tools, turn.completion]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
