"""Logs of single calls: a request with its reply beside it, as gateways, clouds and tracers write it."""

from collections.abc import Iterator
from typing import Any

from grokora_pipeline.sessions.readers.bodies import exchange
from grokora_pipeline.sessions.readers.chats import Chat
from grokora_pipeline.sessions.readers.common import first_of, name_text, outcome_status, whole_number
from grokora_pipeline.sessions.readers.lowering import Json, as_json, as_list, as_object, ended_early, objects_in

REPLIES = ("response", "output", "completion", "reply")  # `answer` is what graders expect, not what was said
EVAL_ITEM = "eval.run.output_item"  # of OpenAI's evals
# What exports call the session of a call, the call or the trace that it is a part of, and its time.
_SESSION_IDS = ("session_id", "conversation_id", "thread_id", "threadId", "Helicone-Session-Id", "$ai_session_id")
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
_TIMES = (
    *("start_ns", "timestamp", "created_at", "createdAt", "start_time", "startTime", "started_at", "startedDateTime"),
    *("request_created_at", "logging_time", "created", "time"),
)
BATCHES = (("body", "response"), ("params", "result"))  # the two halves of a batch, joined by `custom_id`
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
    """One call as a gateway or a platform exports it: a request and a reply under that platform's names."""
    for request, reply, holder in _exchanges(value):
        said = exchange(request, _reply(reply))
        if said.answer is None:
            yield Chat([], last_only=True)
            continue
        own = ("metadata", "requestMetadata", "request_properties")
        status = holder.get("status")
        code = whole_number(first_of(holder, "response_status", "status_code", "$ai_http_status"))
        failed = (
            (isinstance(status, str) and outcome_status(status) == "failure")
            or (code or 0) >= 400
            or holder.get("$ai_is_error") is True
            or ended_early({"finish_reason": holder.get("$ai_stop_reason")})
            or any(holder.get(key) for key in ("error", "error_info", "exception", "error_message"))
        )
        outcome = outcome_status(holder.get("outcome")) if isinstance(holder.get("outcome"), str) else "unknown"
        facts = {key: one for name in own for key, one in as_object(holder.get(name)).items()} | holder
        yield Chat(
            [*said.prompt, {**said.answer, "cut": "call_failed" if failed else said.cut, "model": said.model}],
            name_text(first_of(facts, *_SESSION_IDS, *_CALL_IDS)),
            name_text(first_of(facts, "agent", "agent_name", "Helicone-Session-Name")),
            started=first_of(facts, *_TIMES),
            tools=said.tools,
            completeness="delta" if said.delta else "whole",
            last_only=True,
            status=outcome or "failure",
        )


def _exchanges(value: Json) -> Iterator[tuple[Json, Any, Json]]:
    """Each request, its reply, and the object that says of which session they are, and when."""
    if entries := objects_in(as_object(value.get("log")).get("entries")):  # HAR
        for entry in entries:
            request = as_object(as_object(as_object(entry.get("request")).get("postData")).get("text"))
            if request.keys() & {"messages", "input", "contents"}:
                yield request, as_object(as_object(entry.get("response")).get("content")).get("text"), entry
    elif value.get("schemaType") == "ModelInvocationLog":  # Bedrock
        asked = as_object(as_object(value.get("input")).get("inputBodyJson"))
        yield {"modelId": value.get("modelId"), **asked}, as_object(value.get("output")).get("outputBodyJson"), value
    elif "span_attributes" in value:  # Braintrust
        if as_object(value["span_attributes"]).get("type") == "llm":
            named = {key: one for key, one in value.items() if key != "metadata"}
            yield {**as_object(value.get("metadata")), "messages": value.get("input")}, value.get("output"), named
    elif "span_data" in value:  # OpenAI's Agents SDK
        data = as_object(value["span_data"])
        if data.get("type") == "generation":
            request = {**as_object(data.get("model_config")), "model": data.get("model"), "messages": data.get("input")}
            yield request, {"message": next(reversed(objects_in(data.get("output"))), None)}, value
        elif data.get("type") == "response" and data.get("input"):
            yield {"input": data["input"]}, as_object(data.get("response")), value
    else:
        yield from _exchange_of(value)


def _exchange_of(value: Json) -> Iterator[tuple[Json, Any, Json]]:
    """The one request and reply of a record that is told by its members alone."""
    request: Json
    said: Any
    if "$ai_input" in (facts := as_object(value.get("properties"))):  # PostHog
        asked = as_json(facts["$ai_input"])
        request = {"messages": asked if isinstance(asked, list) else [{"role": "user", "content": asked}]}
        request |= {"model": facts.get("$ai_model"), "tools": as_json(facts.get("$ai_tools"))}
        yield request, facts.get("$ai_output_choices"), {**facts, "timestamp": value.get("timestamp")}
    elif is_datadog(value):
        meta = as_object(value["meta"])
        if "llm" in (meta.get("span.kind"), as_object(meta.get("span")).get("kind")):
            asked, said = (as_list(as_object(meta.get(key)).get("messages")) for key in ("input", "output"))
            yield {"model": meta.get("model_name"), "messages": asked}, said, value
    elif value.get("object") == "response":  # a stored response with what it answers
        yield value, value, value
    elif value.get("object") == EVAL_ITEM:
        sample = as_object(value.get("sample"))
        request = {"messages": sample.get("input"), "model": sample.get("model")}
        said = next(reversed(as_list(sample.get("output"))), None)
        reply = {"finish_reason": sample.get("finish_reason"), "message": said}
        yield request, reply, {**value, "status": None, "outcome": value.get("status")}
    elif "messages" in value:
        yield {**as_object(value.get("kwargs")), **value}, first_of(value, *REPLIES), value
    else:
        asked, said = next(((value[one], value.get(two)) for one, two in _SIDES if one in value), ({}, None))
        asked = as_json(asked)
        request = {"model": value.get("model"), **(asked if isinstance(asked, dict) else {"messages": asked})}
        # a traced function may have an `input`, too: that is a call if its output is a response
        is_response = "output" in as_object(said) or value.get("type") == "llm"
        if request.keys() & {"messages", "contents", "message"} or ("input" in request and is_response):
            yield request, said, value


def _reply(reply: Any) -> Any:
    """A reply without its envelope; a message, or a list of choices or messages, as the reply that it stands for."""
    reply = as_json(reply)
    if isinstance(reply, dict) and reply.get("type") == "succeeded":  # of Anthropic's batches
        return reply.get("message")
    if isinstance(reply, dict) and "body" in reply:
        reply = as_json(reply["body"])
    if isinstance(reply, list):
        last = as_object(reply[-1]) if reply else {}
        if any(as_object(one).get("type") in ("message", "reasoning", "function_call") for one in reply):
            return {"object": "response", "output": reply}  # items of the Responses API
        return {"message": last} if "role" in last else {"choices": reply} if "message" in last else reply
    return {"message": reply} if isinstance(reply, dict) and "role" in reply and "type" not in reply else reply


def is_datadog(value: Json) -> bool:
    """A span of Datadog's, with its contents in `meta`."""
    return "messages" in as_object(as_object(value.get("meta")).get("input"))
