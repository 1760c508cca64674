"""The three APIs that agents speak, on one internal chat request: how a body becomes one, and how an answer goes back.

An API is an `Api`: its requests lowered by `bodies`, its replies and its stream events built from the chat reply
and its deltas. Everything between, from routing to the engine, knows chat completions only.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from grokora_pipeline.serving.gateway.answers import LocalAnswer
from grokora_pipeline.serving.gateway.protocol import DONE, ApiError, Json, chunk, event, usage_of

_ANTHROPIC_STOPS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}
_ANTHROPIC_ERRORS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error",
                     413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error"}  # fmt: skip
Deltas = AsyncIterator[Json]


def typed_event(kind: str, **data: Any) -> bytes:
    """A server-sent event whose name is its type, as both Anthropic's and OpenAI's Responses have them."""
    return b"event: " + kind.encode() + b"\n" + event({"type": kind, **data})


# --- chat completions -----------------------------------------------------------------------------------------------


async def _chat_events(body: Json, answer: LocalAnswer, deltas: Deltas) -> AsyncGenerator[bytes, None]:
    """A chunk a delta, why it ended, the usage if it was asked for, and OpenAI's mark of the end."""
    options = body.get("stream_options")
    with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    head = answer.head | ({"usage": None} if with_usage else {})  # as OpenAI has it in all chunks but the last
    yield chunk(head, {"role": "assistant", "content": ""})
    async for delta in deltas:
        yield chunk(head, delta)
    yield chunk(head, {}, answer.finish)
    if with_usage:
        yield event({**head, "object": "chat.completion.chunk", "choices": [], "usage": answer.reply["usage"]})
    yield DONE


# --- Anthropic's Messages -------------------------------------------------------------------------------------------


def _blocks(message: Json) -> Iterator[tuple[str, Json, Json, Json]]:
    """Of each content block of a chat message or a delta: what tells it from others, the block as a stream opens it,
    the delta, and the whole block."""
    if text := message.get("reasoning_content"):
        empty: Json = {"type": "thinking", "thinking": "", "signature": ""}
        yield "thinking", empty, {"type": "thinking_delta", "thinking": text}, empty | {"thinking": text}
    if text := message.get("content"):
        empty = {"type": "text", "text": ""}
        yield "text", empty, {"type": "text_delta", "text": text}, empty | {"text": text}
    for call in message.get("tool_calls") or ():
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        empty = {"type": "tool_use", "id": call["id"], "name": name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": arguments}
        yield call["id"], empty, delta, empty | {"input": orjson.loads(arguments)}


def _message(body: Json, chat: Json) -> Json:
    """The whole message; of a chat reply without an answer that with which a stream begins."""
    choice = chat["choices"][0] if "choices" in chat else {"message": {}}
    stop, finish = choice.get("stop_reason"), str(choice.get("finish_reason"))
    usage, cached = chat["usage"], chat["usage"]["prompt_tokens_details"]["cached_tokens"]
    return {
        "id": chat["id"].replace("chatcmpl-", "msg_"),
        "type": "message",
        "role": "assistant",
        "model": chat["model"],
        "content": [block for *_, block in _blocks(choice["message"])],
        "stop_reason": "stop_sequence" if stop else _ANTHROPIC_STOPS.get(finish),
        "stop_sequence": stop,
        "usage": {
            "input_tokens": usage["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
        },
    }


async def _message_events(body: Json, answer: LocalAnswer, deltas: Deltas) -> AsyncGenerator[bytes, None]:
    """message_start, content blocks with their deltas one after the other, message_delta, message_stop."""
    index, opened = -1, ""

    def close() -> Iterator[bytes]:
        """The last events of the block that is open, if one is."""
        if opened == "thinking":  # clients keep a thought for the next request only with a signature
            delta = {"type": "signature_delta", "signature": ""}
            yield typed_event("content_block_delta", index=index, delta=delta)
        if opened:
            yield typed_event("content_block_stop", index=index)

    # Clients such as LangChain's read the prompt's tokens here only; how many were cached is known at the end.
    empty = _message(body, {**answer.head, "usage": usage_of(len(answer.generation.prompt), 0, 0)})
    yield typed_event("message_start", message=empty)
    async for message in deltas:
        for kind, block, delta, _ in _blocks(message):
            if kind != opened:
                for raw in close():
                    yield raw
                index, opened = index + 1, kind
                yield typed_event("content_block_start", index=index, content_block=block)
            yield typed_event("content_block_delta", index=index, delta=delta)
    for raw in close():
        yield raw
    whole = _message(body, answer.reply)
    end = {name: whole[name] for name in ("stop_reason", "stop_sequence")}
    yield typed_event("message_delta", delta=end, usage=whole["usage"])
    yield typed_event("message_stop")


def _anthropic_error(error: ApiError) -> Json:
    kind = _ANTHROPIC_ERRORS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    # the words by which Claude Code, LangChain and LiteLLM know that they must shorten the conversation
    opening = "prompt is too long: " if error.code == "context_length_exceeded" else ""
    return {"type": "error", "error": {"type": kind, "message": opening + error.message}}


# --- OpenAI's Responses ---------------------------------------------------------------------------------------------


def _response_head(body: Json, head: Json) -> Json:
    """What a response object holds before its output: it repeats what was asked."""
    repeated = {
        name: body.get(name)
        for name in ("instructions", "max_output_tokens", "metadata", "previous_response_id", "reasoning",
                     "temperature", "top_p", "user")
    }  # fmt: skip
    return {
        "id": head["id"].replace("chatcmpl-", "resp_"),
        "object": "response",
        "created_at": head["created"],
        "model": head["model"],
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True) is not False,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "text": body.get("text") or {"format": {"type": "text"}},
        "truncation": "disabled",
        "store": body.get("store", True) is not False,
        **repeated,
    }


@dataclass(slots=True)
class _Response:
    """A response as it grows: each step gives its events, numbered, and changes `output`."""

    body: Json  # the request
    head: Json
    output: list[Json] = field(default_factory=list)
    open: Json | None = None  # the message or the reasoning that grows
    number: int = -1

    def event(self, kind: str, **data: Any) -> bytes:
        """A numbered event."""
        self.number += 1
        return typed_event(kind, sequence_number=self.number, **data)

    def add(self, delta: Json) -> Iterator[bytes]:
        """The events of a delta, or of a whole message."""
        # as `content` and not as `summary`: it is what the model thought, which OpenAI's own models never show
        reasoning: tuple[str, str, Json, Json]
        reasoning = ("reasoning", "rs", {"type": "reasoning_text", "text": ""}, {"summary": []})
        message = ("message", "msg", {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
                   {"role": "assistant"})  # fmt: skip
        texts = ((delta.get("reasoning_content"), *reasoning), (delta.get("content"), *message))
        for text, kind, prefix, part, rest in texts:
            if text is None or (not text and delta.get("tool_calls")):  # a message without calls may be empty
                continue
            if self.open is None or self.open["type"] != kind:
                yield from self.close()
                index = len(self.output)
                self.open = {"type": kind, "id": self._identity(prefix), "status": "in_progress", **rest}
                started = {**self.open, "content": []}
                self.open["content"] = [part]
                yield self.event("response.output_item.added", output_index=index, item=started)
                yield self._part_event("response.content_part.added", self.open, part=part)
            grown = self.open["content"][0]["text"] + text
            self.open["content"] = [{**part, "text": grown}]
            yield self._part_event(f"response.{part['type']}.delta", self.open, delta=text)
        for call in delta.get("tool_calls") or ():
            yield from self.close()
            yield from self._add_call(call)

    def close(self, status: str = "completed") -> Iterator[bytes]:
        """The last events of the text that is open, if one is."""
        if self.open is None:
            return
        item, self.open = {**self.open, "status": status}, None
        part = item["content"][0]
        yield self._part_event(f"response.{part['type']}.done", item, text=part["text"])
        yield self._part_event("response.content_part.done", item, part=part)
        yield self.event("response.output_item.done", output_index=len(self.output), item=item)
        self.output.append(item)

    def end(self, chat: Json) -> Iterator[bytes]:
        """The events after the last delta; `head` then is the whole response."""
        finish, usage = chat["choices"][0]["finish_reason"], chat["usage"]
        status = "incomplete" if finish == "length" else "completed"
        yield from self.close(status)
        self.head = {
            **self.head,
            "status": status,
            "completed_at": int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if finish == "length" else None,
            "output": self.output,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cache_write_tokens": 0, **usage["prompt_tokens_details"]},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": usage["completion_tokens_details"],
                "total_tokens": usage["total_tokens"],
            },
        }
        yield self.event(f"response.{status}", response=self.head)

    @classmethod
    def whole(cls, body: Json, chat: Json) -> Json:
        """The response object of a chat reply."""
        response = cls(body, _response_head(body, chat))
        for _ in (*response.add(chat["choices"][0]["message"]), *response.end(chat)):
            pass
        return response.head

    @classmethod
    def failed(cls, body: Json, head: Json, error: ApiError, number: int) -> bytes:
        """The event that ends a stream in its middle, after so many events."""
        details = {"code": error.code or "server_error", "message": error.message}
        response = cls(body, _response_head(body, head) | {"status": "failed", "error": details}, number=number - 1)
        return response.event("response.failed", response=response.head)

    def _add_call(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        """The events of a call; one of a custom tool has a text, `input`, in place of arguments."""
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        custom = {"type": "custom", "name": name}.items()
        kind, member, text = "function_call", "arguments", arguments
        if any(custom <= tool.items() for tool in self.body.get("tools") or ()):
            value = orjson.loads(arguments).get("input", "")
            kind, member, text = "custom_tool_call", "input", value if isinstance(value, str) else arguments
        index, identity = len(self.output), self._identity("fc")
        item = {"type": kind, member: text, "id": identity, "call_id": call["id"], "name": name, "status": "completed"}
        # the openai package adds up deltas from an empty text
        started = {**item, member: "", "status": "in_progress"}
        yield self.event("response.output_item.added", output_index=index, item=started)
        common = {"item_id": identity, "output_index": index}
        kind = "response.custom_tool_call_input" if member == "input" else "response.function_call_arguments"
        yield self.event(f"{kind}.delta", **common, delta=text)
        yield self.event(f"{kind}.done", **common, **{member: text}, **({} if member == "input" else {"name": name}))
        self.output.append(item)
        yield self.event("response.output_item.done", output_index=index, item=item)

    def _part_event(self, kind: str, item: Json, **data: Any) -> bytes:
        has_logprobs = item["type"] == "message" and ("text" in data or "delta" in data)
        data |= {"logprobs": []} if has_logprobs else {}
        return self.event(kind, item_id=item["id"], output_index=len(self.output), content_index=0, **data)

    def _identity(self, kind: str) -> str:
        """The id of the next item: the call's receipt and the item's place, so that the item is found by it."""
        return f"{kind}_{self.head['id'].rpartition('_')[2]}{len(self.output):08x}"


async def _response_events(body: Json, answer: LocalAnswer, deltas: Deltas) -> AsyncGenerator[bytes, None]:
    """Items with their parts and deltas, each event numbered, between response.created and response.completed."""
    response = _Response(body, _response_head(body, answer.head))
    for kind in ("response.created", "response.in_progress"):
        yield response.event(kind, response=response.head)
    async for delta in deltas:
        for raw in response.add(delta):
            yield raw
    message = answer.reply["choices"][0]["message"]
    if not message["content"] and not message.get("tool_calls"):  # as the whole reply says it, and as it is recorded
        for raw in response.add({"content": ""}):
            yield raw
    for raw in response.end(answer.reply):
        yield raw


# --- all three ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Api:
    """One API. `name` is what a recording calls it, `path` stands below `/v1`, here and upstream.

    `reply` gives a whole reply from (the request as sent, the chat reply), `error` an error's body. `events` gives a
    stream's server-sent events from (the request, the answer, its deltas): it begins before the first token, and reads
    the answer's whole reply when the deltas have ended. `failed` gives the event that ends a stream in the middle from
    (the request, what all of a chat reply's JSON shares, the error, how many events were sent).
    """

    name: Literal["chat", "responses", "messages"]
    path: str
    reply: Callable[[Json, Json], Json]
    events: Callable[[Json, LocalAnswer, Deltas], AsyncGenerator[bytes, None]]
    error: Callable[[ApiError], Json]
    failed: Callable[[Json, Json, ApiError, int], bytes]


APIS = (
    Api("chat", "chat/completions", lambda body, chat: chat, _chat_events, ApiError.body,
        lambda body, head, error, number: event(error.body())),
    Api("responses", "responses", _Response.whole, _response_events, ApiError.body, _Response.failed),
    Api("messages", "messages", _message, _message_events, _anthropic_error,
        lambda body, head, error, number: typed_event("error", error=_anthropic_error(error)["error"])),
)  # fmt: skip
