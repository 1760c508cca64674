"""Conversations as chat programs save or export them."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from grokora_pipeline.sessions.readers.chats import HALF_CALL, Chat, branch, unshown
from grokora_pipeline.sessions.readers.common import first_of, name_text, to_utc
from grokora_pipeline.sessions.readers.documents import (
    SESSION_NAMES,
    Json,
    as_json,
    as_list,
    as_object,
    digest,
    moment,
    objects_in,
)
from grokora_pipeline.sessions.readers.lowering import lower, role_of, says_who, system_of
from grokora_pipeline.sessions.readers.outcomes import stated_in
from grokora_pipeline.sessions.turns import Status


def chatgpt(value: Json) -> Iterator[Chat]:
    """A conversation of ChatGPT's export: calls go to a `recipient`, whose message is their result."""
    nodes = {key: one for key, one in as_object(value["mapping"]).items() if isinstance(one, dict)}
    messages: list[Json] = []
    path = branch(nodes, name_text(value.get("current_node")), "parent")
    hidden = unshown(nodes.values(), path, _chatgpt_role)
    for node in path:
        one, role = as_object(node.get("message")), _chatgpt_role(node)
        content, metadata = as_object(one.get("content")), as_object(one.get("metadata"))
        kind, recipient = content.get("content_type"), name_text(one.get("recipient")) or "all"
        said = content.get("parts") if "parts" in content else first_of(content, "text", "result") or ""
        model = first_of(metadata, "model_slug") or value.get("default_model_slug")
        if role == "assistant" and recipient not in ("all", "user"):
            text = "\n".join(part for part in said if isinstance(part, str)) if isinstance(said, list) else said
            arguments = as_json(text)
            arguments = arguments if isinstance(arguments, dict) else {"input": text}
            messages.append({"role": role, "content": [{"type": "tool_use", "name": recipient, "input": arguments}]})
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
    yield Chat(messages, name, "chatgpt", started=value.get("create_time"), unshown=hidden)


def _chatgpt_role(node: Json) -> str:
    return name_text(as_object(as_object(node.get("message")).get("author")).get("role"))


def deepseek(value: Json) -> Iterator[Chat]:
    """A conversation of DeepSeek's export: the branch whose last message is the newest."""
    nodes = {key: one for key, one in as_object(value["mapping"]).items() if isinstance(one, dict)}
    parents = {name_text(child): key for key, one in nodes.items() for child in as_list(one.get("children"))}
    nodes = {key: {"parent": parents.get(key), **one} for key, one in nodes.items()}
    said = [key for key, one in nodes.items() if not as_list(one.get("children"))]
    leaf = max(said, key=lambda key: to_utc(as_object(nodes[key].get("message")).get("inserted_at")), default="")
    kinds = {"REQUEST": "text", "RESPONSE": "text", "THINK": "thinking"}
    messages = []
    for node in branch(nodes, leaf, "parent"):
        message = as_object(node.get("message"))
        parts = [
            {**one, "type": kinds.get(one.get("type", ""), one.get("type"))}
            for one in objects_in(message.get("fragments"))
        ]
        messages.append({"role": _deepseek_role(node), "content": parts, "model": message.get("model")})
    hidden = unshown(nodes.values(), branch(nodes, leaf, "parent"), _deepseek_role)
    yield Chat(messages, name_text(value.get("id")), "deepseek", started=value.get("inserted_at"), unshown=hidden)


def _deepseek_role(node: Json) -> str:
    kinds = {one.get("type") for one in objects_in(as_object(node.get("message")).get("fragments"))}
    return "user" if "REQUEST" in kinds else "assistant" if kinds else ""


def mistral(value: Json) -> Iterator[Chat]:
    """The history of a conversation that Mistral keeps; its instructions are the agent's, and stand elsewhere."""
    entries = objects_in(value["entries"])
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


def claude_ai(value: Json) -> Iterator[Chat]:
    """A conversation of claude.ai's export: the branch that it shows, with the texts of attachments."""
    own = objects_in(value["chat_messages"])
    leaf = name_text(value.get("current_leaf_message_uuid"))
    path = branch({name_text(one.get("uuid")): one for one in own}, leaf, "parent_message_uuid") or own
    messages = [
        {
            "role": one.get("sender"),
            "content": [
                *[
                    {"type": "text", "text": name_text(file.get("extracted_content"))}
                    for file in objects_in(one.get("attachments"))
                ],
                *[{"type": "file"} for _ in objects_in(one.get("files"))],
                *(objects_in(one.get("content")) or [{"type": "text", "text": name_text(one.get("text"))}]),
            ],
            "cut": one.get("stop_reason") in ("user_canceled", "max_tokens"),
        }
        for one in path
    ]
    model = name_text(value.get("model"))
    hidden = unshown(own, path, lambda one: one.get("sender"))
    yield Chat(messages, name_text(value.get("uuid")), "claude.ai", model, value.get("created_at"), unshown=hidden)


def big_agi(value: Json) -> Iterator[Chat]:
    """A conversation of Big-AGI's, or all of a backup. Messages are texts, or fragments with a part each."""
    for chat in objects_in(value.get("conversations")) or [value]:
        messages = []
        for one in objects_in(chat.get("messages")):
            parts = [as_object(fragment.get("part")) for fragment in objects_in(one.get("fragments"))]
            by = as_object(one.get("generator"))
            said = {"role": one.get("role"), "content": list(map(_fragment, parts)) or one.get("text")}
            model = first_of(as_object(by.get("aix")), "mId") or first_of(by, "name") or one.get("originLLM")
            cut = bool(by.get("tokenStopReason")) or any(part.get("pt") == "error" for part in parts)
            messages.append({**said, "model": model if one.get("role") == "assistant" else None, "cut": cut})
        yield Chat(messages, name_text(chat.get("id")), "big-agi", started=chat.get("created"))


def _fragment(part: Json) -> Json:
    """The part of a fragment of Big-AGI's, under the names of others."""
    kind, call, reply = part.get("pt"), as_object(part.get("invocation")), as_object(part.get("response"))
    if kind == "tool_invocation" and call.get("type") == "function_call":
        return {"type": "tool_use", "id": part.get("id"), "name": call.get("name"), "input": call.get("args")}
    if kind == "tool_response" and reply.get("type") == "function_call":
        result = {"type": "tool_result", "tool_use_id": part.get("id"), "content": reply.get("result")}
        return {**result, "is_error": bool(part.get("error"))}
    if kind == "ma":
        return {"type": "thinking", "text": part.get("aText")}
    if kind == "doc":
        return {"type": "text", "text": name_text(as_object(part.get("data")).get("text"))}
    silent = {"annotations": "citation", "ph": "citation", "error": "citation", "reference": "file"}
    return {"text": part.get("text"), "type": silent.get(name_text(kind), kind)}


def dify(rows: Sequence[Json]) -> Iterator[Chat]:
    """The messages of one conversation with an app of Dify's; of the calls that an agent made it tells too little."""
    messages: list[Json] = []
    for one in sorted(rows, key=lambda row: to_utc(row.get("created_at"))):
        called = any(thought.get("tool") for thought in objects_in(one.get("agent_thoughts")))
        said = {"role": "assistant", "content": one["answer"], "feedback": one.get("feedback")}
        messages += [{"role": "user", "content": one["query"]}, {**said, "cut": "calls_not_recorded" if called else ""}]
    yield Chat(messages, agent="dify", started=rows[0].get("created_at"))


MAX_TELLINGS = 8  # lists of messages beside each other that may be one conversation, told in several ways
# Members that show how a conversation might go, and are no log of one.
_NO_LOG = re.compile(r"example|shot|demo|template|expected|reference|fixture", re.IGNORECASE)


def inside(value: Json) -> Iterator[Chat]:
    """The conversations that a document holds: its lists of messages that end with an answer.

    So TypingMind, LobeChat, Chatbox, LlamaIndex and many a program of its own keep them. Messages that name a session
    (and LobeChat's topic) are one conversation for each.
    """
    for holder, (model, system, status), chats in _holders(value):
        again = [_is_told_again(own, chats) for own in chats]
        copies = (own for own, is_copy in zip(chats, again, strict=True) if is_copy)
        yield from (Chat([{**one, "cut": "copied_history"} for one in own]) for own in copies)
        chats = [own for own, is_copy in zip(chats, again, strict=True) if not is_copy]  # noqa: PLW2901
        own = name_text(first_of(holder, *SESSION_NAMES, "chatID", "id")) if len(chats) == 1 else ""
        for messages in chats:
            if role_of(messages[-1]) == "user":  # a request without its reply
                yield HALF_CALL
                continue
            sessions: dict[tuple[str, str], list[Json]] = {}
            for one in messages:
                key = name_text(first_of(one, *SESSION_NAMES)), name_text(one.get("topicId"))
                sessions.setdefault(key, []).append(one)
            for key, said in sessions.items():
                asked = [] if role_of(said[0]) == "system" else system_of(system)
                started, name = moment(holder, said[0]), "/".join(filter(None, key)) or own
                yield Chat([*asked, *said], name, model=model, started=started, status=status)


def _is_told_again(own: list[Json], chats: list[list[Json]]) -> bool:
    """Whether another of a few lists of messages, longer or before it, says all that one says: the same, with calls."""
    if not 1 < len(chats) <= MAX_TELLINGS:
        return False
    told = [
        {(one["role"], one["content"]) for raw in other for one in lower(raw) if one["role"] != "tool"}
        for other in chats
    ]
    place = next(index for index, other in enumerate(chats) if other is own)
    mine, size = told[place], (len(own), -place)
    return any(mine < one or (mine == one and size < (len(chats[at]), -at)) for at, one in enumerate(told))


def holds_chats(value: Json) -> bool:
    """Whether a document, or the beginning of one, holds a list of messages somewhere."""
    return any(True for _ in _holders(value, width=2))


def _holders(
    value: Json, width: int | None = None, above: tuple[str, Json, Status] = ("", {}, "unknown"), depth: int = 0
) -> Iterator[tuple[Json, tuple[str, Json, Status], list[list[Json]]]]:
    """The objects of a document that hold lists of messages, and these lists; between them what is said above.

    That is the model, the object that has a system prompt, and how it ended. At most four members deep; of a list of
    other objects the first `width` are looked into.
    """
    names = ("model", "model_name", "modelId")
    model = name_text(first_of(value, *names) or first_of(as_object(value.get("runSettings")), *names))
    # that a page was loaded or a log was parsed well says nothing of the conversations in it
    of_content = {key: one for key, one in value.items() if key not in ("status", "success")}
    stated = {stated_in(value), stated_in(of_content)}
    ended: Status = "failure" if "failure" in stated | {above[2]} else "success" if stated == {"success"} else above[2]
    above = model or above[0], value if system_of(value) else above[1], ended
    members = {key: member for key, member in value.items() if not _NO_LOG.search(key)}
    chats = {key: own for key, member in members.items() if _is_chat(own := _said(member))}
    if chats:
        yield value, above, list(chats.values())
    for key, member in members.items() if depth < 4 else ():
        if key not in chats:
            for one in [member] if isinstance(member, dict) else objects_in(member)[:width]:
                yield from _holders(one, width, above, depth + 1)


def _said(member: Any) -> list[Json]:
    """The objects of a list; the messages of AgentScope's pairs of a message and its marks, and of Strands' records."""
    own = [one[0] if isinstance(one, list) and one else one for one in member] if isinstance(member, list) else []
    return [as_object(one["message"]) if "message_id" in one else one for one in own if isinstance(one, dict)]


def _is_chat(own: list[Json]) -> bool:
    """Whether the first two objects of a list are messages, and no answers to choose from."""
    first = own[:2]
    texts = (
        *("content", "contentParts", "contents", "items", "Items", "parts", "blocks", "text", "value", "message"),
        *("_content", "mes"),
    )
    are_said = all(says_who(one) and any(key in one for key in texts) for one in first)
    roles = [role_of(one) for one in first]
    return len(first) == 2 and are_said and (roles[0] in ("system", "user") or roles == ["assistant", "user"])


def open_webui(value: Json) -> Iterator[Chat]:
    """A chat of Open WebUI: the branch that it shows."""
    chat = as_object(value["chat"])
    history = as_object(chat.get("history"))
    nodes = {key: one for key, one in as_object(history.get("messages")).items() if isinstance(one, dict)}
    messages = branch(nodes, name_text(history.get("currentId")), "parentId") or objects_in(chat.get("messages"))
    system = as_object(chat.get("params")).get("system") or chat.get("system")
    plain = [{"role": "system", "content": system}] if system else []
    for one in messages:
        own: Json = {key: one[key] for key in ("role", "content", "model") if key in one}
        plain.append({**own, "cut": bool(one.get("error")) or one.get("done") is False})
    hidden = unshown(nodes.values(), messages, lambda one: one.get("role")) if nodes else 0
    yield Chat(plain, name_text(value.get("id")), "open-webui", started=value.get("created_at"), unshown=hidden)


def llama_cpp(value: Json) -> Iterator[Chat]:
    """A conversation of llama.cpp's web page: the branch that it shows. Calls are JSON text."""
    facts = as_object(value["conv"])
    nodes = {name_text(one.get("id")): one for one in objects_in(value["messages"])}
    path = branch(nodes, name_text(facts.get("currNode")), "parent")
    hidden = unshown(nodes.values(), path, lambda one: one.get("role"))
    started = next((one.get("timestamp") for one in path), None)
    yield Chat(path, name_text(facts.get("id")), "llama.cpp", started=started, unshown=hidden)


def llm(rows: Sequence[Json]) -> Iterator[Chat]:
    """The responses of one conversation that `llm logs --json` prints: they continue each other."""
    messages: list[Any] = []
    for one in sorted(rows, key=lambda one: to_utc(one.get("datetime_utc"))):
        if one.get("system") and not messages:
            messages.append({"role": "system", "content": one["system"]})
        messages += [
            {**result, "role": "tool", "content": result.get("output")}
            for result in objects_in(one.get("tool_results"))
        ]
        messages += [{"role": "user", "content": one["prompt"]}] if one.get("prompt") else []
        said = {"role": "assistant", "content": one.get("response"), "tool_calls": one.get("tool_calls")}
        messages.append({**said, "model": one.get("model")})
    tools = [{**tool, "parameters": tool.get("input_schema")} for row in rows for tool in objects_in(row.get("tools"))]
    name = name_text(rows[0].get("conversation_id"))
    yield Chat(messages, name, "llm", started=rows[0].get("datetime_utc"), tools=tools)


def librechat(value: Json) -> Iterator[Chat]:
    """A conversation of LibreChat's export, flat or as a tree: the branch whose last message is the newest."""
    options = as_object(value.get("options"))
    nodes: dict[str, Json] = {}
    pending = objects_in(value["messages"])[::-1]
    while pending:
        one = pending.pop()
        nodes[name_text(one.get("messageId"))] = one
        pending += objects_in(one.get("children"))[::-1]
    parents = {name_text(one.get("parentMessageId")) for one in nodes.values()}
    leaves = [key for key in nodes if key not in parents] or list(nodes)
    last = max(reversed(leaves), key=lambda key: to_utc(nodes[key].get("createdAt")))
    path = branch(nodes, last, "parentMessageId")
    messages = [
        {
            "role": "user" if one.get("isCreatedByUser") else "assistant",
            "content": one.get("content") or one.get("text"),
            "model": one.get("model"),
            "cut": bool(one.get("unfinished") or one.get("error")),
        }
        for one in path
    ]
    hidden = unshown(nodes.values(), path, lambda one: "user" if one.get("isCreatedByUser") else "assistant")
    system = [{"role": "system", "content": options["promptPrefix"]}] if options.get("promptPrefix") else []
    name, model = name_text(value.get("conversationId")), name_text(options.get("model"))
    started = next(iter(nodes.values())).get("createdAt")
    yield Chat([*system, *messages], name, "librechat", model, started, unshown=hidden)


def grok(value: Json) -> Iterator[Chat]:
    """The conversations of Grok's export: of answers that were asked for again, the last one."""
    for one in objects_in(value["conversations"]):
        facts = as_object(one.get("conversation"))
        own = [as_object(response.get("response")) for response in objects_in(one.get("responses"))]
        nodes = {name_text(response.get("_id")): response for response in own}
        path = branch(nodes, next(reversed(nodes), ""), "parent_response_id")
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
        hidden = unshown(own, path, lambda one: one.get("sender"))
        yield Chat(messages, name_text(facts.get("id")), "grok", started=facts.get("create_time"), unshown=hidden)


def lm_studio(value: Json) -> Iterator[Chat]:
    """A conversation of LM Studio: of each message the version that is selected."""
    messages = [{"role": "system", "content": value.get("systemPrompt")}]
    for one in objects_in(value["messages"]):
        versions = objects_in(one.get("versions"))
        chosen = one.get("currentlySelected")
        own = versions[chosen] if isinstance(chosen, int) and 0 <= chosen < len(versions) else {}
        said = [own, *objects_in(own.get("steps"))]
        content = [part for step in said for part in objects_in(step.get("content"))]
        model = as_object(own.get("senderInfo")).get("senderName")
        messages.append({"role": own.get("role"), "content": content, "model": model})
    yield Chat(messages, f"content-{digest([value.get('createdAt'), value.get('name')])}", "lm-studio")
