"""A request of Anthropic's Messages or OpenAI's Responses API as a chat request.

Messages and tools are lowered by the readers of logs, so that a prompt that is answered here and the same prompt in a
recording are one text. Readers pass over what they do not understand; a caller is told instead, by `GrokoraError`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.gateway.protocol import NOT_HONOURED, OTHERS_MEMBERS, Json, objects
from grokora_pipeline.sessions.readers.bodies import exchange
from grokora_pipeline.sessions.readers.lowering import clean, is_optional_tool, lower_tools
from grokora_pipeline.sessions.readers.part_shapes import known_parts

_MEDIA = ("image", "audio", "video", "file", "document")
_ITEMS = {"message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output",
          "reasoning", "local_shell_call", "local_shell_call_output", "web_search_call"}  # fmt: skip
_UNKNOWN_PART = "a part of an unknown type cannot be read here; send text, calls and results."
# What the members of a chat request are called by those who speak another API, for errors; the longest name first.
OWN_NAMES = {
    "messages": {
        "stop": "stop_sequences",
        "response_format.json_schema": "output_config.format",
        "response_format": "output_config.format",
    },
    "responses": {
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "response_format.json_schema": "text.format",
        "response_format": "text.format",
    },
}
# Members of chat requests that the other APIs refuse, too: whoever sends one expects it to act.
_CHAT_ONLY = ("stop", "seed", "max_completion_tokens", "response_format", "max_tokens", "messages")
# What members of the other APIs must be; a wrong one would be passed over in silence.
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "system": ((str, list), "a text or a list of text blocks"),
    "instructions": ((str, list), "a text"),
    **dict.fromkeys(("output_config", "context_management", "text"), (Mapping, "an object")),
}
_OWN = {"messages": ("max_tokens", "messages"), "responses": ()}


def lower_request(api: str, body: Mapping[str, Any]) -> Json:
    """A request's messages, tools and other members that change the answer, as a chat-completions request has them.

    Raises GrokoraError for what cannot be said in chat messages: a provider's own tools, references to stored items.
    """
    if api == "chat":
        if others := [name for name in OTHERS_MEMBERS if body.get(name)]:
            raise GrokoraError(f"{others[0]}: requests of this API have no such member; leave it out.")
        for part in (part for message in objects(body.get("messages")) for part in objects(message.get("content"))):
            kind = str(part.get("type") or "")
            is_known = is_media_type(kind) or "thinking" in kind or "reasoning" in kind
            if not is_known and not any(
                isinstance(part.get(name), str | list) for name in ("text", "refusal", "content")
            ):
                raise GrokoraError(f"messages: {_UNKNOWN_PART}")
        return dict(body)
    for name, (types, wanted) in _TYPES.items():
        if body.get(name) is not None and not isinstance(body[name], types):
            raise GrokoraError(f"{name}: give {wanted}.")
    for name in _CHAT_ONLY:
        if name not in _OWN[api] and body.get(name) is not None:
            raise GrokoraError(f"{name}: requests of this API have no such member; leave it out.")
    if api == "messages" and isinstance(body.get("temperature"), int | float) and body["temperature"] > 1:
        raise GrokoraError("temperature: give a number from 0 to 1.")
    chat = _from_messages(body) if api == "messages" else _from_responses(body)
    shared = {name: body[name] for name in ("model", "stream", "temperature", "top_p", *NOT_HONOURED) if name in body}
    return {name: value for name, value in (shared | chat).items() if value is not None}


def part_kinds(body: Mapping[str, Any]) -> Iterator[str]:
    """The types of all content parts of a request of any API, those inside of tool results too."""
    waiting = [body.get(name) for name in ("messages", "input", "system")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            for one in value:
                if isinstance(one, Mapping):
                    waiting += [one.get("content"), one.get("output")]
                    if "role" not in one and value is not body.get("input"):
                        yield str(one.get("type") or "text")


def is_media_type(kind: str) -> bool:
    """Whether a part of this type is a picture, a sound or a file, which a text model cannot see."""
    return any(word in kind for word in _MEDIA)


def optional_tools(body: Mapping[str, Any]) -> list[str]:
    """The types of offered tools that only the provider could run and that an agent can do without."""
    kinds = [str(tool.get("type")) for tool in objects(body.get("tools"))]
    optional = [kind for kind in kinds if is_optional_tool(kind)]
    return optional if len(optional) < len(kinds) else []


def _from_messages(body: Mapping[str, Any]) -> Json:
    _refuse(body, "mcp_servers", "container")
    management = body.get("context_management") or {}
    # Claude Code's default clears thoughts of earlier turns, which no prompt here repeats
    for edit in _list(management, "edits"):
        kind = edit.get("type") if isinstance(edit, Mapping) else edit
        if not str(kind).startswith("clear_thinking"):
            raise GrokoraError(f"context_management: {kind!r} is the provider's own; leave it out.")
    _check_turns(_list(body, "messages"))
    choice, parallel = body.get("tool_choice"), None
    if choice is not None:
        if not isinstance(choice, Mapping) or choice.get("type") not in ("auto", "any", "tool", "none"):
            raise GrokoraError("tool_choice: give an object whose type is auto, any, tool or none.")
        parallel = False if choice.get("disable_parallel_tool_use") else None
        named = {"type": "function", "function": {"name": choice.get("name")}}
        choice = {"any": "required", "tool": named}.get(choice["type"], choice["type"])
    form = (body.get("output_config") or {}).get("format") or body.get("output_format")
    if form is not None and (not isinstance(form, Mapping) or form.get("type") != "json_schema"):
        raise GrokoraError("output_config: only a format of type 'json_schema' can be followed here.")
    schema = {"name": "answer", "schema": form.get("schema")} if form else None
    messages = _prompt(body, "messages")
    if not messages:
        raise GrokoraError("messages: give at least one message that is not empty.")
    return {
        "messages": messages,
        "tools": _tools(body, "custom"),
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
        "response_format": {"type": "json_schema", "json_schema": schema} if schema else None,
        "max_tokens": body.get("max_tokens"),
        "stop": _list(body, "stop_sequences"),
    }


def _check_turns(turns: list[Any]) -> None:
    """GrokoraError for messages that Anthropic refuses, and that the readers of logs would pass over in silence."""
    for turn in turns:
        if not isinstance(turn, Mapping) or turn.get("role") not in ("user", "assistant", "system"):
            raise GrokoraError("messages: every message must be an object with the role user or assistant.")
        content = turn.get("content")
        if not isinstance(content, str | list) or (not content and turn is not turns[-1]):
            raise GrokoraError("messages: every message must have a content, a text or a list of blocks.")
        calls = [block for block in objects(content) if block.get("type") == "tool_use"]
        if not all(isinstance(call.get("name"), str) and isinstance(call.get("input"), Mapping) for call in calls):
            raise GrokoraError("messages: a tool_use block needs a name and an input that is an object.")


def _from_responses(body: Mapping[str, Any]) -> Json:
    _refuse(body, "conversation", "prompt", "background", "max_tool_calls", "context_management")
    if any("logprobs" in str(name) for name in _list(body, "include")):
        raise GrokoraError("include: log probabilities are not given here; leave them out.")
    for item in () if isinstance(body.get("input"), str) else _list(body, "input"):
        kind = str(item.get("type") or ("message" if "role" in item else "")) if isinstance(item, Mapping) else ""
        if kind not in _ITEMS or (kind == "message" and item.get("role") not in ("user", "assistant", "system",
                                                                                 "developer")):  # fmt: skip
            raise GrokoraError(f"input: an item of type {kind!r} cannot be read here; send messages, function calls "
                               "and their outputs.")  # fmt: skip
        # what lacks these would be passed over in silence
        if kind == "message" and not isinstance(item.get("content"), str | list):
            raise GrokoraError("input: a message needs a content, a text or a list of parts.")
        text = {"function_call": "arguments", "custom_tool_call": "input"}.get(kind)
        if text and not (isinstance(item.get("name"), str) and isinstance(item.get(text), str)):
            raise GrokoraError(f"input: a {kind} needs a name and {text} as a text.")
        if kind.endswith("_call_output") and item.get("output") is None:
            raise GrokoraError(f"input: a {kind} needs an output.")
    if isinstance(body.get("input"), list):  # Codex repeats searches that its provider ran; no model here can see more
        searched = {"type": "web_search_call"}.items()
        body = {**body, "input": [item for item in body["input"] if not searched <= item.items()]}
    messages = _prompt(body, "responses")
    if not messages:
        raise GrokoraError("input: give a text or at least one message.")
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") in ("function", "custom"):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    text = body.get("text")
    form = text.get("format") if text else None
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": {name: form.get(name) for name in ("name", "schema")}}
    return {
        "messages": messages,
        "tools": _tools(body, "function"),
        "tool_choice": choice,
        "parallel_tool_calls": body.get("parallel_tool_calls"),
        "response_format": form,
        "max_tokens": body.get("max_output_tokens"),
        "user": body.get("user"),
    }


def _prompt(body: Mapping[str, Any], api: str) -> list[Json]:
    contents = [message.get("content") for message in objects(body.get("messages" if api == "messages" else "input"))]
    # readers of logs pass over marks of programs (opencode's `compaction`), whose names are texts to an API
    passed_over = any(not known_parts(part) for content in contents for part in objects(content))
    prompt = exchange(body, None, api).prompt
    if passed_over or any(message.get("unread") for message in prompt):
        raise GrokoraError(f"{'input' if api == 'responses' else 'messages'}: {_UNKNOWN_PART}")
    return [clean(message) for message in prompt]


def _tools(body: Mapping[str, Any], usual: str) -> list[Json] | None:
    """The tools that the caller runs; GrokoraError for one that only the provider could run."""
    left_out, own = optional_tools(body), []
    for tool in _list(body, "tools"):
        kind = tool.get("type", usual) or usual if isinstance(tool, Mapping) else tool
        if kind not in ("function", "custom"):
            if kind not in left_out:
                raise GrokoraError(f"tools: {kind!r} is the provider's own, which only its models know or its servers "
                                   "run; offer tools with a name and a schema.")  # fmt: skip
        elif not lower_tools(tool):
            raise GrokoraError("tools: a tool has no name.")
        elif not isinstance(tool.get("input_schema", tool.get("parameters")), Mapping | None):
            raise GrokoraError(f"tools: the schema of {tool.get('name')!r} is no object.")
        else:
            own.append(tool)
    return lower_tools(own)


def _list(body: Mapping[str, Any], name: str) -> list[Any]:
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise GrokoraError(f"{name}: give a list.")
    return value or []


def _refuse(body: Mapping[str, Any], *names: str) -> None:
    """GrokoraError for members that change the answer and mean something that only the provider has."""
    if present := [name for name in names if body.get(name)]:
        raise GrokoraError(f"{', '.join(present)}: not supported here, it is the provider's own; leave it out.")
