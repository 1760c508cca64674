"""Sessions of coding agents, as their programs save or print them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from grokora_pipeline.sessions.readers.chats import Chat, branch
from grokora_pipeline.sessions.readers.common import first_of, name_text
from grokora_pipeline.sessions.readers.lowering import Json, as_json, as_list, as_object, digest, objects_in
from grokora_pipeline.sessions.turns import Completeness


def gemini_cli(lines: Sequence[Json]) -> Iterator[Chat]:
    """A session of Gemini CLI: one document, or in newer versions lines; a line of the same id replaces the earlier."""
    first = lines[0]
    own = objects_in(first["messages"]) if isinstance(first.get("messages"), list) else lines[1:]
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
        calls = [{**call, "type": "tool_use"} for call in objects_in(one.get("toolCalls"))]
        thoughts = [
            {
                "type": "thinking",
                "text": ": ".join(filter(None, (name_text(t.get(k)) for k in ("subject", "description")))),
            }
            for t in objects_in(one.get("thoughts"))
        ]
        content = as_json(one.get("content"))
        parts = content if isinstance(content, list) else [content] if content else []
        messages.append({"role": one["type"], "content": [*thoughts, *parts, *calls], "model": one.get("model")})
        for call in objects_in(one.get("toolCalls")):
            results = objects_in(call.get("result")) or [{"functionResponse": {"response": call.get("resultDisplay")}}]
            for part in results:
                body = as_object(part.get("functionResponse"))
                failed = call.get("status") in ("error", "cancelled")
                answer = {"type": "tool_result", "tool_use_id": call.get("id"), "content": body.get("response", "")}
                messages.append({"role": "tool", "content": [{**answer, "is_error": failed}]})
    agent = "gemini-cli/subagent" if first.get("kind") == "subagent" else "gemini-cli"
    yield Chat(messages, name_text(first.get("sessionId")), agent, started=first.get("startTime"))


def qwen(lines: Sequence[Json]) -> Iterator[Chat]:
    """A session of Qwen Code: a tree of lines whose messages are contents of Gemini's API."""
    nodes = {name_text(one.get("uuid")): one for one in lines}
    path = branch(nodes, name_text(lines[-1].get("uuid")), "parentUuid")
    parts: list[list[Json]] = [[]]
    for one in path:
        history = as_object(one.get("systemPayload")).get("compressedHistory")
        if isinstance(history, list):  # what the model sees instead of all that stands before
            parts.append([{**content, "earlier": True} for content in objects_in(history)])
        elif isinstance(one.get("message"), dict):
            model = one.get("model") if one.get("type") == "assistant" else None
            parts[-1].append({**one["message"], "model": model})
    name, started, step = name_text(lines[0].get("sessionId")), lines[0].get("timestamp"), 0
    for messages in parts:
        yield Chat(messages, name, "qwen-code", started=started, first_step=step)
        step += len(messages)


def opencode(value: Json) -> Iterator[Chat]:
    """A session that opencode exports. After a compaction the model sees the summary and what follows it."""
    messages: list[Json] = []
    steps, summary = 0, -1  # its place: what a compaction left behind is context of no later call
    for one in objects_in(value.get("messages")):
        own = as_object(one.get("info"))
        if summary >= 0 and own.get("role") == "user":
            yield from _opencode_chat(value, messages, steps)
            steps += summary
            messages, summary = [{**messages[summary], "earlier": True}], -1
        if own.get("summary") is True and own.get("role") == "assistant":
            summary = len(messages)
        model = own.get("modelID") if own.get("role") == "assistant" else None
        shown = [_pruned(part) for part in objects_in(one.get("parts")) if not part.get("ignored")]
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
    agent = next((as_object(one.get("info")).get("agent") for one in objects_in(value.get("messages"))), "")
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


def cline(messages: Sequence[Json]) -> Iterator[Chat]:
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


def continue_dev(value: Json) -> Iterator[Chat]:
    """A session of Continue; calls of a message whose result is kept beside it get that result."""
    items = objects_in(value["history"])
    answered = {as_object(one.get("message")).get("toolCallId") for one in items}
    messages: list[Any] = []
    for item in items:
        prompt, message = objects_in(item.get("promptLogs")), as_object(item.get("message"))
        model = next((name_text(log.get("modelTitle")) for log in prompt), "")
        shown = [
            {"type": "text", "text": name_text(one.get("content"))} for one in objects_in(item.get("contextItems"))
        ]
        if message.get("role") == "thinking":
            message = {"role": "assistant", "content": [{"type": "thinking", "text": message.get("content")}]}
        elif message.get("role") == "user" and shown:  # files and pages that the person named
            said = message.get("content")
            message = {"role": "user", "content": [*shown, *(as_list(said) or [said])]}
        messages.append({**message, "model": model})
        for state in objects_in(item.get("toolCallStates")):
            if state.get("output") and state.get("toolCallId") not in answered:
                texts = [{"type": "text", "text": name_text(one.get("content"))} for one in objects_in(state["output"])]
                failed = state.get("status") in ("errored", "canceled")
                result = {"role": "tool", "tool_call_id": state.get("toolCallId"), "content": texts}
                messages.append({**result, "is_error": failed})
    yield Chat(messages, name_text(value.get("sessionId")), "continue")


def goose(lines: Sequence[Json]) -> Iterator[Chat]:
    head = lines[0]
    messages = objects_in(head.get("conversation")) or list(lines[1:])
    messages = [one for one in messages if as_object(one.get("metadata")).get("agentVisible") is not False]
    started = first_of(head, "created_at") or next((one.get("created") for one in messages), None)
    model = name_text(as_object(head.get("model_config")).get("model_name"))
    yield Chat(messages, name_text(head.get("id")), "goose", model, started)


def amp(value: Json) -> Iterator[Chat]:
    messages = [
        {
            **one,
            "model": as_object(one.get("usage")).get("model"),
            "cut": as_object(one.get("state")).get("type", "complete") != "complete",
            "stop_reason": as_object(one.get("state")).get("stopReason"),
        }
        for one in objects_in(value["messages"])
    ]
    yield Chat(messages, name_text(value.get("id")), "amp", started=value.get("created"))


def copilot_chat(value: Json) -> Iterator[Chat]:
    """GitHub Copilot's chat: a request's rounds of calls, else what its response shows."""
    messages: list[Any] = []
    for one in objects_in(value["requests"]):
        message, metadata = one.get("message"), as_object(as_object(one.get("result")).get("metadata"))
        model = name_text(one.get("modelId")).removeprefix("copilot/")
        results = as_object(metadata.get("toolCallResults"))
        messages.append(
            {"role": "user", "content": message if isinstance(message, str) else as_object(message).get("text")}
        )
        rounds = objects_in(metadata.get("toolCallRounds"))
        for one_round in rounds:
            said = {"role": "assistant", "content": one_round.get("response"), "tool_calls": one_round.get("toolCalls")}
            messages.append({**said, "model": model, "cut": bool(one.get("isCanceled")), "vote": one.get("vote")})
            for call in objects_in(one_round.get("toolCalls")):
                content = objects_in(as_object(results.get(name_text(call.get("id")))).get("content"))
                texts = [{"type": "text", "text": part.get("value", "")} for part in content]
                messages.append({"role": "tool", "tool_call_id": call.get("id"), "content": texts})
        if not rounds:
            shown = objects_in(one.get("response"))
            tools = any(part.get("kind") == "toolInvocationSerialized" for part in shown)
            shown_texts = [
                part["value"] for part in shown if isinstance(part.get("value"), str) and not part.get("kind")
            ]
            cut = bool(one.get("isCanceled")) or tools  # calls without their arguments are no answer
            answer = {"role": "assistant", "content": "".join(shown_texts), "model": model, "cut": cut}
            messages.append({**answer, "vote": one.get("vote")})
    started = next((one.get("timestamp") for one in objects_in(value["requests"])), None)
    yield Chat(messages, name_text(value.get("sessionId")), "copilot", started=started or value.get("creationDate"))


def copilot_journal(lines: Sequence[Json]) -> Iterator[Chat]:
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
        yield from copilot_chat(state)


def copilot_cli(events: Sequence[Json]) -> Iterator[Chat]:
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
            calls = [{**call, "type": "tool_use"} for call in objects_in(data.get("toolRequests"))]
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


def cursor_stream(lines: Sequence[Json]) -> Iterator[Chat]:
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


def message_lines(lines: Sequence[Json]) -> Iterator[Chat]:
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


Q_ONLY = ("next_message", "valid_history_range", "transcript")


def amazon_q(value: Json) -> Iterator[Chat]:
    """A conversation that Amazon Q's or Kiro's CLI saves (`/save`): pairs of what was sent and what was answered."""
    tools = [
        as_object(one.get("ToolSpecification"))
        for own in as_object(value.get("tools")).values()
        for one in objects_in(own)
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
                    for part in objects_in(one.get("content"))
                ],
                "is_error": name_text(one.get("status")).lower() == "error",
            }
            for kind in ("ToolUseResults", "CancelledToolUses")
            for one in objects_in(as_object(content.get(kind)).get("tool_use_results"))
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


def zed(value: Json) -> Iterator[Chat]:
    """A thread of Zed's agent; results stand beside the calls."""
    messages, model = objects_in(value["messages"]), name_text(as_object(value.get("model")).get("model"))
    name = f"thread-{digest([value.get('summary'), messages[:1]])}"
    yield Chat(messages, name, "zed", model, value.get("updated_at"))
