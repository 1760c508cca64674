"""What a chat message says: its text, its reasoning, its tool calls; and conversations as chat templates accept them.

Training, evaluation and the gateway ask these functions and no others, so that a model reads while it serves what it
read while it was trained, whatever shape a client or a log gives a message.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Tool = Mapping[str, Any]

CONTINUE = "Continue."
REASONING = ("reasoning_content", "thinking")  # what templates call it
PICTURE = "<SCREENSHOT>"  # stands for every picture, sound and file: the word that redaction stores in their place
# Base64 of a picture, sound or document: a data URL, or bare PNG, JPEG, GIF and WebP by their first bytes. Lines may be
# wrapped; a wrapped line is recognised by its length, so that words that follow the data stay.
MEDIA_DATA = (
    r"data:(?:image|audio|video|application)/[\w.+-]+(?:;[\w.+-]+=[\w.+-]*)*;base64,[A-Za-z0-9+/_-]*={0,2}"
    r"(?:\s+[A-Za-z0-9+/]{40,}={0,2})*|iVBORw0KGgo[A-Za-z0-9+/]{8,}={0,2}(?:\s+[A-Za-z0-9+/]{40,}={0,2})*|"
    r"(?:/9j/4|R0lGOD[dl]h|UklGR)[A-Za-z0-9+/]{60,}={0,2}(?:\s+[A-Za-z0-9+/]{40,}={0,2})*"
)
MEDIA_HINT = r"data:(?:image|audio|video|application)/|iVBORw0KGgo|/9j/4|R0lGOD|UklGR"
SURROGATE = re.compile("[\ud800-\udfff]")  # half a pair: JSON can hold it, UTF-8 and tokenizers cannot
_MEDIA = re.compile(MEDIA_DATA)
_MEDIA_PART = re.compile(r"image|audio|video|file|document|media|inline_?data|screenshot", re.IGNORECASE)
_REASONING_PART = re.compile(r"thinking|reasoning", re.IGNORECASE)
_ROLES = {"developer": "system", "function": "tool"}
_CALL_OPEN, _CALL_CLOSE = "<tool_call>", re.compile(r"\s*(?:</tool_call>|\Z)")
# What a server without a reasoning parser leaves at the start of an answer; blocks that follow each other are one, so
# that nothing is left to be taken off when the text is asked for again.
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*(?!\s*<think>)", re.DOTALL)
# Levels of JSON; what is deeper is none. Of Python's thousand frames jsonschema takes up to seven a level.
MOST_NESTED = 100
_DECODER, _ARGUMENTS = json.JSONDecoder(), {"arguments", "parameters"}
_JSON_FENCE = re.compile(r"```(?:json)?\s*([\[{].*?)\s*```", re.DOTALL | re.IGNORECASE)  # on one line, too


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message, in one string: "" for null, parts joined by line breaks, PICTURE for what is no text.

    Base64 of pictures, sounds and documents becomes PICTURE wherever it stands, in strings too: a log has it replaced
    by redaction, so a served prompt must not hold it raw. Reasoning is no text (see `message_reasoning`), also where a
    server without a parser for it left it in an answer, as `<think>…</think>`.
    """
    text = _MEDIA.sub(PICTURE, _content_text(message.get("content")))
    thought = _THOUGHT.match(text) if message.get("role") == "assistant" else None
    return text[thought.end() :] if thought else text


def _content_text(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "\n".join(text for text in map(_part_text, content) if text is not None)
    return json.dumps(content, ensure_ascii=False, default=str)


def _part_text(part: object) -> str | None:
    """The text of one content part; None if it has none. What is no known part is shown as JSON, never lost."""
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
    if texts or message.get("role") != "assistant":
        return "\n".join(text for text in texts if isinstance(text, str))
    thought = _THOUGHT.match(_content_text(content))
    return thought[1].strip() if thought else ""


def first_text(messages: Sequence[Mapping[str, Any]], role: str) -> str:
    """The text of the first message of a role, "" if there is none; `developer` counts as `system`."""
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
        in_content = isinstance(message["content"], list) or _THOUGHT.match(_content_text(message["content"]))
        if in_content and (reasoning := message_reasoning(message)):
            plain["reasoning_content"] = reasoning
    call = plain.pop("function_call", None)
    if isinstance(call, Mapping) and call.get("name") and not plain.get("tool_calls"):
        plain["tool_calls"] = [{"type": "function", "function": dict(call)}]
    return plain


def offered_tools(request: Mapping[str, Any]) -> list[Any] | None:
    """The tools that a request lets the model call; None if there are none.

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
        names = {tool_function(tool).get("name") for tool in named or ()}
        return [tool for tool in tools if tool_function(tool).get("name") in names] or None
    return tools


def tool_function(tool: object) -> Mapping[str, Any]:
    """The function that an offered tool is: its `function`, or the tool itself; {} for what is no object."""
    function = (tool.get("function") or tool) if isinstance(tool, Mapping) else None
    return function if isinstance(function, Mapping) else {}


def normalise(messages: Sequence[Mapping[str, Any]], *, opening: bool = True) -> list[Message]:
    """The messages with string contents, one leading system message, alternating turns and a user turn first.

    Calls have ids and arguments that are objects if they can be; a tool message has the id and the name of the call
    that it answers, the one with its id or the first without an answer. One that answers none is user text.
    `opening`: these are the first turns of a conversation, so a user turn is put in where an assistant would begin.
    """
    turns: list[Message] = []
    waiting: list[Message] = []  # calls without an answer
    for number, message in enumerate(messages):
        turn = _as_turn(message, waiting, number, bool(turns))
        last: Message = turns[-1] if turns else {"role": "tool"}
        if turn["role"] != "tool" and last["role"] == turn["role"]:
            for name in ("content", *REASONING):
                if joined := "\n\n".join(filter(None, [last.get(name), turn.get(name)])):
                    last[name] = joined
            if turn.get("tool_calls"):
                last["tool_calls"] = [*last.get("tool_calls", []), *turn["tool_calls"]]
        else:
            turns.append(turn)
        if turn["role"] == "assistant":
            waiting = list(turns[-1].get("tool_calls") or ())
        elif turn["role"] != "tool":
            waiting = []
    first = 1 if turns and turns[0]["role"] == "system" else 0
    if opening and (len(turns) == first or turns[first]["role"] == "assistant"):
        turns.insert(first, {"role": "user", "content": CONTINUE})
    return turns


def _as_turn(message: Mapping[str, Any], waiting: list[Message], number: int, started: bool) -> Message:
    message = plain_message(message)
    role, text = message["role"], message_text(message)
    if role == "tool":
        if not waiting:
            return {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}
        own_id = message.get("tool_call_id")
        call = next((call for call in waiting if call["id"] == own_id), waiting[0])
        waiting.remove(call)
        name = call["function"]["name"]  # Gemma 4's template raises if a result has none
        return {"role": "tool", "content": text, "name": name, "tool_call_id": call["id"]}
    if role == "assistant":
        turn: Message = {"role": "assistant", "content": text}
        if reasoning := message_reasoning(message):
            turn |= dict.fromkeys(REASONING, reasoning)
        entries = enumerate(_entries(message))
        calls = [known for index, entry in entries if (known := _native_call(entry, f"call{number}x{index}"))]
        return turn | ({"tool_calls": calls} if calls else {})
    # A system message in mid-conversation is something that templates refuse: the user says it.
    return {"role": "system" if role == "system" and not started else "user", "content": text}


def _entries(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The calls of a message that are objects: a log or a client may have anything there."""
    entries = message.get("tool_calls")
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list | tuple) else []


def _native_call(call: Mapping[str, Any], own_id: str) -> Message | None:
    """{id, type, function: {name, arguments}} with the arguments as an object; None if no function is named."""
    function = call.get("function") or call
    if not isinstance(function, Mapping) or not function.get("name"):
        return None
    arguments = call_arguments(function.get("arguments"))
    if arguments is None:  # no JSON object: shown as it stands, and `calls_of` says so to metrics and datasets
        arguments = {"raw": function["arguments"]}
    body = {"name": str(function["name"]), "arguments": arguments}
    return {"id": str(call.get("id") or own_id), "type": "function", "function": body}


def answer_text(message: Message) -> str:
    """An assistant turn as text, with its calls as `<tool_call>{…}</tool_call>`, as `template.TEXT_TOOLS` has them."""
    calls = [
        json.dumps(call["function"], ensure_ascii=False, separators=(",", ":"))
        for call in message.get("tool_calls") or ()
    ]
    return "\n".join(filter(None, [message["content"], *(f"<tool_call>{call}</tool_call>" for call in calls)]))


def parse_calls(text: str) -> Message:
    """An assistant message from an answer's text: the tagged calls in it, and what is left as content ("" not null).

    Calls that are no valid JSON stay in the content, so that metrics see them.
    """
    calls, kept, start = list[Message](), list[str](), 0
    while (opening := text.find(_CALL_OPEN, start)) >= 0:
        body = opening + len(_CALL_OPEN)
        tagged, end = _calls_at(text, body)
        calls += tagged
        kept.append(text[start : opening if tagged else body])
        start = end if tagged else body
    message: Message = {"role": "assistant", "content": "".join([*kept, text[start:]]).strip()}
    if calls:
        message["tool_calls"] = []
    for index, call in enumerate(calls):
        arguments = call["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        if SURROGATE.search(text):  # half a surrogate pair, which JSON may escape and no encoding can write
            text = json.dumps(arguments)
        # From the content, so that the same answer is the same message in two evaluations; the gateway gives ids anew.
        identity = hashlib.sha256(f"{index}\0{call['name']}\0{text}".encode()).hexdigest()[:24]
        function = {"name": call["name"], "arguments": text}
        message["tool_calls"].append({"id": f"call_{identity}", "type": "function", "function": function})
    return message


def _calls_at(text: str, start: int) -> tuple[list[Message], int]:
    """The calls that the JSON at `start` says, and the index after their closing tag; none if it says no call.

    The JSON is decoded to its own end: a closing tag inside of a string of it is part of the string.
    """
    start += len(text[start:]) - len(text[start:].lstrip())
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):  # ValueError also for a number of more than 4,300 digits
        return [], start
    closing, calls = _CALL_CLOSE.match(text, end), list[Message]()
    if closing is None:
        return [], start
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call.keys() & _ARGUMENTS:
            return [], start
        if SURROGATE.search(call["name"]) or nested_deeper(call, MOST_NESTED):
            return [], start
        calls.append({"name": call["name"], "arguments": call.get("arguments", call.get("parameters"))})
    return calls, closing.end()


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; `arguments` is None if they are no JSON object."""

    name: str
    arguments: dict[str, Any] | None


def calls_of(message: Mapping[str, Any]) -> list[Call]:
    """The tool calls of a message, arguments decoded."""
    functions = [entry.get("function", entry) for entry in _entries(plain_message(message))]
    return [
        Call(str(function.get("name", "")), call_arguments(function.get("arguments")))
        for function in functions
        if isinstance(function, Mapping)
    ]


def call_arguments(arguments: object) -> dict[str, Any] | None:
    """A call's arguments as an object: none are {}, JSON text (of JSON text) is unwrapped; None for the rest."""
    while isinstance(arguments, str):
        if not arguments.strip():
            return {}
        if (value := strict_json(arguments)) is None and arguments.strip() != "null":
            return None
        arguments = value
    return {} if arguments is None else arguments if isinstance(arguments, dict) else None


def strict_json(text: str) -> Any:
    """The value of a text that is JSON and nothing else (NaN is not JSON), else None."""
    try:
        value = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return None
    # what is walked by recursion fails where the stack ends, which is another depth at every place it is called from
    return None if nested_deeper(value, MOST_NESTED) else value


def nested_deeper(value: Any, levels: int) -> bool:
    """Whether objects and arrays stand in each other more than so many levels deep."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [one for one in layer if isinstance(one, dict | list)]
        if not layer:
            return False
        layer = [child for one in layer for child in (one.values() if isinstance(one, dict) else one)]
    return True


def refuse_constant(constant: str) -> Any:
    """ValueError: Python's `json` would read NaN and Infinity, which no other reader of JSON takes."""
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
