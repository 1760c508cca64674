"""An answer by the engine: prompt to tokens, tokens to text as it comes, text to a message with tool calls."""

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

import json_repair
import orjson
from jsonschema import Draft202012Validator

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.datasets import toon
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.answers import begun
from grokora_pipeline.models.chat import ChatFormat, TextStream
from grokora_pipeline.models.messages import calls_of, message_text, parse_calls, plain_message, strict_json
from grokora_pipeline.models.prompt import FixedPrompt, encode_behind
from grokora_pipeline.serving.engine.constrain import grammar_for
from grokora_pipeline.serving.engine.request import Engine, GenerationRequest, TokenChunk
from grokora_pipeline.serving.gateway.protocol import ApiError, ChatRequest, Json, completion, usage_of
from grokora_pipeline.sessions.redaction.redactor import restore, restore_growing

DEFAULT_NEW_TOKENS = 1024  # if the request does not say
# A prompt of more characters for each token of the context cannot fit: prose has 3 to 5 in a token, indented code 8.
_MOST_CHARACTERS_PER_TOKEN = 16
_CHEAP_CHARACTERS = 1 << 16  # so many are counted exactly whatever the context is
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_LEAST_TOP_P = 1e-6  # 0 means the likeliest token alone, as for OpenAI; samplers want a positive number
_CALL_MARKS = ("<tool_call>",)


def refuse_by_length(request: ChatRequest, room: int) -> None:
    """ApiError 400 if a prompt's text is so long that it cannot fit into `room` tokens.

    Tokenizing 15 MiB takes a minute and a gigabyte, so the length is looked at before anything is done with the text.
    """
    messages, tools = request.body["messages"], request.offered_tools
    characters = sum(len(message_text(message)) for message in messages) + (len(orjson.dumps(tools)) if tools else 0)
    characters += sum(len(orjson.dumps(message["tool_calls"])) for message in messages if message.get("tool_calls"))
    if characters > max(_CHEAP_CHARACTERS, room * _MOST_CHARACTERS_PER_TOKEN):
        text = (
            f"The prompt has {characters} characters, far more than fit into the {room} tokens that the model's "
            "context holds for prompt and answer."
        )
        raise ApiError(400, text, param="messages", code="context_length_exceeded")


def encode_prompt(
    request: ChatRequest,
    agent: AgentSpec | None,
    chat: ChatFormat,
    messages: list[Json],
    *,
    fixed: FixedPrompt | None,
    room: int,
) -> list[int]:
    """The prompt's token ids, with payloads encoded as the agent's dataset has them, behind a fixed prompt."""
    if agent and agent.payload_format == "toon":
        messages = [toon.encode_message(plain_message(message)) for message in messages]
    return encode_behind(fixed, messages, request.offered_tools, chat, room)


async def prepare(
    request: ChatRequest,
    agent: AgentSpec | None,
    adapter: str | None,
    chat: ChatFormat,
    room: int,
    *,
    messages: list[Json] | None = None,
    prompt: FixedPrompt | None = None,
) -> GenerationRequest:
    """What to ask the engine, whose context holds `room` tokens; ApiError 400 if the prompt does not fit.

    `messages`: the request's messages, redacted; None: as they came. `prompt`: the fixed prompt in service.
    """
    messages = request.body["messages"] if messages is None else messages
    try:
        tokens = await asyncio.to_thread(encode_prompt, request, agent, chat, messages, fixed=prompt, room=room)
        grammar = await asyncio.to_thread(
            grammar_for,
            request.offered_tools,
            request.body.get("tool_choice"),
            request.body.get("response_format"),
            chat,
        )
    except GrokoraError as error:
        raise ApiError(400, str(error), code="invalid_value") from error
    wanted = request.max_completion_tokens or request.max_tokens
    if len(tokens) >= room:
        text = f"The prompt has {len(tokens)} tokens, but the model's context holds {room} for prompt and answer."
        raise ApiError(400, text, param="messages", code="context_length_exceeded")
    return GenerationRequest(
        prompt=tuple(tokens),
        adapter=adapter,
        max_new_tokens=min(wanted or DEFAULT_NEW_TOKENS, room - len(tokens)),
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else max(request.top_p, _LEAST_TOP_P),
        seed=request.seed,
        grammar=grammar,
    )


@dataclass(slots=True)
class LocalAnswer:
    """An answer on its way. Go through `deltas`, then read `reply` and `repaired`."""

    request: ChatRequest
    generation: GenerationRequest
    chat: ChatFormat
    engine: Engine
    head: Json  # what all of the reply's JSON shares
    originals: Mapping[str, str] = field(default_factory=dict)  # the caller's own values, by their placeholders
    reply: Json = field(default_factory=dict)
    repaired: bool = False

    @property
    def finish(self) -> str:
        """The reason why the answer ended."""
        return str(self.reply["choices"][0]["finish_reason"])

    async def deltas(self) -> AsyncGenerator[Json, None]:
        """The message as it grows, in OpenAI's delta shape, its reasoning first; ApiError if the engine refuses."""
        tokens, thinking, stream = 0, 0, TextStream(self.chat)
        thought, shown, text, finish, cached, stop = "", "", "", "stop", 0, ""
        tools = self.request.offered_tools
        marks = (*self.request.stops, *(_CALL_MARKS if tools else ()))
        chunks = cast(AsyncGenerator[TokenChunk, None], self.engine.stream(self.generation))
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    tokens += len(chunk.tokens)
                    finish, cached = chunk.finish or finish, chunk.cached_tokens
                    stream.add(chunk.tokens)
                    if chunk.finish:
                        stream.end()
                    text, stop = stream.text, ""
                    if starts := [(start, each) for each in self.request.stops if (start := text.find(each)) >= 0]:
                        start, stop = min(starts)
                        text = text[:start]
                    visible_text = self.chat.visible_text(text)
                    # clients open an item or a block for each kind of text, so reasoning must end before content begins
                    if not shown and (reasoning := self.chat.visible_reasoning(text)):
                        thinking = thinking if visible_text else tokens
                        reasoning = restore_growing(_before_marks(reasoning, self.request.stops), self.originals)
                        if len(reasoning) > len(thought):
                            yield {"reasoning_content": reasoning[len(thought) :]}
                            thought = reasoning
                    visible_text = visible_text.lstrip()
                    is_call = tools and visible_text[:1] in ("{", "[")  # some models write a call without a mark
                    before = "" if is_call else _before_marks(visible_text, marks)
                    visible = restore_growing(before, self.originals)
                    if len(visible) > len(shown):
                        yield {"content": visible[len(shown) :]}
                        shown = visible
                    if stop:
                        finish = "stop"
                        break
        except GrokoraError as error:  # what a caller can do wrong was found before
            raise ApiError(500, str(error), code="engine_error") from error
        whole = finish == "stop" and not stop
        message, self.repaired = read_answer(text, self.chat, tools, whole=whole, stop=stop)
        message = restore(message, self.originals)
        if rest := message.get("reasoning_content", "").removeprefix(thought):
            yield {"reasoning_content": rest}
        if rest := message["content"].removeprefix(shown):
            yield {"content": rest}
        if calls := message.get("tool_calls"):
            if self.request.parallel_tool_calls is False:
                message["tool_calls"] = calls = calls[:1]
            finish = finish if finish == "length" else "tool_calls"
            yield {"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]}
        usage = usage_of(len(self.generation.prompt), tokens, cached, thinking)
        self.reply = completion(self.head, message, finish, usage, stop if finish == "stop" else "")


def _before_marks(text: str, marks: Sequence[str]) -> str:
    """The part of a growing text that is certain to come before any of these marks: nothing of one that may have begun.

    Without the white space and the half of a character at its end, which what follows may still change.
    """
    ends = [start for mark in marks if (start := text.find(mark)) >= 0]
    ends += [len(text) - begun(text, mark) for mark in marks]
    return text[: min(ends, default=len(text))].rstrip("\ufffd").rstrip()


def read_answer(
    text: str, chat: ChatFormat, tools: Sequence[Json] | None, *, whole: bool, stop: str = ""
) -> tuple[Json, bool]:
    """(message, whether a call had to be repaired) from generated text. Calls have JSON arguments and ids of their own.

    If no tools were offered, the text is content, whatever it says. A call that was cut short is never completed:
    what it would have said is anybody's guess. `stop` is the stop sequence that followed the text, if one ended it.
    """
    reasoning, text = chat.form.read(text)
    thought = {"reasoning_content": reasoning} if reasoning else {}
    if not tools:
        return {"role": "assistant", "content": text, **thought}, False
    message = parse_calls(text)
    repaired = False
    if whole and not _has_sound_calls(message) and (broken := _CALL.search(text)):
        fixed = _repair(broken.group(1))
        repaired = bool(fixed)
        message = {**message, "content": text[: broken.start()].strip(), "tool_calls": fixed} if fixed else message
    if not whole:  # the beginning of a call that was cut is no content: whoever learns from it would learn markup
        # with the stop sequence, before which `<` is no beginning of a call
        text, content = (
            _before_marks(one + stop, _CALL_MARKS)[: len(one)].strip() for one in (text, message["content"])
        )
        message = {**message, "content": content}
    if not _has_sound_calls(message):
        return {"role": "assistant", "content": text, **thought}, False
    calls = [{**call, "id": f"call_{uuid.uuid4().hex[:24]}"} for call in message["tool_calls"]]
    return {"role": "assistant", "content": message["content"], **thought, "tool_calls": calls}, repaired


def _has_sound_calls(message: Json) -> bool:
    calls = calls_of(message)
    return bool(calls) and all(call.arguments is not None for call in calls)


def _repair(text: str) -> list[Json]:
    value = json_repair.loads(text)
    call = value[0] if isinstance(value, list) and value else value
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return []
    arguments = call.get("arguments", call.get("parameters", {}))
    arguments = json_repair.loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        return []
    sound = orjson.dumps({"name": call["name"], "arguments": arguments}).decode()
    calls: list[Json] = parse_calls(f"<tool_call>{sound}</tool_call>")["tool_calls"]
    return calls


def fault(message: Json, request: ChatRequest, agent: AgentSpec | None) -> str | None:
    """What makes an answer useless to its caller, as a word; None for a good one. An upstream's may have any shape."""
    sent = message.get("tool_calls")
    if sent is not None and not isinstance(sent, list):
        return "bad_call"
    if not all(isinstance(call, dict) and isinstance(call.get("function"), dict) for call in sent or ()):
        return "bad_call"
    calls, text = calls_of(message), message_text(message).strip()
    if calls:
        schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in request.offered_tools or ()}
        for call in calls:
            required = (schemas.get(call.name) or {}).get("required") or ()
            if call.name not in schemas or call.arguments is None or not set(required) <= call.arguments.keys():
                return "bad_call"
        return None
    if not text:
        return "empty"
    if request.offered_tools and (
        request.tool_choice not in (None, "auto") or any(mark in text for mark in _CALL_MARKS)
    ):
        return "no_call"
    wants_json = request.response_format is not None and request.response_format.type != "text"
    if not wants_json and (agent is None or agent.answer.type != "json" or request.offered_tools):
        return None
    value = strict_json(text)
    if not isinstance(value, dict | list):
        return "bad_json"
    schema = agent.answer.schema_ if agent and not wants_json else None
    return "bad_schema" if schema and not Draft202012Validator(schema).is_valid(value) else None
