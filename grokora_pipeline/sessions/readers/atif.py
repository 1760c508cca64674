"""ATIF trajectories (Harbor RFC 0001, up to 1.8): one JSON document a run, sub-agents inside of it or beside it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.common import Source, UnreadableError, name_text, parse_object, to_utc
from grokora_pipeline.sessions.readers.documents import Json, as_list, as_object, peek_objects, records
from grokora_pipeline.sessions.readers.lowering import (
    MAX_PROMPT_CHARS,
    calls_in,
    chars,
    content_session,
    infer_tools,
    lower,
    lower_tools,
    result_text,
    results_after,
    turn,
)
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Verdict

_ROLES = {"system": "system", "user": "user", "agent": "assistant"}


def looks_like(head: bytes) -> bool:
    """Whether it is a trajectory, or an object whose members are trajectories."""
    return any(
        _is_trajectory(value) or any(_is_trajectory(one) for one in value.values()) for value in peek_objects(head)[:1]
    )


def _is_trajectory(value: Any) -> bool:
    return isinstance(value, dict) and (
        name_text(value.get("schema_version")).startswith("ATIF") or ("steps" in value and "agent" in value)
    )


def read(source: Source) -> Iterator[Item]:
    """A turn an agent's step that called a model and is no copy, and the reward that lies beside the file."""
    roots: list[Json] = []
    head = source.head(64 << 10)
    values = peek_objects(head)
    # a list or JSONL; a single document may be cut, and what is whole of it is read below
    has_several = head.lstrip()[:1] == b"[" or (len(values) > 1 and all(map(_is_trajectory, values[:2])))
    for record in records(source) if has_several else ():
        if isinstance(record, Problem):
            yield record
        elif _is_trajectory(record.value):
            roots.append(record.value)
    if not roots:
        document, problems = parse_object(source.read())
        yield from problems
        roots = [document] if _is_trajectory(document) else [one for one in document.values() if _is_trajectory(one)]
    if not roots:
        raise UnreadableError("wrong_schema", 0, "no trajectory: `schema_version`, `agent` and `steps` are missing")
    parents = {child: _session(root) for root in roots for child in _references(root)}
    for root in roots:
        session = _session(root)
        yield from _trajectory(source, root, session, parents.get(session, ""))
    reward = _reward(source.path)
    if reward is not None and roots:
        yield Verdict(_session(roots[0]), status="success" if reward >= 1 else "failure")


def _session(trajectory: Json) -> str:
    steps = [step for step in as_list(trajectory.get("steps")) if isinstance(step, dict)]
    named = name_text(trajectory.get("session_id"))
    return named or content_session("atif", [one for step in steps for one in _messages(step)])


def _references(trajectory: Json) -> Iterator[str]:
    """The sessions that a trajectory's sub-agents have."""
    for step in as_list(trajectory.get("steps")):
        for result in as_list(as_object(as_object(step).get("observation")).get("results")):
            for reference in as_list(as_object(result).get("subagent_trajectory_ref")):
                yield name_text(as_object(reference).get("session_id") or as_object(reference).get("trajectory_id"))


def _trajectory(source: Source, trajectory: Json, session: str, parent: str) -> Iterator[Item]:
    agent = as_object(trajectory.get("agent"))
    steps = [step for step in as_list(trajectory.get("steps")) if isinstance(step, dict)]
    lowered = [_messages(step) for step in steps]
    tools = lower_tools(agent.get("tool_definitions"))
    inferred = None if tools else infer_tools(calls_in(one for messages in lowered for one in messages))
    context: list[Message] = []
    size = calls = 0
    for number, (step, messages) in enumerate(zip(steps, lowered, strict=True)):
        if step.get("source") == "agent" and messages and messages[0]["role"] == "assistant":
            if step.get("is_copied_context"):
                yield Skipped("copied_history")
            elif step.get("llm_call_count") == 0:
                yield Skipped("no_model_call")
            elif size > MAX_PROMPT_CHARS:
                yield Skipped("prompt_too_long")
            else:
                known, failed = results_after(messages[0], messages[1:])
                yield from turn(
                    source,
                    context,
                    messages[0],
                    session_id=session,
                    parent_session_id=parent,
                    agent=name_text(agent.get("name")),
                    step=calls,
                    started_at=to_utc(step.get("timestamp")),
                    line=number + 1,
                    tools=tools,
                    inferred=inferred,
                    model=name_text(step.get("model_name") or agent.get("model_name")),
                    call=f"{session}:{step.get('step_id', number + 1)}",
                    result_known=known,
                    step_failed=failed,
                )
            calls += 1
        context += messages
        size += sum(map(chars, messages))
    inner = trajectory.get("subagent_trajectories")
    for index, child in enumerate(inner.values() if isinstance(inner, dict) else as_list(inner)):
        if _is_trajectory(child):
            name = name_text(child.get("session_id") or child.get("trajectory_id")) or f"{session}:{index}"
            yield from _trajectory(source, child, name if name != session else f"{session}:{index}", session)


def _messages(step: Json) -> list[Message]:
    """What a step adds to the prompt: its message, and the results of its calls."""
    role = _ROLES.get(name_text(step.get("source")), "")
    if not role:
        return []
    message = {"role": role, "content": step.get("message")}
    if role == "assistant":
        message |= {"tool_calls": step.get("tool_calls"), "reasoning_content": step.get("reasoning_content")}
    messages = lower(message)
    for result in as_list(as_object(step.get("observation")).get("results")):
        if not isinstance(result, dict):
            continue
        text, call = result_text(result.get("content")), name_text(result.get("source_call_id"))
        if call:
            failed = {"is_error": True} if result.get("is_error") is True else {}
            messages.append({"role": "tool", "tool_call_id": call, "content": text, **failed})
        elif text:
            messages.append({"role": "user", "content": text})  # an observation that answers no call
    return messages


def _reward(path: Path) -> float | None:
    """The verifier's reward: `verifier/reward.txt` or `result.json`, beside the trajectory or one folder above."""
    for folder in (path.parent, path.parent.parent):
        for name in ("verifier/reward.txt", "reward.txt", "result.json", "verifier/reward.json"):
            file = folder / name
            if file.is_symlink() or not file.is_file() or file.stat().st_size > 1 << 20:
                continue
            text = Source(file, name).read(1 << 20)
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError:
                continue
            if isinstance(value, dict):
                inner = as_object(value.get("verifier_result"))
                value = value.get("reward", as_object(inner.get("rewards")).get("reward", inner.get("reward")))
            if isinstance(value, int | float):
                return float(value)
    return None
