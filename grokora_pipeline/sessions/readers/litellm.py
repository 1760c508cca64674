"""LiteLLM: standard logging payloads (JSONL or JSON) and rows of the spend logs.

Spend logs hold `"{}"` for the contents by default, and shorten long ones in the middle: such a call is set aside.
"""

import re
from collections import Counter
from collections.abc import Iterator

from grokora_pipeline.sessions.readers.bodies import exchange
from grokora_pipeline.sessions.readers.common import Source, UnreadableError, first_of, name_text, to_utc
from grokora_pipeline.sessions.readers.documents import Json, as_json, as_list, as_object, peek_objects, records
from grokora_pipeline.sessions.readers.lowering import turn
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Turn

NO_CONTENT = (
    "the spend logs hold no contents; set store_prompts_in_spend_logs: true in LiteLLM's general_settings, or log the "
    "standard payload (for example callbacks: [s3_v2] or gcs_pubsub)"
)
# Kinds of calls that no chat model answers.
_NO_CHAT = re.compile(r"embedding|image|speech|transcription|moderation|rerank|mcp_tool|file|ocr|vector_store")


def looks_like(head: bytes) -> bool:
    """Whether the first record has LiteLLM's names for a call."""
    return any(
        "call_type" in value and bool({"startTime", "model_parameters", "request_id", "spend"} & value.keys())
        for value in peek_objects(head)[:4]
    )


def read(source: Source) -> Iterator[Item]:
    """A turn a call. Raises UnreadableError for spend logs that hold no contents at all."""
    steps: Counter[str] = Counter()
    empty = turns = 0
    for record in records(source):
        if isinstance(record, Problem):
            yield record
            continue
        if not isinstance(record.value, dict) or "call_type" not in record.value:
            yield Problem("wrong_schema", record.offset, f"line {record.number} is no call of LiteLLM")
            continue
        for item in _call(source, record.value, record.number, steps):
            turns += isinstance(item, Turn)
            empty += isinstance(item, Skipped) and item.reason == "no_contents"
            yield item
    if empty and not turns:
        raise UnreadableError("no_contents", 0, NO_CONTENT)


def _call(source: Source, row: Json, number: int, steps: Counter[str]) -> Iterator[Item]:
    metadata = as_object(row.get("metadata"))
    requester = as_object(metadata.get("requester_metadata")) | as_object(metadata.get("spend_logs_metadata"))
    if row.get("status") == "failure" or (
        row.get("error_information", {}) and as_object(row["error_information"]).get("error_class")
    ):
        yield Skipped("call_failed")
        return
    if _NO_CHAT.search(name_text(row.get("call_type"))):
        yield Skipped("no_model_call")
        return
    request = as_object(row.get("proxy_server_request"))
    request = as_object(request.get("body", request))
    parameters = as_object(row.get("model_parameters"))
    messages = as_json(row.get("messages")) or request.get("messages") or request.get("input")
    response = as_json(row.get("response"))
    if not messages or not response:
        yield Skipped("no_contents")
        return
    # JSON that was shortened is no JSON any more; a plain text is an input of the Responses API
    shortened = isinstance(messages, str) and ("litellm_truncated" in messages or messages.lstrip()[:1] in ("[", "{"))
    if shortened or isinstance(response, str):
        yield Problem("cut", 0, f"line {number}: the gateway shortened this call's texts")
        return
    key = "input" if isinstance(response, dict) and response.get("object") == "response" else "messages"
    call = exchange({**request, **parameters, "model": row.get("model"), key: messages}, response)
    if call.answer is None:
        yield Skipped("no_answer")
        return
    session = name_text(first_of(requester, "session_id", "trace_id") or first_of(row, "session_id", "trace_id"))
    session = session or name_text(first_of(row, "id", "request_id"))
    tags = [tag for tag in as_list(row.get("request_tags")) if isinstance(tag, str) and tag.startswith("agent:")]
    agent = name_text(first_of(requester, "agent", "agent_name", "agent_id") or row.get("agent_id"))
    yield from turn(
        source,
        call.prompt,
        call.answer,
        session_id=session,
        agent=agent or (tags[0].removeprefix("agent:") if tags else ""),
        step=steps[session],
        started_at=to_utc(row.get("startTime")),
        line=number,
        tools=call.tools,
        completeness="delta" if call.delta else "whole",
        model=name_text(row.get("model")) or call.model,
        call=name_text(first_of(row, "id", "request_id")),
        step_failed=call.cut,
    )
    steps[session] += 1
