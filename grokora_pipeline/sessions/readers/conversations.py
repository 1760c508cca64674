"""Conversations as chat and coding programs save or export them, one small shape each, on the common lowering.

None of these files holds the system prompt as it was sent, unless a shape says so: their prompts are `reconstructed`.
A conversation that was edited or asked again is a tree, of which the branch that the program showed last is read.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.bodies import exchange
from grokora_pipeline.sessions.readers.common import (
    Source,
    UnreadableError,
    first_of,
    name_text,
    outcome_status,
    to_utc,
    whole_number,
)
from grokora_pipeline.sessions.readers.lowering import (
    ROLES,
    Json,
    as_json,
    as_list,
    as_object,
    by_session,
    digest,
    ended_early,
    explode,
    join_calls,
    lower,
    lower_tools,
    pair_results,
    peek_objects,
    records,
)
from grokora_pipeline.sessions.turns import Completeness, Item, Problem, Skipped, Status, Verdict

NO_AGENTS_CONTENT = (
    "traces of the OpenAI Agents SDK name a response and hold neither its input nor its output; record at the gateway"
)
_REPLIES = ("response", "output", "completion", "reply")  # `answer` is what graders expect, not what was said
MAX_RECORDS = 200_000  # lines of one session, which are held together


@dataclass(slots=True)
class Chat:
    """One conversation: its messages in any shape that the lowering knows, each with its `model` where it says so.

    A message with `cut` true was broken off: it is context, and no example. So is one with `earlier`, which stands as
    an example in another chat. Without a session id the content is one.
    """

    messages: Iterable[Any]
    session: str = ""
    agent: str = ""
    model: str = ""
    started: object = None
    tools: Any = None
    completeness: Completeness = "reconstructed"
    last_only: bool = False  # the messages are one call: a prompt and its answer
    parent: str = ""
    status: Status = "unknown"
    task: str = ""
    first_step: int = 0  # of a session that a compaction cut


class Shape(NamedTuple):
    """How a program's file is known by its first records, and what conversations its records are.

    `each`: a record is a file's own conversation (or several); else the records of a file belong together.
    """

    name: str
    looks_like: Callable[[Json], bool]
    chats: Callable[[Any], Iterator[Chat]]
    each: bool = True
    within: int = 2  # how many of the first records may be the one that tells
    empty: str = ""  # why a file without a single call has none, and what to do about it


def detector(shape: Shape) -> Callable[[bytes], bool]:
    """The function that tells whether a file's first bytes are of the shape."""
    return lambda head: any(shape.looks_like(value) for value in peek_objects(head)[: shape.within])


def reader(shape: Shape) -> Callable[[Source], Iterator[Item]]:
    """The function that reads a file of the shape."""

    def read(source: Source) -> Iterator[Item]:
        """The turns and problems of a file of the shape."""
        held: list[Json] = []
        calls = 0
        for record in records(source):
            if isinstance(record, Problem):
                yield record
            elif not isinstance(record.value, dict):
                yield Problem("wrong_schema", record.offset, f"record {record.number} is no object")
            elif shape.each:
                for chat in shape.chats(record.value):
                    calls += 1
                    yield from _turns(source, chat, record.number)
            elif len(held) < MAX_RECORDS:
                held.append(record.value)
            else:
                raise UnreadableError("gigantic", record.offset, f"a session of more than {MAX_RECORDS:,} lines")
        for name, lines in by_session(held).items():
            for chat in shape.chats(lines):
                calls += 1
                yield from _turns(source, chat, 0, name)
        if not calls and shape.empty:
            raise UnreadableError("no_contents", 0, shape.empty)

    return read


def _turns(source: Source, chat: Chat, line: int, named: str = "") -> Iterator[Item]:
    """`named`: the session that the records name, if the chat has none of its own."""
    messages: list[Message] = []
    left_out = 0
    for raw in chat.messages:
        marks = raw if isinstance(raw, Mapping) else {}
        model = name_text(first_of(marks, "model", "modelId", "model_name") or chat.model)
        trainable = not (marks.get("cut") or marks.get("earlier"))
        own = [{**one, "model": model, "trainable": trainable} for one in lower(raw)]
        if marks.get("failed"):
            own = [{**one, "ended_early": True} for one in own]
        if marks.get("cut") and any(one["role"] == "assistant" for one in own):
            left_out += 1
            yield Skipped("call_failed" if marks["cut"] == "call_failed" else "broken_off")
        messages += own
    messages = pair_results(join_calls(messages))
    places = [place for place, one in enumerate(messages) if one["role"] == "assistant" and one.get("trainable", True)]
    places = [place for place in places if place == len(messages) - 1] if chat.last_only else places
    if not places:
        if not left_out:
            yield Skipped("no_answer" if chat.last_only else "no_model_call")
        return
    session = chat.session or named or f"content-{digest([one['content'] for one in messages[: places[0]]])}"
    for model in dict.fromkeys(name_text(messages[place].get("model")) for place in places):
        yield from explode(
            source,
            messages,
            [place for place in places if name_text(messages[place].get("model")) == model],
            session_id=session,
            agent=chat.agent,
            started_at=to_utc(chat.started),
            line=line,
            tools=lower_tools(chat.tools),
            completeness=chat.completeness,
            model=model,
            parent_session_id=chat.parent,
            status=chat.status,
            task=chat.task,
            first_step=chat.first_step,
        )
    if chat.status != "unknown":
        yield Verdict(session, status=chat.status)


def _of(value: object) -> list[Json]:
    """The objects of a list."""
    return [one for one in as_list(value) if isinstance(one, dict)]


def _branch(nodes: Mapping[str, Json], leaf: str, parent: str) -> list[Json]:
    """The nodes from the root to a leaf; `parent` is the member that names a node's parent."""
    path: list[Json] = []
    seen: set[str] = set()
    while leaf in nodes and leaf not in seen:
        seen.add(leaf)
        path.append(nodes[leaf])
        leaf = name_text(nodes[leaf].get(parent))
    return path[::-1]


def _gemini_cli(lines: Sequence[Json]) -> Iterator[Chat]:
    """A session of Gemini CLI: one document, or in newer versions lines; a line of the same id replaces the earlier."""
    first = lines[0]
    own = _of(first["messages"]) if isinstance(first.get("messages"), list) else lines[1:]
    by_id: dict[str, Json] = {}
    for place, one in enumerate(own):
        if "$rewindTo" in one:  # a person went back to before that message
            kept = list(by_id)
            gone = kept[kept.index(one["$rewindTo"]) :] if one["$rewindTo"] in kept else []
            by_id = {key: value for key, value in by_id.items() if key not in gone}
        by_id[name_text(one.get("id")) or f"line {place}"] = one
    messages: list[Json] = []
    for one in by_id.values():
        if one.get("type") not in ("user", "gemini"):  # notes of the program: info, error, warning
            if "cancelled" in str(one.get("content")) and messages and messages[-1]["role"] == "gemini":
                messages[-1]["cut"] = True
            continue
        calls = [{**call, "type": "tool_use"} for call in _of(one.get("toolCalls"))]
        thoughts = [
            {
                "type": "thinking",
                "text": ": ".join(filter(None, (name_text(t.get(k)) for k in ("subject", "description")))),
            }
            for t in _of(one.get("thoughts"))
        ]
        content = as_json(one.get("content"))
        parts = content if isinstance(content, list) else [content] if content else []
        messages.append({"role": one["type"], "content": [*thoughts, *parts, *calls], "model": one.get("model")})
        for call in _of(one.get("toolCalls")):
            results = _of(call.get("result")) or [{"functionResponse": {"response": call.get("resultDisplay")}}]
            for part in results:
                body = as_object(part.get("functionResponse"))
                failed = call.get("status") in ("error", "cancelled")
                answer = {"type": "tool_result", "tool_use_id": call.get("id"), "content": body.get("response", "")}
                messages.append({"role": "tool", "content": [{**answer, "is_error": failed}]})
    agent = "gemini-cli/subagent" if first.get("kind") == "subagent" else "gemini-cli"
    yield Chat(messages, name_text(first.get("sessionId")), agent, started=first.get("startTime"))


def _qwen(lines: Sequence[Json]) -> Iterator[Chat]:
    """A session of Qwen Code: a tree of lines whose messages are contents of Gemini's API."""
    nodes = {name_text(one.get("uuid")): one for one in lines}
    path = _branch(nodes, name_text(lines[-1].get("uuid")), "parentUuid")
    parts: list[list[Json]] = [[]]
    for one in path:
        history = as_object(one.get("systemPayload")).get("compressedHistory")
        if isinstance(history, list):  # what the model sees instead of all that stands before
            parts.append([{**content, "earlier": True} for content in _of(history)])
        elif isinstance(one.get("message"), dict):
            model = one.get("model") if one.get("type") == "assistant" else None
            parts[-1].append({**one["message"], "model": model})
    name, started, step = name_text(lines[0].get("sessionId")), lines[0].get("timestamp"), 0
    for messages in parts:
        yield Chat(messages, name, "qwen-code", started=started, first_step=step)
        step += len(messages)


def _opencode(value: Json) -> Iterator[Chat]:
    """A session that opencode exports. After a compaction the model sees the summary and what follows it."""
    messages: list[Json] = []
    steps, summary = 0, -1  # its place: what a compaction left behind is context of no later call
    for one in _of(value.get("messages")):
        own = as_object(one.get("info"))
        if summary >= 0 and own.get("role") == "user":
            yield from _opencode_chat(value, messages, steps)
            steps += summary
            messages, summary = [{**messages[summary], "earlier": True}], -1
        if own.get("summary") is True and own.get("role") == "assistant":
            summary = len(messages)
        model = own.get("modelID") if own.get("role") == "assistant" else None
        shown = [_pruned(part) for part in _of(one.get("parts")) if not part.get("ignored")]
        messages.append(
            {
                "role": own.get("role"),
                "content": shown,
                "model": model,
                "cut": bool(own.get("error")),
                "finish_reason": own.get("finish"),
            }
        )
    yield from _opencode_chat(value, messages, steps)


def _pruned(part: Json) -> Json:
    """A part as the model saw it last: opencode takes results out of the prompt that are old."""
    state = as_object(part.get("state"))
    if not as_object(state.get("time")).get("compacted"):
        return part
    return {**part, "state": {**state, "output": "[Old tool result content cleared]"}}


def _opencode_chat(value: Json, messages: list[Json], first_step: int) -> Iterator[Chat]:
    info = as_object(value.get("info"))
    agent = next((as_object(one.get("info")).get("agent") for one in _of(value.get("messages"))), "")
    yield Chat(
        messages,
        name_text(info.get("id")),
        "/".join(filter(None, ("opencode", name_text(agent)))),
        started=as_object(info.get("time")).get("created"),
        parent=name_text(info.get("parentID")),
        first_step=first_step,
    )


# What Cline writes behind an answer that a person interrupted, and in the place of one that did not come.
_NO_ANSWER = re.compile(r"\[Response interrupted by |Failure: I did not provide a response\.")


def _cline(messages: Sequence[Json]) -> Iterator[Chat]:
    """A task of Cline or Roo. What Roo condensed is not in the prompt any more; an interrupted answer says so."""
    start = max((place for place, one in enumerate(messages) if one.get("isSummary")), default=0)
    lowered = [
        {
            **one,
            "model": as_object(one.get("modelInfo")).get("modelId"),
            "cut": bool(_NO_ANSWER.search(str(as_list(one.get("content"))[-1:]))),
        }
        for one in messages
    ]
    started = messages[0].get("ts")
    name = f"task-{digest(messages[0].get('content'))}"
    if start:
        yield Chat(lowered[:start], name, "cline", started=started)
    yield Chat(lowered[start:], name, "cline", started=started, first_step=start)


def _continue(value: Json) -> Iterator[Chat]:
    """A session of Continue; calls of a message whose result is kept beside it get that result."""
    items = _of(value["history"])
    answered = {as_object(one.get("message")).get("toolCallId") for one in items}
    messages: list[Any] = []
    for item in items:
        prompt, message = _of(item.get("promptLogs")), as_object(item.get("message"))
        model = next((name_text(log.get("modelTitle")) for log in prompt), "")
        shown = [{"type": "text", "text": name_text(one.get("content"))} for one in _of(item.get("contextItems"))]
        if message.get("role") == "thinking":
            message = {"role": "assistant", "content": [{"type": "thinking", "text": message.get("content")}]}
        elif message.get("role") == "user" and shown:  # files and pages that the person named
            said = message.get("content")
            message = {"role": "user", "content": [*shown, *(as_list(said) or [said])]}
        messages.append({**message, "model": model})
        for state in _of(item.get("toolCallStates")):
            if state.get("output") and state.get("toolCallId") not in answered:
                texts = [{"type": "text", "text": name_text(one.get("content"))} for one in _of(state["output"])]
                failed = state.get("status") in ("errored", "canceled")
                result = {"role": "tool", "tool_call_id": state.get("toolCallId"), "content": texts}
                messages.append({**result, "is_error": failed})
    yield Chat(messages, name_text(value.get("sessionId")), "continue")


def _goose(lines: Sequence[Json]) -> Iterator[Chat]:
    head = lines[0]
    messages = _of(head.get("conversation")) or list(lines[1:])
    messages = [one for one in messages if as_object(one.get("metadata")).get("agentVisible") is not False]
    started = first_of(head, "created_at") or next((one.get("created") for one in messages), None)
    model = name_text(as_object(head.get("model_config")).get("model_name"))
    yield Chat(messages, name_text(head.get("id")), "goose", model, started)


def _amp(value: Json) -> Iterator[Chat]:
    messages = [
        {
            **one,
            "model": as_object(one.get("usage")).get("model"),
            "cut": as_object(one.get("state")).get("type", "complete") != "complete",
            "stop_reason": as_object(one.get("state")).get("stopReason"),
        }
        for one in _of(value["messages"])
    ]
    yield Chat(messages, name_text(value.get("id")), "amp", started=value.get("created"))


def _copilot_chat(value: Json) -> Iterator[Chat]:
    """GitHub Copilot's chat: a request's rounds of calls, else what its response shows."""
    messages: list[Any] = []
    for one in _of(value["requests"]):
        message, metadata = one.get("message"), as_object(as_object(one.get("result")).get("metadata"))
        model = name_text(one.get("modelId")).removeprefix("copilot/")
        results = as_object(metadata.get("toolCallResults"))
        messages.append(
            {"role": "user", "content": message if isinstance(message, str) else as_object(message).get("text")}
        )
        rounds = _of(metadata.get("toolCallRounds"))
        for one_round in rounds:
            said = {"role": "assistant", "content": one_round.get("response"), "tool_calls": one_round.get("toolCalls")}
            messages.append({**said, "model": model, "cut": bool(one.get("isCanceled"))})
            for call in _of(one_round.get("toolCalls")):
                content = _of(as_object(results.get(name_text(call.get("id")))).get("content"))
                texts = [{"type": "text", "text": part.get("value", "")} for part in content]
                messages.append({"role": "tool", "tool_call_id": call.get("id"), "content": texts})
        if not rounds:
            shown = _of(one.get("response"))
            tools = any(part.get("kind") == "toolInvocationSerialized" for part in shown)
            shown_texts = [
                part["value"] for part in shown if isinstance(part.get("value"), str) and not part.get("kind")
            ]
            cut = bool(one.get("isCanceled")) or tools  # calls without their arguments are no answer
            messages.append({"role": "assistant", "content": "".join(shown_texts), "model": model, "cut": cut})
    started = next((one.get("timestamp") for one in _of(value["requests"])), None)
    yield Chat(messages, name_text(value.get("sessionId")), "copilot", started=started or value.get("creationDate"))


def _copilot_journal(lines: Sequence[Json]) -> Iterator[Chat]:
    """A chat of VS Code as it is kept since 2026: a first state, and changes of it, each with the path to its place."""
    state = as_object(lines[0].get("v"))
    for line in lines[1:]:
        path = as_list(line.get("k"))
        holder: Any = state
        for key in path[:-1]:
            inside = isinstance(holder, dict) or (isinstance(key, int) and 0 <= key < len(holder))
            holder = (holder.get(key) if isinstance(holder, dict) else holder[key]) if inside else None
            if not isinstance(holder, dict | list):
                break
        value, key = line.get("v"), path[-1] if path else ""
        if isinstance(holder, list) and isinstance(key, int) and 0 <= key < len(holder):
            holder[key] = value
        elif isinstance(holder, dict) and isinstance(key, str) and key:
            added = [*as_list(holder.get(key))[: line.get("i")], *as_list(value)] if line.get("kind") == 2 else value
            holder[key] = added
    if isinstance(state.get("requests"), list):
        yield from _copilot_chat(state)


def _copilot_cli(events: Sequence[Json]) -> Iterator[Chat]:
    """A session of Copilot's CLI; what a sub-agent says names the call that started it, and is a session of its own.

    After a compaction the file does not say which of the earlier messages stayed in the prompt.
    """
    start = as_object(events[0].get("data"))
    model, name = name_text(start.get("selectedModel")), name_text(start.get("sessionId"))
    chats = {"": Chat([], name, "copilot-cli", started=start.get("startTime"))}
    compacted: list[Chat] = []
    prompts: dict[str, object] = {}  # of the calls that may start a sub-agent
    for event in events[1:]:
        kind, data = event.get("type"), as_object(event.get("data"))
        parent = name_text(data.get("toolCallId" if kind == "subagent.started" else "parentToolCallId"))
        if parent not in chats:
            chats[parent] = Chat([{"role": "user", "content": prompts.get(parent)}], f"{name}:{parent}", parent=name)
        chat = chats[parent]
        said = list(chat.messages)
        if kind == "session.model_change":
            model = name_text(data.get("newModel")) or model
        elif kind == "subagent.started":
            chat.agent = f"copilot-cli/{name_text(data.get('agentName'))}"
        elif kind in ("system.message", "user.message"):
            content = first_of(data, "transformedContent", "content")
            said.append({"role": name_text(kind).partition(".")[0], "content": content})
        elif kind == "assistant.message":
            calls = [{**call, "type": "tool_use"} for call in _of(data.get("toolRequests"))]
            prompts |= {
                name_text(one.get("toolCallId")): as_object(one.get("arguments")).get("prompt") for one in calls
            }
            text = {"type": "text", "text": name_text(data.get("content"))}
            said.append({"role": "assistant", "content": [text, *calls], "model": data.get("model") or model})
        elif kind == "tool.execution_complete":
            result = as_object(data.get("result")) or as_object(data.get("error"))
            answer = {"type": "tool_result", "tool_use_id": data.get("toolCallId")}
            answer |= {
                "content": first_of(result, "content", "message") or "",
                "is_error": data.get("success") is False,
            }
            said.append({"role": "tool", "content": [answer]})
        elif kind == "abort" and said and said[-1]["role"] == "assistant":
            said[-1]["cut"] = True
        elif kind == "session.compaction_complete" and data.get("success") is not False:
            compacted.append(replace(chat))
            chat.first_step, chat.completeness, said = chat.first_step + len(said), "delta", []
        chat.messages = said
    yield from (*compacted, *chats.values())


def _cursor_stream(lines: Sequence[Json]) -> Iterator[Chat]:
    """What Cursor's agent prints (`--output-format stream-json`): a call is two lines of a type of their own."""
    messages: list[Any] = []
    model = name_text(lines[0].get("model"))
    for line in lines:
        if isinstance(line.get("message"), dict):
            messages.append({"model": model, **line["message"]})
        for key, one in as_object(line.get("tool_call")).items():
            body, call = as_object(one), {"id": line.get("call_id"), "type": "tool_use"}
            if line.get("subtype") == "started":
                call |= {"name": body.get("name") or key.removesuffix("ToolCall")}
                call["input"] = first_of(body, "args", "arguments")
                messages.append({"role": "assistant", "content": [call], "model": model})
            elif line.get("subtype") == "completed":
                result = as_object(body.get("result"))
                answer = {"tool_use_id": line.get("call_id"), "content": first_of(result, "success", *result) or ""}
                failed = bool(result) and "success" not in result
                messages.append({"role": "tool", "content": [{"type": "tool_result", **answer, "is_error": failed}]})
    failed = any(line.get("type") == "result" and line.get("is_error") is True for line in lines)
    yield Chat(messages, name_text(lines[0].get("session_id")), "cursor", status="failure" if failed else "unknown")


def _message_lines(lines: Sequence[Json]) -> Iterator[Chat]:
    """A line a message: `{type: message, message: {…}}` behind a session's first line (droid), or role and message."""
    is_droid, is_kimi = lines[0].get("type") == "session_start", "_" in name_text(lines[0].get("role"))
    messages: list[Json] = []
    completeness: Completeness = "reconstructed"
    name = name_text(lines[0].get("id")) if is_droid else ""
    agent = "droid" if is_droid else "kimi" if is_kimi else "cursor"
    started, step = next((one["timestamp"] for one in lines if one.get("timestamp")), None), 0
    for one in lines:
        if one.get("type") == "compaction_state":  # droid says what it summed up, and not what it kept beside that
            yield Chat(messages, name, agent, started=started, completeness=completeness, first_step=step)
            completeness, step = "delta", step + len(messages)
            messages = [{"role": "user", "content": one.get("summaryText")}]
        elif one.get("role") == "_system_prompt":
            messages.append({"role": "system", "content": one.get("content")})
        elif not name_text(one.get("role")).startswith("_"):
            messages.append(as_object(one.get("message")) if one.get("type") == "message" else one)
    yield Chat(messages, name, agent, started=started, completeness=completeness, first_step=step)


def _chatgpt(value: Json) -> Iterator[Chat]:
    """A conversation of ChatGPT's export: calls go to a `recipient`, whose message is their result."""
    nodes = {key: one for key, one in as_object(value["mapping"]).items() if isinstance(one, dict)}
    messages: list[Json] = []
    for node in _branch(nodes, name_text(value.get("current_node")), "parent"):
        one = as_object(node.get("message"))
        role = name_text(as_object(one.get("author")).get("role"))
        content, metadata = as_object(one.get("content")), as_object(one.get("metadata"))
        kind, recipient = content.get("content_type"), name_text(one.get("recipient")) or "all"
        said = content.get("parts") if "parts" in content else first_of(content, "text", "result") or ""
        model = first_of(metadata, "model_slug") or value.get("default_model_slug")
        if role == "assistant" and recipient not in ("all", "user"):
            text = "\n".join(part for part in said if isinstance(part, str)) if isinstance(said, list) else said
            given = as_json(text)
            given = given if isinstance(given, dict) else {"input": text}
            messages.append({"role": role, "content": [{"type": "tool_use", "name": recipient, "input": given}]})
            messages[-1]["model"] = model
        elif kind in ("thoughts", "reasoning_recap"):
            continue  # a summary, as the page shows it
        elif kind not in ("user_editable_context", "model_editable_context"):
            parts = [as_part if isinstance(as_part, str) else {"type": "file"} for as_part in as_list(said) or [said]]
            end = as_object(metadata.get("finish_details")).get("type")
            cut = one.get("status") not in (None, "finished_successfully") or end in ("max_tokens", "interrupted")
            messages.append(
                {"role": role, "content": parts, "cut": cut, "model": model if role == "assistant" else None}
            )
    name = name_text(first_of(value, "conversation_id", "id"))
    yield Chat(messages, name, "chatgpt", started=value.get("create_time"))


def _deepseek(value: Json) -> Iterator[Chat]:
    """A conversation of DeepSeek's export: the branch whose last message is the newest."""
    nodes = {key: one for key, one in as_object(value["mapping"]).items() if isinstance(one, dict)}
    parents = {name_text(child): key for key, one in nodes.items() for child in as_list(one.get("children"))}
    nodes = {key: {"parent": parents.get(key), **one} for key, one in nodes.items()}
    said = [key for key, one in nodes.items() if not as_list(one.get("children"))]
    leaf = max(said, key=lambda key: to_utc(as_object(nodes[key].get("message")).get("inserted_at")), default="")
    kinds = {"REQUEST": "text", "RESPONSE": "text", "THINK": "thinking"}
    messages = []
    for node in _branch(nodes, leaf, "parent"):
        message = as_object(node.get("message"))
        parts = [
            {**one, "type": kinds.get(one.get("type", ""), one.get("type"))} for one in _of(message.get("fragments"))
        ]
        asked = any(one.get("type") == "REQUEST" for one in _of(message.get("fragments")))
        messages.append({"role": "user" if asked else "assistant", "content": parts, "model": message.get("model")})
    yield Chat(messages, name_text(value.get("id")), "deepseek", started=value.get("inserted_at"))


def _mistral(value: Json) -> Iterator[Chat]:
    """The history of a conversation that Mistral keeps; its instructions are the agent's, and stand elsewhere."""
    entries = _of(value["entries"])
    messages: list[Json] = []
    for one in entries:
        kind = one.get("type")
        if kind == "function.call":
            call = {"type": "tool_use", "id": one.get("tool_call_id"), "name": one.get("name")}
            content: Any = [{**call, "input": one.get("arguments")}]
        elif kind == "function.result":
            content = [{"type": "tool_result", "tool_use_id": one.get("tool_call_id"), "content": one.get("result")}]
        else:  # a tool that Mistral itself ran says nothing of what the model saw
            content = one.get("content") if name_text(kind).startswith("message.") else [{"type": "provider_tool"}]
        role = "user" if kind == "message.input" else "tool" if kind == "function.result" else "assistant"
        messages.append({"role": role, "content": content, "model": one.get("model")})
    agent = next((name_text(one["agent_id"]) for one in entries if one.get("agent_id")), "")
    started = next((one.get("created_at") for one in entries), None)
    model = next((name_text(one["model"]) for one in entries if one.get("model")), "")
    yield Chat(messages, name_text(value.get("conversation_id")), agent, model, started)


def _claude_ai(value: Json) -> Iterator[Chat]:
    own = _of(value["chat_messages"])
    leaf = name_text(value.get("current_leaf_message_uuid"))
    path = _branch({name_text(one.get("uuid")): one for one in own}, leaf, "parent_message_uuid") or own
    messages = [
        {
            "role": one.get("sender"),
            "content": [
                *[
                    {"type": "text", "text": name_text(file.get("extracted_content"))}
                    for file in _of(one.get("attachments"))
                ],
                *[{"type": "file"} for _ in _of(one.get("files"))],
                *(_of(one.get("content")) or [{"type": "text", "text": name_text(one.get("text"))}]),
            ],
            "cut": one.get("stop_reason") in ("user_canceled", "max_tokens"),
        }
        for one in path
    ]
    model = name_text(value.get("model"))
    yield Chat(messages, name_text(value.get("uuid")), "claude.ai", model, value.get("created_at"))


def _open_webui(value: Json) -> Iterator[Chat]:
    chat = as_object(value["chat"])
    history = as_object(chat.get("history"))
    nodes = {key: one for key, one in as_object(history.get("messages")).items() if isinstance(one, dict)}
    messages = _branch(nodes, name_text(history.get("currentId")), "parentId") or _of(chat.get("messages"))
    system = as_object(chat.get("params")).get("system") or chat.get("system")
    plain = [{"role": "system", "content": system}] if system else []
    for one in messages:
        own: Json = {key: one[key] for key in ("role", "content", "model") if key in one}
        plain.append({**own, "cut": bool(one.get("error")) or one.get("done") is False})
    yield Chat(plain, name_text(value.get("id")), "open-webui", started=value.get("created_at"))


_Q_ONLY = ("next_message", "valid_history_range", "transcript")


def _amazon_q(value: Json) -> Iterator[Chat]:
    """A conversation that Amazon Q's or Kiro's CLI saves (`/save`): pairs of what was sent and what was answered."""
    tools = [
        as_object(one.get("ToolSpecification")) for own in as_object(value.get("tools")).values() for one in _of(own)
    ]
    messages: list[Any] = []
    for pair in as_list(value["history"]):  # older versions write the two as a list
        asked, said = (
            pair if isinstance(pair, list) and len(pair) == 2 else map(as_object(pair).get, ("user", "assistant"))
        )
        content = as_object(as_object(asked).get("content"))
        results = [
            {
                "type": "tool_result",
                "tool_use_id": one.get("tool_use_id"),
                "content": [
                    {"type": "text", "text": part["Text"]}
                    if isinstance(part.get("Text"), str)
                    else part.get("Json", part)
                    for part in _of(one.get("content"))
                ],
                "is_error": name_text(one.get("status")).lower() == "error",
            }
            for kind in ("ToolUseResults", "CancelledToolUses")
            for one in _of(as_object(content.get(kind)).get("tool_use_results"))
        ]
        prompt = first_of(
            {key: as_object(one).get("prompt") for key, one in content.items()}, "Prompt", "CancelledToolUses"
        )
        text = [{"type": "text", "text": prompt}] if isinstance(prompt, str) else []
        messages.append({"role": "user", "content": [*results, *text]})
        answer = as_object(first_of(as_object(said), "ToolUse", "Response"))
        messages.append({"role": "assistant", "content": answer.get("content"), "tool_calls": answer.get("tool_uses")})
    model = as_object(value.get("model_info")).get("model_id") or value.get("model")
    yield Chat(messages, name_text(value["conversation_id"]), "amazon-q", name_text(model), tools=tools)


def _llm(rows: Sequence[Json]) -> Iterator[Chat]:
    """The responses of one conversation that `llm logs --json` prints: they continue each other."""
    messages: list[Any] = []
    for one in sorted(rows, key=lambda one: to_utc(one.get("datetime_utc"))):
        if one.get("system") and not messages:
            messages.append({"role": "system", "content": one["system"]})
        messages += [
            {**result, "role": "tool", "content": result.get("output")} for result in _of(one.get("tool_results"))
        ]
        messages += [{"role": "user", "content": one["prompt"]}] if one.get("prompt") else []
        said = {"role": "assistant", "content": one.get("response"), "tool_calls": one.get("tool_calls")}
        messages.append({**said, "model": one.get("model")})
    tools = [{**tool, "parameters": tool.get("input_schema")} for row in rows for tool in _of(row.get("tools"))]
    name = name_text(rows[0].get("conversation_id"))
    yield Chat(messages, name, "llm", started=rows[0].get("datetime_utc"), tools=tools)


def _zed(value: Json) -> Iterator[Chat]:
    """A thread of Zed's agent; results stand beside the calls."""
    messages, model = _of(value["messages"]), name_text(as_object(value.get("model")).get("model"))
    name = f"thread-{digest([value.get('summary'), messages[:1]])}"
    yield Chat(messages, name, "zed", model, value.get("updated_at"))


def _adk(value: Json) -> Iterator[Chat]:
    """A session of Google's ADK. If several agents speak, each is told what the others said: no prompt."""
    events = [one for one in _of(value["events"]) if isinstance(one.get("content"), dict) and not one.get("partial")]
    authors = dict.fromkeys(name_text(one.get("author")) for one in events if one.get("author") != "user")
    yield Chat(
        [{**one["content"], "model": first_of(one, "model_version", "modelVersion")} for one in events],
        name_text(value.get("id")),
        next(iter(authors), ""),
        started=next((one.get("timestamp") for one in events), None),
        completeness="reconstructed" if len(authors) == 1 else "cut",
    )


def _langgraph(value: Json) -> Iterator[Chat]:
    """A thread's state: the messages that its graph keeps. What a node adds to them for its model is not in there."""
    holder = as_object(first_of(value, "values", "channel_values")) or value
    thread = as_object(as_object(value.get("config")).get("configurable")).get("thread_id")
    yield Chat(as_list(holder.get("messages")), name_text(thread), started=value.get("created_at"))


def _autogen(value: Json) -> Iterator[Chat]:
    """The state of an AutoGen team: what each agent's model was given. Its system message is not part of the state."""
    for name, agent in as_object(value["agent_states"]).items():
        state = as_object(agent)
        state = as_object(state.get("agent_state")) or state
        if messages := as_list(as_object(state.get("llm_context")).get("messages")):
            yield Chat(messages, f"team-{digest(value['agent_states'])}", name)


def _letta(value: Json) -> Iterator[Chat]:
    """Letta's agent file; the prompt that it sends is made of its memory blocks and some of the messages."""
    for agent in _of(value.get("agents")) or [value]:
        model = name_text(as_object(agent.get("llm_config")).get("model"))
        session = name_text(first_of(agent, "id", "name"))
        tools = [as_object(tool.get("json_schema")) for tool in _of(value.get("tools"))]
        yield Chat(_of(agent.get("messages")), session, name_text(agent.get("name")), model, tools=tools)


def _smolagents(steps: Sequence[Json]) -> Iterator[Chat]:
    """The steps of a smolagents run: each holds what its model was given, and what it said."""
    session = f"run-{digest([step.get('task') for step in steps if step.get('task')])}"
    for step in steps:
        if isinstance(step.get("model_input_messages"), list) and step.get("model_output_message"):
            answer = {**as_object(step["model_output_message"]), "failed": bool(step.get("error"))}
            messages = [*step["model_input_messages"], answer]
            yield Chat(messages, session, "smolagents", completeness="whole", last_only=True)


def _pydantic_ai(items: Sequence[Json]) -> Iterator[Chat]:
    messages: list[Any] = []
    for item in items:
        role = "assistant" if item.get("kind") == "response" else "user"
        if item.get("instructions") and not messages:  # each request repeats them, and the model sees them once
            messages.append({"role": "system", "content": item["instructions"]})
        for part in _of(item.get("parts")):
            kind = part.get("part_kind")
            if kind in ("system-prompt", "user-prompt"):
                messages.append({"role": kind.split("-")[0], "content": part.get("content")})
            else:
                own = {"model": item.get("model_name"), "finish_reason": item.get("finish_reason")}
                messages.append({"role": role, "content": [part], **own})
    yield Chat(messages, completeness="whole")


def _ui_messages(items: Sequence[Json]) -> Iterator[Chat]:
    """UI messages of the Vercel AI SDK, as its chat templates store them."""
    first = items[0]
    own = _of(first["messages"]) if "messages" in first else list(items)
    messages = [{**one, "content": one.get("parts") or one.get("content")} for one in own]
    yield Chat(messages, name_text(first.get("id")) if "messages" in first else "")


def _inspect(value: Json) -> Iterator[Chat]:
    """A log of Inspect AI, or one sample of an unpacked one: a sample's messages are all that its model saw."""
    facts = as_object(value.get("eval"))
    for sample in _of(value["samples"]) if "samples" in value else [value]:
        names = (first_of(facts, "run_id", "task") or sample.get("uuid"), sample.get("id"), sample.get("epoch"))
        name = "-".join(filter(None, map(name_text, names)))
        model = name_text(facts.get("model") or as_object(sample.get("output")).get("model"))
        attachments = as_object(sample.get("attachments"))
        scores = [score_status(as_object(score).get("value")) for score in as_object(sample.get("scores")).values()]
        status: Status = "success" if scores and set(scores) == {"success"} else "unknown"
        if "failure" in scores or sample.get("error") or sample.get("limit"):
            status = "failure"
        task = f"{name_text(facts.get('task'))} {name_text(sample.get('id'))}"
        messages = _attached(_of(sample.get("messages")), attachments)
        choice = next(iter(_of(as_object(sample.get("output")).get("choices"))), {})
        if messages and messages[-1].get("role") == "assistant":
            messages[-1]["finish_reason"] = choice.get("stop_reason")
        yield Chat(messages, name, "", model, completeness="whole", status=status, task=task.strip())


def _attached(value: Any, attachments: Json) -> Any:
    """A value with the texts that Inspect keeps once, beside the messages, in their places."""
    if isinstance(value, str) and value.startswith("attachment://"):
        return attachments.get(value.removeprefix("attachment://"), "<truncated due to a missing attachment>")
    if isinstance(value, dict):
        return {key: _attached(one, attachments) for key, one in value.items()}
    return [_attached(one, attachments) for one in value] if isinstance(value, list) else value


def score_status(value: object) -> Status:
    """What a scorer's value says: its letters C, I, P and N, a truth value, or a number from 0 to 1."""
    if isinstance(value, str) and value in "CIPN":
        return "success" if value == "C" else "failure"
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return "success" if value == 1 else "failure"
    return (outcome_status(value) if isinstance(value, str) else None) or "unknown"


def _librechat(value: Json) -> Iterator[Chat]:
    """A conversation of LibreChat's export, flat or as a tree: the branch whose last message is the newest."""
    options = as_object(value.get("options"))
    nodes: dict[str, Json] = {}
    pending = _of(value["messages"])[::-1]
    while pending:
        one = pending.pop()
        nodes[name_text(one.get("messageId"))] = one
        pending += _of(one.get("children"))[::-1]
    parents = {name_text(one.get("parentMessageId")) for one in nodes.values()}
    leaves = [key for key in nodes if key not in parents] or list(nodes)
    last = max(reversed(leaves), key=lambda key: to_utc(nodes[key].get("createdAt")))
    messages = [
        {
            "role": "user" if one.get("isCreatedByUser") else "assistant",
            "content": one.get("content") or one.get("text"),
            "model": one.get("model"),
            "cut": bool(one.get("unfinished") or one.get("error")),
        }
        for one in _branch(nodes, last, "parentMessageId")
    ]
    system = [{"role": "system", "content": options["promptPrefix"]}] if options.get("promptPrefix") else []
    name, model = name_text(value.get("conversationId")), name_text(options.get("model"))
    yield Chat([*system, *messages], name, "librechat", model, next(iter(nodes.values())).get("createdAt"))


def _grok(value: Json) -> Iterator[Chat]:
    """The conversations of Grok's export: of answers that were asked for again, the last one."""
    for one in _of(value["conversations"]):
        facts = as_object(one.get("conversation"))
        own = [as_object(response.get("response")) for response in _of(one.get("responses"))]
        nodes = {name_text(response.get("_id")): response for response in own}
        path = _branch(nodes, next(reversed(nodes), ""), "parent_response_id")
        # older exports name no parents: their messages stand in order
        path = path if len(path) > 1 or any(response.get("parent_response_id") for response in own) else own
        messages = [
            {
                "role": name_text(response.get("sender")).lower(),
                "content": response.get("message"),
                "model": response.get("model"),
                "cut": bool(response.get("partial")),
            }
            for response in path
        ]
        yield Chat(messages, name_text(facts.get("id")), "grok", started=facts.get("create_time"))


def _lm_studio(value: Json) -> Iterator[Chat]:
    """A conversation of LM Studio: of each message the version that is selected."""
    messages = [{"role": "system", "content": value.get("systemPrompt")}]
    for one in _of(value["messages"]):
        versions = _of(one.get("versions"))
        chosen = one.get("currentlySelected")
        own = versions[chosen] if isinstance(chosen, int) and 0 <= chosen < len(versions) else {}
        said = [own, *_of(own.get("steps"))]
        content = [part for step in said for part in _of(step.get("content"))]
        model = as_object(own.get("senderInfo")).get("senderName")
        messages.append({"role": own.get("role"), "content": content, "model": model})
    yield Chat(messages, f"content-{digest([value.get('createdAt'), value.get('name')])}", "lm-studio")


def _call(value: Json) -> Iterator[Chat]:
    """One call as a gateway or a platform exports it: a request and a reply under that platform's names."""
    for request, reply, holder in _exchanges(value):
        call = exchange(request, _reply(reply))
        if call.answer is None:
            yield Chat([], last_only=True)
            continue
        own = ("metadata", "requestMetadata", "request_properties")
        status = holder.get("status")
        failed = isinstance(status, str) and outcome_status(status) == "failure"
        code = whole_number(first_of(holder, "response_status", "status_code", "$ai_http_status"))
        failed = failed or (code or 0) >= 400 or holder.get("$ai_is_error") is True
        failed = failed or ended_early({"finish_reason": holder.get("$ai_stop_reason")})
        failed = failed or any(holder.get(key) for key in ("error", "error_info", "exception", "error_message"))
        outcome = outcome_status(holder.get("outcome")) if isinstance(holder.get("outcome"), str) else "unknown"
        facts = {key: one for name in own for key, one in as_object(holder.get(name)).items()} | holder
        yield Chat(
            [*call.prompt, {**call.answer, "cut": "call_failed" if failed else call.cut, "model": call.model}],
            name_text(first_of(facts, *_SESSION_IDS, *_CALL_IDS)),
            name_text(first_of(facts, "agent", "agent_name", "Helicone-Session-Name")),
            started=first_of(facts, *_TIMES),
            tools=call.tools,
            completeness="delta" if call.delta else "whole",
            last_only=True,
            status=outcome or "failure",
        )


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
_BATCHES = (("body", "response"), ("params", "result"))  # the two halves of a batch, joined by `custom_id`
# What they call a request and its reply.
_SIDES = (
    ("request_body", "response_body"),  # Helicone
    ("modelInput", "modelOutput"),  # a batch of Bedrock's
    ("full_request", "full_response"),  # Vertex AI's log of requests
    *_BATCHES,
    ("inputs", "output"),  # Weave
    ("input", "output"),  # Opik, Lunary
)


def _exchanges(value: Json) -> Iterator[tuple[Json, Any, Json]]:
    """Each request, its reply, and the object that says of which session they are, and when."""
    if entries := _of(as_object(value.get("log")).get("entries")):  # HAR
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
            yield request, {"message": next(reversed(_of(data.get("output"))), None)}, value
        elif data.get("type") == "response" and data.get("input"):
            yield {"input": data["input"]}, as_object(data.get("response")), value
    else:
        yield from _exchange_of(value)


_EVAL_ITEM = "eval.run.output_item"  # of OpenAI's evals


def _exchange_of(value: Json) -> Iterator[tuple[Json, Any, Json]]:
    """The one request and reply of a record that is told by its members alone."""
    request: Json
    said: Any
    if "$ai_input" in (facts := as_object(value.get("properties"))):  # PostHog
        asked = as_json(facts["$ai_input"])
        request = {"messages": asked if isinstance(asked, list) else [{"role": "user", "content": asked}]}
        request |= {"model": facts.get("$ai_model"), "tools": as_json(facts.get("$ai_tools"))}
        yield request, facts.get("$ai_output_choices"), {**facts, "timestamp": value.get("timestamp")}
    elif _is_datadog(value):
        meta = as_object(value["meta"])
        if "llm" in (meta.get("span.kind"), as_object(meta.get("span")).get("kind")):
            asked, said = (as_list(as_object(meta.get(key)).get("messages")) for key in ("input", "output"))
            yield {"model": meta.get("model_name"), "messages": asked}, said, value
    elif value.get("object") == "response":  # a stored response with what it answers
        yield value, value, value
    elif value.get("object") == _EVAL_ITEM:
        sample = as_object(value.get("sample"))
        request = {"messages": sample.get("input"), "model": sample.get("model")}
        said = next(reversed(as_list(sample.get("output"))), None)
        reply = {"finish_reason": sample.get("finish_reason"), "message": said}
        yield request, reply, {**value, "status": None, "outcome": value.get("status")}
    elif "messages" in value:
        yield {**as_object(value.get("kwargs")), **value}, first_of(value, *_REPLIES), value
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


def _keys(*names: str) -> Callable[[Json], bool]:
    return lambda value: all(name in value for name in names)


def _is_datadog(value: Json) -> bool:
    """A span of Datadog's, with its contents in `meta`."""
    return "messages" in as_object(as_object(value.get("meta")).get("input"))


def _is_cline(value: Json) -> bool:
    """The first message of a task of Cline or Roo: parts, and a time, a task or the editor's state."""
    said = str(value["content"][:2]) if isinstance(value.get("content"), list) else ""
    return (
        value.get("role") == "user" and bool(said) and ("ts" in value or "<task>" in said or "<environment_det" in said)
    )


def _is_call_log(value: Json) -> bool:
    """A request's messages with the reply beside them, as callbacks of many libraries write it."""
    messages = _of(value.get("messages"))
    asked = bool(messages) and ROLES.get(name_text(messages[-1].get("role")).lower()) in ("user", "tool")
    return asked and "call_type" not in value and any(value.get(key) for key in _REPLIES)


def _is_langchain(value: Json) -> bool:
    kinds = {"human", "ai", "system", "tool"}
    return "role" not in value and (
        (value.get("type") in kinds and ("data" in value or "content" in value))
        or (value.get("type") == "constructor" and "messages" in str(value.get("id")))
    )


SHAPES: tuple[Shape, ...] = (
    Shape("gemini_cli", _keys("sessionId", "projectHash"), _gemini_cli, each=False),
    Shape("qwen", lambda value: "uuid" in value and "parts" in as_object(value.get("message")), _qwen, each=False),
    Shape(
        "opencode",
        lambda value: "sessionID" not in value and "info" in value and "directory" in as_object(value["info"]),
        _opencode,
    ),
    Shape(
        "continue",
        # Kiro's sessions look alike, and say "On it." where the answer was: it lies in the `executionId`'s own file
        lambda value: (
            "sessionId" in value
            and isinstance(value.get("history"), list)
            and not any("executionId" in one for one in _of(value["history"]))
        ),
        _continue,
    ),
    Shape(
        "amazon_q",
        lambda value: "conversation_id" in value and "history" in value and not value.keys().isdisjoint(_Q_ONLY),
        _amazon_q,
    ),
    Shape(
        "llm", lambda value: {"conversation_id", "prompt", "response", "datetime_utc"} <= value.keys(), _llm, each=False
    ),
    Shape(
        "adk",
        lambda value: any({"author", "content"} <= one.keys() for one in _of(value.get("events"))[:2]),
        _adk,
    ),
    Shape(
        "goose",
        lambda value: "working_dir" in value and bool(value.keys() & {"description", "message_count", "conversation"}),
        _goose,
        each=False,
    ),
    Shape("amp", lambda value: name_text(value.get("id")).startswith("T-") and "messages" in value, _amp),
    Shape("copilot_chat", _keys("responderUsername", "requests"), _copilot_chat),
    Shape(
        "copilot_journal",
        lambda value: value.get("kind") == 0 and "requests" in as_object(value.get("v")),
        _copilot_journal,
        each=False,
    ),
    Shape(
        "copilot_cli", lambda value: value.get("type") == "session.start" and "data" in value, _copilot_cli, each=False
    ),
    Shape("droid", lambda value: value.get("type") == "session_start" and "id" in value, _message_lines, each=False),
    Shape(
        "cursor",
        lambda value: "role" in value and "content" in as_object(value.get("message")),
        _message_lines,
        each=False,
    ),
    Shape(
        "cursor_stream",
        lambda value: {"call_id", "tool_call"} <= value.keys() and value.get("type") == "tool_call",
        _cursor_stream,
        each=False,
        within=64,  # all else is as Claude Code prints it
    ),
    Shape("kimi", lambda value: name_text(value.get("role")).startswith("_"), _message_lines, each=False),
    Shape("deepseek", _keys("mapping", "inserted_at"), _deepseek),
    Shape("mistral", lambda value: isinstance(value.get("entries"), list) and "conversation_id" in value, _mistral),
    Shape("chatgpt", lambda value: isinstance(value.get("mapping"), dict) and "create_time" in value, _chatgpt),
    Shape("claude_ai", _keys("chat_messages", "uuid"), _claude_ai),
    Shape("open_webui", lambda value: isinstance(as_object(value.get("chat")).get("history"), dict), _open_webui),
    Shape("autogen", lambda value: isinstance(value.get("agent_states"), dict), _autogen),
    Shape("letta", lambda value: any("llm_config" in one for one in (value, *_of(value.get("agents"))[:1])), _letta),
    Shape("smolagents", lambda value: "system_prompt" in value and len(value) == 1, _smolagents, each=False),
    Shape(
        "pydantic_ai",
        lambda value: value.get("kind") in ("request", "response") and "parts" in value,
        _pydantic_ai,
        each=False,
    ),
    Shape(
        "ui_messages",
        lambda value: all(
            isinstance(one.get("parts"), list) and {"role", "id"} <= one.keys()
            for one in (_of(value.get("messages")) or [value])[:2]
        ),
        _ui_messages,
        each=False,
    ),
    Shape(
        "gemini_contents",
        lambda value: _is_content(value) or _is_content(next(iter(_of(value.get("history"))), {})),
        # contents of Gemini's API in a list: a checkpoint of Gemini CLI (`/chat save`)
        lambda items: iter([Chat(_of(items[0].get("history")) or items, agent="gemini-cli")]),
        each=False,
    ),
    Shape("langchain", _is_langchain, lambda items: iter([Chat(items, completeness="whole")]), each=False),
    Shape(
        "langgraph",
        lambda value: any(
            _is_langchain(one)
            for holder in (as_object(value.get("values")), as_object(value.get("channel_values")), value)
            for one in _of(holder.get("messages"))[:1]
        ),
        _langgraph,
    ),
    Shape("zed", _keys("version", "summary", "messages"), _zed),
    Shape(
        "openai_thread",
        lambda value: value.get("object") == "thread.message",
        # OpenAI's Assistants list the newest first; Jan keeps its own in the same shape
        lambda items: iter(
            [
                Chat(
                    sorted(items, key=lambda one: float(one.get("created_at") or 0)),
                    agent=name_text(items[-1].get("assistant_id")),
                )
            ]
        ),
        each=False,
    ),
    Shape(
        "inspect_ai",
        lambda value: (
            {"task", "model"} <= as_object(value.get("eval")).keys()
            or {"epoch", "input", "target", "messages"} <= value.keys()
        ),
        _inspect,
    ),
    Shape("librechat", _keys("conversationId", "endpoint", "messages"), _librechat),
    Shape(
        "grok",
        lambda value: any({"conversation", "responses"} <= one.keys() for one in _of(value.get("conversations"))[:1]),
        _grok,
    ),
    Shape("lm_studio", lambda value: any("versions" in one for one in _of(value.get("messages"))[:1]), _lm_studio),
    Shape("cline", _is_cline, _cline, each=False),
    Shape("helicone", _keys("request_body", "response_body"), _call),
    Shape("bedrock_log", lambda value: value.get("schemaType") == "ModelInvocationLog", _call),
    Shape("bedrock_batch", _keys("modelInput", "modelOutput"), _call),
    Shape("vertex_log", _keys("full_request", "full_response"), _call),
    Shape(
        "openai_batch",
        lambda value: "custom_id" in value and any({asked, said} <= value.keys() for asked, said in _BATCHES),
        _call,
    ),
    Shape("datadog", _is_datadog, _call),
    Shape("llm_span", lambda value: value.get("type") == "llm" and {"input", "output"} <= value.keys(), _call),
    Shape("posthog", lambda value: "$ai_input" in as_object(value.get("properties")), _call),
    Shape("openai_response", lambda value: value.get("object") == "response" and "input" in value, _call),
    Shape("openai_eval", lambda value: value.get("object") == _EVAL_ITEM, _call),
    Shape("weave", _keys("op_name", "inputs"), _call),
    Shape(
        "braintrust", lambda value: "root_span_id" in value and bool(value.keys() & {"span_attributes", "input"}), _call
    ),
    Shape(
        "openai_agents", lambda value: value.get("object") in ("trace", "trace.span"), _call, empty=NO_AGENTS_CONTENT
    ),
    Shape("har", lambda value: "entries" in as_object(value.get("log")), _call),
    Shape("call_log", _is_call_log, _call),
)


def _is_content(value: Json) -> bool:
    """Whether it is a content of Gemini's: a role and parts that name no type."""
    return (
        "role" in value and "id" not in value and bool(_of(value.get("parts"))) and "type" not in _of(value["parts"])[0]
    )
