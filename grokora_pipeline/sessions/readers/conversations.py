"""Conversations as chat and coding programs save or export them, one small shape each, on the common lowering.

None of these files holds the system prompt as it was sent, unless a shape says so: their prompts are `reconstructed`.
A conversation that was edited or asked again is a tree, of which the branch that the program showed last is read.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers import call_logs, chat_programs, coding_agents, frameworks
from grokora_pipeline.sessions.readers.bodies import is_asked
from grokora_pipeline.sessions.readers.chats import HALF, Chat, divided
from grokora_pipeline.sessions.readers.common import Source, UnreadableError, first_of, name_text, to_utc
from grokora_pipeline.sessions.readers.documents import (
    Json,
    Shelf,
    as_object,
    digest,
    moment,
    objects_in,
    peek_objects,
    records,
    unbroken,
)
from grokora_pipeline.sessions.readers.lowering import explode, join_calls, lower, lower_tools, pair_results, says_who
from grokora_pipeline.sessions.readers.outcomes import scored, scores_in
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Verdict

_LISTS = ("messages", "history", "message_history", "conversation", "steps")
NO_AGENTS_CONTENT = (
    "traces of the OpenAI Agents SDK name a response and hold neither its input nor its output; record at the gateway"
)


class Shape(NamedTuple):
    """How a program's file is known by its first records, and what conversations its records are.

    `each`: a record is a file's own conversation (or several); else the records of a file belong together, those of
    each session apart, or from each record that `begins` one. A record that holds a list of messages is a conversation
    in any shape.
    """

    name: str
    looks_like: Callable[[Json], bool]
    chats: Callable[[Any], Iterator[Chat]]
    each: bool = True
    within: int = 2  # how many of the first records may be the one that tells
    begins: Callable[[Json], bool] | None = None
    empty: str = ""  # why a file without a single call has none, and what to do about it


def detector(shape: Shape) -> Callable[[bytes], bool]:
    """The function that tells whether a file's first bytes are of the shape."""
    return lambda head: any(shape.looks_like(value) for value in peek_objects(head)[: shape.within])


def reader(shape: Shape) -> Callable[[Source], Iterator[Item]]:
    """The function that reads a file of the shape."""

    def read(source: Source) -> Iterator[Item]:
        """The turns and problems of a file of the shape."""
        held = Shelf()
        calls = begun = told = 0

        def read_chats(value: Any, number: int, name: str) -> Iterator[Item]:
            for chat in shape.chats(value):
                yield from chat_turns(source, chat, number, name, apart=not number)

        def turns(value: Any, number: int, name: str, what: str) -> Iterator[Item]:
            nonlocal calls, told
            for item in unbroken(read_chats(value, number, name), what):
                calls += item != Skipped(HALF)
                told += 1
                yield item

        for record in records(source):
            if isinstance(record, Problem):
                yield record
            elif not isinstance(record.value, dict):
                yield Problem("wrong_schema", record.offset, f"record {record.number} is no object")
            elif shape.each or any(isinstance(record.value.get(name), list) for name in _LISTS):
                value = record.value if shape.each else [record.value]
                yield from turns(value, record.number, "", f"record {record.number}")
            elif shape.begins:
                begun += shape.begins(record.value)
                held.add(record.value, f"{begun}")
            else:
                held.add(record.value)
        for name, lines in held.take():
            yield from turns(lines, 0, "" if shape.begins else name, "a session")
        if not calls and shape.empty:
            raise UnreadableError("no_contents", 0, shape.empty)
        if not told:
            yield Skipped("no_model_call")

    return read


def chat_turns(source: Source, chat: Chat, line: int, named: str = "", *, apart: bool = False) -> Iterator[Item]:
    """The turns and the verdict of a chat. `named`: the session that its records name, if it has none of its own.

    `apart`: without a name they may be several conversations, one behind the other.
    """
    yield from (Skipped("another_branch") for _ in range(chat.unshown))
    said_of = Verdict(chat.session or named, status=chat.status, rating=chat.rating)
    is_judged = chat.status != "unknown" or chat.rating is not None
    messages: list[Message] = []
    left_out, at = 0, to_utc(chat.started)
    for raw in chat.messages:
        marks = raw if isinstance(raw, Mapping) else {}
        at = moment(marks) or at
        model = name_text(first_of(marks, "model", "modelId", "model_name", "ModelId") or chat.model)
        trainable = not (marks.get("cut") or marks.get("earlier"))
        own = [{**one, "model": model, "trainable": trainable, "at": at} for one in lower(raw)]
        if marks.get("failed") or scored(scores_in(marks))[1] == "failure":  # somebody did not like this answer
            own = [{**one, "ended_early": True} for one in own]
        if (marks.get("cut") or marks.get("unsent")) and any(one["role"] == "assistant" for one in own):
            left_out += 1
            yield Skipped(marks["cut"] if isinstance(marks.get("cut"), str) else "broken_off")
        messages += own if not marks.get("unsent") else []
    for said in divided(messages) if apart and not (chat.session or named) else [messages]:
        own = pair_results(join_calls(said, lossy=True))
        places = [index for index, one in enumerate(own) if one["role"] == "assistant" and one.get("trainable", True)]
        places = [index for index in places if index == len(own) - 1] if chat.last_only else places
        if not places:
            if is_judged and said_of.session_id:
                yield said_of
            elif not left_out:
                yield Skipped("no_answer" if chat.last_only else "no_model_call")
            continue
        start = next(index for index, one in enumerate(own) if one["role"] == "assistant")
        session = chat.session or named or f"content-{digest([one['content'] for one in own[:start]])}"
        for model in dict.fromkeys(name_text(own[index].get("model")) for index in places):
            yield from explode(
                source,
                own,
                [index for index in places if name_text(own[index].get("model")) == model],
                session_id=session,
                agent=chat.agent,
                line=line + chat.place,
                tools=lower_tools(chat.tools),
                completeness=chat.completeness,
                model=model,
                parent_session_id=chat.parent,
                status=chat.status,
                task=chat.task,
                first_step=chat.first_step,
            )
        if is_judged:
            yield replace(said_of, session_id=session)


def _has(*paths: str, **members: Any) -> Callable[[Json], bool]:
    """A test of whether an object has members, also within its objects (`info.directory`), and others of a value."""

    def is_there(value: Json, path: str) -> bool:
        name, _, rest = path.partition(".")
        return is_there(as_object(value.get(name)), rest) if rest else name in value

    return lambda value: (
        all(is_there(value, path) for path in paths) and all(value.get(name) == one for name, one in members.items())
    )


def _begun(name: str, begins: Callable[[Json], bool], chats: Callable[[Any], Iterator[Chat]]) -> Shape:
    """A shape whose sessions each begin with the record that tells the shape."""
    return Shape(name, begins, chats, each=False, begins=begins)


def _is_cline(value: Json) -> bool:
    """The first message of a task of Cline or Roo: parts, and a time, a task or the editor's state. Or a document."""
    if {"version", "agent", "sessionId", "messages"} <= value.keys():
        return True
    said = str(value["content"][:2]) if isinstance(value.get("content"), list) else ""
    return (
        value.get("role") == "user" and bool(said) and ("ts" in value or "<task>" in said or "<environment_det" in said)
    )


def _is_call_log(value: Json) -> bool:
    """A request's messages with the reply beside them, as callbacks of many libraries write it."""
    is_litellm = "call_type" in value and "response_obj" not in value  # but for what its callbacks are handed
    waits = not is_litellm and is_asked(first_of(value, "messages", "contents"))
    return waits and any(value.get(key) for key in (*call_logs.REPLIES, "choices"))


def _is_langchain(value: Json) -> bool:
    kinds = {"human", "ai", "system", "tool"}
    kind = name_text(value.get("type"))
    is_java = kind in ("SYSTEM", "USER", "AI") and ("text" in value or "contents" in value)  # LangChain4j
    return "role" not in value and (
        is_java
        or (kind in kinds and ("data" in value or "content" in value))
        or (value.get("type") == "constructor" and "messages" in str(value.get("id")))
    )


SHAPES: tuple[Shape, ...] = (
    Shape("gemini_cli", _has("sessionId", "projectHash"), coding_agents.gemini_cli, each=False),
    Shape("qwen", _has("uuid", "message.parts"), coding_agents.qwen, each=False),
    Shape("opencode", _has("info.directory"), coding_agents.opencode),
    Shape(
        "continue",
        # Kiro's sessions look alike, and say "On it." where the answer was: it lies in the `executionId`'s own file
        lambda value: (
            "sessionId" in value
            and isinstance(value.get("history"), list)
            and not any("executionId" in one for one in objects_in(value["history"]))
        ),
        coding_agents.continue_dev,
    ),
    Shape(
        "amazon_q",
        lambda value: (
            "conversation_id" in value and "history" in value and not value.keys().isdisjoint(coding_agents.Q_ONLY)
        ),
        coding_agents.amazon_q,
    ),
    Shape("llm", _has("conversation_id", "prompt", "response", "datetime_utc"), chat_programs.llm, each=False),
    Shape(
        "adk",
        # Vertex AI's interface calls them `sessionEvents`
        lambda value: any(
            {"author", "content"} <= one.keys() for one in objects_in(first_of(value, "events", "sessionEvents"))[:2]
        ),
        frameworks.adk,
    ),
    _begun(
        "goose",
        lambda value: "working_dir" in value and bool(value.keys() & {"description", "message_count", "conversation"}),
        coding_agents.goose,
    ),
    Shape("amp", lambda value: name_text(value.get("id")).startswith("T-") and "messages" in value, coding_agents.amp),
    Shape(
        "augment",
        lambda value: "exchange" in next(iter(objects_in(value.get("chatHistory"))), {}),
        coding_agents.augment,
    ),
    Shape("copilot_chat", _has("responderUsername", "requests"), coding_agents.copilot_chat),
    _begun("copilot_journal", _has("v.requests", kind=0), coding_agents.copilot_journal),
    _begun("copilot_cli", _has("data", type="session.start"), coding_agents.copilot_cli),
    _begun("droid", _has("id", type="session_start"), coding_agents.message_lines),
    Shape("cursor", _has("role", "message.content"), coding_agents.message_lines, each=False),
    # all but its calls is as Claude Code prints it
    Shape("cursor_stream", _has("call_id", "tool_call", type="tool_call"), coding_agents.cursor_stream, False, 64),
    Shape("gemini_stream", _has("session_id", "model", type="init"), coding_agents.gemini_stream, each=False),
    Shape(
        "kimi",
        lambda value: name_text(value.get("role")).startswith("_"),
        coding_agents.message_lines,
        each=False,
        begins=_has(role="_system_prompt"),
    ),
    Shape(
        "kimi_code",
        lambda value: name_text(value.get("type")).startswith(("context.append_", "config.update", "turn.prompt")),
        coding_agents.kimi_code,
        each=False,
        within=16,
        begins=_has("protocol_version", type="metadata"),
    ),
    Shape(
        "grok_cli",
        lambda value: value.get("type") == "assistant" and ("model_id" in value or "model_fingerprint" in value),
        coding_agents.grok_cli,
        each=False,
        within=16,
    ),
    Shape("llama_cpp", _has("conv.currNode", "messages"), chat_programs.llama_cpp),
    Shape("deepseek", _has("mapping", "inserted_at"), chat_programs.deepseek),
    Shape("mistral", _has("entries", "conversation_id"), chat_programs.mistral),
    Shape("chatgpt", _has("mapping", "create_time"), chat_programs.chatgpt),
    Shape("claude_ai", _has("chat_messages", "uuid"), chat_programs.claude_ai),
    Shape("dify", _has("conversation_id", "query", "answer"), chat_programs.dify, each=False),
    Shape("open_webui", _has("chat.history"), chat_programs.open_webui),
    Shape("autogen", _has("agent_states"), frameworks.autogen),
    Shape(
        "letta",
        lambda value: any("llm_config" in one for one in (value, *objects_in(value.get("agents"))[:1])),
        frameworks.letta,
    ),
    Shape("letta_messages", _has("message_type", "id", "date"), frameworks.letta_messages, each=False),
    _begun(
        "smolagents",
        lambda value: {"system_prompt"} in [one.keys() for one in (value, *objects_in(value.get("steps"))[:1])],
        frameworks.smolagents,
    ),
    Shape(
        "pydantic_ai",
        # a list of messages, or a document that holds one, as Atlassian's Rovo Dev saves it
        lambda value: any(
            one.get("kind") in ("request", "response") and "parts" in one
            for one in (value, *objects_in(value.get("message_history"))[:1])
        ),
        frameworks.pydantic_ai,
        each=False,
    ),
    Shape(
        "ui_messages",
        lambda value: all(
            isinstance(one.get("parts"), list) and {"role", "id"} <= one.keys()
            for one in (objects_in(value.get("messages")) or [value])[:2]
        ),
        frameworks.ui_messages,
        each=False,
    ),
    Shape(
        "gemini_contents",
        lambda value: _is_content(value) or _is_content(next(iter(objects_in(value.get("history"))), {})),
        # contents of Gemini's API in a list: a checkpoint of Gemini CLI (`/chat save`)
        lambda items: iter([Chat(objects_in(items[0].get("history")) or items, agent="gemini-cli")]),
        each=False,
    ),
    Shape("langchain", _is_langchain, lambda items: iter([Chat(items, completeness="whole")]), each=False),
    Shape(
        "langgraph",
        lambda value: any(
            _is_langchain(one)
            for holder in (as_object(value.get("values")), as_object(value.get("channel_values")), value)
            for one in objects_in(holder.get("messages"))[:1]
        ),
        frameworks.langgraph,
    ),
    Shape(
        "zed",
        lambda value: (
            {"version", "summary", "messages"} <= value.keys()
            or any(one.keys() in ({"User"}, {"Agent"}) for one in objects_in(value.get("messages"))[:1])
        ),
        coding_agents.zed,
    ),
    Shape(
        "big_agi",
        lambda value: any("systemPurposeId" in one for one in (value, *objects_in(value.get("conversations"))[:1])),
        chat_programs.big_agi,
    ),
    Shape("nemo_gym", _has("responses_create_params", "response"), frameworks.nemo_gym),
    Shape(
        "semantic_kernel",
        lambda value: any(
            isinstance(first_of(one, "Role", "role"), dict) and not one.keys().isdisjoint(frameworks.KERNEL_CONTENTS)
            for one in (value, *objects_in(value.get("messages"))[:1])
        ),
        frameworks.semantic_kernel,
        each=False,
    ),
    Shape(
        "openai_thread",
        _has(object="thread.message"),
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
    Shape("trae", _has("llm_interactions"), frameworks.trae),
    Shape(
        "browser_use",
        lambda value: any({"model_output", "state"} <= one.keys() for one in objects_in(value.get("history"))[:2]),
        frameworks.browser_use,
    ),
    Shape("inspect_ai", _has("eval.task", "eval.model"), frameworks.inspect),
    Shape("inspect_ai", _has("epoch", "input", "target", "messages"), frameworks.inspect),
    Shape("librechat", _has("conversationId", "endpoint", "messages"), chat_programs.librechat),
    Shape(
        "grok",
        lambda value: any(
            {"conversation", "responses"} <= one.keys() for one in objects_in(value.get("conversations"))[:1]
        ),
        chat_programs.grok,
    ),
    Shape(
        "lm_studio",
        lambda value: any("versions" in one for one in objects_in(value.get("messages"))[:1]),
        chat_programs.lm_studio,
    ),
    Shape("cline", _is_cline, coding_agents.cline, each=False),
    Shape("helicone", _has("request_body", "response_body"), call_logs.call),
    Shape("bedrock_log", _has(schemaType="ModelInvocationLog"), call_logs.call),
    Shape("bedrock_batch", _has("modelInput", "modelOutput"), call_logs.call),
    Shape("vertex_log", _has("full_request", "full_response"), call_logs.call),
    Shape("datadog", _has("meta.input.messages"), call_logs.call),
    Shape("promptlayer", _has("prompt_blueprint.prompt_template.messages"), call_logs.call),
    Shape(
        "ai_sdk_steps",
        lambda value: any({"finishReason", "response"} <= one.keys() for one in objects_in(value.get("steps"))[:1]),
        call_logs.call,
        empty="steps of the AI SDK without the requests; keep each step's `request.body`, or trace with OpenTelemetry",
    ),
    Shape("llm_span", _has("input", "output", type="llm"), call_logs.call),
    Shape("posthog", _has("properties.$ai_input"), call_logs.call),
    Shape("openai_response", _has("input", object="response"), call_logs.call),
    Shape("openai_eval", _has(object=call_logs.EVAL_ITEM), call_logs.call),
    Shape("weave", _has("op_name", "inputs"), call_logs.call),
    Shape(
        "braintrust",
        lambda value: "root_span_id" in value and bool(value.keys() & {"span_attributes", "input"}),
        call_logs.call,
    ),
    Shape(
        "openai_agents",
        lambda value: value.get("object") in ("trace", "trace.span"),
        call_logs.call,
        empty=NO_AGENTS_CONTENT,
    ),
    Shape("har", _has("log.entries"), call_logs.call, empty="it holds no request to the API of a model"),
    Shape("call_log", _is_call_log, call_logs.call),
)


# Told last of all formats: others hold calls somewhere in them, too.
WRAPPED = Shape("wrapped_calls", lambda value: any(True for _ in call_logs.inside(value)), call_logs.calls_inside)
ITEMS = Shape("openai_items", frameworks.is_item, frameworks.openai_items, each=False, within=64)
TAU = Shape(
    "tau_bench",
    lambda value: (
        ("task_id" in value and any(map(says_who, objects_in(value.get("traj"))[:1])))
        or _has("info.environment_info")(value)
    ),
    frameworks.tau,
)
HELD = Shape(
    "held_chats",
    chat_programs.holds_chats,
    chat_programs.inside,
    empty="its lists of messages end with a question; give conversations, or requests with their replies",
)


def _is_content(value: Json) -> bool:
    """Whether it is a content of Gemini's: a role and parts that name no type."""
    return (
        "role" in value
        and "id" not in value
        and bool(objects_in(value.get("parts")))
        and "type" not in objects_in(value["parts"])[0]
    )
