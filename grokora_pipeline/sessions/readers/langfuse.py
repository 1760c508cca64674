"""Langfuse: exported traces, `{trace, observations}`, a list of them, or observations alone.

What a generation's input holds depends on the framework that was traced: the whole chat, only the new message, a text
with the roles flattened into it, or nothing. Each is told apart, and only whole prompts are learnt.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.bodies import exchange
from grokora_pipeline.sessions.readers.common import Source, first_of, loads, name_text, to_utc
from grokora_pipeline.sessions.readers.documents import (
    Json,
    Shelf,
    as_json,
    as_list,
    as_object,
    is_cut_json,
    peek_objects,
    records,
)
from grokora_pipeline.sessions.readers.lowering import lower_all, lower_tools, results_after, starts_midway, turn
from grokora_pipeline.sessions.readers.outcomes import outcome_status, score
from grokora_pipeline.sessions.turns import Completeness, Item, Problem, Skipped, Verdict

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-", re.IGNORECASE)
_ONLY_IDS = "a trace that names its observations and does not hold them; export the observations, or each trace whole"
_FLAT = re.compile(r"\s*(?:system|user|human|assistant|ai)\s*: ", re.IGNORECASE)


def looks_like(head: bytes) -> bool:
    """Whether the first record is a trace with observations, or an observation."""
    return any(
        ("trace" in value and "observations" in value)
        or ("observations" in value and ("projectId" in value or "scores" in value))
        or (
            {"traceId", "type", "startTime"} <= value.keys()
            and ("parentObservationId" in value or value["type"] == "GENERATION")
        )
        or {"trace_id", "type", "start_time", "parent_observation_id"} <= value.keys()  # exports to a bucket
        or _is_score(value)
        for value in peek_objects(head)[:4]
    )


def _is_score(value: Json) -> bool:
    """Whether it is a score, as a table of scores exports it."""
    return {"name", "value"} < value.keys() and not value.keys().isdisjoint(("dataType", "data_type"))


def read(source: Source) -> Iterator[Item]:
    """A turn a generation, in order of time, and the trace's scores as its verdict."""
    loose, sessions, scores = Shelf(), dict[str, str](), list[Json]()
    steps: Counter[str] = Counter()
    for record in records(source):
        if isinstance(record, Problem):
            yield record
            continue
        value = as_object(record.value)
        if not value.keys().isdisjoint(("parent_observation_id", "data_type")):
            value = {re.sub(r"_([a-z])", lambda match: match[1].upper(), key): one for key, one in value.items()}
        observations = value.get("observations")
        if isinstance(observations, list):
            trace = as_object(value.get("trace")) or value
            if observations and not any(isinstance(one, dict) for one in observations):
                yield Problem("no_contents", record.offset, f"record {record.number}: {_ONLY_IDS}")
            yield from _trace(source, trace, [one for one in observations if isinstance(one, dict)], steps)
        elif _is_score(value):
            scores.append(value)
        elif "traceId" in value:
            loose.add(value, name_text(value["traceId"]))
        else:
            yield Problem("wrong_schema", record.offset, f"record {record.number} is no trace")
    for trace_id, observations in loose.take():
        session = name_text(next((one["sessionId"] for one in observations if one.get("sessionId")), trace_id))
        sessions[trace_id] = session
        yield from _trace(source, {"id": trace_id, "sessionId": session}, observations, steps)
    for one in scores:
        trace_id = name_text(one.get("traceId"))
        yield from _scores(name_text(one.get("sessionId")) or sessions.get(trace_id, trace_id), [one])


def _trace(source: Source, trace: Json, observations: list[Json], steps: Counter[str]) -> Iterator[Item]:
    session = name_text(first_of(trace, "sessionId", "id")) or source.name
    by_id = {name_text(one.get("id")): one for one in observations}
    observations.sort(key=lambda one: (to_utc(one.get("startTime")), name_text(one.get("id"))))
    generations = [one for one in observations if one.get("type") == "GENERATION"]
    # The Vercel SDK wraps each call in an outer generation: the call stands in the inner one.
    outer = {name_text(one.get("parentObservationId")) for one in generations}
    generations = [one for one in generations if name_text(one.get("id")) not in outer]
    if not generations:
        yield Skipped("no_model_call")
    roots = [one for one in observations if name_text(one.get("parentObservationId")) not in by_id]
    is_lost = any(one.get("level") == "ERROR" and one.get("type") != "GENERATION" for one in roots)
    readings = [read_generation(one) for one in generations]
    results = {one["tool_call_id"]: one for prompt, *_ in readings for one in prompt if one["role"] == "tool"}
    for one, reading in zip(generations, readings, strict=True):
        prompt, answer, tools, state = reading
        if state == "whole" and (recorded := _agents_input(one, by_id)) and recorded[1:] == prompt:
            prompt, state = recorded, "reconstructed"
        if state in ("whole", "reconstructed") and starts_midway(prompt):
            state = "delta"
        if any(is_cut_json(one.get(key)) for key in ("input", "output")):
            state = "cut"
        if answer is None:
            yield Skipped("no_answer")
            continue
        ids = [call["id"] for call in answer.get("tool_calls") or ()]
        own_results = [results[call] for call in ids if call in results]
        known, failed = results_after(answer, own_results)
        yield from turn(
            source,
            prompt,
            answer,
            session_id=session,
            agent=_agent(one, by_id),
            step=steps[session],
            started_at=to_utc(one.get("startTime")),
            tools=tools,
            completeness=state,
            model=name_text(first_of(one, "model", "internalModel", "providedModelName")),
            call=name_text(one.get("id")),
            trace=name_text(trace.get("id")),
            result_known=known,
            status="failure" if is_lost else "unknown",
            step_failed=failed or one.get("level") == "ERROR",
        )
        steps[session] += 1
    yield from _scores(session, as_list(trace.get("scores")))


def read_generation(one: Mapping[str, Any]) -> tuple[list[Message], Message | None, list[Json] | None, Completeness]:
    """Prompt, answer, tools and the prompt's completeness of a GENERATION."""
    body, output, metadata = as_json(one.get("input")), as_json(one.get("output")), as_object(one.get("metadata"))
    if body is not one.get("input") and isinstance(output, str) and output[:1] == output[-1:] == '"':
        output = loads(f"[{output}]")[0]  # an export that writes each content as JSON, texts too
    if isinstance(body, dict) and isinstance(body.get("messages"), list | str):
        body = {**body, "messages": as_json(body["messages"])}
    if isinstance(body, dict) and ("contents" in body or isinstance(body.get("messages"), list) or "input" in body):
        call = exchange(body, output)
        answer = call.answer or _answer(output)
        return call.prompt, answer, call.tools or _tools(one, metadata), "whole" if call.prompt else "lost"
    if isinstance(output, dict) and output.get("object") == "response":
        call = exchange({"input": body}, output)
        # the instructions stand in the reply alone, not in what Langfuse calls the input
        state: Completeness = "reconstructed" if output.get("instructions") else "whole"
        state = state if body else "lost"
        return call.prompt, call.answer, call.tools or _tools(one, metadata), state
    tools = _tools(one, metadata)
    if isinstance(body, list):
        offered = lower_tools([as_object(item.get("content")) for item in body if _is_tool_message(item)])
        messages = lower_all([item for item in body if not _is_tool_message(item)])
        system = as_list(as_object(metadata.get("attributes")).get("gen_ai.system_instructions"))
        if system and messages and messages[0]["role"] != "system":
            messages = [*lower_all([{"role": "system", "parts": system}]), *messages]
            return messages, _answer(output), tools or offered, "reconstructed"
        return messages, _answer(output), tools or offered, "whole" if messages else "lost"
    if isinstance(body, str) and body:
        flat: Completeness = "lost" if _FLAT.match(body) else "whole"  # the roles are part of the text
        return [{"role": "user", "content": body}], _answer(output), tools, flat
    if isinstance(body, dict) and body.get("role") and body.get("content"):
        return (
            lower_all([body]),
            _answer(output),
            tools,
            "delta",
        )  # one message, which a list would hold if it were all
    if isinstance(body, dict) and isinstance(body.get("prompt"), str | list):
        prompt = [{"role": "user", "content": body["prompt"]}] if isinstance(body["prompt"], str) else body["prompt"]
        system = [{"role": "system", "content": body["system"]}] if isinstance(body.get("system"), str) else []
        return lower_all([*system, *prompt]), _answer(output), tools, "whole"
    return [], _answer(output), tools, "lost"


def _is_tool_message(item: Any) -> bool:
    """LangChain hands the tools to Langfuse as messages whose content is a schema."""
    if not isinstance(item, dict) or item.get("role") != "tool" or item.get("tool_call_id"):
        return False
    content = as_object(item.get("content"))
    return content.get("type") == "function" and "function" in content


def _answer(output: Any) -> Message | None:
    if isinstance(output, str):
        return {"role": "assistant", "content": output} if output else None
    if isinstance(output, dict):
        choices = output.get("choices")
        if isinstance(choices, list):
            return exchange({"messages": []}, output).answer
        content = output.get("content")
        if isinstance(content, dict):
            output = content
        output = [output]
    if not isinstance(output, list):
        return None
    if output and all(isinstance(part, dict) and "toolName" in part for part in output):  # Vercel: the calls alone
        output = [{"role": "assistant", "content": "", "tool_calls": output}]
    items = [
        {"role": "assistant", **item} if isinstance(item, dict) and "role" not in item else item for item in output
    ]
    lowered = [one for one in lower_all([_spoken_calls(item) for item in items]) if one["role"] == "assistant"]
    return lowered[0] if lowered else None


def _spoken_calls(item: Any) -> Any:
    """Koog writes the calls of an answer as JSON text into its content."""
    if (
        not isinstance(item, dict)
        or item.get("finish_reason") != "tool_calls"
        or not isinstance(item.get("content"), str)
    ):
        return item
    calls = as_json(item["content"])
    if isinstance(calls, list) and calls and all(isinstance(call, dict) and "function" in call for call in calls):
        return {**item, "content": "", "tool_calls": calls}
    return item


def _tools(one: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[Json] | None:
    """Tool schemas, wherever the framework put them."""
    attributes = as_object(metadata.get("attributes"))
    parameters = as_object(attributes.get("model_request_parameters"))
    numbered = [
        value for name, value in attributes.items() if re.fullmatch(r"llm\.tools\.\d+\.tool\.json_schema", name)
    ]
    definitions = as_json(one.get("toolDefinitions"))
    if isinstance(definitions, dict):  # name -> JSON text of the schema
        definitions = [{"name": name, **as_object(value)} for name, value in definitions.items()]
    candidates = (
        definitions,
        metadata.get("tools"),
        attributes.get("gen_ai.tool.definitions"),
        [*as_list(parameters.get("function_tools")), *as_list(parameters.get("output_tools"))],
        attributes.get("ai.prompt.tools"),
        numbered,
        as_object(one.get("modelParameters")).get("tools"),
    )
    return next((tools for candidate in candidates if (tools := lower_tools(candidate))), None)


def _agents_input(one: Json, by_id: Mapping[str, Json]) -> list[Message]:
    """What the agent above a generation was given, if it starts with instructions, which the generation may lack."""
    above = by_id.get(name_text(one.get("parentObservationId")), {})
    recorded = as_json(above.get("input")) if above.get("type") == "AGENT" else None
    messages = lower_all(recorded) if isinstance(recorded, list) else []
    return messages if messages and messages[0]["role"] == "system" else []


def _agent(one: Json, by_id: Mapping[str, Json]) -> str:
    """The agent: an attribute of the generation, else the nearest AGENT observation above it."""
    metadata = as_object(one.get("metadata"))
    attributes = as_object(metadata.get("attributes"))
    name = first_of(attributes, "gen_ai.agent.name", "agent.name", "agent_name") or first_of(
        metadata, "agent_name", "langgraph_node"
    )
    above: Json | None = one
    for _ in range(64):
        above = by_id.get(name_text(above.get("parentObservationId"))) if above else None
        if name or above is None:
            break
        if above.get("type") == "AGENT":
            attributes = as_object(as_object(above.get("metadata")).get("attributes"))
            name = first_of(attributes, "gen_ai.agent.name", "agent.name") or name_text(above.get("name"))
            bracketed = re.search(r"\[(.+)\]", name)  # ADK: agent_run [name]
            # a name with an id in it is new in each run, and tells nothing
            name = "" if _UUID.search(name) else bracketed[1] if bracketed else name
    return name_text(name)


def _scores(session: str, scores: list[Any]) -> Iterator[Verdict]:
    """A verdict for each score that says how the trace went: a truth value, a number, a word, or a rating."""
    for one in map(as_object, scores):
        value: Any = first_of(one, "stringValue", "value")
        value = outcome_status(value) == "success" if one.get("dataType") == "BOOLEAN" else value
        rating, status = score(one.get("name"), value)
        if status != "unknown" or rating is not None:
            # a bad score of one generation leaves the others what they are
            blamed = name_text(one.get("observationId")) if status == "failure" else ""
            at = to_utc(first_of(one, "timestamp", "createdAt"))
            yield Verdict(session, status=status, rating=rating, blamed_call=blamed, at=at)
