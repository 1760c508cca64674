"""A turn: one call of one agent, as every log format is read into it and as `session_logs` stores it."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import orjson

from grokora_pipeline.models.messages import Message

Status = Literal["success", "failure", "unknown"]
# What of the prompt the log holds: all of it; rebuilt from other lines; only what is new since the call before; a text
# that was shortened; nothing. Only the first two are learnt by default.
Completeness = Literal["whole", "reconstructed", "delta", "cut", "lost"]
ToolsKnown = Literal["recorded", "inferred", "none"]


@dataclass(slots=True)
class Turn:
    """One LLM call. `prompt` and `completion` are OpenAI-shaped chat messages; `completion` may carry tool_calls."""

    session_id: str
    agent: str | None  # as recorded by the reader, as recognised once ingested
    step: int
    started_at: str  # ISO 8601, UTC, "" if the log has no time
    source_file: str  # relative to the log root
    source_sha256: str
    source_format: str
    prompt: list[Message]
    completion: Message
    tools: list[dict[str, Any]] | None = None
    status: Status = "unknown"
    rating: int | None = None
    blamed: bool = False
    completeness: Completeness = "whole"
    tools_known: ToolsKnown = "none"  # whether `tools` was in the log, or was inferred from the calls
    recorded_agent: str | None = None  # the name in the log, if it differs from `agent`; kept even if nobody has it
    model: str = ""  # who answered (the teacher), so that its calls can be left out
    call: str = ""  # the receipt's id, which a verdict's blame may name
    parent_session_id: str = ""  # the session that started this one (a sub-agent's), "" for none
    result_known: bool = False  # the log holds the results of the tool calls in `completion`
    redactions: dict[str, int] = field(default_factory=dict)
    line: int = 0  # 1-based line (or iteration) in the source, 0 if it has none
    task: str = ""  # the goal as the session states it, "" if the log does not say
    step_failed: bool = False  # this very step's tool result was an error, or its command returned non-zero
    shown: int = -1  # which message of the prompt made the calls whose results end it, -1 for none
    shown_failed: bool = False  # one of these results says that its call failed
    trace: str = ""  # what a platform calls the run that the call is a part of; a verdict may name it for the session


class TurnRow(TypedDict):
    """A row of the `session_logs` table: the Parquet columns of a turn, redacted. Texts of JSON stay text."""

    turn_id: str  # SHA-256 of the content
    session_id: str
    agent: str | None  # the agent whose rules recognise the call
    step: int
    started_at: str  # ISO 8601, UTC, "" for a call without a time
    source_file: str  # relative to the log root
    source_sha256: str
    source_format: str
    line: int
    task: str
    prompt: str  # JSON list of chat messages
    tools: str | None  # JSON list of tool schemas
    completion: str  # JSON assistant message
    status: Status  # the session's, else what the turn's own file says
    rating: int | None  # 1 to 5
    blamed: bool
    step_failed: bool
    completeness: Completeness
    tools_known: ToolsKnown
    recorded_agent: str | None
    model: str
    call: str
    parent_session_id: str
    result_known: bool
    redactions: str  # JSON object: how many values of which kind were replaced
    prompt_id: str  # hashes of prompt and answer, by which a call that stands in two logs is recognised
    answer_id: str
    calls_id: str  # hashes of the answer's calls, and of those whose results end the prompt; "" for none
    shown_id: str
    shown_failed: bool  # whether one of these results says that its call failed
    copies: list[str]  # the other files that the call stands in; not stored in the row


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a session ended, as a file states it. "unknown" and None leave what was stated before.

    The last word of a person or a program about a session counts. What a log's own end says (`inferred`) counts only
    if nobody said anything, and of several such ends the worst.
    """

    session_id: str
    status: Status = "unknown"
    rating: int | None = None
    blamed_agent: str | None = None
    blamed_step: int | None = None
    blamed_call: str = ""  # the receipt's id; before agent and step, which may name several calls
    at: str = ""  # ISO 8601, UTC, "" if the log does not say when it was stated
    inferred: bool = False


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
