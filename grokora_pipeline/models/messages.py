"""What a chat message says: its text, its reasoning, its tool calls; and conversations as chat templates accept them.

Training, evaluation and the gateway ask these functions and no others, so that a model reads while it serves what it
read while it was trained, whatever shape a client or a log gives a message.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Tool = Mapping[str, Any]

CONTINUE = "Continue."
PICTURE = "<SCREENSHOT>"  # stands for every picture, sound and file: the word that redaction stores in their place
# Base64 of a picture, sound or document: a data URL, or bare PNG, JPEG, GIF and WebP by their first bytes. Lines may be
# wrapped; a wrapped line is recognised by its length, so that words that follow the data stay.
MEDIA_DATA = (
    r"data:(?:image|audio|video|application)/[\w.+-]+(?:;[\w.+-]+=[\w.+-]*)*;base64,[A-Za-z0-9+/_-]*={0,2}"
    r"(?:\s+[A-Za-z0-9+/]{40,}={0,2})*|iVBORw0KGgo[A-Za-z0-9+/]{8,}={0,2}(?:\s+[A-Za-z0-9+/]{40,}={0,2})*|"
    r"(?:/9j/4|R0lGOD[dl]h|UklGR)[A-Za-z0-9+/]{60,}={0,2}(?:\s+[A-Za-z0-9+/]{40,}={0,2})*"
)
MEDIA_HINT = r"data:(?:image|audio|video|application)/|iVBORw0KGgo|/9j/4|R0lGOD|UklGR"
_MEDIA = re.compile(MEDIA_DATA)
_MEDIA_PART = re.compile(r"image|audio|video|file|document|media|inline_?data|screenshot", re.IGNORECASE)
_REASONING_PART = re.compile(r"thinking|reasoning", re.IGNORECASE)
_ROLES = {"developer": "system", "function": "tool"}
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_JSON_FENCE = re.compile(r"```(?:json)?\s*([\[{].*?)\s*```", re.DOTALL | re.IGNORECASE)  # on one line, too
_MISTRAL_CALLS = re.compile(r"\[TOOL_CALLS\]\s*(\[.*\])\s*\Z", re.DOTALL)


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message, in one string: "" for null, parts joined by line breaks, PICTURE for what is no text.

    Base64 of pictures, sounds and documents becomes PICTURE wherever it stands, in strings too: a log has it replaced
    by redaction, so a served prompt must not hold it raw. Reasoning is no text (see `message_reasoning`).
    """
    return _MEDIA.sub(PICTURE, _content_text(message.get("content")))


def _content_text(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "\n".join(text for text in map(_part_text, content) if text is not None)
    return json.dumps(content, ensure_ascii=False, default=str)


def _part_text(part: object) -> str | None:
    """The text of one content part; None where it has none. What is no known part is shown as JSON, never lost."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        kind = str(part.get("type") or "")
        if _REASONING_PART.search(kind):
            return None
        for key in ("text", "refusal", "content"):
            if isinstance(part.get(key), str | list):  # a list: a tool result inside of a message
                return _content_text(part[key])
        if _MEDIA_PART.search(kind or " ".join(map(str, part))):
            return PICTURE
    return json.dumps(part, ensure_ascii=False, default=str)


def message_reasoning(message: Mapping[str, Any]) -> str:
    """What an assistant message says it thought, "" for nothing: `reasoning_content`, its other names, or parts."""
    for key in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(message.get(key), str) and message[key]:
            return str(message[key])
    content = message.get("content")
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    thoughts = [part for part in parts if _REASONING_PART.search(str(part.get("type") or ""))]
    texts = [part.get(key) for part in thoughts for key in ("thinking", "reasoning", "text")]
    return "\n".join(text for text in texts if isinstance(text, str))


def first_text(messages: Sequence[Mapping[str, Any]], role: str) -> str:
    """The text of the first message of a role, "" where there is none; `developer` counts as `system`."""
    return next((message_text(one) for one in messages if message_role(one) == role), "")


def message_role(message: Mapping[str, Any]) -> str:
    """The role by its present name: `developer` is `system`, `function` is `tool`."""
    role = str(message.get("role"))
    return _ROLES.get(role, role)


def plain_message(message: Mapping[str, Any]) -> Message:
    """The message in today's shape: content a string or null, roles by their present names, legacy calls as tool calls.

    `function_call` becomes the one entry of `tool_calls`, and a `function` message the tool message that answers it.
    Reasoning parts become `reasoning_content`. Everything else of the message stays.
    """
    plain = {**message, "role": message_role(message)}
    if message.get("content") is not None:
        plain["content"] = message_text(message)
        if isinstance(message["content"], list) and (reasoning := message_reasoning(message)):
            plain["reasoning_content"] = reasoning
    call = plain.pop("function_call", None)
    if isinstance(call, Mapping) and call.get("name") and not plain.get("tool_calls"):
        plain["tool_calls"] = [{"type": "function", "function": dict(call)}]
    return plain


def offered_tools(request: Mapping[str, Any]) -> list[Any] | None:
    """The tools that a request lets the model call; None where there are none.

    `tool_choice: none` (or `{"type": "none"}`) offers none, `allowed_tools` those that it names. The legacy members
    `functions` and `function_call` mean the same as `tools` and `tool_choice`.
    """
    tools, choice = request.get("tools"), request.get("tool_choice")
    if not tools and isinstance(request.get("functions"), list):
        tools = [{"type": "function", "function": function} for function in request["functions"]]
        choice = request.get("function_call") if choice is None else choice
    if not isinstance(tools, list) or not tools:
        return None
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    if kind == "none":
        return None
    if kind == "allowed_tools" and isinstance(choice, Mapping):
        allowed = choice.get("allowed_tools", choice)
        named = allowed.get("tools") if isinstance(allowed, Mapping) else None
        names = {_function_name(tool) for tool in named or ()}
        return [tool for tool in tools if _function_name(tool) in names] or None
    return tools


def _function_name(tool: Any) -> Any:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return function.get("name") if isinstance(function, Mapping) else None


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
    message = plain_message(message)
    role, text = message["role"], message_text(message)
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
    arguments = call_arguments(function.get("arguments"))
    if arguments is None:  # no JSON object: shown as it stands, and `calls_of` says so to metrics and datasets
        arguments = {"raw": function["arguments"]}
    return {"name": str(function["name"]), "arguments": arguments}


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


def calls_of(message: Message) -> list[Call]:
    """The tool calls of a message, arguments decoded."""
    calls = []
    for entry in plain_message(message).get("tool_calls") or []:
        function = entry.get("function", entry)
        calls.append(Call(str(function.get("name", "")), call_arguments(function.get("arguments"))))
    return calls


def call_arguments(arguments: object) -> dict[str, Any] | None:
    """A call's arguments as an object: none are {}, JSON text (of JSON text) is unwrapped; None for the rest."""
    while isinstance(arguments, str):
        if not arguments.strip():
            return {}
        if (value := strict_json(arguments)) is None and arguments.strip() != "null":
            return None
        arguments = value
    return {} if arguments is None else arguments if isinstance(arguments, dict) else None


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
    value = lenient_json(message_text(message).strip())
    return value if isinstance(value, dict | list) else None


def canonical(message: Message) -> str:
    """The whole answer as one text: the content, then the calls as compact JSON with sorted keys."""
    calls = [{"name": call.name, "arguments": call.arguments} for call in calls_of(message)]
    tail = [json.dumps(call, sort_keys=True, ensure_ascii=False) for call in calls]
    return "\n".join(part for part in [message_text(message).strip(), *tail] if part)


def as_message(text: str) -> Message:
    """A message from a text: JSON of an assistant message, or else the content itself."""
    value = strict_json(text)
    if isinstance(value, dict) and value.get("role") == "assistant":
        return value
    return {"role": "assistant", "content": text}
