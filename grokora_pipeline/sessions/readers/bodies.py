"""Requests and replies of the APIs that models are called through, as one chat exchange.

Chat completions, Anthropic Messages, OpenAI Responses, Gemini's generateContent, Bedrock's Converse, Cohere's chat,
Ollama's; replies whole or, of the first three, as streamed chunks.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from grokora_pipeline.models.messages import Message, offered_tools
from grokora_pipeline.sessions.readers.common import first_of, name_text
from grokora_pipeline.sessions.readers.documents import Json, as_json, as_list, as_object, objects_in
from grokora_pipeline.sessions.readers.lowering import (
    ROLES,
    ended_early,
    lower,
    lower_all,
    lower_tools,
    merged,
    with_system,
)
from grokora_pipeline.sessions.readers.streams import StreamedReply

Api = Literal["chat", "messages", "responses", "gemini", "converse", "cohere"]
_NAMES: dict[str, Api] = {
    "chat": "chat",
    "chat_completions": "chat",
    "chat.completions": "chat",
    "messages": "messages",
    "anthropic": "messages",
    "responses": "responses",
    "gemini": "gemini",
    "generate_content": "gemini",
    "converse": "converse",
}
_REPR = re.compile(r"[A-Z]\w*(?:Response|Completion|Message)\w*\(\w+=")


def is_repr(text: str) -> bool:
    """Whether a text is an object of a client's library, as Python prints it."""
    return bool(_REPR.match(text))


class Exchange(NamedTuple):
    """A request and its reply, lowered. `answer` is None if there is no reply."""

    prompt: list[Message]
    answer: Message | None
    tools: list[Json] | None
    model: str
    cut: bool  # the answer ended at its token limit, or a filter stopped it
    delta: bool  # the request continues an earlier one that the provider keeps


def api_of(request: Mapping[str, Any], response: Any = None, named: object = None) -> Api:
    """Which API a request is for: the one that is named, else the one whose shape it has."""
    if isinstance(named, str) and named.strip("/").lower() in _NAMES:
        return _NAMES[named.strip("/").lower()]
    reply = response if isinstance(response, Mapping) else {}
    if "choices" in reply:
        return "chat"
    if reply.get("object") == "response":
        return "responses"
    if "contents" in request or "candidates" in reply:
        return "gemini"
    if "toolConfig" in request or "stopReason" in reply or "message" in as_object(reply.get("output")):
        return "converse"
    if "messages" not in request and isinstance(request.get("message"), str):
        return "cohere"
    if "messages" not in request and "input" in request:
        return "responses"
    tools = request.get("tools")
    first = tools[0] if isinstance(tools, list) and tools and isinstance(tools[0], dict) else {}
    if "input_schema" in first or reply.get("type") == "message" or _has_blocks(request):
        return "messages"
    events = response if isinstance(response, list) else []
    if any(isinstance(one, dict) and one.get("type") in ("message_start", "content_block_delta") for one in events):
        return "messages"
    if any(isinstance(one, dict) and str(one.get("type", "")).startswith("response.") for one in events):
        return "responses"
    return "chat"


def _has_blocks(request: Mapping[str, Any]) -> bool:
    """Whether messages hold Anthropic's blocks, or the system prompt stands beside them."""
    if "system" in request and "messages" in request:
        return True
    kinds = {"tool_use", "tool_result", "thinking"}
    return any(
        isinstance(part, dict) and part.get("type") in kinds
        for message in as_list(request.get("messages"))
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for part in message["content"]
    )


def is_asked(value: Any) -> bool:
    """Whether it is a list of messages that waits for an answer: a conversation with its last answer is no request."""
    last = next(reversed(objects_in(value)), {})
    role = last.get("role") or ("user" if "parts" in last else "")  # Gemini's contents need none
    return ROLES.get(name_text(role).lower()) in ("user", "tool")


def is_request(value: Any) -> bool:
    """Whether it is the body of a request to a model: messages that wait for an answer, or the input of one."""
    if not isinstance(value, dict):
        return False
    is_input = "model" in value and "output" not in value and isinstance(value.get("input"), str | list)
    return is_input or is_asked(value.get("messages")) or is_asked(value.get("contents"))


def is_reply(value: Any) -> bool:
    """Whether it is the body of a model's reply: an object, or the events of a streamed one, in a list or as text."""
    if isinstance(value, str):
        return value.startswith(("data:", "event:"))
    if not isinstance(value, dict):
        first = next(iter(objects_in(value)), {})
        return "choices" in first or first.get("type") in ("message_start", "response.created")
    choices = objects_in(value.get("choices")) or objects_in(value.get("candidates"))
    is_messages = value.get("type") == "message" and value.get("role") == "assistant"
    is_responses = value.get("object") == "response" and bool(as_list(value.get("output")))
    is_told = ("done" in value and "message" in value) or "message" in as_object(value.get("output"))
    return bool({"message", "content"} & next(iter(choices), {}).keys()) or is_messages or is_responses or is_told


def body_in(value: Mapping[str, Any], test: Callable[[Any], bool]) -> Any:
    """The first object (or, of a streamed reply, list or text) that passes a test, at most three members deep."""
    holders = [value]
    for _ in range(2):
        holders += [one for own in holders for member in own.values() if (one := as_object(member))]
    return next((one for own in holders for one in (own, *map(as_json, own.values())) if test(one)), None)


def exchange(request: Mapping[str, Any], response: Any, named: object = None) -> Exchange:
    """The chat exchange of a request and a reply; `named` is the API's name, if the log tells it.

    An answer that was cut says so itself, too (`ended_early`), for readers that hand the answer alone to `turn`.
    """
    response = _parsed(response)
    call = _exchange(request, response, named)
    if call.answer is None:
        call = call._replace(answer=_told(as_object(response)))
    if "prompt" in request and request.get("context"):  # Ollama's numbers of what was said before
        call = call._replace(delta=True)
    if call.answer is not None and (call.cut or call.answer.get("ended_early")):
        call.answer["ended_early"] = True
        call = call._replace(cut=True)
    return call


def _told(reply: Json) -> Message | None:
    """The answer of a reply of a program that keeps all APIs' replies alike: a message, messages, or texts."""
    if isinstance(message := reply.get("message"), dict) and message:
        return _first({**message, "role": "assistant"})
    if messages := objects_in(reply.get("messages")):
        return _first(messages[-1])
    text = first_of(reply, "content", "text", "completion", "output")
    calls = first_of(reply, "tool_calls", "toolCalls")
    return _first({**reply, "role": "assistant", "content": text}) if isinstance(text, str) or calls else None


def _parsed(response: Any) -> Any:
    """A response that may be text: server-sent events, JSON, or the answer's text alone; None for a printed object."""
    if not isinstance(response, str):
        return response
    if is_repr(response):
        return None
    lines = [line.removeprefix("data:").strip() for line in response.splitlines() if line.startswith("data:")]
    if not lines and response.startswith("{") and as_json(response) is response:  # Ollama's chunks, a line each
        lines = response.split("\n")
    chunks = [as_object(line) for line in lines if line not in ("[DONE]", "")]
    parsed = chunks if any(chunks) else as_json(response)
    return {"message": {"content": parsed}} if isinstance(parsed, str) and parsed else parsed


def _exchange(request: Mapping[str, Any], response: Any, named: object) -> Exchange:
    asked, said = request.get("prompt"), as_object(response).get("response")
    is_generated = "messages" not in request and isinstance(asked, str) and isinstance(said, str)
    if is_generated:  # Ollama makes a chat of it
        request = {**request, "messages": [{"role": "user", "content": asked}]}
        response = {**as_object(response), "message": {"role": "assistant", "content": said}}
    api = api_of(request, response, named)
    if isinstance(response, list):
        streamed = StreamedReply()
        for chunk in response:
            streamed.feed(chunk.get("data", chunk) if isinstance(chunk, dict) else chunk)
        response = streamed.reply()
    reply = response if isinstance(response, Mapping) else {}
    model = name_text(reply.get("model")) or name_text(request.get("model"))
    tools = lower_tools(offered_tools(request))
    if api == "messages":
        system = lower({"role": "system", "content": request.get("system") or ""})
        prompt = [*system, *lower_all(as_list(request.get("messages")))]
        return Exchange(prompt, _first(reply), tools, model, ended_early(reply), False)
    if api == "responses":
        return _responses(request, reply, tools, model)
    if api == "gemini":
        return _gemini(request, reply, model)
    if api == "converse":
        tools = lower_tools(as_object(request.get("toolConfig")).get("tools"))
        system = lower({"role": "system", "content": request.get("system") or ""})
        prompt = [*system, *lower_all(as_list(request.get("messages")))]
        answer = _first(as_object(reply.get("output")).get("message"))
        return Exchange(prompt, answer, tools, name_text(request.get("modelId")) or model, ended_early(reply), False)
    if api == "cohere":
        return _cohere(request, reply, tools, model)
    choices = as_list(reply.get("choices"))
    choice = as_object(choices[0]) if choices else reply  # Ollama and Cohere have one message and no choices
    message = choice.get("message") or (choice if "role" in choice else None)
    answer = _first({**message, "role": "assistant"}) if isinstance(message, dict) else None
    prompt = with_system(lower_all(as_list(request.get("messages"))), request)
    return Exchange(prompt, answer, tools, model, ended_early(choice), False)


def _first(message: Any) -> Message | None:
    return next((one for one in lower_all([message]) if one["role"] == "assistant"), None)


def _responses(request: Mapping[str, Any], reply: Mapping[str, Any], tools: list[Json] | None, model: str) -> Exchange:
    instructions = request.get("instructions") or reply.get("instructions")
    turns = request.get("input", request.get("messages"))  # platforms keep both APIs' inputs under one name
    items = [{"role": "user", "content": turns}] if isinstance(turns, str) else as_list(turns)
    prompt = lower_all([*([{"role": "system", "content": instructions}] if instructions else []), *items])
    outputs = lower_all(as_list(reply.get("output")))
    answer = merged(outputs) if any(one["role"] == "assistant" for one in outputs) else None
    tools = tools or lower_tools(reply.get("tools"))
    delta = bool(request.get("previous_response_id") or request.get("conversation")) or any(map(is_reference, items))
    return Exchange(prompt, answer, tools, model, ended_early(reply), delta)


def is_reference(item: object) -> bool:
    """Whether an item of a Responses input names an earlier one; the type may be missing if nothing but an id is given.

    The AI SDK sends all earlier answers of a conversation so.
    """
    return isinstance(item, Mapping) and (item.get("type") == "item_reference" or set(item) == {"id"})


def _gemini(request: Mapping[str, Any], reply: Mapping[str, Any], model: str) -> Exchange:
    config = as_object(request.get("config"))
    system = next(
        (one[key] for one in (request, config) for key in ("system_instruction", "systemInstruction") if one.get(key)),
        "",
    )
    system = as_object(system).get("parts", system) if isinstance(system, dict) else system
    contents = request.get("contents") or []
    contents = [contents] if isinstance(contents, str | dict) else contents
    # the role of a tool's result is `user`, and so is that of a content without one
    said = [{"role": "user", **one} if isinstance(one, dict) else one for one in contents]
    prompt = lower_all([{"role": "system", "content": system}, *said])
    candidates = as_list((as_object(reply.get("response")) or reply).get("candidates"))  # Code Assist wraps its reply
    candidate = as_object(candidates[0]) if candidates else reply
    content = candidate.get("content")
    answer = _first({"role": "assistant", **content}) if isinstance(content, dict) else None
    tools = lower_tools(request.get("tools") or config.get("tools"))
    return Exchange(prompt, answer, tools, model or name_text(reply.get("modelVersion")), ended_early(candidate), False)


def _cohere(request: Mapping[str, Any], reply: Mapping[str, Any], tools: list[Json] | None, model: str) -> Exchange:
    """Version 1 of Cohere's chat: a message beside a history, whose calls have `parameters` and no ids."""
    history = [*as_list(request.get("chat_history")), {"role": "user", "content": request["message"]}]
    prompt = lower_all([{"role": "system", "content": request.get("preamble") or ""}, *history])
    answer = _first({"role": "assistant", "content": reply.get("text"), "tool_calls": reply.get("tool_calls")})
    # results of calls are in `tool_results`, whose form tells nothing of the calls before: such a prompt is not whole
    delta = bool(request.get("conversation_id") or request.get("tool_results"))
    return Exchange(prompt, answer, tools, model, ended_early(reply), delta)
