"""A whole reply from the events of a streamed one: chat completions, Messages, Responses, Gemini's and Ollama's.

The readers of logs and the gateway, which records what an upstream streams, use it alike. Events are untrusted: what
has another shape than its API gives it is passed over.
"""

from collections import defaultdict
from typing import Any

from grokora_pipeline.sessions.readers.common import json_text, name_text
from grokora_pipeline.sessions.readers.documents import Json, as_json, as_list, as_object

_LAST = ("message_stop", "response.completed", "response.incomplete", "response.failed")
# OpenRouter and newer vLLM send the second, some servers both.
_THOUGHTS = ("reasoning_content", "reasoning")
_MESSAGE = -1  # where a chat reply's own texts are kept, beside those of its calls


class StreamedReply:
    """Feed it with all events, then ask for the reply. `error` is the error that a stream told, if it told one.

    `ended` is true once the event was fed after which its API sends nothing.
    """

    def __init__(self) -> None:
        self.error: Json = {}
        self.ended = False
        self._reply: Json = {}
        self._parts: dict[int, Json] = {}  # content blocks or tool calls
        # Pieces are joined at the end: to append each to one text would cost the square of the answer's length.
        self._pieces: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
        self._finish: Any = None
        self._said: list[tuple[Json, list[str]]] = []  # Gemini's parts, each with the pieces of its text
        self._api = ""

    def feed(self, event: object) -> None:
        """Take an event's data, as an object or as JSON text."""
        data = as_object(event)
        data = inner if "candidates" in (inner := as_object(data.get("response"))) else data  # of Gemini's Code Assist
        kind = name_text(data.get("type"))
        self.ended = kind in _LAST or (isinstance(event, str) and event.strip() == "[DONE]")
        if kind == "error" or isinstance(data.get("error"), dict):
            self.error = data
        elif kind == "response.failed":
            self.error = as_object(data.get("response")) or data
        elif kind in ("response.completed", "response.incomplete"):
            self._api, self._reply, self._finish = "responses", as_object(data.get("response")), kind
        elif kind.startswith(("message_", "content_block_")):
            self._api = "messages"
            self._take_block(kind, data)
        elif "choices" in data:
            self._api = "chat"
            self._take_chunk(data)
        elif "candidates" in data:
            self._api = "gemini"
            self._take_candidate(data)
        elif "done" in data and isinstance(data.get("message"), dict):  # Ollama
            self._api = "chat"
            end = (name_text(data.get("done_reason")) or "stop") if data["done"] else None
            delta = {"reasoning": data["message"].get("thinking"), **data["message"]}
            self._take_chunk({"model": data.get("model"), "choices": [{"delta": delta, "finish_reason": end}]})

    def reply(self) -> Json:
        """The reply in its API's shape; {} if the stream broke off before its end: half an answer is none."""
        if self._finish is None or self.error:
            return {}
        if self._api == "responses":
            return self._reply
        if self._api == "messages":
            blocks = [self._block(index) for index in sorted(self._parts)]
            return {**self._reply, "role": "assistant", "content": blocks}
        if self._api == "gemini":
            parts = [{**part, "text": "".join(texts)} if texts else part for part, texts in self._said]
            candidate = {"content": {"role": "model", "parts": parts}, "finishReason": self._finish}
            return {**self._reply, "candidates": [candidate]}
        message: Json = {"role": "assistant", "content": self._text(_MESSAGE, "content")}
        if thought := next(filter(None, (self._text(_MESSAGE, name) for name in _THOUGHTS)), ""):
            message["reasoning_content"] = thought
        if self._parts:
            names = ("name", "arguments")
            message["tool_calls"] = [
                {**self._parts[index], "function": {name: self._text(index, name) for name in names}}
                for index in sorted(self._parts)
            ]
        choice = {"index": 0, "message": message, "finish_reason": self._finish}
        return {**self._reply, "object": "chat.completion", "choices": [choice]}

    def _take_block(self, kind: str, data: Json) -> None:
        index, delta = _index(data.get("index"), 0), as_object(data.get("delta"))
        if kind == "message_start":
            self._reply = dict(as_object(data.get("message")))
        elif kind == "content_block_start":
            self._parts[index] = dict(as_object(data.get("content_block")))
        elif kind == "content_block_delta":
            self._parts.setdefault(index, {"type": "text"})
            self._add(index, delta, "text", "thinking", "signature", "partial_json")
        elif kind == "message_delta":
            usage = as_object(self._reply.get("usage")) | as_object(data.get("usage"))
            self._reply |= delta | {"usage": usage}
            self._finish = self._reply.get("stop_reason") or self._finish
        elif kind == "message_stop":
            self._finish = self._finish or kind

    def _block(self, index: int) -> Json:
        block = dict(self._parts[index])
        for name in ("text", "thinking", "signature"):
            if text := self._text(index, name):
                block[name] = name_text(block.get(name)) + text
        if name_text(block.get("type")).endswith("tool_use"):
            block["input"] = as_json(self._text(index, "partial_json")) or block.get("input") or {}
        return block

    def _take_chunk(self, data: Json) -> None:
        self._reply |= {key: value for key, value in data.items() if key not in ("choices", "object") and value}
        for choice in map(as_object, as_list(data["choices"])):
            if choice.get("index"):
                continue  # only the first of several answers is kept
            self._finish = choice.get("finish_reason") or self._finish
            delta = as_object(choice.get("delta"))
            self._add(_MESSAGE, delta, "content", *_THOUGHTS)
            for part in map(as_object, as_list(delta.get("tool_calls"))):
                index = _index(part.get("index"), len(self._parts))  # Gemini sends whole calls, without an index
                call = self._parts.setdefault(index, {"id": "", "type": "function"})
                call["id"] = call["id"] or name_text(part.get("id"))
                function = as_object(part.get("function"))
                if isinstance(function.get("arguments"), dict):  # Ollama sends whole calls, too
                    function = {**function, "arguments": json_text(function["arguments"])}
                self._add(index, function, "name", "arguments")

    def _take_candidate(self, data: Json) -> None:
        self._reply |= {key: value for key, value in data.items() if key != "candidates" and value}
        candidate = as_object(next(iter(as_list(data["candidates"])), None))
        self._finish = candidate.get("finishReason") or self._finish
        for part in map(as_object, as_list(as_object(candidate.get("content")).get("parts"))):
            texts = [part["text"]] if isinstance(part.get("text"), str) else []
            if texts and self._said and self._said[-1][1] and part.get("thought") == self._said[-1][0].get("thought"):
                self._said[-1][0].update(part)
                self._said[-1][1].extend(texts)
            else:
                self._said.append((dict(part), texts))

    def _add(self, index: int, delta: Json, *names: str) -> None:
        for name in names:
            if isinstance(delta.get(name), str):
                self._pieces[index, name].append(delta[name])

    def _text(self, index: int, name: str) -> str:
        return "".join(self._pieces[index, name])


def _index(value: object, default: int) -> int:
    return value if isinstance(value, int) else default
