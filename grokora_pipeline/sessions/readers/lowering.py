"""The common lowering of foreign logs: chat messages, tool calls, tool results, reasoning, tool schemas.

Every provider and framework writes the same four things in its own shape. A reader of one format finds the calls and
hands the shapes to this module, so that a part that one platform invented is understood in every format.
"""

import ast
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from grokora_pipeline.models.messages import PICTURE, Message
from grokora_pipeline.sessions.readers.common import (
    Source,
    assistant,
    first_of,
    is_error,
    json_text,
    leaves_folder,
    name_text,
    sound_answer,
    tool_result,
)
from grokora_pipeline.sessions.readers.documents import Json, as_json, as_list, as_object, digest, literal
from grokora_pipeline.sessions.readers.part_shapes import is_media, known_parts, lower_names
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Turn

# A prompt of more text than this (about 64,000 tokens) fits no training length; a session's later calls repeat all of
# it, so that storing them would cost the square of the session's size.
MAX_PROMPT_CHARS = 192_000
_KEPT = ("role", "content", "tool_calls", "reasoning_content")
# Marks of shortened texts: LiteLLM's (its wording changed between versions, this word did not) and Langfuse's.
_CUT = re.compile(r"litellm_truncated|<truncated due to size|<fully masked due to", re.IGNORECASE)
# Texts that stand in the place of contents that a platform was told to hide.
_HIDDEN = re.compile(
    r"[\W_]*(?:redacted(?:[-_ ]by[-_ ][a-z]+)?|filtered|masked|omitted|truncated)[\W_]*", re.IGNORECASE
)
# How a reply says that it ended at a limit, or that a filter stopped it.
_ENDED_EARLY = {"length", "content_filter", "max_tokens", "max_output_tokens", "safety", "refusal", "incomplete"}
_ENDED_EARLY |= {"prohibited_content", "blocklist", "spii", "malformed_function_call", "unexpected_tool_call"}
_ENDED_EARLY |= {"pause_turn", "error", "failed", "cancelled", "canceled", "aborted"}
_ENDED_EARLY |= {"guardrail_intervened", "content-filter", "recitation", "model_context_window_exceeded"}
ROLES = {
    **dict.fromkeys(("user", "human", "input", "humanmessage", "prompter", "usermessage"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "ai", "model", "bot", "agent", "machine", "chatgpt", "gemini", "chatbot", "apimessage"),
        "assistant",
    ),
    **dict.fromkeys(("aimessage", "aimessagechunk", "assistantmessage"), "assistant"),
    **dict.fromkeys(("system", "developer", "systemmessage"), "system"),
    **dict.fromkeys(
        ("tool", "function", "observation", "toolresult", "tool_result", "tool_response", "function_response"), "tool"
    ),
    **dict.fromkeys(("toolmessage", "functionmessage", "functionexecutionresultmessage", "ipython"), "tool"),
    **dict.fromkeys(
        ("tool_execution_result", "computer", "tool_call_result", "tool_call_output", "environment"), "tool"
    ),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls", "tool_call_invocation"), "function_call"),
}
# Members that say who speaks, in some program or other; those of the second row by a truth value.
_SPEAKERS = ("role", "Role", "_role", "role_at_backend", "from", "sender", "author", "speaker", "type")
_FLAGS = tuple((key, "user", "assistant") for key in ("is_user", "isUser", "fromUser"))
_FLAGS += tuple((key, "assistant", "user") for key in ("is_bot", "isBot"))
_CONTENTS = (
    *("content", "contents", "parts", "segments", "blocks", "value", "text", "message", "system_prompt"),
    *("items", "contentParts", "_content", "mes"),
)
_UNREAD: Message = {"role": "user", "content": "", "unread": True}
_TAKEN = (*_CONTENTS, "tool_calls", "toolCalls")
_RESULTS = ("tool_results", "toolResults", "tool_result", "toolResult")
# Members of a message that name tools and are no calls of them.
_OFFERED = ("tools", "functions", "available_tools", "tool_definitions", "toolDefinitions")
_ARGUMENTS = (
    *("arguments", "input", "args", "parameters", "raw_input", "tool_kwargs", "input_parameters", "input_json"),
    "params_as_json",
)
# Members that hold a tool's result.
_ANSWERS = ("content", "response", "result", "output", "value", "tool_result", "result_value")
_TEXT_PARTS = {"text", "input_text", "output_text", "summary_text", "refusal", "value", "Text", "TEXT"}
_REASONING_PARTS = {"think", "thinking", "reasoning", "reasoning_text", "redacted_thinking", "thought"}
_CALL_PARTS = {"tool_use", "tool_call", "tool-call", "toolCall", "function_call", "functionCall", "server_tool_use"}
_CALL_PARTS |= {"mcp_tool_use"}
_RESULT_PARTS = {"tool_result", "tool_call_response", "tool-result", "toolResult", "function_response"}
_RESULT_PARTS |= {"functionResponse", "functionResult", "function_call_output", "tool_response", "tool-return"}
_RESULT_PARTS |= {"retry-prompt", "function_result"}


# An id that `pair_results` gave to a call without one.
_PAIRED = re.compile(r"call_\d+_\d+")
# Tools of the provider's own that Codex and Anthropic's SDKs offer beside those that the caller runs. A model need not
# call what it is offered, so an answer without them is a right one.
_OPTIONAL_TOOLS = {"web_search", "web_search_preview", "web_fetch", "image_generation", "tool_search"}
_VERSION = re.compile(r"_\d{8}$|_\d{4}_\d{2}_\d{2}$")  # Anthropic's and OpenAI's tools may end in a date


def lower_all(messages: Iterable[Any]) -> list[Message]:
    """Chat messages from a list of messages of any shape; calls and results without ids are paired in order."""
    lowered = [plain for message in messages for plain in lower(message)]
    return pair_results(join_calls(lowered))


def lower(message: Any) -> list[Message]:
    """The chat messages that one foreign message stands for: tool results inside of it come first.

    Understood are OpenAI's, Anthropic's, Gemini's, Bedrock's and LangChain's messages, items of the Responses API,
    OTel's and Vercel's parts, ShareGPT turns, and those of `part_shapes`. What says nothing gives no message. A message
    with a part of an unknown kind, or of nobody who is known, is marked `unread`, and `turn` sees to it that it is not
    learnt.
    """
    if isinstance(message, str):
        return [{"role": "user", "content": message}] if message else []
    if not isinstance(message, Mapping):
        return [] if message is None else [{**_UNREAD}]
    message = _unwrapped(message)
    kind = message.get("type")
    if "role" not in message and (item := _responses_item(message, str(kind))):
        return item
    role = role_of(message)
    content = next((message[key] for key in _CONTENTS if message.get(key) is not None), None)
    if not role:  # of nobody who is known; notes have a type and no role, and Hermes' have one
        parts = _Parts()
        parts.take(content if message.get("role", message.get("from")) or "type" not in message else None)
        says = parts.messages() or any(message.get(key) for key in (*_RESULTS, "tool_calls", "toolCalls"))
        return [{**_UNREAD}] if says and message.get("role") != "session_meta" else []
    if role == "function_call":  # a message of its own, whose content is the call
        spelled = literal(content) if isinstance(content, str) else None
        spelled = spelled or as_json(content) or first_of(message, "tool_calls", "toolCalls") or message
        calls = [call for raw in _listed(spelled) if (call := lower_call(raw))]
        return [assistant("", calls)] if calls else [assistant(name_text(content))]
    if role == "tool":
        return _tool_messages(message, content)
    parts = _Parts(role)
    parts.take(message["refusal"] if content is None and isinstance(message.get("refusal"), str) else content)
    extra = message.get("additional_kwargs")
    extra = extra if isinstance(extra, Mapping) else {}
    known = {call["id"] for call in parts.calls if call["id"]}  # a part has told them already
    for raw in _listed(as_json(first_of(message, "tool_calls", "toolCalls") or extra.get("tool_calls") or ())):
        parts.call(raw, known)
    parts.take_others(message)
    if isinstance(spelled := message.get("function_calls"), str) and spelled:  # AllenAI's, as JSON or as Python
        for raw in as_list(spelled) or python_calls(spelled) or [None]:
            parts.call(raw)
    legacy = message.get("function_call") or extra.get("function_call")
    if isinstance(legacy, Mapping) and legacy.get("name") and (call := lower_call(legacy)):
        parts.calls.append(call)
    reasoning = next(
        (message[key] for key in ("reasoning_content", "reasoning", "thinking") if isinstance(message.get(key), str)),
        "",
    )
    lowered = parts.messages(reasoning)
    holders = (message, *(one for key in ("response_metadata", "generation_info") if (one := message.get(key))))
    is_cut = any(ended_early(holder) for holder in holders) or bool(message.get("refusal"))
    if lowered and lowered[-1]["role"] == "assistant" and is_cut:
        lowered[-1]["ended_early"] = True
    return lowered


def role_of(message: Mapping[str, Any]) -> str:
    """Who says a message, as one of four roles or a call; "" for nobody who is known. Microsoft wraps the role."""
    said = next((message[key] for key in _SPEAKERS if message.get(key)), "")
    said = first_of(said, "Label", "label", "value", "role") if isinstance(said, Mapping) else said
    if not said:
        flags = {role if message[key] else other for key, role, other in _FLAGS if isinstance(message.get(key), bool)}
        said = flags.pop() if len(flags) == 1 else ""
    return ROLES.get(str(said).lower(), "")


def says_who(message: Mapping[str, Any]) -> bool:
    """Whether an object names a speaker in another member than `type`, which tells many other things apart, too."""
    return any(key in message for key in (*_SPEAKERS[:-1], *(key for key, *_ in _FLAGS))) and bool(role_of(message))


SYSTEMS = (
    *("system", "system_prompt", "systemPrompt", "systemInstruction", "system_instruction", "system_message"),
    "instructions",
)


def system_of(holder: Mapping[str, Any]) -> list[Json]:
    """The system prompt that an object keeps beside its messages, as a message; [] without one."""
    system = first_of(holder, *SYSTEMS)
    system = system.get("parts") or system.get("text") if isinstance(system, Mapping) else system
    return [{"role": "system", "content": system}] if system and isinstance(system, str | list) else []


def with_system(prompt: list[Message], holder: Mapping[str, Any]) -> list[Message]:
    """A prompt with the system prompt that an object keeps beside its messages, unless it has one."""
    has_one = any(one["role"] == "system" for one in prompt)
    return prompt if has_one else [*lower_all(system_of(holder)), *prompt]


def ended_early(holder: object) -> bool:
    """Whether a message, a choice or a reply says that it ended at its limit, or that a filter stopped it."""
    if not isinstance(holder, Mapping):
        return False
    keys = ("finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason", "status")
    return any(name_text(holder.get(key)).lower().rpartition(".")[2] in _ENDED_EARLY for key in keys)


def _unwrapped(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message itself, where a platform put it into another object."""
    message = lower_names(message) if "Role" in message else message
    if isinstance(message.get("kwargs"), Mapping) and "lc" in message:  # LangChain's serialised messages
        return {"role": name_text(next(reversed(as_list(message.get("id"))), "")), **message["kwargs"]}
    if message.get("isThought") is True:  # a chunk of AI Studio's
        return {"role": message.get("role"), "content": [{"type": "thinking", "text": message.get("text")}]}
    if isinstance(blocks := message.get("blocks"), list) and blocks and isinstance(blocks[0], str):
        return {"role": message.get("role"), "content": [{"type": "reference"}]}  # Cherry Studio keeps them elsewhere
    if "role" in message and isinstance(text := message.get("content"), str):  # Harmony, the channels of gpt-oss
        to, kind = name_text(message.get("recipient")), message.get("channel")
        if to.startswith("functions.") and message["role"] == "assistant":
            return {"role": "assistant", "tool_calls": [{"name": to.removeprefix("functions."), "arguments": text}]}
        if kind == "analysis":
            return {"role": message["role"], "content": [{"type": "thinking", "text": text}]}
        if message.get("type") == "code" and message["role"] == "assistant":  # Open Interpreter's one tool
            arguments = {"language": message.get("format"), "code": text}
            return {"role": "assistant", "tool_calls": [{"name": "execute", "arguments": arguments}]}
    inner = message.get("message")
    if "role_at_backend" in message and isinstance(inner, Mapping):  # CAMEL, where a call and its result are alike
        said = {"role": message["role_at_backend"], "content": inner.get("content")}
        call = {"id": inner.get("tool_call_id"), "name": inner.get("func_name"), "arguments": inner.get("args")}
        if call["name"] and role_of(said) == "tool":
            return {**said, "tool_call_id": call["id"], "content": inner.get("result")}
        return said | ({"tool_calls": [call]} if call["name"] else {})
    if "role" not in message and isinstance(inner, Mapping):  # OpenInference
        return inner
    if "role" not in message and isinstance(message.get("data"), Mapping):  # LangChain's messages_to_dict
        return {"type": message.get("type"), **message["data"]}
    if "content" not in message and isinstance(inner, Mapping):  # Cursor
        return {**inner, "role": message["role"]}
    return message


def _tool_messages(message: Mapping[str, Any], content: Any) -> list[Message]:
    parts = _Parts("tool")
    if results := [one for key in _RESULTS for one in _listed(message.get(key)) if isinstance(one, Mapping)]:
        return list(map(_part_result, results))  # Datadog's, beside an empty content
    if any(_is_result(one) for part in _listed(content) if isinstance(part, Mapping) for one in known_parts(part)):
        parts.take(content)
        return parts.results
    ids = message.get("tool_call_ids")  # SWE-agent
    named = [ids[0]] if isinstance(ids, list) and ids else []
    call_id = next(
        (name_text(value) for value in (message.get("tool_call_id"), message.get("toolCallId"), *named) if value), ""
    )
    if content is None:
        content = next((message[key] for key in _ANSWERS if message.get(key) is not None), None)
    result = tool_result(call_id, result_text(content))
    is_failed = any(message.get(key) is True for key in ("isError", "is_error")) or message.get("status") == "error"
    if is_failed or message.get("error"):
        result["is_error"] = True
    return [result]


def _responses_item(item: Mapping[str, Any], kind: str) -> list[Message]:
    """An item of OpenAI's Responses API that is no message."""
    if kind in ("function_call", "custom_tool_call", "local_shell_call"):
        call = lower_call(item)
        return [assistant("", [call])] if call else []
    if kind.endswith("_call_output"):
        return [tool_result(name_text(item.get("call_id")), result_text(item.get("output")))]
    if kind == "reasoning":  # most providers send a summary at best, and the reasoning itself encrypted
        parts = _Parts("assistant")
        parts.take([part for part in _listed(item.get("content")) if isinstance(part, Mapping)])
        return parts.messages()
    if kind == "message":
        return lower({"role": role_of({**item, "type": ""}) or "assistant", **item})
    # a search or a program that the provider ran: what the model saw of it is not in the log
    return [{**assistant(""), "unread": True}] if kind.endswith("_call") else []


class _Parts:
    """What the parts of one message of `role` say.

    An answer whose parts hold its tools' results too is several messages: each goes up to the results of its calls.
    """

    def __init__(self, role: str = "user") -> None:
        self.role = role
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[Json] = []
        self.results: list[Message] = []
        self.steps: list[Message] = []  # the messages before the one that is being taken in
        self.unread: bool | str = False  # a part of a kind that nobody knows, or what else is not there

    def take(self, content: Any) -> None:
        """Take in a content: a text, a part, or a list of parts."""
        if isinstance(content, str | int | float) and not isinstance(content, bool):
            self._end_step()
            self.texts.append(str(content))
        elif isinstance(content, list):
            for part in content:
                self.take(part)
        elif isinstance(content, Mapping) and isinstance(content.get("parts"), list):  # Mastra
            self.take(content["parts"])
        elif isinstance(content, Mapping):
            for part in known_parts(content):
                self._part(part)

    def _end_step(self, whatever: bool = False) -> None:
        """What is said after the results of an answer's calls is a message of its own."""
        if self.role == "assistant" and (self.results or whatever):
            self.steps = self.messages()
            self.texts, self.thoughts, self.calls, self.results = [], [], [], []

    def call(self, raw: Any, known: Collection[str] = ()) -> None:
        """Take in a call that stands beside the content, unless its id is one of those that are known."""
        call = lower_call(raw)
        if call is None:  # a message without one of its calls says something else
            self.unread = True
        elif call["id"] not in known:
            self.calls.append(call)

    def take_others(self, message: Mapping[str, Any]) -> None:
        """Take in calls and results that a program keeps beside the content, under a name of its own.

        A list of objects with a name and arguments is calls, whatever it is called: an answer that lost its calls would
        be learnt as another answer. Their results stand in them (the Vercel AI SDK), or in a list of their own (Zed).
        """
        members = (
            (key, [one] if key in _RESULTS and isinstance(one, Mapping) else one) for key, one in message.items()
        )
        lists = [(key, one) for key, one in members if isinstance(one, list) and one and key not in _TAKEN]
        for key, value in sorted(lists, key=lambda one: one[0] in _RESULTS):  # in whatever order they stand
            if key in _OFFERED and not all("apiName" in one for one in value if isinstance(one, Mapping)):
                continue  # LobeChat's are calls
            if key == "invalid_tool_calls":  # LangChain's name for calls that the model wrote wrongly
                self.unread = True
            elif key in _RESULTS:
                known = {one["id"] for one in self.calls}
                own = [_part_result(one) for one in value if isinstance(one, Mapping)]
                is_alone = not (self.texts or self.calls)  # of the message before, in a program that logs steps
                is_alone = is_alone or self.role != "assistant"
                self.results += [one for one in own if is_alone or one["tool_call_id"] in known]
            elif self.role == "assistant" and all(map(_is_call, value)):
                known, steps = {call["id"] for call in self.calls if call["id"]}, [one.get("step") for one in value]
                # the Vercel AI SDK sends the text of all its steps behind the results of their calls
                texts, self.texts = (self.texts, []) if key == "toolInvocations" else ([], self.texts)
                for one, step, before in zip(value, steps, [*steps[:1], *steps], strict=False):
                    if step != before:
                        self._end_step()
                    self.call(one, known)
                    if any(one.get(name) is not None for name in ("result", "output")):
                        self.results.append(_part_result(one))
                if texts:
                    self._end_step()
                    self.texts = texts

    def _part(self, part: Mapping[str, Any]) -> None:
        kind = str(part.get("type") or "")
        nested = next((key for key in ("functionCall", "function_call") if isinstance(part.get(key), Mapping)), "")
        if nested or kind in _CALL_PARTS:
            if not part.get("paired"):
                self._end_step()
            value = part.get("value")  # LLaMA-Factory's parts hold the call as JSON text
            raw = part[nested] if nested else as_object(value) if isinstance(value, str) else part
            self.call(raw)
        elif _is_result(part):
            nested = next((key for key in ("functionResponse", "function_response") if key in part), "")
            self.results.append(_part_result(as_object(part[nested]) if nested else part))
        elif kind == "lost_call":
            self.unread = "call_not_recorded"
        elif kind == "step-start":
            self._end_step(whatever=True)
        elif kind in _REASONING_PARTS or part.get("thought") is True:
            self._end_step()
            texts = (part.get(key) for key in ("thinking", "think", "reasoning", "content", "text", "value"))
            self.thoughts.extend(text for text in texts if isinstance(text, str) and text)
        elif kind in _TEXT_PARTS or (not kind and isinstance(part.get("text"), str)):
            self._end_step()
            text = next((part[key] for key in ("text", "content", "value", "refusal") if part.get(key) is not None), "")
            text = text["value"] if isinstance(text, Mapping) and isinstance(text.get("value"), str) else text
            self.texts.append(text if isinstance(text, str) else json_text(text))
        elif isinstance(part.get("content"), str | list) and not kind:
            self.take(part["content"])
        elif not kind and set(part) == {"json"}:  # Bedrock's results
            self.texts.append(json_text(part["json"]))
        elif self.role == "tool" and not is_media(part):  # a result may be any JSON, and the model saw it as such
            self.texts.append(json_text(part))
        else:
            self.texts.append(PICTURE)
            self.unread = self.unread or not is_media(part)

    def messages(self, reasoning: str = "") -> list[Message]:
        """The messages, the results of an answer's own calls behind it, other results before what is said."""
        text, thought = "\n".join(text for text in self.texts if text), reasoning or "\n".join(self.thoughts)
        mark = {"unread": self.unread} if self.unread else {}
        if self.role != "assistant":
            return [*self.results, *([{"role": self.role, "content": text, **mark}] if text else [])]
        if not (text or self.calls or thought or self.unread):
            return [*self.steps, *self.results]
        message = assistant(text, self.calls) | ({"reasoning_content": thought} if thought else {}) | mark
        return [*self.steps, message, *self.results] if self.calls else [*self.steps, *self.results, message]


def _is_call(value: object) -> bool:
    """Whether an object has a function's name and arguments, which are no schema."""
    if not isinstance(value, Mapping) or not any(
        isinstance(value.get(key), str) for key in ("name", "toolName", "apiName")
    ):
        return False
    arguments = next((as_json(value[key]) for key in _ARGUMENTS if value.get(key) is not None), None)
    return isinstance(arguments, dict) and "properties" not in arguments


def _is_result(part: object) -> bool:
    return isinstance(part, Mapping) and (
        name_text(part.get("type")) in _RESULT_PARTS
        or "functionResponse" in part
        or isinstance(part.get("function_response"), dict)
    )


def _part_result(part: Mapping[str, Any]) -> Message:
    ids = ("tool_use_id", "toolCallId", "call_id", "callId", "tool_call_id", "toolUseID", "tool_id", "ref", "id")
    call_id = next((part[key] for key in (*ids, "request_id") if part.get(key)), "")
    told = next((part[key] for key in _ANSWERS if part.get(key) is not None), "")
    message = tool_result(name_text(call_id), result_text(told))
    if part.get("is_error") is True or part.get("isError") is True or part.get("status") in ("error", "Error"):
        message["is_error"] = True
    return message


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, Mapping) else ()


def result_text(content: Any) -> str:
    """A tool's result as text: parts joined, pictures as their placeholder, other values as JSON."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping | str) for part in content):
        parts = _Parts("tool")
        parts.take(content)
        return "\n".join([*parts.texts, *(str(one["content"]) for one in parts.results)])
    if isinstance(content, Mapping) and content.get("type") in ("text", "json", "content") and "value" in content:
        return result_text(content["value"])  # Vercel's {type, value}
    if isinstance(content, Mapping) and content.keys() in ({"Text"}, {"Image"}):  # Zed
        return result_text([content])
    return "" if content is None else json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def lower_call(raw: Any) -> Json | None:
    """A tool call in OpenAI's shape from any shape; None if it names no function. An unknown id is ""."""
    if not isinstance(raw, Mapping):
        return None
    raw = as_object(raw.get("tool_call")) or raw
    body: Mapping[str, Any] = as_object(raw.get("function")) or raw
    # Inspect AI's `function` is the name itself
    keys = ("name", "toolName", "function_name", "tool_name", "function", "apiName")
    name = next((body[key] for key in keys if body.get(key)), "")
    if raw.get("type") == "local_shell_call":
        name, body = "local_shell", {"arguments": raw.get("action")}
    if not isinstance(name, str) or not name:
        return None
    if isinstance(raw.get("namespace"), str):  # of OpenAI's tools, in front of the name: `mcp__github__` + `search`
        name = name if name.startswith(raw["namespace"]) else raw["namespace"] + name
    arguments: Any = next((body[key] for key in _ARGUMENTS if body.get(key) is not None), {})
    if raw.get("type") == "custom_tool_call":  # its input is a free text, such as a patch
        arguments = {"input": arguments}
    text = arguments if isinstance(arguments, str) else json_text(arguments)
    ids = ("call_id", "tool_call_id", "toolCallId", "toolUseId", "callId", "tool_use_id", "tool_id", "ref", "id")
    # results name an Anthropic block by its `id`, whatever other ids a program keeps in it
    call_id = next(
        (raw[key] for key in (*(ids[::-1] if raw.get("type") == "tool_use" else ids), "request_id") if raw.get(key)), ""
    )
    return {"id": name_text(call_id), "type": "function", "function": {"name": name, "arguments": text or "{}"}}


def python_calls(text: str) -> list[Json | None]:
    """The calls of a text such as `[weather(city="Paris"), time()]`, or of one a line; [] for anything else."""
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        said = [one.value for one in ast.parse(text.strip()).body if isinstance(one, ast.Expr)]
        nodes = [node for one in said for node in (one.elts if isinstance(one, ast.List) else [one])]
        calls = [node for node in nodes if isinstance(node, ast.Call) and not node.args]
        if calls and len(calls) == len(nodes):
            told = ({str(word.arg): ast.literal_eval(word.value) for word in one.keywords} for one in calls)
            named = zip((ast.unparse(one.func) for one in calls), told, strict=True)
            return [lower_call({"name": name, "arguments": arguments}) for name, arguments in named]
    return []


def join_calls(messages: Sequence[Message], *, lossy: bool = False) -> list[Message]:
    """Assistant messages side by side as one: the items of one answer stand apart in some formats.

    A `lossy` log may lack the results of calls. There, what is said after a call that no result follows is another
    answer, and no later prompt is whole.
    """
    next_roles, role = list[str](), ""  # who speaks next, for each message, other than the assistant
    for message in reversed(messages):
        next_roles.append(role)
        role = role if message["role"] == "assistant" else message["role"]
    joined: list[Message] = []
    for message, follower in zip(messages, reversed(next_roles), strict=True):
        last = joined[-1] if joined else {}
        is_next = message["role"] == "assistant" == last.get("role")
        calls = message.get("tool_calls") or last.get("tool_calls")
        lost = lossy and calls and not message.get("tool_calls") and follower != "tool"
        if is_next and lost:
            joined.append({"role": "tool", "tool_call_id": "", "content": "", "unread": "result_not_recorded"})
        if is_next and not lost and (calls or not last.get("content")):  # without: thoughts alone
            joined[-1] = merged([last, message]) | {key: last[key] for key in ("model", "at") if key in last}
            if "trainable" in message:
                joined[-1]["trainable"] = last["trainable"] and message["trainable"]
        else:
            joined.append(message)
    return joined


def merged(messages: Iterable[Message]) -> Message:
    """The assistant messages among some as one answer: its texts, its thoughts, and each call once."""
    own = [one for one in messages if one["role"] == "assistant"]
    calls: list[Json] = []
    for call in calls_in(own):
        if not call["id"] or call not in calls:
            calls.append(call)
    answer = assistant("\n".join(one["content"] for one in own if one.get("content")), calls)
    if thoughts := [one["reasoning_content"] for one in own if one.get("reasoning_content")]:
        answer["reasoning_content"] = "\n".join(thoughts)
    return answer | {mark: one[mark] for one in own for mark in ("unread", "ended_early") if one.get(mark)}


def pair_results(messages: Sequence[Message]) -> list[Message]:
    """The messages with an id of its own in each call, and in each result that of the call that it answers.

    A result without an id answers the first call that waits; so does one whose id several calls of an answer have.
    """
    paired: list[Message] = []
    waiting: list[tuple[str, str]] = []  # a call's id in the log, and its id here
    for number, message in enumerate(messages):
        if calls := message.get("tool_calls"):
            waiting = []
            for index, call in enumerate(calls):
                own = call["id"] if call["id"] not in dict(waiting) else ""
                waiting.append((call["id"], own or f"call_{number}_{index}"))
            named = [{**call, "id": own} for call, (_, own) in zip(calls, waiting, strict=True)]
            paired.append({**message, "tool_calls": named})
        elif message["role"] == "tool":
            wanted = message.get("tool_call_id") or ""
            match = next((one for one in waiting if wanted in ("", *one)), None)
            paired.append({**message, "tool_call_id": match[1] if match else wanted})
            if match:
                waiting.remove(match)
        else:
            paired.append(message)
    return paired


def is_optional_tool(kind: str) -> bool:
    """Whether tools of this type run on a provider's servers and can be done without, such as `web_search`."""
    return _VERSION.sub("", kind) in _OPTIONAL_TOOLS


def lower_tools(value: Any) -> list[Json] | None:
    """Tool schemas in OpenAI's shape from any shape, also as JSON text; None if there are none.

    Tools that only a provider could run (`is_optional_tool`) are left out, as the gateway leaves them out.
    """
    tools: list[Json] = []
    for raw in map(as_object, _listed(as_json(value))):
        if is_optional_tool(name_text(raw.get("type"))):
            continue
        raw = as_object(raw.get("toolSpec")) or raw  # noqa: PLW2901 – Bedrock wraps each
        declared = raw.get("function_declarations") or raw.get("functionDeclarations")
        if isinstance(declared, list):
            tools += lower_tools(declared) or []
            continue
        function = raw.get("function")
        body: Mapping[str, Any] = function if isinstance(function, Mapping) else raw
        if not isinstance(body.get("name"), str) or not body["name"]:
            continue
        if (
            isinstance(function, dict)
            and isinstance(function.get("parameters"), dict)
            and raw.get("type") == "function"
        ):
            tools.append(dict(raw))
            continue
        keys = ("parameters", "input_schema", "inputSchema", "parameters_json_schema", "jsonSchema", "schema")
        schema = as_object(next((body[key] for key in keys if body.get(key) is not None), None))
        free = (
            {"input": {"type": "string"}} if body.get("type") == "custom" else {}
        )  # OpenAI's custom tools take a text
        schema = (
            as_object(schema.get("jsonSchema"))
            or as_object(schema.get("json"))
            or _as_schema(schema)
            or {"type": "object", "properties": free}
        )
        described = {"description": body["description"]} if isinstance(body.get("description"), str) else {}
        tools.append({"type": "function", "function": {"name": body["name"], **described, "parameters": schema}})
    return tools or None


_PYTHON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "dict": "object"}
_PYTHON_TYPES |= {"list": "array", "set": "array", "tuple": "array"}


def _as_schema(parameters: Json) -> Json:
    """Parameters as JSON Schema. xLAM's rows name each with its Python type: `{"limit": {"type": "int, optional"}}`."""
    plain = all(isinstance(one, dict) for one in parameters.values())
    if not parameters or not plain or {"properties", "$ref", "$defs"} & parameters.keys():
        return parameters
    properties, required = {}, []
    for name, one in parameters.items():
        kind, _, rest = name_text(one.get("type")).partition(",")
        if "optional" not in rest and "default" not in one:
            required.append(name)
        known = _PYTHON_TYPES.get(kind.strip().lower().partition("[")[0], kind.strip())
        own = {"type": known} if known in ("null", *_PYTHON_TYPES.values()) else {}
        properties[name] = {key: value for key, value in one.items() if key != "type"} | own
    return {"type": "object", "properties": properties, "required": required}


def content_session(name: str, messages: Sequence[Message]) -> str:
    """A session's id for a log that names none: `name` and a hash of what was asked and first answered.

    A copy under another name has the same, and so has a log that grows.
    """
    end = next((index for index, one in enumerate(messages, 1) if one["role"] == "assistant"), len(messages))
    return f"{name}-{digest(list(map(clean, messages[:end])))}"


def infer_tools(calls: Iterable[Mapping[str, Any]]) -> list[Json] | None:
    """The names and argument keys of calls, as schemas that say of themselves that they are `inferred`.

    They tell agents apart (`match: {tools: […]}`) and are never offered to a model: `datasets` leaves them out.
    """
    keys: dict[str, dict[str, None]] = {}
    for call in calls:
        function = call["function"]
        known = keys.setdefault(function["name"], {})
        known.update(dict.fromkeys(as_object(function["arguments"])))
    return [
        {
            "type": "function",
            "inferred": True,
            "function": {
                "name": name,
                "parameters": {"type": "object", "properties": {key: {} for key in sorted(own)}},
            },
        }
        for name, own in sorted(keys.items())
    ] or None


def calls_in(messages: Iterable[Mapping[str, Any]]) -> Iterator[Json]:
    """All tool calls of some messages."""
    for message in messages:
        yield from message.get("tool_calls") or ()


def chars(message: Mapping[str, Any]) -> int:
    """About how many characters of a prompt a message takes."""
    size = len(message.get("content") or "") + len(message.get("reasoning_content") or "")
    return size + sum(len(call["function"]["arguments"]) + 20 for call in message.get("tool_calls") or ())


def clean(message: Message) -> Message:
    """The message without what only readers need."""
    own = {"is_error", "trainable", "unread", "model", "ended_early", "at"}
    return message if own.isdisjoint(message) else {key: value for key, value in message.items() if key not in own}


def turn(source: Source, prompt: Sequence[Message], answer: Message, **fields: Any) -> Iterator[Item]:
    """A turn, or the reason why a call cannot be one. `fields` are those of `Turn`; sizes and cut texts are seen to.

    Without `tools` those are taken that were `inferred` from the calls of a session, by default of this prompt.

    A prompt or an answer that a logger shortened is reported and kept with completeness "cut", so it is never learnt.
    """
    session = fields["session_id"]
    if leaves_folder(session):
        yield Problem("path_traversal", 0, "the session id is a path that leaves its folder")
        return
    if answer.get("ended_early"):
        fields["step_failed"] = True
    completion = _reason(answer["unread"]) if answer.get("unread") else sound_answer(answer)
    if isinstance(completion, str):
        yield Skipped(completion)
        return
    unread = next((message["unread"] for message in prompt if message.get("unread")), None) or lost_result(prompt)
    if unread and fields.get("completeness") != "lost":
        fields["completeness"] = "cut"
        lacks = _LACKS[_reason(unread)]
        yield Problem(_reason(unread), 0, f"line {fields.get('line', 0)}: the prompt lacks {lacks}")
    if fields.get("completeness", "whole") in ("whole", "reconstructed"):
        if not prompt:
            yield Skipped("no_prompt")
            return
        if sum(map(chars, prompt)) > MAX_PROMPT_CHARS:
            yield Skipped("prompt_too_long")
            return
        texts = [message.get("content") or "" for message in (*prompt, completion)]
        texts += [call["function"]["arguments"] for call in calls_in((*prompt, completion))]
        if any(map(is_cut_text, texts)):
            fields["completeness"] = "cut"
            yield Problem("cut", 0, f"line {fields.get('line', 0)}: the gateway shortened this call's texts")
    tools, inferred = fields.pop("tools", None), fields.pop("inferred", None)
    if not tools and inferred is None:
        inferred = infer_tools(calls_in((*prompt, answer)))
    yield Turn(
        agent=fields.pop("agent", None) or None,
        step=fields.pop("step", 0),
        started_at=fields.pop("started_at", ""),
        source_file=source.name,
        source_sha256=source.sha256,
        source_format=source.format,
        prompt=[clean(message) for message in prompt],
        completion={"role": "assistant"} | {key: completion[key] for key in _KEPT if completion.get(key) is not None},
        tools=tools or inferred or None,
        tools_known="recorded" if tools else "inferred" if inferred else "none",
        **shown_results(prompt),
        **fields,
    )


_LACKS = {
    "part_of_unknown_kind": "a part of a kind that no reader knows",
    "result_not_recorded": "the result of a call",
    "call_not_recorded": "a call that its program could not read",
}


def _reason(unread: bool | str) -> str:
    return unread if isinstance(unread, str) else "part_of_unknown_kind"


def lost_result(prompt: Iterable[Message]) -> str:
    """A reason if an answer in a prompt has results of some of its calls and not of the others; "" without one.

    No API takes such a prompt: the log lost them. One result without an id may be that of all calls (`_PAIRED`).
    """
    waiting: set[str] = set()
    is_answered = False
    for message in prompt:
        if message["role"] == "assistant":
            if waiting and is_answered:
                return "result_not_recorded"
            waiting = {name_text(call.get("id")) for call in message.get("tool_calls") or ()}
            is_answered = False
        elif message["role"] == "tool" and (call := name_text(message.get("tool_call_id"))) in waiting:
            waiting.remove(call)
            is_answered = not _PAIRED.fullmatch(call)
    return "result_not_recorded" if waiting and is_answered else ""


def is_cut_text(text: str) -> bool:
    """Whether a logger shortened or hid a text.

    Each prompt repeats those before it, and a fixed word is found ten times as fast as a pattern: it comes first.
    """
    if len(text) < 64 and _HIDDEN.fullmatch(text):
        return True
    return ("runcated" in text or "RUNCATED" in text or "masked due" in text) and bool(_CUT.search(text))


def starts_midway(prompt: Iterable[Message]) -> bool:
    """Whether a prompt is only what is new of a conversation: its first words are an answer's or a tool's."""
    return next((message["role"] for message in prompt if message["role"] != "system"), "") != "user"


def results_after(answer: Message, following: Iterable[Message]) -> tuple[bool, bool]:
    """Whether all results of an answer's calls follow it, and whether one of them says that it failed."""
    ids = {call["id"] for call in answer.get("tool_calls") or ()}
    results: dict[str, Message] = {}
    for message in following:
        if message["role"] == "tool" and not message.get("unread"):
            results.setdefault(message.get("tool_call_id") or "", message)
        elif message["role"] == "assistant":
            break
    own = [message for call, message in results.items() if call in ids]
    failed = any(message.get("is_error") or is_error(message["content"]) for message in own)
    return bool(ids) and ids <= results.keys(), failed


def shown_results(prompt: Sequence[Message]) -> dict[str, Any]:
    """The members `shown` and `shown_failed` of a turn, by which an earlier call of the session hears how it went.

    A prompt that holds only what is new begins with the results, and their ids say whose they are.
    """
    place = max((index for index, one in enumerate(prompt) if one["role"] == "assistant"), default=-1)
    place += place < 0 or not (prompt[place].get("tool_calls") or prompt[place].get("function_call"))
    end = prompt[place:]
    may_hold_results = (isinstance(one.get("content"), list) or ROLES.get(one["role"].lower()) == "tool" for one in end)
    if any(one.get("unread") for one in end) or not any(may_hold_results):
        return {}
    tail = lower_all(end)
    results = [{"id": one["tool_call_id"]} for one in tail if one["role"] == "tool"]
    answer = next((one for one in tail if one["role"] == "assistant"), {"tool_calls": results})
    known, failed = results_after(answer, (one for one in tail if one is not answer))
    return {"shown": place, "shown_failed": failed} if known or failed else {}


def explode(
    source: Source,
    messages: Sequence[Message],
    trainable: Iterable[int] | None = None,
    *,
    first_step: int = 0,
    **fields: Any,
) -> Iterator[Item]:
    """One turn for each assistant message of a conversation, with everything before it as its prompt.

    `trainable`: the places of the messages that may be learnt, all assistant messages by default; the others are
    context. Tools that are not given are inferred from the calls. A message may tell its own time (`at`).
    """
    places = [index for index, one in enumerate(messages) if one["role"] == "assistant"]
    wanted = set(places if trainable is None else trainable)
    if not fields.get("tools"):
        fields["inferred"] = infer_tools(calls_in(messages)) or []
    fields.setdefault("line", 0)
    size, last = 0, 0
    for step, index in enumerate(places, first_step):
        size += sum(map(chars, messages[last:index]))
        last = index
        if index not in wanted:
            continue
        if size > MAX_PROMPT_CHARS:  # before the prompt is copied: a conversation costs the square of its length
            yield Skipped("prompt_too_long")
            continue
        known, failed = results_after(messages[index], messages[index + 1 : index + 65])
        more = {"step": step, "result_known": known, "step_failed": failed}
        at = {"started_at": messages[index]["at"]} if messages[index].get("at") else {}
        yield from turn(source, messages[:index], messages[index], **{**more, **fields, **at})
