"""Bodies of Anthropic's Messages and OpenAI's Responses API as chat completions, for the gateway and for recordings.

One lowering for both sides: what the gateway answers and what ingest reads from its recordings are the same messages.
The shapes follow the providers' API references and packages (anthropic 2.14, openai 3.54).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.messages import Message

Json = dict[str, Any]
ApiName = Literal["chat", "responses", "messages"]
_STOP_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length"}


def chat_request(api: ApiName, body: Mapping[str, Any]) -> Json:
    """A request's messages, tools and other members that change the answer, as a chat-completions request has them.

    Raises GrokoraError for what cannot be said in chat messages: server-side tools, references to stored items.
    """
    if api == "messages":
        return _from_anthropic(body)
    return _from_responses(body) if api == "responses" else dict(body)


def chat_answer(api: ApiName, reply: Mapping[str, Any]) -> tuple[Message | None, str | None]:
    """(the assistant message of a reply, its finish reason as chat completions name it); (None, None) for an error."""
    if api == "messages":
        blocks = reply.get("content")
        if reply.get("type") == "error" or not isinstance(blocks, list):
            return None, None
        message = _assistant_turn(blocks)
        return message, _STOP_REASONS.get(str(reply.get("stop_reason")), reply.get("stop_reason"))
    if api == "responses":
        output = reply.get("output")
        if reply.get("status") not in ("completed", "incomplete") or not isinstance(output, list):
            return None, None
        message = next(iter(_turns(output)), {"role": "assistant", "content": ""})
        cut = reply["status"] == "incomplete"
        return message, "length" if cut else "tool_calls" if message.get("tool_calls") else "stop"
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    answer = choice.get("message") if isinstance(choice, dict) else None
    return (answer, choice.get("finish_reason")) if isinstance(answer, dict) and choice else (None, None)


def _from_anthropic(body: Mapping[str, Any]) -> Json:
    messages: list[Message] = []
    _refuse(body, "mcp_servers", "container")
    system = body.get("system")
    if system:
        messages.append({"role": "system", "content": system if isinstance(system, str) else _parts(system)})
    turns = body.get("messages")
    for message in turns if isinstance(turns, list) else ():
        if not isinstance(message, Mapping):
            raise GrokoraError("messages: every message must be an object.")
        content = message.get("content")
        if not isinstance(content, list):
            messages.append({"role": message.get("role"), "content": content})
        elif message.get("role") == "assistant":
            messages.append(_assistant_turn(content))
        else:
            messages += _user_turns(content)
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    chat: Json = {"messages": messages}
    if tools := body.get("tools"):
        chat["tools"] = [_anthropic_tool(tool) for tool in tools]
    if isinstance(choice, Mapping):
        named = {"type": "function", "function": {"name": choice.get("name")}}
        chat["tool_choice"] = {"any": "required", "tool": named}.get(str(kind), kind)
        if choice.get("disable_parallel_tool_use"):
            chat["parallel_tool_calls"] = False
    config = body.get("output_config")
    form = config.get("format") if isinstance(config, Mapping) else body.get("output_format")
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        chat["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": form.get("schema")},
        }
    elif form is not None:
        raise GrokoraError("output_config: only a format of type 'json_schema' can be followed here.")
    names = {"max_tokens": "max_tokens", "stop_sequences": "stop", "temperature": "temperature", "top_p": "top_p"}
    chat |= {ours: body[theirs] for theirs, ours in names.items() if body.get(theirs) is not None}
    return chat | {name: body[name] for name in ("model", "stream", "top_k") if body.get(name) is not None}


def _anthropic_tool(tool: Any) -> Json:
    if not isinstance(tool, Mapping) or tool.get("type", "custom") not in ("custom", None):
        kind = tool.get("type") if isinstance(tool, Mapping) else tool
        raise GrokoraError(f"tools: {kind!r} is Anthropic's own; only tools with an input_schema can be offered here.")
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema") or {"type": "object"}}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _assistant_turn(blocks: Sequence[Any]) -> Message:
    """One assistant message of content blocks: text, thinking and tool_use."""
    texts = [block for block in blocks if isinstance(block, Mapping) and block.get("type") == "text"]
    thoughts = [str(block.get("thinking") or "") for block in blocks if _kind(block) == "thinking"]
    calls = [
        _call(block.get("id"), block.get("name"), json.dumps(block.get("input") or {}, ensure_ascii=False))
        for block in blocks
        if _kind(block) == "tool_use"
    ]
    message: Message = {"role": "assistant", "content": "".join(str(block.get("text") or "") for block in texts)}
    if any(thoughts):
        message["reasoning_content"] = "\n".join(filter(None, thoughts))
    if calls:
        message["tool_calls"] = calls
    return message


def _user_turns(blocks: Sequence[Any]) -> Iterator[Message]:
    """Tool results as tool messages, in the order given, and what else the user says as one user message."""
    rest = []
    for block in blocks:
        if _kind(block) == "tool_result":
            content = block.get("content")
            yield {
                "role": "tool",
                "tool_call_id": str(block.get("tool_use_id") or ""),
                "content": _parts(content) if isinstance(content, list) else content or "",
            }
        else:
            rest.append(block)
    if rest:
        yield {"role": "user", "content": _parts(rest)}


def _kind(block: Any) -> str:
    return str(block.get("type") or "") if isinstance(block, Mapping) else ""


def _parts(blocks: Sequence[Any]) -> Any:
    """Content parts as chat completions name them; a string if all of them are text."""
    parts: list[Any] = []
    for block in blocks:
        kind = _kind(block)
        if isinstance(block, str) or kind in ("text", "input_text", "output_text", "refusal"):
            text = block if isinstance(block, str) else block.get("text") or block.get("refusal") or ""
            parts.append({"type": "text", "text": str(text)})
        elif kind in ("image", "input_image", "image_url"):
            parts.append({"type": "image_url", "image_url": {"url": "data:"}})
        else:  # a document, a sound, a search result: `message_text` shows what can be shown of it
            parts.append(dict(block) if isinstance(block, Mapping) else block)
    if all(part["type"] == "text" for part in parts if isinstance(part, dict)) and parts:
        return "\n".join(part["text"] for part in parts)
    return parts


def _call(call_id: object, name: object, arguments: object) -> Json:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": str(call_id or ""), "type": "function", "function": {"name": str(name or ""), "arguments": text}}


def _refuse(body: Mapping[str, Any], *names: str) -> None:
    """GrokoraError for members that change the answer and mean something that only the provider has."""
    if present := [name for name in names if body.get(name)]:
        raise GrokoraError(f"{', '.join(present)}: not supported here, it is the provider's own; leave it out.")


def _from_responses(body: Mapping[str, Any]) -> Json:
    _refuse(body, "conversation", "prompt", "background", "max_tool_calls")
    content = body.get("input")
    items = [{"role": "user", "content": content}] if isinstance(content, str) else content
    messages = _turns(items if isinstance(items, list) else [])
    if body.get("instructions"):
        messages.insert(0, {"role": "system", "content": body["instructions"]})
    chat: Json = {"messages": messages}
    if tools := body.get("tools"):
        chat["tools"] = [_responses_tool(tool) for tool in tools]
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice is not None:
        chat["tool_choice"] = choice
    text = body.get("text")
    form = text.get("format") if isinstance(text, Mapping) else None
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        schema = {name: form[name] for name in ("name", "schema", "strict") if form.get(name) is not None}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif isinstance(form, Mapping):
        chat["response_format"] = dict(form)
    names = ("model", "temperature", "top_p", "stream", "user", "parallel_tool_calls", "top_logprobs")
    chat |= {name: body[name] for name in names if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    return chat


def _responses_tool(tool: Any) -> Json:
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, Mapping) else tool
        raise GrokoraError(f"tools: {kind!r} runs on OpenAI's servers; only function tools can be offered here.")
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _turns(items: Sequence[Any]) -> list[Message]:
    """Items of a Responses input or output as chat messages.

    Reasoning, text and function calls that follow each other are one assistant turn, as the model wrote them.
    """
    messages: list[Message] = []
    turn: Message | None = None
    for item in items:
        kind = _kind(item) or ("message" if isinstance(item, Mapping) and "role" in item else "")
        if kind == "message" and item.get("role") != "assistant":
            content = item.get("content")
            content = _parts(content) if isinstance(content, list) else content
            messages.append({"role": item.get("role"), "content": content})
            turn = None
        elif kind in ("message", "function_call", "reasoning"):
            if turn is None or (kind == "message" and turn["content"]):
                turn = {"role": "assistant", "content": ""}
                messages.append(turn)
            _add_item(turn, kind, item)
        elif kind == "function_call_output":
            output = item.get("output")
            content = _parts(output) if isinstance(output, list) else output
            messages.append({"role": "tool", "tool_call_id": str(item.get("call_id") or ""), "content": content})
            turn = None
        else:
            raise GrokoraError(f"input: an item of type {kind or item!r} cannot be read here; send messages, function "
                               "calls and their outputs.")  # fmt: skip
    return messages


def _add_item(turn: Message, kind: str, item: Mapping[str, Any]) -> None:
    content = item.get("content")
    if kind == "message":
        text = _parts(content) if isinstance(content, list) else content
        turn["content"] = text if isinstance(text, str) else ""
    elif kind == "function_call":
        turn.setdefault("tool_calls", []).append(_call(item.get("call_id"), item.get("name"), item.get("arguments")))
    else:
        thoughts = [part for part in (*(item.get("summary") or ()), *(content or ())) if isinstance(part, Mapping)]
        if text := "\n".join(str(part.get("text") or "") for part in thoughts):
            turn["reasoning_content"] = text
