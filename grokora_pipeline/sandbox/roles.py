"""The four roles in Grokputer's vocabulary: what each is told, what it may call, and how its answers are read."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grokora_pipeline.models.messages import Message, Tool, calls_of, message_text, strict_json


@dataclass(slots=True)
class AgentCall:
    """One question to one agent: OpenAI-shaped messages, its tools if any, and which of the tasks side by side asks."""

    agent: str
    messages: list[Message]
    tools: Sequence[Tool] | None = None
    task: int = 0


Responder = Callable[[Sequence[AgentCall]], Sequence[Message]]

AGENTS = ("coordinator", "observer", "actor", "validator")
SYSTEM = {
    "coordinator": "You are the coordinator of the Grokputer swarm. Split the task into subtasks. "
    "Answer with a JSON list.",
    "observer": "You are the observer of the Grokputer swarm. Find the element on the screen. Answer with JSON.",
    "actor": "You are the actor of the Grokputer swarm. Do the subtask with one tool call.",
    "validator": "You are the validator of the Grokputer swarm. Judge the action. Answer with JSON.",
}


def _tool(name: str, description: str, required: list[str], **properties: Tool) -> Tool:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_TEXT = {"type": "string"}
TOOLS: list[Tool] = [
    _tool("bash", "Run a command in the vault", ["command"], command=_TEXT),
    _tool("computer", "Control mouse and keyboard", ["action"],
          action={"type": "string", "enum": ["left_click", "right_click", "double_click", "type", "key", "scroll"]},
          coordinate={"type": "array", "items": {"type": "integer"}}, text=_TEXT, amount={"type": "integer"}),
    _tool("scan_vault", "Find files by pattern", ["pattern"], pattern=_TEXT),
]  # fmt: skip


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_SUBTASK = _object(
    params=_object(command={"type": "string", "minLength": 1}),
    agent={"enum": ["observer", "actor"]},
    action={"enum": ["capture_screen", "perform_action"]},
)
SCHEMAS: dict[str, dict[str, Any]] = {
    "coordinator": {"type": "array", "minItems": 1, "maxItems": 8, "items": _SUBTASK},
    "observer": _object(
        element={"type": ["string", "null"]},
        coordinates={"type": ["array", "null"], "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
        type={"type": ["string", "null"]},
    ),
    "validator": {
        "anyOf": [
            _object(reason={"type": "string"}, valid={"type": "boolean"}, confidence={"type": "integer"}),
            _object(
                program={"type": "string"},
                safety_score={"type": "integer"},
                risk_level={"enum": ["LOW", "MEDIUM", "HIGH", "CRITICAL"]},
                approved={"type": "boolean"},
            ),
        ]
    },
}


def ask(agent: str, screen: str | None = None, **fields: str | None) -> AgentCall:
    """A question to an agent: the screen, then a line a field (`safety_check`: `Safety check: …`); None is left out."""
    lines = [f"{name.replace('_', ' ').capitalize()}: {text}" for name, text in fields.items() if text is not None]
    user = "\n".join([*([] if screen is None else [screen]), *lines])
    messages = [{"role": "system", "content": SYSTEM[agent]}, {"role": "user", "content": user}]
    return AgentCall(agent, messages, TOOLS if agent == "actor" else None)


@dataclass(frozen=True, slots=True)
class Subtask:
    """A line of the coordinator's plan; `locate` asks the observer first."""

    command: str
    locate: bool


def json_message(value: Any) -> Message:
    """An assistant message that holds JSON."""
    return {"role": "assistant", "content": json.dumps(value, ensure_ascii=False)}


def tool_message(name: str, arguments: dict[str, Any], call_id: str) -> Message:
    """An assistant message with one tool call; its content is "", as Grokputer's client needs it."""
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def answer_json(message: object) -> Any:
    """The JSON of an answer, with or without a code fence around it; None if there is none."""
    text = message_text(message).strip() if isinstance(message, dict) else ""
    return strict_json(text.removeprefix("```json").removeprefix("```").removesuffix("```"))


def read_subtasks(message: object) -> list[Subtask]:
    """The coordinator's plan; [] unless every line of it is a subtask."""
    plan = answer_json(message)
    if not isinstance(plan, list) or not 1 <= len(plan) <= SCHEMAS["coordinator"]["maxItems"]:
        return []
    subtasks = []
    for line in plan:
        params = line.get("params") if isinstance(line, dict) else None
        command = params.get("command") if isinstance(params, dict) else None
        if not isinstance(command, str) or line.get("agent") not in ("observer", "actor"):
            return []
        subtasks.append(Subtask(command, line["agent"] == "observer"))
    return subtasks


def same_answer(message: Message, expected: Message) -> bool:
    """Whether an answer says what the expected one says: the same tool call, or JSON of the same value."""
    if "tool_calls" in expected:
        return read_tool_call(message) == read_tool_call(expected)
    value = answer_json(expected)
    return bool(answer_json(message) == value if value is not None else message.get("content") == expected["content"])


def read_tool_call(message: object) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of the one tool call of an answer; None if there is none or more than one."""
    calls = calls_of(message) if isinstance(message, dict) else []
    if len(calls) != 1 or not calls[0].name or calls[0].arguments is None:
        return None
    return calls[0].name, calls[0].arguments


def read_verdict(message: object, key: str) -> tuple[bool, str] | None:
    """The boolean `valid` or `approved` of a verdict with its reason; None if it is not one."""
    verdict = answer_json(message)
    decision = verdict.get(key) if isinstance(verdict, dict) else None
    if not isinstance(verdict, dict) or not isinstance(decision, bool):
        return None
    return decision, str(verdict.get("reason") or verdict.get("risk_level") or "no reason given")
