"""What the scoring functions look at: an answer beside the expected one, and the values read out of both."""

import ast
import json
import re
from dataclasses import dataclass, field
from typing import Any

from grokora_pipeline.agents import AnswerType

Message = dict[str, Any]
_JSON_FENCE = re.compile(r"```(?:json)?\s*([\[{].*?)\s*```", re.DOTALL | re.IGNORECASE)  # on one line, too
_FENCE = re.compile(r"```[\w+-]*[^\S\n]*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; `arguments` is None where they are no JSON object."""

    name: str
    arguments: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer beside the expected one. Both are assistant messages; log text in them is untrusted.

    `boxes` holds, for each expected call, the target's [left, top, right, bottom] in pixels, or None where only the
    exact coordinate counts. `nll` is the summed negative log-likelihood (nats) of the expected completion.
    `finished`: it ended by itself (finish reason `stop`), and was not cut at the limit.
    """

    prediction: Message
    reference: Message
    tools: list[dict[str, Any]] | None = None
    schema: dict[str, Any] | None = None
    answer_type: AnswerType = "text"
    boxes: list[list[float] | None] = field(default_factory=list)
    nll: float | None = None
    reference_tokens: int = 0
    new_tokens: int | None = None
    finished: bool | None = None
    seconds: float | None = None


def content_of(message: Message) -> str:
    """The text of a message, without surrounding white space; "" where it has none."""
    content = message.get("content")
    return content.strip() if isinstance(content, str) else ""


def calls_of(message: Message) -> list[Call]:
    """The tool calls of a message, arguments decoded."""
    calls = []
    for entry in message.get("tool_calls") or []:
        function = entry.get("function", entry)
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = strict_json(arguments, {})
        calls.append(Call(str(function.get("name", "")), arguments if isinstance(arguments, dict) else None))
    return calls


def strict_json(text: str, default: Any = None) -> Any:
    """The value of a text that is JSON and nothing else (NaN is not JSON), else None; `default` for an empty text."""
    if not text.strip():
        return default
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def lenient_json(text: str) -> Any:
    """As `strict_json`, but the text may also be the first fenced block of an answer that talks around it."""
    value = strict_json(text)
    if value is None and (fenced := _JSON_FENCE.search(text)):
        value = strict_json(fenced.group(1))
    return value


def json_value(message: Message) -> Any:
    """What a message says as data: its calls as [{name, arguments}], else its content read as JSON, else None."""
    if calls := calls_of(message):
        return [{"name": call.name, "arguments": call.arguments} for call in calls]
    value = lenient_json(content_of(message))
    return value if isinstance(value, dict | list) else None


Path = tuple[str | int, ...]
Leaf = tuple[Path, str]


def leaves(value: Any, path: Path = ()) -> list[Leaf]:
    """The leaf fields of a JSON value as (path, canonical JSON of the leaf); an empty container is a leaf itself."""
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in leaves(child, (*path, str(key)))]
    if isinstance(value, list) and value:
        return [leaf for index, child in enumerate(value) for leaf in leaves(child, (*path, index))]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [(path, json.dumps(value, sort_keys=True))]


def code_tree(text: str) -> str | None:
    """The syntax tree of a Python answer (of its first fenced block, where it has one), without positions; None when
    it does not parse."""
    fenced = _FENCE.search(text)
    try:
        return ast.dump(ast.parse(fenced.group(1) if fenced else text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def canonical(message: Message) -> str:
    """The whole answer as one text: the content, then the calls as compact JSON with sorted keys."""
    calls = [{"name": call.name, "arguments": call.arguments} for call in calls_of(message)]
    tail = [json.dumps(call, sort_keys=True, ensure_ascii=False) for call in calls]
    return "\n".join(part for part in [content_of(message), *tail] if part)


def as_message(text: str) -> Message:
    """A message from a text: JSON of an assistant message, or else the content itself."""
    value = strict_json(text)
    if isinstance(value, dict) and value.get("role") == "assistant":
        return value
    return {"role": "assistant", "content": text}
