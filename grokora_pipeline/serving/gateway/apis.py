"""The three APIs that agents speak, on one internal chat request: how a body becomes one, and how an answer goes back.

An API is an `Api`: its requests lowered by `bodies`, its replies and its stream events built from the chat reply
and its deltas. Everything between, from routing to the engine, knows chat completions only.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from grokora_pipeline.serving.gateway.protocol import DONE, ApiError, Json, chunk, event, usage_of
from grokora_pipeline.sessions.readers.bodies import exchange

_ANTHROPIC_STOPS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}
_ANTHROPIC_ERRORS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error",
                     413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error"}  # fmt: skip


def typed_event(kind: str, **data: Any) -> bytes:
    """A server-sent event whose name is its type, as both Anthropic's and OpenAI's Responses have them."""
    return b"event: " + kind.encode() + b"\n" + event({"type": kind, **data})


# --- chat completions -----------------------------------------------------------------------------------------------


class _ChatWriter:
    def __init__(self, body: Json, head: Json, prompt_tokens: int) -> None:
        options = body.get("stream_options")
        self._head, self._usage = head, isinstance(options, dict) and bool(options.get("include_usage"))

    def start(self) -> Iterator[bytes]:
        """The first events of a stream."""
        yield chunk(self._head, {"role": "assistant", "content": ""})

    def delta(self, delta: Json) -> Iterator[bytes]:
        """The events of one piece of the message."""
        yield chunk(self._head, delta)

    def end(self, reply: Json) -> Iterator[bytes]:
        """The last events: why it ended, and the usage."""
        yield chunk(self._head, {}, reply["choices"][0]["finish_reason"])
        if self._usage:
            yield event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": reply["usage"]})
        yield DONE

    def error(self, error: ApiError) -> Iterator[bytes]:
        """The event of an error in the middle of a stream."""
        yield event(error.body())


# --- Anthropic's Messages -------------------------------------------------------------------------------------------


def _anthropic_usage(usage: Mapping[str, Any]) -> Json:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage["completion_tokens"],
    }


def _tool_use(call: Mapping[str, Any]) -> Json:
    function = call["function"]
    return {
        "type": "tool_use",
        "id": call["id"],
        "name": function["name"],
        "input": orjson.loads(function["arguments"]),
    }


def _message_head(head: Json) -> Json:
    return {
        "id": head["id"].replace("chatcmpl-", "msg_"),
        "type": "message",
        "role": "assistant",
        "model": head["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _message_end(choice: Json) -> Json:
    stop = choice.get("stop_reason")
    return {
        "stop_reason": "stop_sequence" if stop else _ANTHROPIC_STOPS[choice["finish_reason"]],
        "stop_sequence": stop,
    }


class _MessagesWriter:
    """message_start, content blocks with their deltas one after the other, message_delta, message_stop."""

    def __init__(self, body: Json, head: Json, prompt_tokens: int) -> None:
        self._head, self._index, self._open = _message_head(head), -1, ""
        self._prompt_tokens = prompt_tokens

    def start(self) -> Iterator[bytes]:
        """The first events of a stream."""
        # Clients such as LangChain's read the prompt's tokens here only; how many were cached is known at the end.
        usage = _anthropic_usage(usage_of(self._prompt_tokens, 0, 0))
        yield typed_event("message_start", message={**self._head, "usage": usage})

    def delta(self, delta: Json) -> Iterator[bytes]:
        """The events of one piece of the message."""
        if text := delta.get("reasoning_content"):
            yield from self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._piece({"type": "thinking_delta", "thinking": text})
        if text := delta.get("content"):
            yield from self._block("text", {"type": "text", "text": ""})
            yield self._piece({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls") or ():
            block = _tool_use(call)
            yield from self._block(call["id"], {**block, "input": {}})
            yield self._piece({"type": "input_json_delta", "partial_json": call["function"]["arguments"]})

    def end(self, reply: Json) -> Iterator[bytes]:
        """The last events: why it ended, and the usage."""
        yield from self._close()
        ended = _message_end(reply["choices"][0])
        yield typed_event("message_delta", delta=ended, usage=_anthropic_usage(reply["usage"]))
        yield typed_event("message_stop")

    def error(self, error: ApiError) -> Iterator[bytes]:
        """The event of an error in the middle of a stream."""
        yield typed_event("error", error=_anthropic_error(error)["error"])

    def _block(self, kind: str, block: Json) -> Iterator[bytes]:
        if self._open == kind:
            return
        yield from self._close()
        self._index, self._open = self._index + 1, kind
        yield typed_event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> Iterator[bytes]:
        if self._open == "thinking":  # clients keep a thought for the next request only with a signature
            yield self._piece({"type": "signature_delta", "signature": ""})
        if self._open:
            self._open = ""
            yield typed_event("content_block_stop", index=self._index)

    def _piece(self, delta: Json) -> bytes:
        return typed_event("content_block_delta", index=self._index, delta=delta)


def _message(body: Json, chat: Json) -> Json:
    choice = chat["choices"][0]
    message, content = choice["message"], []
    if message.get("reasoning_content"):
        content.append({"type": "thinking", "thinking": message["reasoning_content"], "signature": ""})
    if message.get("content"):
        content.append({"type": "text", "text": message["content"]})
    content += map(_tool_use, message.get("tool_calls") or ())
    usage = _anthropic_usage(chat["usage"])
    return {**_message_head(chat), "content": content, **_message_end(choice), "usage": usage}


def _anthropic_error(error: ApiError) -> Json:
    kind = _ANTHROPIC_ERRORS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


# --- OpenAI's Responses ---------------------------------------------------------------------------------------------


def _response_head(body: Json, head: Json) -> Json:
    """What a response object holds before its output: it repeats what was asked."""
    asked = {
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
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "text": body.get("text") or {"format": {"type": "text"}},
        "truncation": "disabled",
        "store": body.get("store", True) is not False,
        **asked,
    }


def _text_item(kind: str, identity: str, text: str, status: str = "completed") -> Json:
    """A `message` or a `reasoning` item with its one part."""
    if kind == "reasoning":
        # as `content` and not as `summary`: it is what the model thought, which OpenAI's own models never show
        said: Json = {"summary": [], "content": [{"type": "reasoning_text", "text": text}]}
    else:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        said = {"role": "assistant", "content": [part]}
    return {"type": kind, "id": identity, "status": status, **said}


def _call_item(identity: str, call: Mapping[str, Any], body: Json, *, whole: bool = True) -> Json:
    """A call as an item of `body`'s answer; one of a custom tool has a text, `input`, in place of arguments."""
    function = call["function"]
    name, arguments = function["name"], function["arguments"]
    custom = {"type": "custom", "name": name}.items()
    is_custom = any(custom <= tool.items() for tool in body.get("tools") or ())
    if is_custom:
        text = orjson.loads(arguments).get("input", "")
        said = {"type": "custom_tool_call", "input": text if isinstance(text, str) else arguments}
    else:
        said = {"type": "function_call", "arguments": arguments}
    if not whole:
        said["input" if is_custom else "arguments"] = ""
    status = "completed" if whole else "in_progress"  # the openai package adds up deltas from an empty text
    return {**said, "id": identity, "call_id": call["id"], "name": name, "status": status}


def _identity(kind: str, head: Json, index: int) -> str:
    """The id of an answer's item: the call's receipt and the item's place, so that the item is found by it."""
    return f"{kind}_{head['id'].rpartition('_')[2].removeprefix('chatcmpl-')}{index:08x}"


def _ended(head: Json, output: list[Json], chat: Json) -> Json:
    """The response when its answer is over."""
    cut, usage = chat["choices"][0]["finish_reason"] == "length", chat["usage"]
    return {
        **head,
        "status": "incomplete" if cut else "completed",
        "completed_at": int(time.time()),
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": usage["total_tokens"],
        },
    }


class _ResponsesWriter:
    """Items with their parts and deltas, each event numbered, between response.created and response.completed."""

    def __init__(self, body: Json, head: Json, prompt_tokens: int) -> None:
        self._body, self._head, self._number = body, _response_head(body, head), -1
        self._output: list[Json] = []
        self._open: Json | None = None  # the message or the reasoning that grows

    def start(self) -> Iterator[bytes]:
        """The first events of a stream."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._head)

    def delta(self, delta: Json) -> Iterator[bytes]:
        """The events of one piece of the message."""
        if text := delta.get("reasoning_content"):
            yield from self._grow("reasoning", "rs", text)
        if text := delta.get("content"):
            yield from self._grow("message", "msg", text)
        for call in delta.get("tool_calls") or ():
            yield from self._close_text()
            index = len(self._output)
            identity = _identity("fc", self._head, index)
            done = _call_item(identity, call, self._body)
            started = _call_item(identity, call, self._body, whole=False)
            yield self._event("response.output_item.added", output_index=index, item=started)
            common = {"item_id": identity, "output_index": index}
            if "input" in done:
                kind, text = "response.custom_tool_call_input", {"input": done["input"]}
            else:
                kind, text = "response.function_call_arguments", {"arguments": done["arguments"], "name": done["name"]}
            yield self._event(f"{kind}.delta", **common, delta=done.get("input", done.get("arguments")))
            yield self._event(f"{kind}.done", **common, **text)
            self._output.append(done)
            yield self._event("response.output_item.done", output_index=index, item=done)

    def end(self, reply: Json) -> Iterator[bytes]:
        """The last events: why it ended, and the usage."""
        yield from self._close_text()
        whole = _ended(self._head, self._output, reply)
        yield self._event(f"response.{whole['status']}", response=whole)

    def error(self, error: ApiError) -> Iterator[bytes]:
        """The event of an error in the middle of a stream."""
        details = {"code": error.code or "server_error", "message": error.message}
        yield self._event("response.failed", response={**self._head, "status": "failed", "error": details})

    def _grow(self, kind: str, prefix: str, text: str) -> Iterator[bytes]:
        if self._open is None or self._open["type"] != kind:
            yield from self._close_text()
            index = len(self._output)
            self._open = _text_item(kind, _identity(prefix, self._head, index), "", "in_progress")
            empty = {**self._open, "content": []}
            yield self._event("response.output_item.added", output_index=index, item=empty)
            yield self._part("response.content_part.added", self._open, part=self._open["content"][0])
        part = self._open["content"][0]
        self._open["content"] = [{**part, "text": part["text"] + text}]
        logprobs: Json = {"logprobs": []} if kind == "message" else {}
        yield self._part(f"response.{part['type']}.delta", self._open, delta=text, **logprobs)

    def _close_text(self) -> Iterator[bytes]:
        if self._open is not None:
            item, self._open = {**self._open, "status": "completed"}, None
            part = item["content"][0]
            logprobs: Json = {"logprobs": []} if item["type"] == "message" else {}
            yield self._part(f"response.{part['type']}.done", item, text=part["text"], **logprobs)
            yield self._part("response.content_part.done", item, part=part)
            self._output.append(item)
            yield self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _part(self, kind: str, item: Json, **data: Any) -> bytes:
        return self._event(kind, item_id=item["id"], output_index=len(self._output), content_index=0, **data)

    def _event(self, kind: str, **data: Any) -> bytes:
        self._number += 1
        return typed_event(kind, sequence_number=self._number, **data)


def _response(body: Json, chat: Json) -> Json:
    message, output = chat["choices"][0]["message"], list[Json]()
    if message.get("reasoning_content"):
        output.append(_text_item("reasoning", _identity("rs", chat, 0), message["reasoning_content"]))
    if message.get("content") or not message.get("tool_calls"):
        identity = _identity("msg", chat, len(output))
        output.append(_text_item("message", identity, message.get("content") or ""))
    for call in message.get("tool_calls") or ():
        output.append(_call_item(_identity("fc", chat, len(output)), call, body))
    return _ended(_response_head(body, chat), output, chat)


# --- all three ------------------------------------------------------------------------------------------------------

StreamWriter = _ChatWriter | _MessagesWriter | _ResponsesWriter


@dataclass(frozen=True, slots=True)
class Api:
    """One API. `name` is what a recording calls it, `path` stands below `/v1`, here and upstream.

    `reply` gives a whole reply from (the request as sent, the chat reply); `writer` a writer of server-sent events
    from (the request, what all of a chat reply's JSON shares, the prompt's tokens); `error` gives an error's body.

    A writer's `start` comes before the first token, `delta` takes a delta as chat completions have it, `end` the whole
    chat reply, and `error` ends the stream of an answer that failed.
    """

    name: Literal["chat", "responses", "messages"]
    path: str
    reply: Callable[[Json, Json], Json]
    writer: Callable[[Json, Json, int], StreamWriter]
    error: Callable[[ApiError], Json] = ApiError.body


APIS = (
    Api("chat", "chat/completions", lambda body, chat: chat, _ChatWriter),
    Api("responses", "responses", _response, _ResponsesWriter),
    Api("messages", "messages", _message, _MessagesWriter, _anthropic_error),
)


def answer_of(api: Api, reply: Json) -> Json | None:
    """The assistant message in a reply of whatever shape; None if there is none."""
    return exchange({}, reply, api.name).answer
