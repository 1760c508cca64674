"""LangSmith runs: JSON or JSONL of `{id, run_type, inputs, outputs, trace_id, …}`, as its interface exports them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.bodies import exchange
from grokora_pipeline.sessions.readers.common import Source, first_of, name_text, to_utc
from grokora_pipeline.sessions.readers.documents import Json, Shelf, as_json, as_list, as_object, peek_objects, records
from grokora_pipeline.sessions.readers.lowering import lower_all, lower_tools, turn
from grokora_pipeline.sessions.readers.outcomes import outcome_status, scored
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Status, Verdict


def looks_like(head: bytes) -> bool:
    """Whether the first record is a run."""
    return any(
        "run_type" in value and ("inputs" in value or "dotted_order" in value) for value in peek_objects(head)[:4]
    )


def read(source: Source) -> Iterator[Item]:
    """A turn an LLM run, in order of time, and the root runs' feedback as verdicts."""
    traces = Shelf()
    begins: dict[str, tuple[str, str]] = {}  # when each trace begins
    for record in records(source):
        if isinstance(record, Problem):
            yield record
        elif isinstance(record.value, dict) and "run_type" in record.value:
            for run in _with_children(record.value):
                trace = name_text(first_of(run, "trace_id", "id"))
                begins[trace] = min(begins.get(trace, _order(run)), _order(run))
                traces.add({**run, "line": record.number}, trace)
        else:
            yield Problem("wrong_schema", record.offset, f"record {record.number} is no run")
    steps: Counter[str] = Counter()
    for _, runs in traces.take(sorted(begins, key=lambda trace: begins[trace])):
        yield from _trace(source, sorted(runs, key=_order), steps)
    if not steps:
        yield Skipped("no_model_call")


def _order(run: Json) -> tuple[str, str]:
    return name_text(run.get("dotted_order")), to_utc(run.get("start_time"))


def _trace(source: Source, runs: Sequence[Json], steps: Counter[str]) -> Iterator[Item]:
    by_id = {name_text(run.get("id")): run for run in runs}
    results = {
        name_text(call): name_text(as_object(run.get("outputs")).get("output"))
        for run in runs
        if run.get("run_type") == "tool" and (call := as_object(run.get("inputs")).get("tool_call_id"))
    }
    ends = [outcome_status("error" if run.get("error") else run.get("status")) for run in runs if _is_root(run)]
    status: Status = "failure" if "failure" in ends else "unknown"
    for run in runs:
        session = _session(run, by_id)
        if run.get("run_type") == "llm":
            fields = {"session_id": session, "step": steps[session], "line": run["line"], "status": status}
            yield from _call(source, run, results, **fields)
            steps[session] += 1
        if _is_root(run):
            yield from _feedback(session, as_object(run.get("feedback_stats")))


def _is_root(run: Json) -> bool:
    return not run.get("parent_run_id")


def _with_children(run: Json) -> Iterator[Json]:
    yield run
    for child in as_list(run.get("child_runs")):
        if isinstance(child, dict):
            yield from _with_children(child)


def _session(run: Json, by_id: dict[str, Json]) -> str:
    """The session that a run, or the nearest run above it that names one, is a part of; else its trace."""
    above: Json | None = run
    for _ in range(64):
        metadata = as_object(as_object(above.get("extra")).get("metadata")) if above else {}
        if above is None or (named := name_text(first_of(metadata, "session_id", "thread_id", "conversation_id"))):
            break
        above = by_id.get(name_text(above.get("parent_run_id")))
    return named or name_text(first_of(run, "trace_id", "id"))


def _call(source: Source, run: Json, results: dict[str, str], **fields: Any) -> Iterator[Item]:
    extra = as_object(run.get("extra"))
    parameters, metadata = as_object(extra.get("invocation_params")), as_object(extra.get("metadata"))
    inputs, outputs = as_object(run.get("inputs")), as_object(run.get("outputs"))
    messages: Any = as_json(inputs.get("messages"))
    while isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], list):
        messages = messages[0]  # a batch of one
    call = exchange({**inputs, "messages": messages}, outputs) if "input" not in inputs else exchange(inputs, outputs)
    prompt = call.prompt or lower_all(as_list(inputs.get("prompts"))[:1])
    answer = call.answer or generation(outputs)
    if answer is None:
        yield Skipped("call_failed" if run.get("error") else "no_contents" if not prompt else "no_answer")
        return
    tools = call.tools or lower_tools(parameters.get("tools") or parameters.get("functions") or inputs.get("tools"))
    ids = {one["id"] for one in answer.get("tool_calls") or ()}
    yield from turn(
        source,
        prompt,
        answer,
        agent=name_text(first_of(metadata, "agent_name", "lc_agent_name", "langgraph_node")),
        started_at=to_utc(run.get("start_time")),
        tools=tools,
        completeness="whole" if prompt else "lost",
        model=name_text(first_of(parameters, "model", "model_name") or metadata.get("ls_model_name")) or call.model,
        call=name_text(run.get("id")),
        trace=name_text(run.get("trace_id")),
        result_known=bool(ids) and ids <= results.keys(),
        step_failed=call.cut or bool(run.get("error")) or outcome_status(run.get("status")) in ("failure", None),
        **fields,
    )


def generation(outputs: Any) -> Message | None:
    """The answer of LangChain's `{generations: [[{message}]]}`, `{message}`, `{output}` or `{messages: […]}`."""
    holder = as_object(outputs)
    names = ("generations", "message", "output", "messages")
    value: Any = next((holder[key] for key in names if holder.get(key)), outputs)
    while isinstance(value, list) and value:
        value = value[-1] if "messages" in holder else value[0]
    if isinstance(value, dict) and isinstance(message := value.get("message"), dict):
        value = {"generation_info": value.get("generation_info"), **message}
    lowered = lower_all([value] if isinstance(value, dict) else [])
    return next((one for one in lowered if one["role"] == "assistant"), None)


def _feedback(session: str, stats: Json) -> Iterator[Verdict]:
    """A verdict where people's or programs' scores of a run say how it went; a key's average stands for its scores."""
    rating, status = scored((key, as_object(one).get("avg")) for key, one in stats.items())
    if status != "unknown" or rating is not None:
        yield Verdict(session, status=status, rating=rating)
