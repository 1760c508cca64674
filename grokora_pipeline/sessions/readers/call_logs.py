"""Logs of single calls: a request with its reply beside it, as gateways, clouds and tracers write it."""

import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from grokora_pipeline.sessions.readers.bodies import body_in, exchange, is_asked, is_reply, is_repr, is_request
from grokora_pipeline.sessions.readers.chats import Chat
from grokora_pipeline.sessions.readers.common import first_of, name_text
from grokora_pipeline.sessions.readers.documents import (
    SESSION_NAMES,
    Json,
    as_json,
    as_list,
    as_object,
    digest,
    moment,
    objects_in,
)
from grokora_pipeline.sessions.readers.lowering import SYSTEMS, ended_early, starts_midway
from grokora_pipeline.sessions.readers.outcomes import SCORES, call_failed, outcome_status, scored, scores_in

# `answer` is what graders expect, not what was said
REPLIES = ("response", "output", "completion", "reply", "response_obj")
EVAL_ITEM = "eval.run.output_item"  # of OpenAI's evals
# What exports call the session of a call, and the call or the trace that it is a part of.
_SESSION_IDS = (*SESSION_NAMES, "thread_identifier", "Helicone-Session-Id", "$ai_session_id")
_CALL_IDS = (
    "$ai_trace_id",
    "trace_id",
    "traceId",
    "root_span_id",
    "request_id",
    "requestId",
    "recordId",
    "custom_id",
    "id",
)
# Members in which records keep what is said of a call; and those that offer tools.
_HOLDERS = ("metadata", "requestMetadata", "request_properties", "timestamps", "trace", "session")
_OFFERED = ("tools", "functions", "tool_definitions", "toolDefinitions", "available_tools")
# Members of a reply that is more than a message.
_ENVELOPES = {"type", "choices", "candidates", "message", "generations", "object"}
GEMINI = ("request", "response")
BATCHES = (("body", "response"), ("params", "result"), GEMINI)  # the two halves of a call in a batch
# What they call a request and its reply.
_SIDES = (
    ("request_body", "response_body"),  # Helicone
    ("modelInput", "modelOutput"),  # a batch of Bedrock's
    ("full_request", "full_response"),  # Vertex AI's log of requests
    *BATCHES,
    ("inputs", "output"),  # Weave
    ("input", "output"),  # Opik, Lunary
)


def call(value: Json) -> Iterator[Chat]:
    """One call as a gateway or a platform exports it: a request and a reply under that platform's names.

    A record without a call may say how the session went, as the root of a trace does.
    """
    exchanges = list(_exchanges(value))
    if not exchanges:
        rating, opinion = scored(scores_in(value))
        if opinion != "unknown" or rating is not None:
            yield Chat([], _session(value), status=opinion, rating=rating)
    for request, reply, holder in exchanges:
        said = exchange(request, _reply(reply))
        if said.answer is None:
            yield Chat([], last_only=True)
            continue
        failed = call_failed(holder) or ended_early({"finish_reason": holder.get("$ai_stop_reason")})
        outcome = outcome_status(holder.get("outcome")) if isinstance(holder.get("outcome"), str) else "unknown"
        weave = as_object(as_object(holder.get("summary")).get("weave"))
        rating, opinion = scored([*scores_in(holder), *scores_in(weave)])
        facts = _facts(holder)
        offers = [holder, *(one for one in holder.values() if isinstance(one, dict))]
        is_delta = said.delta or (bool(said.prompt) and starts_midway(said.prompt))
        is_cut = any(one.get("unread") for one in said.prompt)  # the marks do not outlast a second lowering
        cut = "part_of_unknown_kind" if said.answer.get("unread") else said.cut
        yield Chat(
            [*said.prompt, {**said.answer, "cut": "call_failed" if failed else cut, "model": said.model}],
            _session(holder),
            name_text(first_of(facts, "agent", "agent_name", "Helicone-Session-Name")),
            started=moment(facts, as_object(_reply(reply))),
            tools=said.tools or next((own[key] for own in offers for key in _OFFERED if own.get(key)), None),
            completeness="delta" if is_delta else "cut" if is_cut else "whole",
            last_only=True,
            status=opinion if outcome == "unknown" else outcome or "failure",
            rating=rating,
        )


def _facts(holder: Json) -> Json:
    """What a record says of its call, in itself or in its metadata."""
    return {key: one for name in _HOLDERS for key, one in as_object(holder.get(name)).items()} | holder


def _session(holder: Json) -> str:
    return name_text(first_of(_facts(holder), *_SESSION_IDS, *_CALL_IDS))


def _exchanges(value: Json) -> Iterator[tuple[Json, Any, Json]]:
    """Each request, its reply, and the object that says of which session they are, and when."""
    if entries := objects_in(as_object(value.get("log")).get("entries")):  # HAR
        yield from (one for one in map(_har, entries) if one[0])
    elif value.get("schemaType") == "ModelInvocationLog":  # Bedrock
        asked = as_object(as_object(value.get("input")).get("inputBodyJson"))
        yield {"modelId": value.get("modelId"), **asked}, as_object(value.get("output")).get("outputBodyJson"), value
    elif "span_attributes" in value:  # Braintrust
        if as_object(value["span_attributes"]).get("type") == "llm":
            named = {key: one for key, one in value.items() if key != "metadata"}
            yield {**as_object(value.get("metadata")), "messages": value.get("input")}, value.get("output"), named
    elif steps := objects_in(value.get("steps")):  # the AI SDK, which keeps the request that it sent as text
        yield from (_step(one, value) for one in steps if as_object(one.get("request")).get("body"))
    elif "span_data" in value:  # OpenAI's Agents SDK
        data = as_object(value["span_data"])
        if data.get("type") == "generation":
            request = {**as_object(data.get("model_config")), "model": data.get("model"), "messages": data.get("input")}
            yield request, {"message": next(reversed(objects_in(data.get("output"))), None)}, value
        elif data.get("type") == "response" and data.get("input"):
            yield {"input": data["input"]}, as_object(data.get("response")), value
    else:
        yield from _exchange_of(value)


def _har(entry: Json) -> tuple[Json, Any, Json]:
    """The request and the reply of an entry of a HAR file; the request is {} if it is no call of a model."""
    request = as_object(as_object(as_object(entry.get("request")).get("postData")).get("text"))
    request = request | as_object(request.get("request"))  # Gemini's Code Assist wraps it
    content = as_object(as_object(entry.get("response")).get("content"))
    said = name_text(content.get("text"))
    if content.get("encoding") == "base64":
        with suppress(ValueError):
            said = base64.b64decode(said).decode("utf-8", "replace")
    return request if request.keys() & {"messages", "input", "contents"} else {}, said, entry


def _step(step: Json, result: Json) -> tuple[Json, Any, Json]:
    """The call that a step of the AI SDK is; its reply is written in today's parts, or as older versions wrote it."""
    reply = as_object(step.get("response"))
    said = {"content": step.get("text"), "toolCalls": step.get("toolCalls")}
    if isinstance(parts := step.get("content"), list):
        said = {"content": [one for one in parts if as_object(one).get("type") != "tool-result"]}
    message = {"role": "assistant", **said, "finish_reason": step.get("finishReason")}
    answer = {"message": message, "model": reply.get("modelId")}
    return as_object(step["request"]["body"]), answer, {"created": reply.get("timestamp"), **result}


def _exchange_of(value: Json) -> Iterator[tuple[Json, Any, Json]]:
    """The one request and reply of a record that is told by its members alone."""
    request: Json
    said: Any
    if "$ai_input" in (facts := as_object(value.get("properties"))):  # PostHog
        asked = as_json(facts["$ai_input"])
        request = {"messages": asked if isinstance(asked, list) else [{"role": "user", "content": asked}]}
        request |= {"model": facts.get("$ai_model"), "tools": as_json(facts.get("$ai_tools"))}
        yield request, facts.get("$ai_output_choices"), {**facts, "timestamp": value.get("timestamp")}
    elif "messages" in as_object((meta := as_object(value.get("meta"))).get("input")):  # Datadog
        if "llm" in (meta.get("span.kind"), as_object(meta.get("span")).get("kind")):
            asked, said = (as_list(as_object(meta.get(key)).get("messages")) for key in ("input", "output"))
            yield {"model": meta.get("model_name"), "messages": asked}, said, value
    elif blueprint := as_object(as_object(value.get("prompt_blueprint")).get("prompt_template")):  # PromptLayer
        model = as_object(as_object(as_object(value["prompt_blueprint"]).get("metadata")).get("model")).get("name")
        values = as_object(first_of(value, "input_variables", "prompt_input_variables"))
        *asked, said = [_filled(one, values) for one in objects_in(blueprint.get("messages"))] or [{}]
        yield {"model": model, "messages": asked, "tools": blueprint.get("tools")}, {"message": said}, value
    elif value.get("object") == "response":  # a stored response with what it answers
        yield value, value, value
    elif value.get("object") == EVAL_ITEM:
        sample = as_object(value.get("sample"))
        request = {"messages": sample.get("input"), "model": sample.get("model")}
        said = next(reversed(as_list(sample.get("output"))), None)
        reply = {"finish_reason": sample.get("finish_reason"), "message": said}
        yield request, reply, {**value, "status": None, "outcome": value.get("status")}
    elif "messages" in value or "contents" in value:
        said = first_of(value, *REPLIES) or {"choices": value.get("choices"), "model": value.get("model")}
        if isinstance(said, str) and is_repr(said):  # DSPy keeps the text beside it
            said = next(iter(as_list(value.get("outputs"))), said)
        yield {**as_object(value.get("kwargs")), **value}, said, value
    else:
        value = {key: untyped(one) for key, one in value.items()}
        sides = sorted(
            ((value[one], value.get(two)) for one, two in _SIDES if one in value), key=lambda one: not one[1]
        )
        asked, said = sides[0] if sides else ({}, None)
        asked = as_json(asked)
        request = {"model": value.get("model"), **(asked if isinstance(asked, dict) else {"messages": asked})}
        # a traced function may have an `input`, too: that is a call if its output is a response
        is_response = "output" in as_object(_reply(said)) or value.get("type") == "llm"
        if request.keys() & {"messages", "contents", "message"} or ("input" in request and is_response):
            yield request, said, value


def untyped(value: Any) -> Any:
    """The value that LangWatch keeps with its type, of a list the last one; any other as it is."""
    if not isinstance(value, dict) or value.keys() != {"type", "value"}:
        return value
    inner = value["value"]
    return untyped(inner[-1]) if value["type"] == "list" and isinstance(inner, list) and inner else inner


def _filled(message: Json, values: Json) -> Json:
    """A message of PromptLayer's with its variables' values; one without a value makes a part that nobody knows."""
    parts = as_list(content := message.get("content")) or [{"type": "text", "text": content}]
    filled: list[Any] = []
    for part in map(as_object, parts):
        text = name_text(part.get("text"))
        for name in map(name_text, as_list(message.get("input_variables"))):
            for mark in (f"{{{{{name}}}}}", f"{{{name}}}"):  # Jinja's, Python's
                if mark in text and name not in values:
                    filled.append({"type": "variable_without_value"})
                text = text.replace(mark, str(values.get(name, mark)))
        filled.append({**part, "text": text} if "text" in part else part)
    return {**message, "content": filled} if message.get("input_variables") else message


def _reply(reply: Any) -> Any:
    """A reply without its envelope; a message, or a list of choices or messages, as the reply that it stands for."""
    reply = as_json(reply)
    if isinstance(reply, dict) and reply.get("type") == "succeeded":  # of Anthropic's batches
        return reply.get("message")
    if isinstance(reply, dict) and "body" in reply:
        reply = as_json(reply["body"])
    if isinstance(reply, list) and len(reply) == 1 and isinstance(reply[0], str):
        return reply[0]
    if isinstance(reply, list):
        last = as_object(reply[-1]) if reply else {}
        if any(as_object(one).get("type") in ("message", "reasoning", "function_call") for one in reply):
            return {"object": "response", "output": reply}  # items of the Responses API
        return {"message": last} if "role" in last else {"choices": reply} if "message" in last else reply
    if isinstance(reply, dict) and set(reply) & {"content", "tool_calls"} and not set(reply) & _ENVELOPES:
        return {"message": {"role": "assistant", **reply}}
    if isinstance(reply, dict) and len(reply) == 1 and isinstance(text := first_of(reply, *REPLIES, "text"), str):
        return text
    return reply


# Names, without marks and capitals, under which gateways keep the messages of a request and what was answered.
_MARKS = re.compile(r"[_-]")
_ASKED = {"messages", "promptmessages", "inputmessages", "requestmessages", "chathistory"}
_ASKED |= {"input", "llminput", "prompt", "raw", "contents"}
# What belongs to a prompt and stands beside its messages.
_BESIDE = (*SYSTEMS, "toolConfig", "previous_response_id")
_SAID = {"response", "output", "completion", "reply", "completionmessage", "outputmessage", "outputmessages", "outputs"}
_SAID |= {"responsemessage", "responsemessages", "completionmessages", "messagecompletion", "requestresponse"}
_SAID |= {"responsebody", "responseobj", "llmoutput", "respbody", "sampled"}


def inside(value: Json, above: Json | None = None, depth: int = 0) -> Iterator[Json]:
    """The calls that an object holds, at most four members deep: each as a log of calls has it, with what stands above.

    A call is a request, as messages or an object (or JSON text) with messages, and a reply beside it.
    """
    value = {key: untyped(one) for key, one in value.items()}
    facts = {
        **(above or {}),
        **{key: one for own in (_facts(value), value) for key, one in own.items() if _tells(key, one)},
    }
    if name_text(value.get("type")).lower() == "agent":
        facts["agent"] = value.get("name")
    for event in objects_in(value.get("events")):  # LangWatch's
        if event.get("event_type") == "thumbs_up_down":
            facts["vote"] = as_object(event.get("metrics")).get("vote")
    requests = [value, *map(as_object, value.values())]
    named = ((own, _MARKS.sub("", key).lower(), one) for own in requests for key, one in own.items())
    own, asked = next(((own, one) for own, name, one in named if name in _ASKED and is_asked(one)), ({}, None))
    said = next((one for key, one in value.items() if one and _MARKS.sub("", key).lower() in _SAID), None)
    said = said or next((one for one in value.values() if {"choices", "candidates"} & as_object(one).keys()), None)
    body = body_in(as_object(value.get("request")), is_request)  # what was sent over HTTP
    said = (body and body_in(as_object(value.get("response")), is_reply)) or said
    if body := body or (asked is None and next(filter(is_request, requests[1:]), None)):
        own, asked = body, first_of(body, "messages", "contents", "input")
        requests.append(body)
    if asked and said:
        tools = next((one["tools"] for one in requests if one.get("tools")), None)
        names = ("model", "modelName", "ModelName", "model_name")
        model = first_of({key: one.get(key) for one in requests for key in one}, *names)
        beside = {key: one[key] for one in (*requests, own) for key in _BESIDE if one.get(key)}
        messages = as_list(asked) or [{"role": "user", "content": asked}]
        name = "contents" if is_asked(own.get("contents")) else "messages"
        yield {**facts, **beside, "model": model, "tools": tools, name: messages, "response": said}
    elif depth < 4:
        for member in value.values():
            listed = member if isinstance(member, list) else [member]
            below = [as_object(one) for part in listed for one in (part if isinstance(part, list) else [part])]
            agents = {name_text(one.get("span_id")): one.get("name") for one in below if one.get("type") == "agent"}
            for one in below:
                by = agents.get(name_text(one.get("parent_id"))) if one.get("parent_id") else None
                yield from inside(one, facts | ({"agent": by} if by else {}), depth + 1)


def _tells(key: str, value: Any) -> bool:
    """Whether a member says something of the calls below it: a name, a time, an opinion."""
    return value not in (None, "", []) and (key in SCORES or not isinstance(value, dict | list))


def calls_inside(value: Json) -> Iterator[Chat]:
    """The calls that a document of a gateway or a program holds somewhere in it; all of them are of one session."""
    calls = list(inside(value))
    name = _session(value) or (
        f"content-{digest(first_of(calls[0], 'messages', 'contents'))}" if len(calls) > 1 else ""
    )
    for number, one in enumerate(calls):
        for chat in call(one):
            chat.session = chat.session or name
            chat.first_step = number if chat.completeness == "delta" else 0
            yield chat
