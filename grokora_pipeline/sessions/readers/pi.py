"""Pi (pi-mono) sessions: JSONL, a tree by `id` and `parentId` (older files: in order)."""

from collections.abc import Iterator, Mapping
from typing import Any

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.common import Source, name_text, user
from grokora_pipeline.sessions.readers.documents import as_object, digest, moment, peek_objects, records
from grokora_pipeline.sessions.readers.lowering import (
    MAX_PROMPT_CHARS,
    calls_in,
    chars,
    infer_tools,
    lower,
    pair_results,
    results_after,
    turn,
)
from grokora_pipeline.sessions.turns import Item, Problem, Skipped

AGENT = "pi"
_STOPPED = {"aborted", "error"}  # no whole answer of the model
_NO_MODEL = {"delivery-mirror", "gateway-injected"}  # what OpenClaw itself puts in as the model


def looks_like(head: bytes) -> bool:
    """Whether the first line is a session's header and messages follow."""
    values = peek_objects(head)
    return (
        bool(values)
        and values[0].get("type") == "session"
        and "id" in values[0]
        and (len(values) == 1 or any("message" in value or "parentId" in value for value in values[1:]))
    )


def read(source: Source) -> Iterator[Item]:
    """A turn an answer; what a person pruned or compacted is not in later prompts."""
    entries: list[tuple[int, dict[str, Any]]] = []
    header: dict[str, Any] = {}
    for record in records(source):
        if isinstance(record, Problem):
            yield record
        elif isinstance(record.value, dict):
            if record.value.get("type") == "session":
                if entries and header.get("id") != record.value.get("id"):  # several sessions in one file
                    yield from _turns(source, header, entries)
                    header, entries = {}, []
                header = header or record.value
            else:
                entries.append((record.number, record.value))
        else:
            yield Problem("wrong_schema", record.offset, f"line {record.number} is no JSON object")
    yield from _turns(source, header, entries)


def _turns(source: Source, header: Mapping[str, Any], entries: list[tuple[int, dict[str, Any]]]) -> Iterator[Item]:
    session = name_text(header.get("id")) or source.name
    paths: dict[
        str, tuple[list[Message], int, list[str]]
    ] = {}  # entry -> context after it, its size, entry of each message
    said = [message for _, entry in entries for message in _messages(entry)]
    results = {message["tool_call_id"]: message for message in said if message["role"] == "tool"}
    tools = infer_tools(calls_in(said))
    last, step, model = "", 0, name_text(header.get("modelId"))
    seen: set[str] = set()
    for number, entry in entries:
        own = name_text(entry.get("id")) or f"line-{number}"
        if own in seen:
            continue  # a copy of the entry
        seen.add(own)
        parent = entry.get("parentId", last)
        known = paths.get(name_text(parent))
        context, size, owners = known or ([], 0, [])
        complete = known is not None or not parent
        message = as_object(entry.get("message"))
        if entry.get("type") == "compaction":
            kept = entry.get("firstKeptEntryId")
            start = owners.index(kept) if kept in owners else len(context)
            context = [user(name_text(entry.get("summary"))), *context[start:]]
            size, owners = sum(map(chars, context)), [own, *owners[start:]]
        elif entry.get("type") == "model_change":
            model = name_text(entry.get("modelId")) or model
        elif (end := name_text(message.get("stopReason"))) in _STOPPED:
            yield Skipped("broken_off" if end == "aborted" else "call_failed")
        else:
            for lowered in _messages(entry):
                if lowered["role"] == "assistant":
                    if message.get("model") in _NO_MODEL or size > MAX_PROMPT_CHARS:
                        yield Skipped("prompt_too_long" if size > MAX_PROMPT_CHARS else "no_model_call")
                    else:
                        own_results = [results[call["id"]] for call in calls_in([lowered]) if call["id"] in results]
                        whole, failed = results_after(lowered, own_results)
                        yield from turn(
                            source,
                            context,
                            lowered,
                            session_id=session,
                            agent=AGENT,
                            step=step,
                            started_at=moment(entry, message, header),
                            line=number,
                            inferred=tools,
                            completeness="reconstructed" if complete else "delta",
                            model=name_text(message.get("model")) or model,
                            call=digest([entry.get("timestamp"), lowered]),
                            result_known=whole,
                            step_failed=failed or message.get("stopReason") == "length",
                        )
                    step += 1
                if size <= MAX_PROMPT_CHARS:
                    context, owners = [*context, lowered], [*owners, own]
                    size += chars(lowered)
        paths[own] = (context, size, owners)
        last = own


def _messages(entry: Mapping[str, Any]) -> list[Message]:
    """What an entry adds to the prompt."""
    message = as_object(entry.get("message"))
    if entry.get("type") == "branch_summary":
        return [user(name_text(entry.get("summary")))]
    if entry.get("type") == "custom_message":
        return lower({"role": "user", "content": entry.get("content")})
    if message.get("role") == "bashExecution":  # a command of the person's own, shown to the model as user text
        return [user(f"$ {name_text(message.get('command'))}\n{name_text(message.get('output'))}")]
    return pair_results(lower(message)) if message else []
