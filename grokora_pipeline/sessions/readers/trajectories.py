"""Trajectories of benchmark runs: SWE-agent (`.traj`) and mini-swe-agent.

The calls are taken from what was sent to the model (`history`, `messages`), never from a summary of the steps.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.chats import divided
from grokora_pipeline.sessions.readers.common import Source, UnreadableError, name_text, parse_object
from grokora_pipeline.sessions.readers.documents import (
    Json,
    Shelf,
    as_json,
    as_object,
    moment,
    objects_in,
    peek,
    peek_objects,
    records,
)
from grokora_pipeline.sessions.readers.lowering import (
    content_session,
    explode,
    join_calls,
    lower,
    lower_tools,
    pair_results,
    role_of,
    says_who,
)
from grokora_pipeline.sessions.readers.outcomes import exit_status
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Status, Verdict


def looks_like_swe_agent(head: bytes) -> bool:
    """Whether it is an object with SWE-agent's history."""
    return any(
        (isinstance(value.get("history"), list) and any("message_type" in as_object(one) for one in value["history"]))
        or ("trajectory" in value and ("history" in value or "environment" in value or "replay_config" in value))
        for value in peek_objects(head)[:1]
    )


def read_swe_agent(source: Source) -> Iterator[Item]:
    """A turn an answer in the history; demonstrations are context, and each agent in it has its own prompt."""
    document, problems = parse_object(source.read())
    yield from problems
    info = as_object(document.get("info"))
    history = objects_in(document.get("history"))
    if not history:
        raise UnreadableError("wrong_schema", 0, "a SWE-agent trajectory without `history`: the prompts are not in it")
    agents = dict.fromkeys(name_text(one.get("agent")) or "main" for one in history)
    config = as_object(as_json(document.get("replay_config")))
    model = name_text(as_object(as_object(config.get("agent")).get("model")).get("name"))
    tools = lower_tools(as_object(as_object(config.get("agent")).get("tools")).get("tools"))
    session = content_session("swe-agent", [one for message in history for one in lower(message)])
    for agent in agents:
        own = [one for one in history if (name_text(one.get("agent")) or "main") == agent]
        messages: list[Message] = []
        for one in own:
            messages += [{**message, "trainable": not one.get("is_demo")} for message in lower(one)]
        messages = pair_results(join_calls(messages))
        places = [index for index, one in enumerate(messages) if one["role"] == "assistant" and one["trainable"]]
        name = "swe-agent" if agent in ("main", "primary") else f"swe-agent/{agent}"
        yield from explode(
            source, messages, places, session_id=session, agent=name, model=model, tools=tools, status=_exit(info)
        )
    yield from _verdict(session, _exit(info))


def looks_like_mini(head: bytes) -> bool:
    """Whether it is mini-swe-agent's document, or the bare list of messages of its older versions."""
    values = peek(head)
    first = values[0] if values and isinstance(values[0], dict) else {}
    if name_text(first.get("trajectory_format")).startswith("mini-swe-agent"):
        return True
    if isinstance(first.get("messages"), list) and "exit_status" in as_object(first.get("info")):
        return True
    # messages in a list, or one a line
    roles = [role_of(one) if says_who(one) else one.get("role", "") for one in values if isinstance(one, dict)]
    return (
        len(roles) > 1
        and roles[0] in ("system", "user")
        and all(roles[:4])
        and not any("parts" in one for one in values if isinstance(one, dict))
    )


def read_mini(source: Source) -> Iterator[Item]:
    """A turn an answer; `exit_status` is the verdict. Messages a line may be those of several sessions."""
    held = Shelf()
    is_empty = True
    for record in records(source):
        if isinstance(record, Problem):
            yield record
        elif isinstance((value := as_object(record.value)).get("messages"), list):
            is_empty = False
            yield from _mini_run(source, value, value["messages"], name_text(value.get("instance_id")))
        else:
            held.add(value)
    beside = _beside(source)
    system = as_object(beside.get("system_prompt"))
    for index, (name, raw) in enumerate(held.take()):
        is_empty = False
        own_name = name if index else name_text(beside.get("session_id")) or name
        messages = raw if index or not system else [system, *raw]
        for own in [messages] if own_name else divided([{**one, "at": moment(one)} for one in messages]):
            yield from _mini_run(source, {}, own, own_name, beside)
    if is_empty:
        yield Skipped("no_model_call")


def _mini_run(
    source: Source, document: Json, raw: list[Any], name: str, beside: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[Item]:
    """The turns of one conversation: a document's, or (`document` is {}) messages a line with what lies beside them."""
    info = as_object(document.get("info"))
    model = as_object(as_object(info.get("config")).get("model"))
    messages = pair_results(join_calls([one for message in raw for one in _mini_message(message)]))
    if not any(one["role"] == "assistant" for one in messages):
        yield Skipped("no_model_call")
    session = name or content_session("mini-swe-agent", messages)
    yield from explode(
        source,
        messages,
        session_id=session,
        agent="mini-swe-agent" if document else "mistral-vibe" if beside else "",
        started_at=moment(document, info, *map(as_object, raw)),
        model=name_text(model.get("model_name"))
        or next((name_text(one["model"]) for one in map(as_object, raw) if one.get("model")), ""),
        tools=lower_tools(
            model.get("tools")
            or beside.get("tools_available")  # Hermes' first line offers tools
            or next((one["tools"] for one in map(as_object, raw) if one.get("role") == "session_meta"), None)
        ),
        status=_exit(info),
    )
    yield from _verdict(session, _exit(info))


def _beside(source: Source) -> Json:
    """What lies beside the messages of a session of Mistral's Vibe: its id, its system prompt and its tools."""
    path = source.path.with_name("meta.json")
    if source.path.name != "messages.jsonl" or path.is_symlink() or not path.is_file():
        return {}
    try:
        known = as_object(orjson.loads(Source(path, path.name).read(1 << 20)))
    except (OSError, ValueError, UnreadableError):
        return {}
    return known if "tools_available" in known else {}


def _mini_message(message: Any) -> list[Message]:
    """A message of a mini trajectory; its own note of how the run ended was never sent to the model."""
    message = as_object(message)
    if message.get("role") == "exit":
        return []
    return [{**one, "at": moment(message)} for one in lower({**message, "extra": None})]


def _exit(info: Json) -> Status:
    """How a run ended: whether it resolved its issue, if that is known, else what its exit status says."""
    if isinstance(info.get("resolved"), bool):
        return "success" if info["resolved"] else "failure"
    return exit_status(info.get("exit_status"))


def _verdict(session: str, status: Status) -> Iterator[Verdict]:
    if status != "unknown":
        yield Verdict(session, status=status, inferred=True)
