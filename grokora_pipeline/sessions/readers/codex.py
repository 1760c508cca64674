"""Codex CLI: rollout JSONL (`~/.codex/sessions/Y/M/D/rollout-*.jsonl`, old ones .zst), today's shape and the flat one.

Two logs stand in one file: `response_item` is what went to and came from the model, `event_msg` repeats it for the
screen. Only the first is read; the second says which turns were aborted or rolled back.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.common import Source, name_text, to_utc, tool_result, user, whole_number
from grokora_pipeline.sessions.readers.documents import Record, as_object, digest, objects_in, peek_objects, records
from grokora_pipeline.sessions.readers.lowering import (
    MAX_PROMPT_CHARS,
    calls_in,
    chars,
    infer_tools,
    join_calls,
    lower,
    lower_tools,
    merged,
    results_after,
    turn,
)
from grokora_pipeline.sessions.turns import Item, Problem, Skipped

AGENT = "codex"
_TYPES = {"session_meta", "response_item", "event_msg", "turn_context", "compacted"}
# What Codex itself says as the person: a turn of the person's does not begin with it.
_FRAGMENTS = re.compile(
    r"\s*(?:<(?:turn_aborted|environment_context|user_instructions|user_shell_command|skill)\b|# AGENTS)"
)
_EXIT_CODE = re.compile(r"(?:.{0,200}\n)??(?:Exit code:|Process exited with code) *(\d+)", re.DOTALL)


def looks_like(head: bytes) -> bool:
    """Whether the first lines are those of a rollout, in either shape."""
    values = peek_objects(head)
    if any(name_text(value.get("type")) in _TYPES and isinstance(value.get("payload"), dict) for value in values):
        return True
    flat = values[1:]  # the older shape: a header without a type, then the items themselves
    return (
        bool(flat)
        and "id" in values[0]
        and "timestamp" in values[0]
        and "type" not in values[0]
        and any(
            value.get("record_type") == "state" or (value.get("type") == "message" and "content" in value)
            for value in flat
        )
    )


@dataclass(slots=True)
class _Response:
    """One answer of the model: the items between two inputs."""

    prompt: list[Message]
    size: int
    line: int
    at: str
    model: str
    tools: Any
    owner: tuple[str, str, str]  # session, agent, parent session
    items: list[Message] = field(default_factory=list)
    lost: bool = False  # an earlier part of the prompt is encrypted
    searched: bool = False  # the provider searched the web for it: what it found is not in the file
    copied: bool = False  # the parent's, copied into a sub-agent's file or a fork
    aborted: bool = False
    taken_back: bool = False
    position: tuple[int, int] = (0, 0)  # the compactions before it, and the messages since


def read(source: Source) -> Iterator[Item]:
    """A turn an answer of the model that is this session's own."""
    rollout = _Rollout(source)
    for record in records(source):
        if isinstance(record, Problem):
            yield record
        elif isinstance(record.value, dict):
            rollout.add(record)
    yield from rollout.turns()


class _Rollout:
    """A file as it is read: the history that the model sees, and the answers so far."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._meta: dict[str, Any] = {}
        self._model = ""
        self._tools: Any = None
        self._system: list[Message] = []
        self._history: list[Message] = []
        self._responses: list[_Response] = []
        self._open: _Response | None = None
        self._turn_start = 0  # the first answer of the turn that is on
        self._results: dict[str, Message] = {}
        self._size = 0
        self._lost = self._searched = False
        self._compactions = 0

    def add(self, record: Record) -> None:
        """Take in a line of either shape."""
        value = record.value
        payload = value.get("payload")
        if not isinstance(payload, dict):  # the flat shape
            if "type" not in value and "id" in value:
                self._start(value)
            elif value.get("type"):
                self._item(value, record, value)
            return
        kind = value.get("type")
        if kind == "session_meta":
            self._start(payload)
        elif kind == "turn_context":
            self._model = name_text(payload.get("model")) or self._model
        elif kind == "response_item":
            self._item(payload, record, value)
        elif kind == "inter_agent_communication":
            self._item({**payload, "type": "agent_message"}, record, value)
        elif kind == "compacted":
            self._compact(payload)
        elif kind == "event_msg":
            self._event(payload)

    def _start(self, meta: dict[str, Any]) -> None:
        if self._meta and not self._history:
            return  # a second header right after the first is the parent's, in a sub-agent's file
        self._history, self._size, self._open = [], 0, None
        self._meta = meta
        base = meta.get("base_instructions") or meta.get("instructions")
        text = name_text(base.get("text")) if isinstance(base, Mapping) else name_text(base)
        self._system = [{"role": "system", "content": text}] if text else []
        self._tools = lower_tools(meta.get("dynamic_tools"))
        self._model = name_text(meta.get("model"))

    def _event(self, payload: Mapping[str, Any]) -> None:
        kind = payload.get("type")
        if kind in ("task_started", "turn_started", "task_complete", "turn_complete", "user_message"):
            self._open = None
            self._turn_start = len(self._responses)
        elif kind == "token_count":
            self._open = None  # it follows every answer
        elif kind == "turn_aborted":
            for response in self._responses[self._turn_start :]:
                response.aborted = True
            self._open = None
        elif kind == "thread_rolled_back":
            self._roll_back(whole_number(payload.get("num_turns")) or 0)

    def _roll_back(self, count: int) -> None:
        """A person took back the last turns; what Codex itself said in their name is a part of the turn before it."""
        asked = [
            index
            for index, one in enumerate(self._history)
            if one["role"] == "user" and not _FRAGMENTS.match(one["content"])
        ]
        index = asked[-min(count, len(asked))] if count > 0 and asked else len(self._history)
        self._history = self._history[:index]
        self._open, self._size = None, sum(map(chars, self._history))
        for response in self._responses:
            response.taken_back = response.taken_back or response.position >= (self._compactions, index)

    def _compact(self, payload: Mapping[str, Any]) -> None:
        """After a compaction the model sees the summary, and of the history what is listed beside it."""
        self._open = None
        self._compactions += 1
        kept = payload.get("replacement_history")
        items = kept if isinstance(kept, list) else []
        self._lost = any(as_object(item).get("encrypted_content") for item in items)
        self._history = join_calls([one for item in items for one in self._lower(item)])
        if not self._history:
            self._history = [user(name_text(payload.get("message")))] if payload.get("message") else []
        self._size = sum(map(chars, self._history))

    def _lower(self, item: Any) -> list[Message]:
        if isinstance(item, Mapping) and item.get("type") == "agent_message":  # what another agent says to this one
            said = item.get("content")
            return lower({"role": "user", "content": [one for one in objects_in(said) if "text" in one] or said})
        if isinstance(item, Mapping) and item.get("type") == "local_shell_call":
            return lower({**item, "call_id": item.get("call_id") or item.get("id")})
        if isinstance(item, Mapping) and item.get("execution") == "client" and "call_id" in item:
            if item.get("type") == "tool_search_call":  # Codex itself searches the tools that it did not offer
                return lower({**item, "type": "function_call", "name": "tool_search"})
            return lower({**item, "type": "function_call_output", "output": item.get("tools")})
        if isinstance(item, Mapping) and isinstance(payload := item.get("output"), Mapping) and "success" in payload:
            return lower({**item, "output": payload.get("content")})  # of it the model sees the content alone
        return lower(item) if isinstance(item, Mapping) else []

    def _item(self, item: Mapping[str, Any], record: Record, line: Mapping[str, Any]) -> None:
        kind, role = str(item.get("type")), item.get("role")
        if kind == "reasoning" or kind.endswith("_call") or (kind == "message" and role == "assistant"):
            if kind == "web_search_call":
                self._searched = True
                return
            messages = self._lower(item)
            if not messages:
                return  # encrypted reasoning
            if self._open is None:
                at = to_utc(line.get("timestamp"))
                prompt = [] if self._size > MAX_PROMPT_CHARS else [*self._system, *_with_results(self._history)]
                self._open = _Response(prompt, self._size, record.number, at, self._model, self._tools, self._owner())
                self._open.position = (self._compactions, len(self._history))
                self._open.copied, self._open.lost = self._is_copied(line, record.number, at), self._lost
                self._responses.append(self._open)
            self._open.searched, self._searched = self._open.searched or self._searched, False
            self._open.items += messages
            self._extend(messages)
            return
        # of a compaction, or of what another agent said, the model saw what nobody can read here
        self._lost = self._lost or any(one.get("encrypted_content") for one in (item, *objects_in(item.get("content"))))
        self._open = None
        for message in self._lower(item):
            result = _result(message) if message["role"] == "tool" else message
            if message["role"] == "tool":
                self._results.setdefault(result["tool_call_id"], result)
            self._extend([result])

    def _extend(self, messages: list[Message]) -> None:
        last = self._history[-1:] if self._open is not None and len(self._open.items) > len(messages) else []
        if last and last[0]["role"] == "assistant":
            self._history[-1] = merged([*last, *messages])
        else:
            self._history += messages
        self._size += sum(map(chars, messages))

    def _is_copied(self, line: Mapping[str, Any], number: int, at: str) -> bool:
        """Whether a line is the history of the session that this one was forked from, or started by."""
        start = whole_number(self._meta.get("subagent_history_start_ordinal"))
        if start is not None:
            ordinal = whole_number(line.get("ordinal"))
            return (number - 1 if ordinal is None else ordinal) < start
        began = to_utc(self._meta.get("timestamp"))
        return bool((self._parent() or self._meta.get("forked_from_id")) and at and began and at < began)

    def _parent(self) -> str:
        spawn = as_object(as_object(as_object(self._meta.get("source")).get("subagent")).get("thread_spawn"))
        return name_text(self._meta.get("parent_thread_id") or spawn.get("parent_thread_id"))

    def _owner(self) -> tuple[str, str, str]:
        """The session, the agent and the parent session: a sub-agent is an agent of its own."""
        source, parent = self._meta.get("source"), self._parent()
        kind = as_object(source).get("subagent")
        spawn = as_object(as_object(kind).get("thread_spawn"))
        is_child = bool(parent or kind or "subagent" in (source, self._meta.get("thread_source")))
        role = spawn.get("agent_role") or spawn.get("agent_path") or (kind if isinstance(kind, str) else "")
        agent = f"{AGENT}/{name_text(role).rsplit('/', 1)[-1] or 'subagent'}" if is_child else AGENT
        return name_text(self._meta.get("id") or self._meta.get("session_id")) or self._source.name, agent, parent

    def turns(self) -> Iterator[Item]:
        """The sessions' own answers, each once. Those of a turn that was aborted count as failed: nobody let it end."""
        inferred = infer_tools(call for response in self._responses for call in calls_in(response.items))
        if not self._responses:
            yield Skipped("no_model_call")
        steps: Counter[str] = Counter()
        seen: set[str] = set()
        for response in self._responses:
            answer = merged(response.items)
            session, agent, parent = response.owner
            receipt = digest([response.size, answer])  # copies of one history agree in both
            if response.copied or receipt in seen:
                yield Skipped("copied_history")
                continue
            seen.add(receipt)
            step = steps[session]
            steps[session] += 1
            if response.searched or response.taken_back:
                yield Skipped("taken_back" if response.taken_back else "tool_of_the_provider")
                continue
            if response.size > MAX_PROMPT_CHARS:
                yield Skipped("prompt_too_long")
                continue
            results = [self._results[call["id"]] for call in calls_in([answer]) if call["id"] in self._results]
            known, failed = results_after(answer, results)
            yield from turn(
                self._source,
                response.prompt,
                answer,
                session_id=session,
                parent_session_id=parent,
                agent=agent,
                step=step,
                started_at=response.at,
                line=response.line,
                tools=response.tools,
                inferred=inferred,
                # the reasoning between the calls is encrypted, and the built-in tools are not in the file
                completeness="delta" if response.lost else "reconstructed",
                model=response.model,
                call=receipt,
                result_known=known,
                step_failed=failed or response.aborted,
            )


def _with_results(history: list[Message]) -> Iterator[Message]:
    """The history as Codex sends it: a call that nobody let end has a result that says so."""
    answered = {message["tool_call_id"] for message in history if message["role"] == "tool"}
    for message in history:
        yield message
        lost = (call["id"] for call in message.get("tool_calls") or () if call["id"] not in answered)
        yield from (tool_result(call, "aborted") for call in lost)


def _result(message: Message) -> Message:
    """A tool's result as the model saw it, and whether its exit code says that the command failed."""
    text = message["content"]
    metadata = as_object(as_object(text).get("metadata")) if '"exit_code"' in text else {}
    written = _EXIT_CODE.match(text)
    code = metadata.get("exit_code", int(written.group(1)) if written else 0)
    return {**message, "is_error": True} if code not in (None, 0) else message
