"""Conversations as agent frameworks and evaluation harnesses keep them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from grokora_pipeline.sessions.readers.chats import Chat, Replay
from grokora_pipeline.sessions.readers.common import first_of, json_text, name_text, to_utc
from grokora_pipeline.sessions.readers.documents import SESSION_NAMES, Json, as_list, as_object, digest, objects_in
from grokora_pipeline.sessions.readers.lowering import lower_all, role_of
from grokora_pipeline.sessions.readers.outcomes import outcome_status, scored, stated_in
from grokora_pipeline.sessions.turns import Status


def adk(value: Json) -> Iterator[Chat]:
    """A session of Google's ADK. If several agents speak, each is told what the others said: no prompt.

    A compaction stands for the events of its time; a rewind takes back those of an invocation and all behind them.
    """
    events = [one for one in objects_in(first_of(value, "events", "sessionEvents")) if not one.get("partial")]
    said = (one.get("author") for one in events if as_object(one.get("content")).get("role") == "model")
    authors = dict.fromkeys(map(name_text, said))
    agent, started = next(iter(authors), ""), next((one.get("timestamp") for one in events), None)
    replay = Replay(Chat([], name_text(value.get("id")), agent, started=started))
    replay.chat.completeness = "reconstructed" if len(authors) == 1 else "cut"
    for one in events:
        actions = as_object(one.get("actions"))
        compaction = as_object(actions.get("compaction"))
        back = name_text(first_of(actions, "rewind_before_invocation_id", "rewindBeforeInvocationId"))
        if summary := first_of(compaction, "compacted_content", "compactedContent"):
            end = float(first_of(compaction, "end_timestamp", "endTimestamp") or 0)
            kept = [message for message in replay.messages if float(message.get("timestamp") or 0) > end]
            replay.go_on_with([as_object(summary), *kept])
        elif back:
            places = [index for index, message in enumerate(replay.messages) if message.get("invocation") == back]
            replay.take_back(places[0]) if places else None
        elif isinstance(one.get("content"), dict):
            model = first_of(one, "model_version", "modelVersion")
            facts = {"timestamp": one.get("timestamp"), "invocation": first_of(one, "invocation_id", "invocationId")}
            replay.messages.append({**one["content"], "model": model, **facts})
    yield from replay.chats()


def langgraph(value: Json) -> Iterator[Chat]:
    """A thread's state: the messages that its graph keeps. What a node adds to them for its model is not in there."""
    holder = as_object(first_of(value, "values", "channel_values")) or value
    thread = as_object(as_object(value.get("config")).get("configurable")).get("thread_id")
    yield Chat(as_list(holder.get("messages")), name_text(thread), started=value.get("created_at"))


def autogen(value: Json) -> Iterator[Chat]:
    """The state of an AutoGen team: what each agent's model was given. Its system message is not part of the state."""
    for name, agent in as_object(value["agent_states"]).items():
        state = as_object(agent)
        state = as_object(state.get("agent_state")) or state
        if messages := as_list(as_object(state.get("llm_context")).get("messages")):
            yield Chat(messages, f"team-{digest(value['agent_states'])}", name)


def letta(value: Json) -> Iterator[Chat]:
    """Letta's agent file; the prompt that it sends is made of its memory blocks and some of the messages."""
    for agent in objects_in(value.get("agents")) or [value]:
        model = name_text(as_object(agent.get("llm_config")).get("model"))
        session = name_text(first_of(agent, "id", "name"))
        tools = [as_object(tool.get("json_schema")) for tool in objects_in(value.get("tools"))]
        yield Chat(objects_in(agent.get("messages")), session, name_text(agent.get("name")), model, tools=tools)


def letta_messages(items: Sequence[Json]) -> Iterator[Chat]:
    """An agent's messages as Letta's API lists them, in either order: thoughts, calls and results stand apart."""
    kinds = {"system": "system", "user": "user", "assistant": "assistant", "tool_return": "tool"}
    ends = [to_utc(items[end].get("date")) for end in (0, -1)]
    messages: list[Json] = []
    for one in items[::-1] if ends[0] > ends[1] else items:
        kind = name_text(one.get("message_type")).removesuffix("_message")
        if kind == "tool_return":
            failed = one.get("status") == "error"
            messages.append({"role": "tool", **one, "content": one.get("tool_return"), "is_error": failed})
        elif kind in kinds:
            messages.append({"role": kinds[kind], "content": one.get("content")})
        elif kind.endswith("_call"):  # also of a call that waits for a person's approval
            calls = objects_in(one.get("tool_calls")) or [as_object(one.get("tool_call"))]
            messages.append({"role": "assistant", "tool_calls": calls})
        elif kind in ("reasoning", "hidden_reasoning"):
            messages.append({"role": "assistant", "content": [{"type": "thinking", "text": one.get("reasoning")}]})
    yield Chat(messages, agent=name_text(items[0].get("agent_id")), started=min(ends), completeness="reconstructed")


def smolagents(steps: Sequence[Json]) -> Iterator[Chat]:
    """The steps of a smolagents run: each holds what its model was given, and what it said."""
    steps = objects_in(steps[0].get("steps")) or steps  # of a run's result
    session = f"run-{digest([step.get('task') for step in steps if step.get('task')])}"
    for step in steps:
        if isinstance(step.get("model_input_messages"), list) and step.get("model_output_message"):
            answer = {**as_object(step["model_output_message"]), "failed": bool(step.get("error"))}
            messages = [*step["model_input_messages"], answer]
            at = as_object(step.get("timing")).get("start_time")
            yield Chat(messages, session, "smolagents", started=at, completeness="whole", last_only=True)


def pydantic_ai(items: Sequence[Json]) -> Iterator[Chat]:
    """A message history of Pydantic AI, alone or in a session of Rovo Dev; a request holds parts of several roles."""
    messages: list[Any] = []
    document = items[0] if "message_history" in items[0] else {}
    for item in objects_in(document.get("message_history")) or items:
        role = "assistant" if item.get("kind") == "response" else "user"
        if item.get("instructions") and not messages:  # each request repeats them, and the model sees them once
            messages.append({"role": "system", "content": item["instructions"]})
        for part in objects_in(item.get("parts")):
            kind = part.get("part_kind")
            if kind in ("system-prompt", "user-prompt"):
                messages.append({"role": kind.split("-")[0], "content": part.get("content")})
            else:
                own = {key: item.get(key) for key in ("model_name", "finish_reason", "timestamp")}
                messages.append({"role": role, "content": [part], **own})
    yield Chat(messages, name_text(document.get("id")), "rovo-dev" if document else "", completeness="whole")


def ui_messages(items: Sequence[Json]) -> Iterator[Chat]:
    """UI messages of the Vercel AI SDK, as its chat templates store them."""
    first = items[0]
    own = objects_in(first["messages"]) if "messages" in first else list(items)
    messages = [{**one, "content": one.get("parts") or one.get("content")} for one in own]
    yield Chat(messages, name_text(first.get("id")) if "messages" in first else "")


def inspect(value: Json) -> Iterator[Chat]:
    """A log of Inspect AI, or one sample of an unpacked one: a sample's messages are all that its model saw."""
    facts = as_object(value.get("eval"))
    for sample in objects_in(value["samples"]) if "samples" in value else [value]:
        names = (first_of(facts, "run_id", "task") or sample.get("uuid"), sample.get("id"), sample.get("epoch"))
        name = "-".join(filter(None, map(name_text, names)))
        model = name_text(facts.get("model") or as_object(sample.get("output")).get("model"))
        attachments = as_object(sample.get("attachments"))
        values = [as_object(one).get("value") for one in as_object(sample.get("scores")).values()]
        _, status = scored((("score", value) for value in values), least=1)
        if sample.get("error") or sample.get("limit"):
            status = "failure"
        task = f"{name_text(facts.get('task'))} {name_text(sample.get('id'))}"
        messages = _attached(objects_in(sample.get("messages")), attachments)
        choice = next(iter(objects_in(as_object(sample.get("output")).get("choices"))), {})
        if messages and messages[-1].get("role") == "assistant":
            messages[-1]["finish_reason"] = choice.get("stop_reason")
        at = facts.get("created")
        yield Chat(messages, name, "", model, at, completeness="whole", status=status, task=task.strip())


KERNEL_CONTENTS = ("Items", "Content", "items", "content")


def semantic_kernel(items: Sequence[Json]) -> Iterator[Chat]:
    """A chat history of Semantic Kernel (.NET); if several agents speak, each has instructions of its own."""
    messages = objects_in(items[0].get("messages")) or list(items)
    said = (first_of(one, "AuthorName", "authorName") for one in messages if role_of(one) == "assistant")
    agents = list(dict.fromkeys(filter(None, map(name_text, said))))
    yield Chat(messages, agent="".join(agents[:1]), completeness="cut" if len(agents) > 1 else "reconstructed")


def nemo_gym(value: Json) -> Iterator[Chat]:
    """A rollout of NeMo Gym: what the agent was given, all that its model said and was told, and the reward."""
    request, reply = as_object(value["responses_create_params"]), as_object(value["response"])
    turns = request.get("input")
    said = [{**one, "earlier": True} for one in objects_in(turns)] or [{"role": "user", "content": turns}]
    if request.get("instructions"):
        said = [{"role": "system", "content": request["instructions"]}, *said]
    for one in objects_in(reply.get("output")):  # its servers write all of an open model's reasoning as the summary
        thoughts = [{"type": "thinking", "text": part.get("text")} for part in objects_in(one.get("summary"))]
        said.append({**one, "content": thoughts} if one.get("type") == "reasoning" else one)
    status = _rewarded(value.get("reward"))
    agent, model = name_text(as_object(value.get("agent_ref")).get("name")), name_text(reply.get("model"))
    name, started, tools = name_text(reply.get("id")), reply.get("created_at"), request.get("tools")
    yield Chat(said, name, agent, model, started, tools, completeness="whole", status=status)


def trae(value: Json) -> Iterator[Chat]:
    """A trajectory of trae-agent, whose calls tell what is new since the one before; one with a prompt begins anew."""
    calls = objects_in(value["llm_interactions"])
    status = stated_in({"success": value.get("success")})
    first = objects_in(calls[0].get("input_messages")) if calls else []
    name = name_text(first_of(value, *SESSION_NAMES)) or f"trae-{digest([value.get('start_time'), first])}"
    model = name_text(value.get("model"))
    chat = Chat([], name, "trae-agent", model, value.get("start_time"), completeness="whole", status=status)
    replay = Replay(chat)
    for one in calls:
        asked = objects_in(one.get("input_messages"))
        if asked and role_of(asked[0]) == "system" and replay.messages:
            replay.go_on_with([])
            replay.messages = [{**message, "earlier": True} for message in asked]
        else:
            replay.messages += asked
        replay.messages.append({**as_object(one.get("response")), "role": "assistant"})
    yield from replay.chats()


def browser_use(value: Json) -> Iterator[Chat]:
    """The steps of a run of browser-use: what its model was shown (newer versions keep it), and its answer, in JSON."""
    steps = objects_in(value["history"])
    session = f"run-{digest([[one.get('state_message'), one.get('metadata')] for one in steps[:1]])}"
    last = objects_in(steps[-1].get("result"))[-1:] if steps else []
    status = outcome_status(last[0].get("success")) if last and last[0].get("is_done") else "unknown"
    for number, step in enumerate(steps):
        said = {key: one for key, one in as_object(step.get("model_output")).items() if one is not None}
        failed = any(one.get("error") for one in objects_in(step.get("result")))
        answer = {"role": "assistant", "content": json_text(said) if said else "", "failed": failed}
        asked = [{"role": "user", "content": step["state_message"]}] if step.get("state_message") else []
        at = as_object(step.get("metadata")).get("step_start_time")
        chat = Chat([*asked, answer], session, "browser-use", started=at, last_only=True, status=status or "failure")
        yield replace(chat, first_step=number, completeness="reconstructed" if asked else "lost")


def tau(value: Json) -> Iterator[Chat]:
    """A trial of τ-bench, or the simulations of τ²-bench. Trials of a task are one task, on one side of the split."""
    if "environment_info" in (info := as_object(value.get("info"))):
        for index, one in enumerate(objects_in(value.get("simulations"))):
            yield replace(_simulation(info, one), place=index)
        return
    messages, task = objects_in(value["traj"]), name_text(value["task_id"])
    session = f"task-{task}:trial-{name_text(value.get('trial'))}-{digest(lower_all(messages))}"
    asked = f"task {task}: {name_text(as_object(info.get('task')).get('instruction'))}"
    started, status = value.get("timestamp"), _rewarded(value.get("reward"))
    yield Chat(messages, session, started=started, completeness="whole", status=status, task=asked)


def _simulation(info: Json, simulation: Json) -> Chat:
    """One simulation of τ²-bench, as its agent sees it: without the calls that the simulated person makes.

    The system prompt is made of the policy. The first greeting is the benchmark's own.
    """
    environment, agent = as_object(info["environment_info"]), as_object(info.get("agent_info"))
    seen: list[Json] = [{"role": "system", "content": environment.get("policy")}]
    for one in objects_in(simulation.get("messages")):
        if one.get("role") == "user":
            seen.append({**one, "tool_calls": None})
        elif one.get("role") != "tool" or one.get("requestor") != "user":
            seen.append({**one, "earlier": len(seen) == 1})
    task = name_text(simulation.get("task_id"))
    status = _rewarded(as_object(simulation.get("reward_info")).get("reward"))
    if name_text(simulation.get("termination_reason")).rpartition(".")[2] not in ("", "agent_stop", "user_stop"):
        status = "failure"  # such a run is not always given a reward
    return Chat(
        seen,
        name_text(simulation.get("id")) or f"task-{task}:trial-{digest(lower_all(seen))}",
        name_text(agent.get("implementation")),
        name_text(agent.get("llm")),
        first_of(simulation, "start_time", "timestamp"),
        environment.get("tool_defs"),
        status=status,
        task=f"{name_text(environment.get('domain_name'))} task {task}",
    )


def _rewarded(reward: object) -> Status:
    """What a reward from 0 to 1 says of a run: less than all of it is no success."""
    return "unknown" if not isinstance(reward, int | float) else "success" if reward >= 1 else "failure"


def is_item(value: Json) -> bool:
    """Whether it is an item of a conversation of the Responses API, which no message of another API looks like."""
    parts = {name_text(part.get("type")) for part in objects_in(value.get("content"))}
    is_call = value.get("type") in ("function_call", "function_call_output") and "call_id" in value
    return is_call or (value.get("type") == "message" and bool(parts & {"input_text", "output_text"}))


def openai_items(items: Sequence[Json]) -> Iterator[Chat]:
    """The items of one conversation, as the API lists them (the newest first by default) or in their order."""
    kinds = [(name_text(one.get("type")).endswith("_call_output"), one.get("call_id")) for one in items]
    answered = next((call for is_result, call in kinds if is_result), None)
    if answered is None:
        backwards = items[0].get("role") == "assistant" and items[-1].get("role") == "user"
    else:
        backwards = (False, answered) not in kinds[: kinds.index((True, answered))]
    # of a list that goes on, the oldest are on another page; before a compaction the model saw what is encrypted
    partly = (backwards and items[0].get("has_more") is True) or any(one.get("type") == "compaction" for one in items)
    yield Chat(items[::-1] if backwards else items, completeness="delta" if partly else "reconstructed")


def _attached(value: Any, attachments: Json) -> Any:
    """A value with the texts that Inspect keeps once, beside the messages, in their places."""
    if isinstance(value, str) and value.startswith("attachment://"):
        return attachments.get(value.removeprefix("attachment://"), "<truncated due to a missing attachment>")
    if isinstance(value, dict):
        return {key: _attached(one, attachments) for key, one in value.items()}
    return [_attached(one, attachments) for one in value] if isinstance(value, list) else value
