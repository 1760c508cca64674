"""Sessions of coding agents, as their programs save or print them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from grokora_pipeline.sessions.readers.chats import Chat, Replay, branch, unshown
from grokora_pipeline.sessions.readers.common import first_of, name_text, whole_number
from grokora_pipeline.sessions.readers.documents import Json, as_json, as_list, as_object, digest, objects_in
from grokora_pipeline.sessions.readers.lowering import lower, role_of


def gemini_cli(lines: Sequence[Json]) -> Iterator[Chat]:
    """A session of Gemini CLI: one document, or in newer versions lines; a line of the same id replaces the earlier."""
    first = lines[0]
    agent = "gemini-cli/subagent" if first.get("kind") == "subagent" else "gemini-cli"
    replay = Replay(Chat([], name_text(first.get("sessionId")), agent, started=first.get("startTime")))
    seen = set[str]()
    for one in objects_in(first["messages"]) if isinstance(first.get("messages"), list) else lines[1:]:
        messages, name = replay.messages, name_text(one.get("$rewindTo", one.get("id")))
        end = len(messages) if name in seen else 0  # mostly the last is replaced or taken back: looked for from the end
        seen.add(name)
        while end and messages[end - 1]["id"] != name:
            end -= 1
        start = end
        while start and messages[start - 1]["id"] == name:
            start -= 1
        if "$rewindTo" in one:  # a person went back to before that message, or to the start if there is none of that id
            replay.take_back(start) if end else replay.go_on_with([])
        elif history := objects_in(as_object(one.get("$set")).get("messages")):  # what the model sees from here on
            known = {message["id"]: message.get("told", message) for message in reversed(replay.messages)}
            sent = (message for record in history for message in _gemini_messages(record))
            replay.go_on_with({"told": known.get(message["id"], message), **message} for message in sent)
            seen.update(name_text(message["id"]) for message in replay.messages)
        elif one.get("type") not in ("user", "gemini"):  # notes of the program: info, error, warning
            if "cancelled" in str(one.get("content")) and replay.messages and replay.messages[-1]["role"] == "gemini":
                replay.messages[-1]["cut"] = True
        else:
            marks: Json = {key: messages[start][key] for key in ("earlier", "told") if end and key in messages[start]}
            start, end = (start, end) if end else (len(messages), len(messages))
            messages[start:end] = [{**message, **marks} for message in _gemini_messages(one)]
    yield from replay.chats()


def _gemini_messages(one: Json) -> list[Json]:
    """What a record of Gemini CLI is: what was said, and the results of the calls, which stand in the answer's record.

    A history that the program wrote anew holds calls and results as contents of Gemini's API, as they were sent.
    """
    content = as_json(one.get("content"))
    parts = content if isinstance(content, list) else [content] if content else []
    sent = any("functionCall" in part for part in parts if isinstance(part, dict))
    calls = [] if sent else objects_in(one.get("toolCalls"))
    thoughts = [
        {"type": "thinking", "text": ": ".join(filter(None, (name_text(t.get(k)) for k in ("subject", "description"))))}
        for t in objects_in(one.get("thoughts"))
    ]
    own = [*thoughts, *parts, *({**call, "type": "tool_use"} for call in calls)]
    name = name_text(one.get("id"))
    messages: list[Json] = [{"id": name, "role": one.get("type"), "content": own, "model": one.get("model")}]
    for call in calls:
        results = objects_in(call.get("result")) or [{"functionResponse": {"response": call.get("resultDisplay")}}]
        failed = call.get("status") in ("error", "cancelled")
        for part in results:
            answer = {"type": "tool_result", "tool_use_id": call.get("id"), "is_error": failed}
            answer["content"] = as_object(part.get("functionResponse")).get("response", "")
            messages.append({"id": name, "role": "tool", "content": [answer]})
    return messages


def qwen(lines: Sequence[Json]) -> Iterator[Chat]:
    """A session of Qwen Code: a tree of lines whose messages are contents of Gemini's API."""
    nodes = {name_text(one.get("uuid")): one for one in lines}
    path = branch(nodes, name_text(lines[-1].get("uuid")), "parentUuid")
    replay = Replay(Chat([], name_text(lines[0].get("sessionId")), "qwen-code", started=lines[0].get("timestamp")))
    hidden = unshown(nodes.values(), path, lambda one: one.get("type"))
    for one in path:
        history = as_object(one.get("systemPayload")).get("compressedHistory")
        if isinstance(history, list):  # what the model sees instead of all that stands before
            replay.go_on_with(objects_in(history))
        elif isinstance(one.get("message"), dict):
            model = one.get("model") if one.get("type") == "assistant" else None
            replay.messages.append({**one["message"], "model": model})
    for index, chat in enumerate(replay.chats()):
        yield replace(chat, unshown=0 if index else hidden)


def opencode(value: Json) -> Iterator[Chat]:
    """A session that opencode exports. After a compaction the model sees its summary and what it kept."""
    info, messages = as_object(value.get("info")), objects_in(value.get("messages"))
    agent = next((name_text(as_object(one.get("info")).get("agent")) for one in messages), "")
    started = as_object(info.get("time")).get("created")
    name, parent = name_text(info.get("id")), name_text(info.get("parentID"))
    replay = Replay(Chat([], name, "/".join(filter(None, ("opencode", agent))), started=started, parent=parent))
    asked = summary = -1  # the places of a compaction's request and of its summary
    tail = ""  # the first message that stays behind it
    for one in messages:
        own, parts = as_object(one.get("info")), objects_in(one.get("parts"))
        role, error = own.get("role"), as_object(own.get("error"))
        if summary >= 0 and role == "user":
            history = replay.messages
            asked = asked if 0 <= asked < summary else summary
            kept = next(
                (index for index, message in enumerate(history[:asked]) if tail and message["id"] == tail), asked
            )
            replay.go_on_with([*history[asked : summary + 1], *history[kept:asked]])
            asked = summary = -1
        if compaction := next((part for part in parts if part.get("type") == "compaction"), None):
            asked, tail = len(replay.messages), name_text(compaction.get("tail_start_id"))
        if own.get("summary") is True and role == "assistant":
            summary = len(replay.messages)
        model = own.get("modelID") if role == "assistant" else None
        aborted = error.get("name") == "MessageAbortedError" and any(part.get("type") in _SAID for part in parts)
        # a text file stands in the prompt as a text beside it
        shown = [_shown(one) for one in parts if not (one.get("ignored") or one.get("mime") in _TOLD_AS_TEXT)]
        message = {"id": own.get("id"), "role": role, "content": shown, "model": model, "cut": bool(error)}
        replay.messages.append({**message, "unsent": bool(error) and not aborted, "finish_reason": own.get("finish")})
    yield from replay.chats()


_TOLD_AS_TEXT = ("text/plain", "application/x-directory")
_SAID = ("text", "tool", "file")  # parts of an answer that opencode sends again although it was aborted
# What stands in the prompt for a compaction's request, and for a command of the person's that started a sub-agent.
_STAND_INS = {"compaction": "What did we do so far?", "subtask": "The following tool was executed by the user"}


def _shown(part: Json) -> Json:
    """A part as opencode sends it: without results that it cleared, an unfinished call as an interrupted one."""
    state = as_object(part.get("state"))
    if as_object(state.get("time")).get("compacted"):
        return {**part, "state": {**state, "output": "[Old tool result content cleared]"}}
    if part.get("type") == "tool" and state.get("status") in ("pending", "running"):
        return {**part, "state": {**state, "status": "error", "error": "[Tool execution was interrupted]"}}
    text = _STAND_INS.get(name_text(part.get("type")))
    return {"type": "text", "text": text} if text else part


# What Cline writes behind an answer that a person interrupted, and in the place of one that did not come.
_NO_ANSWER = re.compile(r"\[Response interrupted by |Failure: I did not provide a response\.")


def cline(messages: Sequence[Json]) -> Iterator[Chat]:
    """A task of Cline or Roo. What Roo condensed is not in the prompt any more; an interrupted answer says so."""
    document: Json = messages[0] if "messages" in messages[0] else {}
    messages = objects_in(document.get("messages")) or messages
    name = name_text(document.get("sessionId")) or f"task-{digest(messages[0].get('content'))}"
    own = name_text(document.get("agent"))
    agent = "cline" if own in ("", "lead") else f"cline/{own}"
    replay = Replay(Chat([], name, agent, started=messages[0].get("ts")))
    unknown = 0  # of the messages before it that an older version's summary kept, nobody knows what they had seen
    for one in messages:
        history, gone = replay.messages, one.get("condenseId")
        if one.get("isSummary") and one.get("role") == "assistant" and not gone:
            replay.go_on_with(history[:1])
            unknown = 4  # the summary and three more
        elif one.get("isSummary"):
            replay.go_on_with(message for message in history if gone and message.get("condenseParent") != gone)
        elif one.get("isTruncationMarker"):  # it does not say which of the answers behind it saw what is hidden
            gone = one.get("truncationId")
            replay.go_on_with(message for message in history if message.get("truncationParent") != gone)
            replay.chat = replace(replay.chat, completeness="delta")
        cut = bool(_NO_ANSWER.search(str(as_list(one.get("content"))[-1:])))
        model = first_of(as_object(one.get("modelInfo")), "modelId", "id")
        replay.messages.append({**one, "model": model, "cut": cut, "earlier": unknown > 0})
        unknown -= 1
    yield from replay.chats()


def continue_dev(value: Json) -> Iterator[Chat]:
    """A session of Continue; calls of a message whose result is kept beside it get that result.

    An item with a summary of the conversation is not in later prompts, and what stands before it neither.
    """
    items = objects_in(value["history"])
    answered = {as_object(one.get("message")).get("toolCallId") for one in items}
    replay = Replay(Chat([], name_text(value.get("sessionId")), "continue"))
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
        replay.messages.append({**message, "model": model})
        for state in objects_in(item.get("toolCallStates")):
            failed = state.get("status") in ("errored", "canceled")
            if (state.get("output") or failed) and state.get("toolCallId") not in answered:
                results = objects_in(state.get("output")) or [{"content": "The user cancelled this tool call."}]
                texts = [{"type": "text", "text": name_text(one.get("content"))} for one in results]
                result = {"role": "tool", "tool_call_id": state.get("toolCallId"), "content": texts}
                replay.messages.append({**result, "is_error": failed})
        if summary := name_text(item.get("conversationSummary")):
            replay.go_on_with([{"role": "system", "content": f"Previous conversation summary:\n\n {summary}"}])
    yield from replay.chats()


def goose(lines: Sequence[Json]) -> Iterator[Chat]:
    """A session of Goose, without what its agent is not shown."""
    head = lines[0]
    messages = objects_in(head.get("conversation")) or list(lines[1:])
    messages = [one for one in messages if as_object(one.get("metadata")).get("agentVisible") is not False]
    for result in (as_object(part.get("toolResult")) for one in messages for part in objects_in(one.get("content"))):
        holder, key = (result["value"], "content") if isinstance(result.get("value"), dict) else (result, "value")
        if isinstance(holder.get(key), list):  # parts that an MCP server made for the person alone
            holder[key] = [part for part in holder[key] if "assistant" in _audience(part)]
    started = first_of(head, "created_at") or next((one.get("created") for one in messages), None)
    model = name_text(as_object(head.get("model_config")).get("model_name"))
    yield Chat(messages, name_text(head.get("id")), "goose", model, started)


def _audience(part: object) -> list[Any]:
    return as_list(as_object(as_object(part).get("annotations")).get("audience")) or ["assistant"]


def amp(value: Json) -> Iterator[Chat]:
    """A thread of Amp. What it put around a summary, with which it goes on, is not in the file."""
    replay = Replay(Chat([], name_text(value.get("id")), "amp", started=value.get("created")))
    for one in objects_in(value["messages"]):
        parts, state = as_list(one.get("content")), as_object(one.get("state"))
        if summary := next((as_object(part)["summary"] for part in parts if as_object(part).get("summary")), None):
            replay.go_on_with([{"role": "user", "content": as_object(summary).get("summary") or summary}])
            replay.chat = replace(replay.chat, completeness="delta")
            continue
        said = {
            **one,
            "content": list(map(_amp_part, parts)) or one.get("content"),
            "stop_reason": state.get("stopReason"),
        }
        said["model"] = as_object(one.get("usage")).get("model")
        replay.messages.append({**said, "cut": state.get("type", "complete") != "complete"})
    yield from replay.chats()


def _amp_part(part: Any) -> Any:
    """A part of a message; a command of the person's own is shown to the model, unless it is hidden, as text."""
    if as_object(part).get("type") != "manual_bash_invocation":
        return part
    result = as_object(as_object(part.get("toolRun")).get("result"))
    shown = f"$ {name_text(as_object(part.get('args')).get('cmd'))}\n{name_text(result.get('output'))}"
    return {"type": "text", "text": "" if part.get("hidden") else shown}


def copilot_chat(value: Json) -> Iterator[Chat]:
    """GitHub Copilot's chat: a request's rounds of calls, else what its response shows.

    A round that was summed up is not in later prompts, and what stands before it neither: the summary is.
    """
    requests = objects_in(value["requests"])
    started = next((one.get("timestamp") for one in requests), None) or value.get("creationDate")
    replay = Replay(Chat([], name_text(value.get("sessionId")), "copilot", started=started))
    held = [as_object(as_object(one.get("result")).get("metadata")) for one in requests]
    records = [one for own in held for one in (as_object(own.get("summary")), *objects_in(own.get("summaries")))]
    summaries = {name_text(one.get("toolCallRoundId")): one.get("text") for one in records}
    for one, metadata in zip(requests, held, strict=True):
        gone = one.get("isHidden") is True or one.get("shouldBeRemovedOnSend") is not None
        mark = {"model": name_text(one.get("modelId")).removeprefix("copilot/"), "vote": one.get("vote")}
        mark |= {"cut": "taken_back" if gone else bool(one.get("isCanceled"))}
        for name in ("renderedGlobalContext", "renderedUserMessage"):
            parts = [
                {"type": "text" if "text" in part else "image", "text": part.get("text", "")}
                for part in objects_in(metadata.get(name))
            ]
            said = (
                one.get("message") if isinstance(one.get("message"), str) else as_object(one.get("message")).get("text")
            )
            replay.messages.append(
                {"role": "user", "content": parts or (said if name == "renderedUserMessage" else "")}
            )
        results, rounds = as_object(metadata.get("toolCallResults")), objects_in(metadata.get("toolCallRounds"))
        for one_round in rounds:
            thought = as_object(one_round.get("thinking")).get("text")
            said = {"role": "assistant", "content": one_round.get("response"), "tool_calls": one_round.get("toolCalls")}
            said["reasoning"] = thought if isinstance(thought, str) else "".join(map(name_text, as_list(thought)))
            replay.messages.append({**said, **mark})
            for call in objects_in(one_round.get("toolCalls")):
                content = objects_in(as_object(results.get(name_text(call.get("id")))).get("content"))
                texts = [{"type": "text", "text": _rendered(part.get("value", ""))} for part in content]
                replay.messages.append({"role": "tool", "tool_call_id": call.get("id"), "content": texts})
            if one_round.get("hookContext"):
                replay.messages.append({"role": "user", "content": one_round["hookContext"]})
            if summary := one_round.get("summary") or summaries.get(name_text(one_round.get("id"))):
                text = f"<conversation-summary>\n{summary}\n</conversation-summary>"
                replay.go_on_with([{"role": "user", "content": text}])
            if as_object(one_round.get("compaction")).get("encrypted_content"):
                replay.go_on_with(replay.messages)
                replay.chat = replace(replay.chat, completeness="delta")
        if not rounds:
            shown = objects_in(one.get("response"))
            tools = any(part.get("kind") == "toolInvocationSerialized" for part in shown)
            said_texts = [
                part["value"] for part in shown if isinstance(part.get("value"), str) and not part.get("kind")
            ]
            failed = bool(as_object(one.get("result")).get("errorDetails"))
            answer = {"role": "assistant", "content": "".join(said_texts), **mark}
            # calls without their arguments are no answer
            replay.messages.append({**answer, "cut": mark["cut"] or tools or failed})
    yield from replay.chats()


def _rendered(value: Any) -> Any:
    """The text of a result that VS Code keeps as the tree of elements which it was rendered from."""
    node = as_object(value).get("node", value)
    if not isinstance(node, dict) or ("children" not in node and "text" not in node):
        return value
    pieces = [name_text(node.get("text"))]
    for child in objects_in(node.get("children")):
        text = _rendered(child)
        pieces += ["\n" if child.get("lineBreakBefore") and any(pieces) else "", text if isinstance(text, str) else ""]
    return "".join(pieces)


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
    replays = {"": Replay(Chat([], name, "copilot-cli", started=start.get("startTime")))}
    prompts: dict[str, object] = {}  # of the calls that may start a sub-agent
    places: dict[str, int] = {}  # event -> the messages of the main session before it
    for event in events[1:]:
        kind, data = name_text(event.get("type")), as_object(event.get("data"))
        parent = name_text(data.get("toolCallId" if kind == "subagent.started" else "parentToolCallId"))
        if parent not in replays:
            replays[parent] = Replay(Chat([], f"{name}:{parent}", parent=name))
            replays[parent].messages.append({"role": "user", "content": prompts.get(parent)})
        replay = replays[parent]
        said = replay.messages
        places[name_text(event.get("id"))] = len(replays[""].messages)
        if kind == "session.model_change":
            model = name_text(data.get("newModel")) or model
        elif kind == "subagent.started":
            replay.chat.agent = f"copilot-cli/{name_text(data.get('agentName'))}"
        elif kind in ("system.message", "user.message", "skill.invoked"):  # a skill's text is put into the conversation
            role = "system" if kind == "system.message" else "user"
            said.append({"role": role, "content": first_of(data, "transformedContent", "content")})
        elif kind == "assistant.message":
            calls = [{**call, "type": "tool_use"} for call in objects_in(data.get("toolRequests"))]
            prompts |= {
                name_text(one.get("toolCallId")): as_object(one.get("arguments")).get("prompt") for one in calls
            }
            parts = [
                {"type": "thinking", "text": data.get("reasoningText")},
                {"type": "text", "text": data.get("content")},
            ]
            said.append({"role": "assistant", "content": [*parts, *calls], "model": data.get("model") or model})
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
        elif kind == "session.snapshot_rewind":
            index = places.get(name_text(data.get("upToEventId")), 0)
            replay.take_back(index)
            places = {own: known for own, known in places.items() if known <= index}
        elif kind == "session.context_cleared":
            replay.go_on_with([])
        elif kind in _SHORTENED and data.get("success") is not False:
            kept = [] if kind == "session.compaction_complete" else replay.messages
            replay.go_on_with(kept)
            replay.chat, places = replace(replay.chat, completeness="delta"), {}
    for replay in replays.values():
        yield from replay.chats()


_SHORTENED = ("session.compaction_complete", "session.truncation")


def cursor_stream(lines: Sequence[Json]) -> Iterator[Chat]:
    """What Cursor's agent prints (`--output-format stream-json`): a call is two lines of a type of their own."""
    messages: list[Any] = []
    model = name_text(lines[0].get("model"))
    # with --stream-partial-output an answer comes in pieces, and then as a whole once more
    answers = [line for line in lines if line.get("type") == "assistant"]
    is_told_again = any("timestamp_ms" not in line or "model_call_id" in line for line in answers)
    for line in lines:
        is_piece = line.get("type") == "assistant" and "timestamp_ms" in line and "model_call_id" not in line
        if isinstance(line.get("message"), dict) and not (is_told_again and is_piece):
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


def gemini_stream(lines: Sequence[Json]) -> Iterator[Chat]:
    """What Gemini CLI prints (`--output-format stream-json`): texts in pieces, calls and results."""
    messages: list[Json] = []
    model = name_text(lines[0].get("model"))
    for line in lines:
        kind, last = line.get("type"), messages[-1] if messages else {}
        if kind == "message" and line.get("delta") and isinstance(last.get("content"), str) and "model" in last:
            last["content"] += name_text(line.get("content"))
        elif kind == "message":
            said = {"model": model} if line.get("role") == "assistant" else {}
            messages.append({"role": line.get("role"), "content": name_text(line.get("content")), **said})
        elif kind == "tool_use":
            call = {"type": "tool_use", "id": line.get("tool_id"), "name": line.get("tool_name")}
            part = {**call, "input": line.get("parameters")}
            messages.append({"role": "assistant", "content": [part], "model": model})
        elif kind == "tool_result":
            part = {"type": "tool_result", "tool_use_id": line.get("tool_id"), "content": line.get("output")}
            messages.append({"role": "tool", "content": [{**part, "is_error": line.get("status") == "error"}]})
    failed = any(line.get("type") == "result" and line.get("status") == "error" for line in lines)
    chat = Chat(messages, name_text(lines[0].get("session_id")), "gemini-cli", started=lines[0].get("timestamp"))
    yield replace(chat, status="failure" if failed else "unknown")


def message_lines(lines: Sequence[Json]) -> Iterator[Chat]:
    """A line a message: `{type: message, message: {…}}` behind a session's first line (droid), or role and message.

    Cursor leaves results out: what follows a call without one has no whole prompt.
    """
    is_droid = lines[0].get("type") == "session_start"
    is_kimi = any(name_text(one.get("role")).startswith("_") for one in lines)
    name = name_text(lines[0].get("id")) if is_droid else ""
    started = next((one["timestamp"] for one in lines if one.get("timestamp")), None)
    replay = Replay(Chat([], name, "droid" if is_droid else "kimi" if is_kimi else "cursor", started=started))
    places: dict[str, int] = {}  # message -> how many there are with it
    for one in lines:
        if one.get("type") == "compaction_state":  # droid says what it summed up, and not what it kept beside that
            replay.go_on_with([{"role": "user", "content": one.get("summaryText")}])
            replay.chat, places = replace(replay.chat, completeness="delta"), {}
        elif one.get("role") == "_system_prompt":
            replay.messages.append({"role": "system", "content": one.get("content")})
        elif not name_text(one.get("role")).startswith("_"):
            message = as_object(one.get("message")) if one.get("type") == "message" else one
            if 0 < places.get(name_text(one.get("parentId")), 0) < len(replay.messages):  # a person went back to it
                replay.go_on_with(replay.messages[: places[name_text(one["parentId"])]])
            last = lower(replay.messages[-1]) if replay.messages and role_of(message) == "assistant" else []
            if last and last[-1].get("tool_calls"):
                replay.go_on_with([*replay.messages, {"role": "tool", "content": ""}])
                replay.chat = replace(replay.chat, completeness="delta")
            replay.messages.append(message)
            if own := name_text(one.get("id")):
                places[own] = len(replay.messages)
    yield from replay.chats()


def kimi_code(lines: Sequence[Json]) -> Iterator[Chat]:
    """The events of one of Kimi Code's agents (`wire.jsonl`): what it was told and offered, and what it said."""
    started = next((one.get("created_at") for one in lines if one.get("created_at")), None)
    first = next((one for one in lines if one.get("type") == "context.append_message"), None)
    replay = Replay(Chat([], f"kimi-{digest([started, first])}", "kimi-code", started=started))
    answer: Json | None = None
    model, floor = "", 0  # the messages before `floor` cannot be taken back any more
    for line in lines:
        kind, messages = line.get("type"), replay.messages
        if kind in ("config.update", "llm.request"):
            model = name_text(first_of(line, "model", "modelAlias")) or model
            if line.get("systemPrompt") and not messages:
                messages.append({"role": "system", "content": line["systemPrompt"]})
                replay.chat.completeness = "whole"
        elif kind == "llm.tools_snapshot":
            replay.chat.tools = line.get("tools")
        elif kind == "context.append_message":
            messages.append(as_object(line.get("message")))
        elif kind == "context.append_loop_event":
            answer = _kimi_event(as_object(line.get("event")), messages, answer, model)
        elif kind == "context.undo":  # so many turns of the person's
            turns = [index for index, one in enumerate(messages) if index >= floor and _is_asked(one)]
            if 0 < (count := whole_number(line.get("count")) or 0) <= len(turns):
                replay.take_back(turns[-count])
            answer = None
        elif kind in ("context.clear", "context.apply_compaction"):
            system = [one for one in messages[:1] if one.get("role") == "system"]
            summary = [{"role": "user", "content": line["summary"]}] if line.get("summary") else []
            gone = whole_number(line.get("compactedCount"))
            replay.go_on_with([*system, *summary, *([] if gone is None else messages[len(system) + gone :])])
            if summary:  # what Kimi put around it is not in the log
                replay.chat = replace(replay.chat, completeness="delta" if gone is None else "reconstructed")
            answer, floor = None, len(replay.messages)
    yield from replay.chats()


def _kimi_event(event: Json, messages: list[Json], answer: Json | None, model: str) -> Json | None:
    """Take in an event of a step, which is one answer and the results of its calls; the answer if it is not over."""
    kind = event.get("type")
    if kind == "step.begin" or (kind in ("content.part", "tool.call") and answer is None):
        answer = {"role": "assistant", "content": [], "model": model, "cut": kind == "step.begin"}
        messages.append(answer)
    if kind == "tool.result":
        result = as_object(event.get("result"))
        own = {"type": "tool_result", "tool_use_id": event.get("toolCallId"), "content": result.get("output")}
        messages.append({"role": "tool", "content": [{**own, "is_error": result.get("isError") is True}]})
    if answer is None:
        return None
    if kind == "content.part":
        answer["content"].append(event.get("part"))
    elif kind == "tool.call":
        call = {"type": "tool_use", "id": event.get("toolCallId"), "name": event.get("name")}
        answer["content"].append({**call, "input": event.get("args")})
    elif kind == "step.end":
        answer |= {"cut": False, "finish_reason": event.get("finishReason")}
        return None
    return answer


def _is_asked(message: Json) -> bool:
    return message.get("role") == "user" and as_object(message.get("origin")).get("kind", "user") == "user"


def grok_cli(lines: Sequence[Json]) -> Iterator[Chat]:
    """The chat history of Grok's CLI: the type of a line is its role, and a question says what it interrupted."""
    messages: list[Json] = []
    for one in lines:
        if one.get("prior_turn_interrupt") and messages and messages[-1]["role"] == "assistant":
            messages[-1]["cut"] = True
        if messages and one.get("type") == "system" and one.get("content") == messages[0]["content"]:  # another session
            yield Chat(messages, agent="grok-cli", completeness="whole")
            messages = []
        if one.get("type") in ("system", "user", "assistant", "tool_result"):
            messages.append({**one, "role": one["type"], "model": one.get("model_id")})
    is_whole = bool(messages) and messages[0]["role"] == "system"
    yield Chat(messages, agent="grok-cli", completeness="whole" if is_whole else "reconstructed")


def augment(value: Json) -> Iterator[Chat]:
    """A session of Augment's CLI: exchanges, of which the nodes hold the calls and the results of those before."""
    messages: list[Json] = []
    for one in objects_in(value["chatHistory"]):
        exchange = as_object(one.get("exchange"))
        asked, said = objects_in(exchange.get("request_nodes")), objects_in(exchange.get("response_nodes"))
        results = [
            {"type": "tool_result", **as_object(one["tool_result_node"])}
            for one in asked
            if one.get("tool_result_node")
        ]
        calls = [{"type": "tool_use", **as_object(one["tool_use"])} for one in said if one.get("tool_use")]
        for role, key, others in (("user", "request_message", results), ("assistant", "response_text", calls)):
            text = {"type": "text", "text": name_text(exchange.get(key))}
            messages.append({"role": role, "content": [text, *others], "cut": one.get("completed") is False})
    yield Chat(messages, name_text(value.get("sessionId")), "augment", started=value.get("created"))


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
            {**one, "type": "tool_result"}
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
    """A thread of Zed's agent; results stand beside the calls. A call whose input was not complete was broken off."""
    messages: list[Json] = []
    for one in as_list(value["messages"]):
        said = as_object(as_object(one).get("Agent"))
        if one == "Resume":
            messages.append({"role": "user", "content": "Continue where you left off"})
        elif said:
            calls = [as_object(part.get("ToolUse")) for part in objects_in(said.get("content"))]
            cut = any(call.get("is_input_complete") is False for call in calls)
            results = list(as_object(said.get("tool_results")).values())
            messages.append({**said, "role": "assistant", "tool_results": results, "cut": cut})
        elif isinstance(one, dict):
            messages.append({"role": "user", **as_object(one.get("User"))} if "User" in one else one)
    name = f"thread-{digest([value.get('summary'), as_list(value['messages'])[:1]])}"
    parent = name_text(as_object(value.get("subagent_context")).get("parent_thread_id"))
    model = name_text(as_object(value.get("model")).get("model"))
    agent = "zed/subagent" if parent else "zed"
    yield Chat(messages, name, agent, model, value.get("updated_at"), parent=parent)
