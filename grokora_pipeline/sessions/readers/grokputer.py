"""What Grokputer's single-agent logs have in common: its six tools, and prompts rebuilt from what was logged.

The prompt of every such turn is rebuilt: the log has neither the system prompt nor the start of the screenshot, and
from the second iteration on the model was sent neither its task nor the tool results. A useful example needs both, so
they are put in, and the turn says `reconstructed`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.common import Source, assistant, is_error, tool_call, tool_result, user
from grokora_pipeline.sessions.turns import Skipped, Status, Turn

AGENT = "grokputer"
_ACTIONS = ["mouse_move", "left_click", "right_click", "double_click", "type", "key", "screenshot", "scroll"]
_OPERATIONS = ["list_vault_files", "read_vault_file", "search_vault", "edit_vault_file"]
_TEXT: dict[str, Any] = {"type": "string"}


def _tool(name: str, description: str, required: tuple[str, ...] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS: list[dict[str, Any]] = [
    _tool("bash", "Run a shell command.", ("command",), command=_TEXT),
    _tool(
        "computer",
        "Use the mouse and the keyboard.",
        ("action",),
        action={"type": "string", "enum": _ACTIONS},
        coordinate={"type": "array", "items": {"type": "integer"}},
        text=_TEXT,
    ),
    _tool("scan_vault", "List vault files that match a pattern.", pattern=_TEXT, limit={"type": "integer"}),
    _tool("invoke_prayer", "Say the server prayer."),
    _tool("get_vault_stats", "Count the files of the vault."),
    _tool(
        "mcp_vault_operation",
        "Work on the vault through its MCP server.",
        ("operation",),
        operation={"type": "string", "enum": _OPERATIONS},
        arguments={"type": "object"},
    ),
]


@dataclass(slots=True)
class ToolUse:
    """A tool call of an iteration. `arguments` is None if the log does not hold them: they are never made up."""

    name: str
    arguments: dict[str, Any] | None
    result: object = None


@dataclass(slots=True)
class Iteration:
    """One round of observe, reason, act."""

    number: int
    started_at: str
    response: str
    calls: list[ToolUse] = field(default_factory=list)
    line: int = 0
    failed_call: bool = False  # the API call itself failed: there is no answer
    elsewhere: bool = False  # it began in the file that this one continues, and is a turn of that file
    torn: bool = False  # it holds two answers: the line between them is lost
    requested: int | None = None  # how many tools the model called, if the log says so: lines of calls get lost


@dataclass(slots=True)
class AgentRun:
    """One session of the single agent."""

    session_id: str
    task: str
    status: Status = "unknown"
    rating: int | None = None
    iterations: list[Iteration] = field(default_factory=list)
    model: str = ""


def arguments_from_result(name: str, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of a call as far as its result repeats them; None if it does not (clicks, refused commands)."""
    if name == "bash":
        return {"command": result["command"]} if isinstance(result.get("command"), str) else None
    if name in {"invoke_prayer", "get_vault_stats"}:
        return {}
    if name == "scan_vault":
        return {"pattern": result["pattern"]} if isinstance(result.get("pattern"), str) else None
    if name == "computer":
        return _computer_arguments(result)
    return None


def _computer_arguments(result: Mapping[str, Any]) -> dict[str, Any] | None:
    action = result.get("action")
    if action == "screenshot":
        return {"action": action}
    repeated = {"mouse_move": ("coordinate", "coordinate"), "type": ("text", "text"), "key": ("key", "text")}
    repeated["scroll"] = ("amount", "amount")
    source, target = repeated.get(str(action), ("", ""))
    return {"action": action, target: result[source]} if source in result else None


def turns(source: Source, run: AgentRun) -> list[Turn | Skipped]:
    """The turns of a run, one an iteration; an iteration whose answer is not fully known is skipped and counted."""
    items: list[Turn | Skipped] = []
    history: list[Message] = [user(f"Task: {run.task}")]
    torn = False
    for iteration in run.iterations:
        calls = _tool_calls(iteration)
        torn = torn or iteration.torn  # what the model saw after it is not known either
        # a log that goes on after the iteration would hold all its calls; one that was killed in it holds what was done
        lost = iteration is not run.iterations[-1] and len(iteration.calls) < (iteration.requested or 0)
        complete = len(calls) == len(iteration.calls) and not lost
        if iteration.failed_call or not (iteration.response or iteration.calls):
            items += [] if iteration.elsewhere else [Skipped("no_answer")]
            continue
        if torn:
            items += [] if iteration.elsewhere else [Skipped("iteration_not_separable")]
        elif not iteration.elsewhere:
            items.append(
                _turn(source, run, iteration, list(history), calls) if complete else Skipped("arguments_not_logged")
            )
        history.append(assistant(iteration.response, list(calls.values())))
        history += [tool_result(call["id"], iteration.calls[position].result) for position, call in calls.items()]
        history.append(user("Task: Continue the task."))
    return items


def _tool_calls(iteration: Iteration) -> dict[int, dict[str, Any]]:
    """The calls whose arguments are known, by their place among the iteration's calls."""
    return {
        position: tool_call(f"call_{iteration.number}_{position}", call.name, call.arguments)
        for position, call in enumerate(iteration.calls)
        if call.arguments is not None
    }


def _turn(
    source: Source, run: AgentRun, iteration: Iteration, prompt: list[Message], calls: dict[int, dict[str, Any]]
) -> Turn:
    return Turn(
        session_id=run.session_id,
        agent=AGENT,
        step=iteration.number,
        started_at=iteration.started_at,
        source_file=source.name,
        source_sha256=source.sha256,
        source_format=source.format,
        prompt=prompt,
        completion=assistant(iteration.response, list(calls.values())),
        tools=TOOLS,
        tools_known="inferred",
        status=run.status,
        rating=run.rating,
        completeness="reconstructed",
        line=iteration.line,
        task=run.task,
        model=run.model,
        result_known=bool(iteration.calls) and all(call.result is not None for call in iteration.calls),
        step_failed=any(is_error(call.result) for call in iteration.calls),
    )
