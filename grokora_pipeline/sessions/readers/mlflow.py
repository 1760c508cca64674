"""MLflow traces: `{info, data: {spans}}`, one or several, as `mlflow traces` and its REST interface export them.

A span keeps inputs and outputs under `mlflow.spanInputs` and `mlflow.spanOutputs` as JSON text, chat calls also under
`mlflow.chat.messages` and `mlflow.chat.tools`; spans that came over OTLP keep the attributes of their own dialect.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from grokora_pipeline.sessions.readers import otel
from grokora_pipeline.sessions.readers.bodies import exchange
from grokora_pipeline.sessions.readers.common import Source, first_of, name_text, to_utc
from grokora_pipeline.sessions.readers.documents import (
    Json,
    as_json,
    as_list,
    as_object,
    objects_in,
    peek_objects,
    records,
)
from grokora_pipeline.sessions.readers.langsmith import generation
from grokora_pipeline.sessions.readers.lowering import lower_all, lower_tools, turn
from grokora_pipeline.sessions.readers.outcomes import score
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Verdict

_CHAT_SPANS = {"CHAT_MODEL", "LLM"}


def looks_like(head: bytes) -> bool:
    """Whether the first record is a trace of MLflow."""
    return any(_as_trace(value) for value in peek_objects(head)[:4])


def _as_trace(value: Any) -> Json | None:
    """The trace that a value is: one with its `info`, or the spans alone, as an artifact of a run keeps them."""
    own = as_object(value)
    spans = objects_in(own.get("spans"))
    if "info" not in own and any("mlflow.spanType" in as_object(one.get("attributes")) for one in spans):
        return {"info": {"trace_id": first_of(spans[0], "trace_id", "traceId")}, "data": own}
    info = own.get("info")
    is_trace = isinstance(info, dict) and ("trace_id" in info or "request_id" in info)
    return own if is_trace and isinstance(own.get("data"), dict | None) else None


def read(source: Source) -> Iterator[Item]:
    """A turn a chat span, and the trace's assessments as its verdict."""
    steps: Counter[str] = Counter()
    for record in records(source):
        if isinstance(record, Problem):
            yield record
            continue
        if trace := _as_trace(record.value):
            yield from _trace(source, trace, record.number, steps)
        else:
            yield Problem("wrong_schema", record.offset, f"record {record.number} is no trace")


def _trace(source: Source, trace: Json, number: int, steps: Counter[str]) -> Iterator[Item]:
    info = as_object(trace["info"])
    metadata = as_object(first_of(info, "trace_metadata", "request_metadata"))
    session = name_text(metadata.get("mlflow.trace.session") or first_of(info, "trace_id", "request_id"))
    spans = objects_in(as_object(trace.get("data")).get("spans"))
    spans.sort(key=lambda one: to_utc(first_of(one, "start_time_unix_nano", "start_time_ns", "start_time")))
    own = [
        (span, {key: as_json(value) for key, value in otel.attributes_of(span.get("attributes")).items()})
        for span in spans
    ]
    chats = [
        (span, attributes)
        for span, attributes in own
        if name_text(attributes.get("mlflow.spanType")).strip('"') in _CHAT_SPANS
    ]
    if not chats:
        yield from otel.calls(source, [otel.span_of(span, number) for span in spans])
    # a framework's span wraps that of the provider's client
    inner = {name_text(first_of(span, "parent_span_id", "parentSpanId", "parent_id")) for span, _ in chats}
    for span, attributes in chats:
        if name_text(first_of(span, "span_id", "spanId")) in inner:
            yield Skipped("wraps_another_call")
            continue
        trace_id = name_text(first_of(info, "trace_id", "request_id"))
        fields = {"session_id": session, "step": steps[session], "line": number, "trace": trace_id}
        failed = "ERROR" in (info.get("state"), info.get("status"))
        yield from _call(source, span, attributes, status="failure" if failed else "unknown", **fields)
        steps[session] += 1
    yield from _assessments(session, as_list(info.get("assessments")))


def _call(source: Source, span: Json, attributes: Json, **fields: Any) -> Iterator[Item]:
    inputs, outputs = attributes.get("mlflow.spanInputs"), attributes.get("mlflow.spanOutputs")
    request = inputs if isinstance(inputs, dict) else {"messages": inputs if isinstance(inputs, list) else []}
    call = exchange(request, outputs)
    prompt, answer = call.prompt, call.answer
    chat = lower_all(as_list(attributes.get("mlflow.chat.messages")))
    if (not prompt or answer is None) and chat and chat[-1]["role"] == "assistant":
        prompt, answer = chat[:-1], chat[-1]
    answer = answer or generation(outputs)
    if answer is None:
        yield Skipped("no_contents" if not prompt else "no_answer")
        return
    tools = call.tools or lower_tools(attributes.get("mlflow.chat.tools"))
    status = as_object(span.get("status"))
    yield from turn(
        source,
        prompt,
        answer,
        agent=name_text(first_of(attributes, "gen_ai.agent.name", "agent.name", "agent")),
        started_at=to_utc(first_of(span, "start_time_unix_nano", "start_time_ns", "start_time")),
        tools=tools,
        completeness="whole" if prompt else "lost",
        model=call.model or name_text(first_of(attributes, "mlflow.llm.model", "ai.model.name")),
        call=name_text(first_of(span, "span_id", "spanId")),
        step_failed=call.cut or "ERROR" in (span.get("status_code"), status.get("code")) or status.get("code") == 2,
        **fields,
    )


def _assessments(session: str, assessments: list[Any]) -> Iterator[Verdict]:
    """A verdict for each assessment that says how the trace went: a yes or no, a number, or a rating from 1 to 5."""
    for one in map(as_object, assessments):
        rating, status = score(first_of(one, "assessment_name", "name"), as_object(one.get("feedback")).get("value"))
        if status != "unknown" or rating is not None:
            yield Verdict(session, status=status, rating=rating, at=to_utc(one.get("create_time")))
