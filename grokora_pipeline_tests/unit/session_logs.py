"""Small logs for the tests of the sessions room."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.agents import AgentSpec, Match
from grokora_pipeline.sessions.ingest import IngestReport, ingest
from grokora_pipeline.sessions.turns import TurnRow
from grokora_pipeline.sessions.verdicts import read_turns

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
AGENTS = (
    *(
        AgentSpec(name=name, description=name)
        for name in ("coordinator", "observer", "actor", "validator", "grokputer")
    ),
    AgentSpec(name="collaborator", description="writes plans", match=Match(names=("grok", "claude"))),
    AgentSpec(name="greeter", description="found by its system prompt", match=Match(system=("You greet",))),
)
ACTOR = AGENTS[2]


def call(
    session: str, step: int, prompt: str, answer: str | dict[str, Any], agent: str | None = "actor", **more: Any
) -> dict[str, Any]:
    """A line of a recording."""
    message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    return {
        "session_id": session,
        "agent": agent,
        "step": step,
        "started_at": f"2026-01-{1 + step % 3:02d}T10:00:{step % 60:02d}Z",
        "request": {"model": "m", "messages": [{"role": "user", "content": prompt}]},
        "response": {"choices": [{"message": message}]},
        **more,
    }


def tool_answer(name: str, arguments: dict[str, Any], call_id: str = "c1") -> dict[str, Any]:
    """An assistant message with one tool call."""
    function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
    return path


def run(logs: Path, output: Path, previous: Path | None = None, agents: Sequence[AgentSpec] = AGENTS) -> IngestReport:
    """Ingest without waiting for files to settle."""
    output.mkdir(parents=True)
    return ingest(logs, agents, previous, output, settle_seconds=0, workers=1)


def turns(folder: Path) -> list[TurnRow]:
    """All turns of an output folder."""
    return list(read_turns(folder))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of the turns and of the quarantine, by path."""
    files = [*(folder / "turns").glob("*.parquet"), folder / "quarantine.parquet"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}
