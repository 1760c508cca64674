"""Training data as people keep it: OpenAI fine-tuning and TRL rows, ShareGPT, Alpaca, prompt-completion, KTO and DPO.

A row is a conversation: each assistant message that may be trained on becomes a turn with everything before it as its
prompt. A row names no session, so its content is its session: rows that begin alike stay on one side of the split.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any, NamedTuple

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.bodies import is_asked
from grokora_pipeline.sessions.readers.call_logs import inside
from grokora_pipeline.sessions.readers.common import Source, first_of, name_text, user
from grokora_pipeline.sessions.readers.documents import (
    MAX_PROBLEMS,
    SESSION_NAMES,
    Json,
    Record,
    as_json,
    as_list,
    as_object,
    digest,
    literal,
    moment,
    peek_objects,
    records,
    unbroken,
)
from grokora_pipeline.sessions.readers.lowering import (
    clean,
    explode,
    join_calls,
    lower,
    lower_all,
    lower_call,
    lower_tools,
    pair_results,
    python_calls,
    says_who,
    system_of,
)
from grokora_pipeline.sessions.readers.outcomes import opinion, stated_in
from grokora_pipeline.sessions.readers.source import without_nulls
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Status

_CHAT = (
    "messages",
    "messages_and_choices",
    "conversations",
    "conversation",
    "dialog",
    "dialogue",
    "contents",
    "turns",
    "chat",
    "trajectory",
    "user_input",  # RAGAS
)
_PROMPT, _COMPLETION = ("prompt", "question", "query", "user_input"), ("completion", "response")
_ALPACAS = ("output", "generation")  # the second is distilabel's
_CONTEXTS = ("retrieved_contexts", "contexts", "retrieved_documents")  # stood in the prompt, in whatever words
_LOGS = (
    "request",
    "resourceSpans",
    "steps",
    "run_type",
    "trajectory_format",
    "executionId",
    "modelTitle",
)  # rows that are logs
_TASKS = ("task_id", "instance_id", "task_name", "problem_id", "task")
_CHOSEN, _REJECTED = ("chosen", "preferred_output"), ("rejected", "non_preferred_output")


def looks_like(head: bytes) -> bool:
    """Whether the first records are rows of a training set."""
    values = peek_objects(head)
    return bool(values) and any(_kind(value) for value in values[:8])


def _kind(row: Json) -> str:
    """Which of the row formats it is, "" for none. Rows of logs have more to say: a request, a response, a trace."""
    # only Alpaca's history, of pairs of a question and an answer, stands in a row
    history = row.get("history") or []
    is_log = not isinstance(history, list) or any(not isinstance(one, list) or len(one) != 2 for one in history)
    if is_log or any(key in row for key in _LOGS):
        return ""
    if any(key in row for key in _CHOSEN) and any(key in row for key in _REJECTED):
        return "preference"
    if any(_has_turns(row.get(key)) for key in _CHAT):
        is_call = is_asked(as_json(row.get("messages"))) and any(True for _ in inside(row))
        return "" if is_call else "chat"
    if any(isinstance(text := row.get(key), str) and _FLAT.search(text) for key in (*_PROMPT, "instruction")):
        return ""  # the roles are a part of the text, as one model's template writes them
    if isinstance(row.get("instruction"), str) and isinstance(first_of(row, *_ALPACAS), str):
        return "alpaca"
    if isinstance(row.get("query"), str) and _calls(row.get("answers")) and row.get("tools"):
        return "xlam"
    if isinstance(row.get("chat"), str) and _dialogue(row["chat"]):
        return "dialogue"
    said, prompt = first_of(row, *_COMPLETION), as_json(first_of(row, *_PROMPT))
    if isinstance(said, str | list) and (isinstance(prompt, str) or _has_turns(prompt)):
        return "prompt_completion"
    # NVIDIA's sets: `output` may be anything beside an `input` that is a text
    answer = row.get("output")
    is_said = isinstance(answer, str) or _has_turns([answer] if isinstance(answer, dict) else answer)
    return "input_output" if _has_turns(row.get("input")) and is_said else ""


def _calls(value: Any) -> list[Json]:
    """The calls that a text or a list holds, and nothing else; [] for anything else."""
    calls = [lower_call(one) for one in as_list(value)]
    return [one for one in calls if one] if all(calls) else []


def _has_turns(value: Any) -> bool:
    """Whether it is a list of messages with a role (ShareGPT's `from`, LangChain's `type`) and a content, or pairs."""
    value = as_json(value)
    first = value[0] if isinstance(value, list) and value else None
    if _paired(value):
        return True
    if not isinstance(first, dict) or {"kind", "step_id"} & first.keys():
        return False
    named = "role" in first or "from" in first or says_who(first)
    return named or (first.get("type") in ("human", "system") and "content" in first)


_ASKED, _SAID = ("input", "user", "human", "question"), ("output", "assistant", "gpt", "bot", "answer", "response")


def _paired(value: Any) -> list[Json]:
    """The messages of a list of pairs of a question and an answer: lists (Gradio), or objects (Capybara)."""
    pairs = []
    for one in value if isinstance(value, list) else ():
        pair = [first_of(one, *_ASKED), first_of(one, *_SAID)] if isinstance(one, dict) and len(one) == 2 else one
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            return []
        pairs.append(pair)
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(roles, pair, strict=True)]


def _status(row: Mapping[str, Any]) -> Status:
    """How a row's conversation ended. A row was kept to be trained on: it succeeded unless a label or a reward says no.

    Rows that name their session, and RAGAS' samples, are a log, which nobody chose to train on. Sets of chats that
    people had (LMSYS) number their conversations, too.
    """
    names = (name for name in SESSION_NAMES if not name.startswith("conversation"))
    is_log = bool(_session(row, *names) or row.get("user_input"))
    said = stated_in(row)
    return "success" if said == "unknown" and not is_log else said


def _session(row: Mapping[str, Any], *names: str) -> str:
    """The session that a row names, itself or in its first message; "" for none."""
    return next((name for own in (row, *_first_message(row)) if (name := name_text(first_of(own, *names)))), "")


def _first_message(row: Mapping[str, Any]) -> list[Json]:
    return [one for key in _CHAT for one in as_list(row.get(key))[:1] if isinstance(one, dict)][:1]


class _DatasetRow(NamedTuple):
    """A row: its conversation, which of its messages may be learnt, and how it is labelled."""

    messages: list[Message]
    trainable: list[int]
    tools: list[Json] | None
    status: Status
    model: str = ""  # who said it, where a pair names one for each side


def read(source: Source) -> Iterator[Item]:
    """The turns of all rows. A row was kept to be trained on: it counts as a success unless its label says no."""
    problems = 0
    for record in records(source):
        if isinstance(record, Problem):
            yield record
        elif isinstance(record.value, dict) and (kind := _kind(record.value)):
            turns = (item for row in _rows(record.value, kind) for item in _turns(source, record, row))
            yield from unbroken(turns, f"row {record.number}")
        else:
            problems += 1
            if problems <= MAX_PROBLEMS:
                yield Problem("wrong_schema", record.offset, f"row {record.number}: {nearest(record.value)}")


def nearest(value: Any) -> str:
    """What a row lacks of the format that it comes closest to."""
    if not isinstance(value, dict):
        return "no JSON object"
    for key in _CHAT:
        if isinstance(value.get(key), list):
            roles = "`from` and `value`" if key == "conversations" else "`role` and `content`"
            return f"looks like {'ShareGPT' if key == 'conversations' else 'chat messages'} without roles ({roles})"
    if path := _path_to_turns(value):
        lacks = "an answer in `completion`" if path == "prompt" else "a row each with these as `messages`"
        return f"looks like chat messages under `{path}`, but needs {lacks}"
    if any(isinstance(one, str) and _TEMPLATE.search(one) for one in value.values()):
        return "looks like chat messages as flat text, with a template's marks; give `messages` with roles"
    if "instruction" in value:
        return "looks like Alpaca without `instruction` and `output` as texts"
    for asked, answered in _PAIRS:
        if isinstance(value.get(asked), str) and isinstance(value.get(answered), str):
            return f"looks like prompt and completion under other names (`{asked}`, `{answered}`); rename them"
    if isinstance(value.get("prompt"), str):
        return "looks like prompt and completion without the `completion`"
    return "no row of a training set"


_PAIRS = (
    ("question", "answer"),
    ("query", "answer"),
    ("query", "response"),
    ("input", "output"),
    ("user", "assistant"),
)
_FLAT = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|\[INST\]|<start_of_turn>|<\|user\|>")
_TEMPLATE = re.compile(rf"{_FLAT.pattern}|### Instruction")


def _path_to_turns(value: Any, depth: int = 0) -> str:
    """Where in an object chat messages stand, at most four members deep; "" if they stand nowhere."""
    for key, member in value.items() if isinstance(value, dict) and depth < 4 else ():
        if _has_turns(member):
            return str(key)
        first = member[0] if isinstance(member, list) and member else member
        if inner := _path_to_turns(first, depth + 1):
            return f"{key}{'[]' if isinstance(member, list) else ''}.{inner}"
    return ""


def _rows(row: Json, kind: str) -> Iterator[_DatasetRow]:
    held = as_object(row.get("chat_template_kwargs"))  # SmolTalk's
    tools = lower_tools(first_of(row, "tools", "functions", "available_tools", "tool_definitions"))
    tools = tools or lower_tools(first_of(held, "tools", "xml_tools", "python_tools"))
    if kind == "preference":
        yield from _preferences(row, tools)
    elif kind == "alpaca":
        yield _alpaca(row, tools)
    elif kind == "dialogue":
        system = name_text(row.get("system")).removeprefix("SYSTEM:").strip()
        messages = _weighted([*([{"role": "system", "content": system}] if system else []), *_dialogue(row["chat"])])
        yield _labelled(row, [], messages, tools or _tools_in(system))
    elif kind == "chat":
        raw = as_json(next(row[key] for key in _CHAT if _has_turns(row.get(key))))
        raw = _paired(raw) or [message for message in raw if isinstance(message, dict)]
        if any(one.get("tool_calls", ()) is None and one.get("role") in ("user", "system") for one in raw):
            raw, tools = without_nulls(raw), without_nulls(tools)  # it was a table
        if raw[0].get("role", raw[0].get("from")) != "system":
            raw = [*system_of(row), *raw]
        messages, label = _weighted(raw), row.get("label")
        places = [index for index, one in enumerate(messages) if one["role"] == "assistant" and one["trainable"]]
        places = places[-1:] if isinstance(label, bool) else places  # KTO labels the last answer
        system = name_text(messages[0].get("content")) if messages and messages[0]["role"] == "system" else ""
        yield _DatasetRow(
            messages, places, tools or lower_tools(raw[0].get("functions")) or _tools_in(system), _status(row)
        )
    else:
        asked, said = (row["input"], row["output"]) if kind == "input_output" else (first_of(row, *_PROMPT), None)
        said = said or first_of(row, *_COMPLETION)
        prompt = _conversation(asked, "user")
        if prompt and prompt[0]["role"] != "system":
            prompt = [*lower_all(system_of(row)), *prompt]
        answer = lower_all([{"role": "assistant", "tool_calls": _calls(row["answers"])}]) if kind == "xlam" else None
        yield _labelled(row, prompt, [*prompt, *(answer or _conversation(said, "assistant"))], tools)


def _tools_in(system: str) -> list[Json] | None:
    """The tool schemas that a system prompt lists as JSON: between Hermes' tags, or one behind the other (Glaive)."""
    listed = re.search(r"<tools>(.*?)</tools>", system, re.DOTALL)
    text = listed[1] if listed else system.partition("functions")[2]
    tools: list[Any] = []
    position = text.find("{" if not listed or "[" not in text.partition("{")[0] else "[")
    with suppress(ValueError):
        while position >= 0:
            value, end = json.JSONDecoder().raw_decode(text, position)
            tools += value if isinstance(value, list) else [value]
            position = text.find("{", end)
    return lower_tools(tools)


def _weighted(raw: Sequence[Json]) -> list[Message]:
    """The messages; `weight`, `loss_weight`, `loss` or `train` of 0 makes a message context (`trainable` False)."""
    messages: list[Message] = []
    at = ""
    for message in raw:
        at = moment(message) or at
        keys = ("weight", "loss_weight", "loss", "train", "trainable")
        weight = next((message[key] for key in keys if message.get(key) is not None), 1)
        weight = weight and not message.get("from_history")  # Agno's, of an earlier run
        messages += [{**one, "trainable": bool(weight), "at": at} for one in lower(message)]
    return pair_results(join_calls(_with_calls(messages), lossy=True))


_CALL_TEXT = re.compile(r"<tool_call>(.*?)</tool_call>|<functioncall>(.*)", re.DOTALL)
_RESULT_TEXT = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)


def _with_calls(messages: Sequence[Message]) -> list[Message]:
    """The messages with the calls that answers spell out as calls: of Hermes, Glaive and (as Python) ToolACE.

    Results go with them, also those that a user's message holds. A text that is not wholly understood stays a text.
    """
    spoken: list[Message] = []
    called = False
    nothing: Message = {}
    for message, after in zip_longest(messages, messages[1:], fillvalue=nothing):
        text, results = message.get("content") or "", list[str]()
        if message["role"] == "assistant":
            spelled = [one or other for one, other in _CALL_TEXT.findall(text)] if "<" in text else []
            calls = [lower_call(literal(one.strip())) for one in spelled]
            if not spelled and text[:1] == "[" and after.get("role") == "tool":
                calls, spelled = python_calls(text), [text]
            called = bool(calls) and all(calls)
            if called:
                said = "" if spelled == [text] else _CALL_TEXT.sub("", text).strip()
                message = {**message, "content": said, "tool_calls": calls}  # noqa: PLW2901
        elif called and message["role"] in ("user", "tool"):
            results = _RESULT_TEXT.findall(text)
            results = results if results and not _RESULT_TEXT.sub("", text).strip() else []
        own: Message = {key: message[key] for key in ("trainable", "at") if key in message}
        spoken += [{"role": "tool", "tool_call_id": "", "content": one, **own} for one in results] or [message]
    return spoken


_DIALOGUE = re.compile(r"(?:\A|\n\n)\s*(Human|USER|Assistant|ASSISTANT|FUNCTION RESPONSE): ?")


def _dialogue(text: str) -> list[Json]:
    """The messages of a text with the speakers in it, as in HH-RLHF and Glaive's sets; [] for anything else."""
    start, *parts = _DIALOGUE.split(text)
    if start.strip() or not parts or parts[0] not in ("Human", "USER"):
        return []
    roles = {"Human": "user", "USER": "user", "FUNCTION RESPONSE": "tool"}
    said = [(roles.get(who, "assistant"), one.strip()) for who, one in zip(parts[::2], parts[1::2], strict=True)]
    ends = [(role, one.removesuffix("<|endoftext|>").strip()) for role, one in said]
    return [{"role": role, "content": one} for role, one in ends if one]


def _labelled(row: Json, prompt: list[Message], messages: list[Message], tools: list[Json] | None) -> _DatasetRow:
    places = [index for index in range(len(prompt), len(messages)) if messages[index]["role"] == "assistant"]
    return _DatasetRow(messages, places, tools, _status(row))


def _alpaca(row: Json, tools: list[Json] | None) -> _DatasetRow:
    """Instruction, input and output, with an earlier `history` of pairs if there is one."""
    system = name_text(first_of(row, "system"))
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for pair in row.get("history") or ():
        if isinstance(pair, list) and len(pair) == 2:
            messages += [user(name_text(pair[0])), {"role": "assistant", "content": name_text(pair[1])}]
    question = "\n".join(filter(None, (row["instruction"], name_text(row.get("input")))))
    prompt = [*messages, user(question)]
    return _labelled(row, prompt, [*prompt, {"role": "assistant", "content": first_of(row, *_ALPACAS)}], tools)


def _preferences(row: Json, tools: list[Json] | None) -> Iterator[_DatasetRow]:
    """The two answers of a pair, under one session and step: the preferred one succeeded, the other failed."""
    request = row.get("input")
    request = request if isinstance(request, dict) else {}
    tools = tools or lower_tools(request.get("tools"))
    raw = first_of(row, "prompt", "question", *_CHAT) or request.get("messages") or row.get("instruction")
    prompt = _conversation(raw, "user") if raw else []
    system = name_text(row.get("system"))
    if system and (not prompt or prompt[0]["role"] != "system"):
        prompt = [{"role": "system", "content": system}, *prompt]
    if isinstance(row.get("instruction"), str) and isinstance(row.get("input"), str) and row["input"]:
        prompt[-1]["content"] += f"\n{row['input']}"
    sides: tuple[tuple[tuple[str, str], Status], ...] = ((_CHOSEN, "success"), (_REJECTED, "failure"))
    for names, status in sides:
        answer = _conversation(first_of(row, *names), "assistant")
        # TRL's implicit prompt: both sides are whole conversations
        is_whole = answer[: len(prompt)] == prompt or (not prompt and len(answer) > 1)
        messages = answer if is_whole else [*prompt, *answer]
        model = name_text(first_of(row, *(f"{name}{end}" for name in names for end in ("_model", "-model"))))
        yield _DatasetRow(messages, [len(messages) - 1] if messages else [], tools, status, model)


def _conversation(value: Any, role: str) -> list[Message]:
    """Messages from a text (said by `role`), one message, or a list of them."""
    value = as_json(value)
    if isinstance(value, str):
        return lower_all(_dialogue(value)) or [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    return lower_all(value) if isinstance(value, list) else []


def _turns(source: Source, record: Record, row: _DatasetRow) -> Iterator[Item]:
    start = next((index for index, one in enumerate(row.messages) if one["role"] == "user"), 0)
    first = next(iter(row.trainable), None)
    if first is None or not row.messages:
        yield Skipped("nothing_to_train_on")
        return
    metadata: Mapping[str, Any] = record.value
    shown = "".join(name_text(one.get("content")) for one in row.messages)
    beside = (as_json(metadata.get(key)) or [] for key in _CONTEXTS)  # in a CSV file as Python writes a list
    hidden = any(name_text(one) not in shown for own in beside for one in (own if isinstance(own, list) else [own]))
    session = _session(metadata, *SESSION_NAMES)
    rating, liked = opinion(first_of(metadata, "rating", "user_rating", "vote", "thumbs"))
    yield from explode(
        source,
        row.messages,
        row.trainable,
        session_id=session or f"content-{digest(list(map(clean, row.messages[: start + 1])))}",
        agent=name_text(first_of(metadata, "agent", "workload_id", "agent_name", "agent_id")),
        started_at=moment(metadata, *_first_message(metadata)),
        line=record.number,
        task=name_text(first_of(metadata, *_TASKS)),
        tools=row.tools,
        completeness="cut" if hidden else "whole",
        status=row.status if liked != "failure" else liked,
        rating=rating,
        model=row.model or name_text(first_of(metadata, "model", "model_name", "generator", "teacher")),
    )
