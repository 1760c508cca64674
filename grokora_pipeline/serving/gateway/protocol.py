"""The OpenAI chat-completions protocol: what a request may hold, what an error looks like, how replies are built.

Validated as OpenAI's API does where it matters, and tolerant of everything that Grokputer's client is known to send:
orphan tool messages, no user turn, consecutive assistant turns, null content.
"""

import re
import time
import uuid
from collections.abc import Mapping
from itertools import takewhile
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grokora_pipeline.models.messages import offered_tools
from grokora_pipeline.sessions.redaction.structure import MAX_DEPTH

Json = dict[str, Any]
# Members by which servers of these APIs (OpenAI's, xAI's, vLLM, llama.cpp, OpenRouter) change an answer, and that are
# not honoured here, with the values that change nothing.
NOT_HONOURED: dict[str, tuple[object, ...]] = dict.fromkeys(
    ("presence_penalty", "frequency_penalty", "logit_bias", "top_logprobs", "min_p", "typical_p", "mirostat", "audio",
     "web_search_options", "search_parameters", "plugins", "deferred", "min_tokens", "ignore_eos",
     "bad_words", "stop_token_ids", "include_stop_str_in_output", "prompt_logprobs", "echo", "suffix", "guided_json",
     "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar", "json_schema", "documents",
     "truncate_prompt_tokens", "allowed_token_ids", "logits_processors", "transforms",
     "chat_template", "chat_template_kwargs", "continue_final_message", "use_beam_search", "functions",
     "function_call", "top_a", "tfs_z", "typical", "xtc_probability", "dry_multiplier", "dynatemp_range", "top_n_sigma",
     "penalty_alpha", "n_predict", "num_predict", "max_new_tokens", "min_new_tokens", "min_completion_tokens",
     "random_seed", "regex", "ebnf", "options", "format", "response_prefix"), (),
) | {
    "n": (1,), "logprobs": (),
    "top_k": (-1,), "repetition_penalty": (1,), "repeat_penalty": (1,), "length_penalty": (1,), "best_of": (1,),
    "modalities": (["text"],), "logit_bias": ({},), "chat_template_kwargs": ({},),
    "truncation": ("disabled", "auto"),  # a prompt that is too long is refused whichever it is
}  # fmt: skip
_MOST_STOPS = 64  # each is looked for in every piece of an answer
# Members of the other two APIs: in a chat request they are a system prompt, a limit or a form that would be dropped.
OTHERS_MEMBERS = ("system", "instructions", "input", "previous_response_id", "max_output_tokens", "stop_sequences",
                  "text", "output_config", "output_format")  # fmt: skip
# Members of a chat message that are read, or that say nothing to a model.
_MESSAGE_MEMBERS = frozenset(
    ("role", "content", "tool_calls", "tool_call_id", "function_call", "reasoning_content", "reasoning", "thinking",
     "annotations", "id", "type", "status")
)  # fmt: skip
_TOOL_HINTS = ("format", "input_examples", "defer_loading", "allowed_callers")  # of an offered tool, without effect
_LEVELS = MAX_DEPTH - 10  # a recording wraps the request in a few levels of its own
_UNREAD_BYTES = 1 << 16  # of a member that nothing here reads; metadata and hints are far smaller
# Members that are read, so that their size is the prompt's: of a request, and of a message or an input item.
_READ = frozenset({"messages", "input", "instructions", "system", "tools", "functions", "text", "response_format"})
_READ_IN_MESSAGES = frozenset(
    {"content", "tool_calls", "function_call", "arguments", "input", "output", "summary", "reasoning_content",
     "reasoning", "thinking", "encrypted_content"}
)  # fmt: skip


class ApiError(Exception):
    """An answer in OpenAI's error shape: HTTP status, sentence, `type`, `param`, `code`."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> Json:
        """The response's JSON."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def too_large(limit: int) -> ApiError:
    """What the sender of a longer body is told."""
    return ApiError(413, f"The body is larger than {limit} bytes.", code="request_too_large")


class _Part(BaseModel):
    # strict: "64" for 64 is a client's bug that OpenAI refuses too
    model_config = ConfigDict(extra="allow", strict=True)


class _ChatMessage(_Part):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Json] | None = None
    tool_calls: list[Json] | None = None


class _Parameters(_Part):
    properties: Json | None = None
    required: list[str] | None = None


class _Function(_Part):
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: _Parameters | None = None


class _Tool(_Part):
    type: Literal["function"] = "function"
    function: _Function


class _Schema(_Part):
    schema_: Json = Field(alias="schema")


class _Format(_Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None

    @model_validator(mode="after")
    def _schema_is_there(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("'json_schema' is missing")
        return self


class _NamedFunction(_Part):
    name: str


class _Choice(_Part):
    type: Literal["function"] = "function"
    function: _NamedFunction


class _StreamOptions(_Part):
    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """The members of a request that change the answer; hints, such as `verbosity`, are ignored, and the reply says so.

    `body` is all of it, as a chat-completions request.

    Without a `temperature` the answer is greedy: that is how champions were judged.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    body: Json
    model: str = "auto"
    messages: list[_ChatMessage] = Field(min_length=1)
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Choice | None = None
    response_format: _Format | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=_MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _can_be_honoured(self) -> Self:
        """What changes the answer is honoured or refused; dropping it in silence would be a wrong answer."""
        names = {tool.function.name for tool in self.tools or ()}
        wanted = self.tool_choice.function.name if isinstance(self.tool_choice, _Choice) else None
        if (wanted and wanted not in names) or (self.tool_choice == "required" and not names):
            raise ValueError("'tool_choice' asks for a tool that 'tools' does not hold")
        for name, harmless in NOT_HONOURED.items():
            value = self.body.get(name)
            if value not in (None, 0, False, [], *harmless):
                raise ValueError(f"{name!r} is not supported here; leave it out")
        for message in self.body["messages"]:
            for name in ("prefix", "partial"):  # Mistral's and DeepSeek's; Moonshot's and Qwen's
                if message.get(name):
                    raise ValueError(f"{name!r} is not supported here: no answer can be begun for the model")
            if message.get("images"):  # Ollama's own API has them beside the content
                raise ValueError("'images' of a message cannot be read here: the base model reads text only")
            functions = [call.get("function") for call in message.get("tool_calls") or ()]
            if not all(isinstance(function, dict) for function in functions):
                raise ValueError("a call in 'tool_calls' has no 'function'; calls of custom tools cannot be read here")
            functions += [message["function_call"]] if message.get("function_call") else []
            if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in functions):
                raise ValueError("'messages' hold a call that names no function")
            if message.get("audio"):
                raise ValueError("'audio' of a message is the provider's own; send its transcript")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop sequences, without empty ones."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in stops if text)

    @property
    def offered_tools(self) -> list[Json] | None:
        """The tools the model may call, as sent; None if there are none or `tool_choice` is `none`."""
        return offered_tools(self.body) if self.tools else None

    @classmethod
    def parse(cls, body: Json, own_names: Mapping[str, str] | None = None) -> Self:
        """Check a request; ApiError 400 says which member is wrong, by its caller's own name for it."""
        choice = body.get("tool_choice")
        if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            allowed = choice.get("allowed_tools", choice)
            mode = allowed.get("mode", "auto") if isinstance(allowed, dict) else allowed
            offered = offered_tools(body)
            if offered is None:
                text = "tool_choice: none of the tools that it allows is among 'tools'."
                raise ApiError(400, text, param="tool_choice", code="invalid_value")
            body = {**body, "tools": offered, "tool_choice": mode}
        try:
            return cls.model_validate({**body, "body": body})
        except ValidationError as error:
            raise api_error(error, own_names) from None

    @classmethod
    def unchecked(cls, body: Json) -> Self:
        """A request that another API will check: it may know more than we do."""
        model = body.get("model")
        return cls.model_construct(body=body, model=model if isinstance(model, str) and model else "auto")


_HONOURED: dict[str, frozenset[str]] = {
    "chat": frozenset(ChatRequest.model_fields) - {"body"},
    "responses": frozenset(
        ("model", "input", "instructions", "previous_response_id", "tools", "tool_choice", "parallel_tool_calls",
         "text", "temperature", "top_p", "max_output_tokens", "stream", "user", "store", "metadata", "truncation")
    ),
    "messages": frozenset(
        ("model", "messages", "system", "max_tokens", "stop_sequences", "tools", "tool_choice", "temperature", "top_p",
         "stream", "output_config", "output_format", "metadata")
    ),
}  # fmt: skip
_UNION_MEMBER = re.compile(r"_[A-Z]|str$|list\[|literal\[|constrained-")
_NAME = re.compile(r"[\w.-]{1,150}", re.ASCII)  # of a member; it becomes part of a header


def ignored_members(api: str, body: Json) -> list[str]:
    """What a request holds that is accepted without any effect, members of messages and tools too; 32 at most."""
    present = [name for name, value in body.items() if value is not None]
    names = [name for name in present if name not in _HONOURED[api] and name not in NOT_HONOURED]
    for name in _HONOURED[api] & {"text", "output_config"}:
        hints = body.get(name)
        names += (
            [f"{name}.{hint}" for hint in hints if hints[hint] and hint != "format"] if isinstance(hints, dict) else ()
        )
    for tool in objects(body.get("tools")):
        names += [f"tools.{tool.get('name')}.{hint}" for hint in _TOOL_HINTS if tool.get(hint)]
    for message in objects(body.get("messages") if api == "chat" else None):
        silent = _MESSAGE_MEMBERS | ({"name"} if message.get("role") in ("tool", "function") else set())
        names += [f"messages.{name}" for name, value in message.items() if value and name not in silent]
    return [name for name in dict.fromkeys(names) if _NAME.fullmatch(name)][:32]


def objects(value: object) -> list[Json]:
    """The objects of a list, whatever else stands there; none of what is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def read_object(raw: bytes, most_values: int | None = None) -> Json:
    """A body that must be a JSON object of sane depth, and of so many values at most; ApiError 400 if it is none."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is no valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    too_deep, values = measure(body)
    if too_deep:
        raise ApiError(400, f"The body is nested deeper than {_LEVELS} levels.", code="invalid_json")
    if most_values and values > most_values:
        raise ApiError(400, f"The body holds {values} JSON values, more than {most_values}.", code="request_too_large")
    return body


def without_unread(body: Json) -> Json:
    """The body without large members that nothing here reads; a note of their size stands in their place."""
    lean = _lean(body, _READ)
    for name in ("messages", "input"):
        if isinstance(lean.get(name), list):
            items = lean[name]
            lean[name] = [_lean(item, _READ_IN_MESSAGES) if isinstance(item, dict) else item for item in items]
    return lean


def _lean(members: Json, read: frozenset[str]) -> Json:
    lean = dict(members)
    for name, value in members.items():
        if name not in read and isinstance(value, str | list | dict):
            size = len(orjson.dumps(value))
            lean[name] = value if size <= _UNREAD_BYTES else f"<{size} bytes that are not read here>"
    return lean


def api_error(error: ValidationError, own_names: Mapping[str, str] | None = None) -> ApiError:
    """The first thing that is wrong, in OpenAI's error shape. `own_names`: what the caller calls a member."""
    first = error.errors(include_input=False, include_url=False)[0]
    # pydantic also names the member of a union that it tried: `literal[...]`, `str`, `_Choice`
    steps = list(takewhile(lambda step: isinstance(step, int) or not _UNION_MEMBER.match(step), first["loc"]))
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).strip(".")
    for name, own in (own_names or {}).items():
        if re.match(rf"{re.escape(name)}\b", param):
            param = own + param[len(name) :]
            break
    if param == "tool_choice":  # pydantic tells of the first member of the union only
        text = "tool_choice: give 'none', 'auto', 'required' or an object that names a function of 'tools'."
        return ApiError(400, text, param=param, code="invalid_value")
    text = re.sub(r"a valid dictionary( or instance of \w+)?", "an object", first["msg"].removeprefix("Value error, "))
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    if not param and (named := re.match(r"'(\w+)'", text)):  # a check of several members quotes the one that is wrong
        return ApiError(400, f"{text}.", param=named[1], code=code)
    return ApiError(400, f"{param or 'The request'}: {text}.", param=param or None, code=code)


def measure(value: object) -> tuple[bool, int]:
    """(whether a value is nested so deep that redaction would refuse it, how many values it holds)."""
    row, levels, values = [value], 0, 0
    while row and levels <= _LEVELS:
        values += len(row)
        parents = [one for one in row if isinstance(one, dict | list)]
        row = [child for parent in parents for child in (parent.values() if isinstance(parent, dict) else parent)]
        levels += bool(parents)
    return levels > _LEVELS, values


def new_reply(model: str, receipt: str = "") -> Json:
    """What all of a reply's JSON shares: id, time and the model that answers."""
    return {"id": f"chatcmpl-{receipt or uuid.uuid4().hex[:16]}", "created": int(time.time()), "model": model}


def completion(head: Json, message: Json, finish: str, usage: Json, stop: str = "") -> Json:
    """A whole reply. `stop_reason`, which vLLM has, too, is the stop sequence that ended it."""
    choice: Json = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    choice |= {"stop_reason": stop} if stop else {}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}


def chunk(head: Json, delta: Json, finish: str | None = None) -> bytes:
    """A piece of a streamed reply, as a server-sent event."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({**head, "object": "chat.completion.chunk", "choices": [choice]})


def event(data: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def usage_of(prompt: int, generated: int, cached: int, reasoning: int = 0) -> Json:
    """Token counts; `cached` of the prompt's tokens had their keys and values from an earlier call.

    `reasoning` of the generated tokens came before the first that is text or a call.
    """
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
