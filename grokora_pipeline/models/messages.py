"""Chat messages brought into the shape that every chat template accepts, whatever a log holds."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Tool = Mapping[str, Any]

CONTINUE = "Continue."
_ROLES = {"developer": "system", "function": "tool"}
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_JSON_FENCE = re.compile(r"```(?:json)?\s*([\[{].*?)\s*```", re.DOTALL | re.IGNORECASE)  # on one line, too
_MISTRAL_CALLS = re.compile(r"\[TOOL_CALLS\]\s*(\[.*\])\s*\Z", re.DOTALL)


def content_text(content: object) -> str:
    """The text of a message's content: null is "", parts are joined by line breaks, pictures become `[image]`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return "" if content is None else json.dumps(content, ensure_ascii=False)
    parts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            parts.append(text)
        elif isinstance(part, Mapping) and "image" in str(part.get("type", "")):
            parts.append("[image]")
    return "\n".join(parts)


def normalise(messages: Sequence[Mapping[str, Any]], *, native_tools: bool, opening: bool = True) -> list[Message]:
    """The messages with string contents, one leading system message, alternating turns and a user turn first.

    With `native_tools` the template renders tool calls and results itself; otherwise both become text: calls as
    `<tool_call>{…}</tool_call>`, results as user text in `<tool_response>`. Orphan tool results are user text always.
    `opening`: these are the first turns of a conversation, so a user turn is put in where an assistant would begin.
    """
    turns: list[Message] = []
    for message in messages:
        turn = _as_turn(message, native_tools, bool(turns and _may_be_answered(turns[-1])), bool(turns))
        if turns and turns[-1]["role"] == turn["role"] != "tool":
            _join(turns[-1], turn)
        else:
            turns.append(turn)
    first = 1 if turns and turns[0]["role"] == "system" else 0
    if opening and (len(turns) == first or turns[first]["role"] == "assistant"):
        turns.insert(first, {"role": "user", "content": CONTINUE})
    return turns


def _may_be_answered(turn: Message) -> bool:
    return turn["role"] == "tool" or bool(turn.get("tool_calls"))


def _as_turn(message: Mapping[str, Any], native_tools: bool, answers_call: bool, started: bool) -> Message:
    role = _ROLES.get(str(message.get("role")), str(message.get("role")))
    text = content_text(message.get("content"))
    if role == "tool":
        if native_tools and answers_call:
            named = {key: message[key] for key in ("name", "tool_call_id") if message.get(key)}
            return {"role": "tool", "content": text, **named}
        return {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}
    if role == "assistant":
        calls = [call for call in map(_plain_call, message.get("tool_calls") or ()) if call]
        if native_tools and calls:
            native = [{"type": "function", "function": call} for call in calls]
            return {"role": "assistant", "content": text, "tool_calls": native}
        return {"role": "assistant", "content": "\n".join(filter(None, [text, *map(call_text, calls)]))}
    # A system message in mid-conversation is something that templates refuse: the user says it.
    return {"role": "system" if role == "system" and not started else "user", "content": text}


def _join(turn: Message, other: Message) -> None:
    turn["content"] = "\n\n".join(filter(None, [turn["content"], other["content"]]))
    if other.get("tool_calls"):
        turn["tool_calls"] = [*turn.get("tool_calls", []), *other["tool_calls"]]


def _plain_call(call: Mapping[str, Any]) -> Message | None:
    """{name, arguments} with the arguments as an object where they are valid JSON, whatever shape the log used."""
    function = call.get("function") or call
    if not isinstance(function, Mapping) or not function.get("name"):
        return None
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError:
            arguments = {"raw": arguments}
    return {"name": str(function["name"]), "arguments": {} if arguments is None else arguments}


def call_text(call: Mapping[str, Any]) -> str:
    """A tool call as text, for templates that know no tools."""
    return f"<tool_call>{json.dumps(call, ensure_ascii=False, separators=(',', ':'))}</tool_call>"


def tool_signature(tool: Tool) -> str:
    """`name(argument: type, optional?: type) – description`, on one line."""
    function = tool.get("function") or tool
    schema = function.get("parameters") or {}
    required = set(schema.get("required") or ())
    arguments = ", ".join(
        f"{name}{'' if name in required else '?'}: {_type_name(spec)}"
        for name, spec in (schema.get("properties") or {}).items()
    )
    description = " ".join(str(function.get("description") or "").split())
    return f"{function.get('name')}({arguments}){f' – {description}' if description else ''}"


def _type_name(spec: object) -> str:
    kind = spec.get("type", "any") if isinstance(spec, Mapping) else "any"
    return "|".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def with_tool_text(messages: list[Message], tools: Iterable[Tool]) -> list[Message]:
    """The messages with the tools' signatures appended to the system message (made where there is none)."""
    lines = "\n".join(map(tool_signature, tools))
    text = f"Tools, called as {call_text({'name': 'tool', 'arguments': {}})}:\n{lines}"
    if messages and messages[0]["role"] == "system":
        content = "\n\n".join(filter(None, [messages[0]["content"], text]))
        return [{**messages[0], "content": content}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def fold_system(messages: list[Message]) -> list[Message]:
    """The system message put in front of the first user message, for templates that refuse a system role."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    joined = "\n\n".join(filter(None, [messages[0]["content"], messages[1]["content"]]))
    return [{**messages[1], "content": joined}, *messages[2:]]


def parse_answer_text(text: str, *, bare_calls: bool) -> Message:
    """An assistant message from generated text: the tool calls found in it, and what is left as content ("" not null).

    `bare_calls`: the whole text may be one JSON call without a tag, as Llama 3 writes it. Calls that are no valid JSON
    stay in the content, so that metrics see them.
    """
    calls: list[Message] = []

    def taken(match: re.Match[str]) -> str:
        found = _calls_of(match.group(1))
        calls.extend(found)
        return "" if found else match.group(0)

    content = _MISTRAL_CALLS.sub(taken, _CALL.sub(taken, text))
    if bare_calls and not calls:
        calls = _calls_of(text.removeprefix("<|python_tag|>"))
        content = "" if calls else text
    message: Message = {"role": "assistant", "content": content.strip()}
    if calls:
        message["tool_calls"] = [_openai_call(index, call) for index, call in enumerate(calls)]
    return message


def _calls_of(text: str) -> list[Message]:
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return []
    calls = []
    for call in found if isinstance(found, list) else [found]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return []
        if "arguments" not in call and "parameters" not in call:
            return []
        calls.append({"name": call["name"], "arguments": call.get("arguments", call.get("parameters"))})
    return calls


def _openai_call(index: int, call: Message) -> Message:
    arguments = call["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    identity = hashlib.sha256(f"{index}\0{call['name']}\0{text}".encode()).hexdigest()[:24]
    return {"id": f"call_{identity}", "type": "function", "function": {"name": call["name"], "arguments": text}}


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; `arguments` is None where they are no JSON object."""

    name: str
    arguments: dict[str, Any] | None


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
