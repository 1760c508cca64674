"""Claude Code: session JSONL (`~/.claude/projects/<folder>/<session>.jsonl`), sub-agent files, and web sessions.

A line holds one content block, so the lines of one answer are merged by message id and request id. The lines are a
tree (`parentUuid`) with rewinds, branches and copied history: a call's prompt is its own path to the root. The system
prompt and the tools are not in the file. What `claude -p --output-format stream-json` prints has the same lines without
a tree. A compaction may keep its last messages behind the summary, where they stood before it. A sub-agent that was
forked sees its parent's whole conversation, of which its own file names the end alone.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.common import Source, UnreadableError, first_of, name_text, to_utc, user
from grokora_pipeline.sessions.readers.documents import Json, Record, as_list, as_object, digest, peek_objects, records
from grokora_pipeline.sessions.readers.lowering import (
    MAX_PROMPT_CHARS,
    calls_in,
    chars,
    ended_early,
    infer_tools,
    join_calls,
    lower,
    merged,
    pair_results,
    results_after,
    turn,
)
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Verdict

AGENT = "claude-code"
_SYNTHETIC = "<synthetic>"  # what the program itself says in the model's place: errors, "No response requested."
# What the program says after a person stopped an answer; after a stopped tool the result says it, too.
_INTERRUPTED = "[Request interrupted by user]"


def looks_like(head: bytes) -> bool:
    """Whether one of the first lines is a message of a session, or it is a web session's list of lines."""
    values = peek_objects(head)
    if values and isinstance(values[0].get("loglines"), list):
        return True
    return any(
        isinstance(value.get("message"), dict)
        and value.get("type") in ("user", "assistant")
        and not value.keys().isdisjoint(("uuid", "sessionId", "session_id"))
        for value in values
    ) or any(
        value.get("type") in ("file-history-snapshot", "fork-context-ref")
        or "leafUuid" in value
        or (value.get("type") == "queue-operation" and "sessionId" in value)
        for value in values
    )


@dataclass(slots=True)
class _Node:
    """A line of the tree: what it adds to a prompt, and the answer that it is a part of."""

    uuid: str
    parent: str | None
    line: int
    at: str
    role: str = ""
    messages: list[Message] = field(default_factory=list)
    answer: str = ""  # the key of the API message, of assistant lines
    starts_anew: bool = False  # a compaction's summary: nothing before it is in the prompt any more
    sidechain: bool = False
    session: str = ""
    agent_id: str = ""
    teammate: str = ""
    chain: str = ""
    clears: bool = False  # a small compaction, which takes results out of the prompt
    model: str = ""
    ended_early: bool = False
    by_provider: bool = False  # the answer holds calls that the provider itself ran, so that it is several messages


@dataclass(slots=True)
class _Context:
    """The prompt up to a node. `answers` are the keys in it: the lines of an answer may stand apart."""

    messages: list[Message]
    size: int
    complete: bool  # whether the path reaches a root
    root: str
    answers: frozenset[str] = frozenset()


def read(source: Source) -> Iterator[Item]:
    """A turn an API message, in the order of the lines."""
    session = _Session(source)
    for record in records(source):
        if isinstance(record, Problem):
            yield record
        elif isinstance(record.value, dict) and isinstance(record.value.get("loglines"), list):
            for number, value in enumerate(record.value["loglines"], 1):
                yield from session.add(Record(value, number, 0))
        else:
            yield from session.add(record)
    yield from session.turns()


class _Session:
    """One file: its tree, its answers and the results of their tool calls."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._nodes: dict[str, _Node] = {}  # by uuid, in the order of the file
        self._answers: dict[str, list[_Node]] = {}
        self._results: dict[str, Message] = {}
        self._cleared: dict[str, int] = {}  # results that a small compaction took out of the prompt -> its line
        self._types: dict[str, str] = {}  # the prompt of a Task call -> the sub-agent's type
        self._ends: dict[str, str] = {}  # the last line of each chain: a session's own, and its sub-agents'
        self._kept: dict[str, list[str]] = {}  # a compaction's summary -> the lines that stay behind it
        self._stopped: set[str] = set()  # the last lines of answers that a person interrupted
        self._forked = False
        self._folded = sys.maxsize  # the line from which on prompts lack messages that stand in the file
        self._name = ""

    def add(self, record: Record) -> Iterator[Item]:
        """Take in a line; a copy of a line that is there already (compaction and forks copy history) is left out."""
        value, number = record.value, record.number
        if not isinstance(value, dict):
            yield Problem("wrong_schema", record.offset, f"line {number} is no JSON object")
            return
        kind, message = value.get("type"), value.get("message")
        if kind not in ("user", "assistant"):
            yield from self._add_note(value, record)
            return
        if not isinstance(message, dict) or not isinstance(message.get("content"), str | list):
            yield Problem("wrong_schema", record.offset, f"line {number} has no message with a content")
            return
        node = self._node(value, number)
        if node.uuid in self._nodes:
            return
        if kind == "assistant":
            if message.get("model") == _SYNTHETIC or value.get("isApiErrorMessage"):
                self._add_node(node)
                yield Skipped("call_failed")
                return
            node.answer = ":".join(filter(None, (name_text(message.get("id")), name_text(value.get("requestId")))))
            node.answer = node.answer or node.uuid
            node.model = name_text(message.get("model"))
            node.ended_early = ended_early(message)
            node.messages = lower({**message, "role": "assistant"})
            node.by_provider = any(one["role"] == "tool" for one in node.messages)
            self._answers.setdefault(node.answer, []).append(node)
        else:
            node.starts_anew = value.get("isCompactSummary") is True
            for one in lower({**message, "role": "user"}):
                if one["role"] == "tool":  # found by its call: parallel calls have their results on side branches
                    self._results.setdefault(one["tool_call_id"], one)
                else:
                    node.messages.append(one)
                    if one["content"] == _INTERRUPTED and node.parent:
                        self._stopped.add(node.parent)
        node.role = str(kind)
        self._add_node(node)

    def _add_note(self, value: Json, record: Record) -> Iterator[Item]:
        """Take in a line that is no message: an attachment, a compaction, how the session began or ended."""
        kind = value.get("type")
        if kind is None and "uuid" not in value:
            yield Problem("wrong_schema", record.offset, f"line {record.number} is no line of a session")
        elif isinstance(value.get("uuid"), str):
            node = self._node(value, record.number)
            node.messages = _attached(as_object(value.get("attachment")))
            self._add_node(node)
        self._forked = self._forked or kind == "fork-context-ref"
        if kind == "marble-origami-commit" or "snipMetadata" in value:  # it takes messages out of the middle
            self._folded = min(self._folded, record.number)
        for one in map(as_object, as_list(value.get("replacements"))):  # results that were too long to be sent
            if result := self._results.get(name_text(one.get("toolUseId"))):
                result["content"] = name_text(one.get("replacement"))
        session = name_text(first_of(value, "sessionId", "session_id"))
        if kind == "result" and value.get("is_error") is True and session:  # how a printed stream ends
            yield Verdict(session, status="failure", inferred=True)

    def _node(self, value: Mapping[str, Any], number: int) -> _Node:
        session, task = (
            name_text(first_of(value, "sessionId", "session_id")),
            name_text(value.get("parent_tool_use_id")),
        )
        # a printed stream has no tree: its lines follow each other, those of a sub-agent apart
        parent = value.get("parentUuid", self._ends.get(f"{session}:{task}", ""))
        self._name = self._name or session
        cleared = as_list(as_object(value.get("microcompactMetadata")).get("compactedToolIds"))
        self._cleared |= {name_text(call): number for call in cleared}
        compaction = as_object(value.get("compactMetadata"))
        segment, kept = as_object(compaction.get("preservedSegment")), as_object(compaction.get("preservedMessages"))
        anchor = name_text(kept.get("anchorUuid") or segment.get("anchorUuid"))
        if anchor and anchor not in self._nodes:  # the summary, or this very line
            names = as_list(kept.get("uuids")) or self._path(segment.get("headUuid"), segment.get("tailUuid"))
            self._kept[anchor] = list(map(name_text, names))
        return _Node(
            uuid=name_text(value.get("uuid")) or f"line-{number}",
            parent=parent if isinstance(parent, str) and parent else None,
            line=number,
            at=to_utc(value.get("timestamp")),
            sidechain=value.get("isSidechain") is True or bool(task),
            session=session,
            agent_id=name_text(value.get("agentId")) or task,
            teammate=name_text(value.get("agentName")) if value.get("teamName") else "",
            chain=f"{session}:{task}",
            clears=bool(cleared),
        )

    def _path(self, head: object, tail: object) -> list[str]:
        """The lines from `head` to `tail`, all before the one that is read; [""], which is none, if they are lost."""
        path = [name_text(tail)]
        while path[-1] != head and (node := self._nodes.get(path[-1])) is not None and node.parent not in path:
            path.append(node.parent or "")
        return path[::-1] if path[-1] == head else [""]

    def _add_node(self, node: _Node) -> None:
        if node.uuid not in self._nodes:
            self._nodes[node.uuid] = node
            self._ends[node.chain] = node.uuid

    def turns(self) -> Iterator[Item]:
        """The calls. Contexts are built along the file: a parent's stands before its children's."""
        if not self._answers:
            yield Skipped("no_model_call")
            return
        calls = list(calls_in(one for nodes in self._answers.values() for node in nodes for one in node.messages))
        tools = infer_tools(calls)
        for call in calls:
            if '"subagent_type"' in call["function"]["arguments"]:
                arguments = as_object(call["function"]["arguments"])
                self._types[name_text(arguments.get("prompt")).strip()] = name_text(arguments.get("subagent_type"))
        if not any(node.parent in self._nodes for node in self._nodes.values()):
            self._chain()
        contexts: dict[str, _Context] = {}
        done: set[str] = set()
        steps: dict[str, int] = {}
        kind = _recorded_type(self._source)
        begun = ""
        for node in self._nodes.values():
            before = self._before(node, contexts)
            # of a file that names no session each root begins one, but for a summary and a sub-agent's first line
            is_root = before.root == node.uuid and not (begun and (node.starts_anew or node.sidechain))
            begun = node.uuid if is_root else begun
            node.session = node.session or self._name or begun
            if node.answer and node.answer not in done:
                done.add(node.answer)
                agent, session, parent = self._owner(node, before, kind)
                step = steps[session] = steps.get(session, -1) + 1
                yield from self._turn(
                    node, before, tools, agent=agent, session_id=session, parent_session_id=parent, step=step
                )
            contexts[node.uuid] = self._after(node, before)

    def _chain(self) -> None:
        """A file that links none of its lines was written in order."""
        last: dict[str, str] = {}
        for node in self._nodes.values():
            node.parent = last.get(node.session)
            last[node.session] = node.uuid

    def _before(self, node: _Node, contexts: Mapping[str, _Context]) -> _Context:
        """The context in which a node stands: its path, without what a sibling line of its own answer added."""
        known = contexts.get(node.parent) if node.parent else None
        if (node.starts_anew and node.parent not in self._kept) or (node.parent is None and known is None):
            return _Context([], 0, node.starts_anew or not self._forked, node.uuid)
        if known is None:  # its parent is not in this file, or stands after it
            return _Context([], 0, False, node.uuid)
        return known

    def _after(self, node: _Node, before: _Context) -> _Context:
        messages = list(node.messages)
        for one in self._kept.get(node.uuid, ()):
            kept = self._nodes.get(one)
            if kept is None:  # what stays is not in the file
                before = replace(before, complete=False)
            elif not kept.answer:
                messages += kept.messages
            elif kept.answer not in before.answers:
                messages += self._whole(kept.answer)
                before = replace(before, answers=before.answers | {kept.answer})
        if node.answer:
            if node.answer in before.answers:
                return before
            messages = self._whole(node.answer)
        if node.clears:
            cleared = {call for call, line in self._cleared.items() if line <= node.line}
            shown = [
                {**one, "content": "[Old tool result content cleared]"} if one.get("tool_call_id") in cleared else one
                for one in before.messages
            ]
            size = sum(map(chars, shown))
            return _Context(shown, size, before.complete, before.root, before.answers)
        if not messages or before.size > MAX_PROMPT_CHARS:
            return before
        size = before.size + sum(map(chars, messages))
        answers = before.answers | {node.answer} if node.answer else before.answers
        return _Context([*before.messages, *messages], size, before.complete, before.root, answers)

    def _whole(self, key: str) -> list[Message]:
        """An answer of all its lines, and the results of its calls."""
        nodes = self._answers[key]
        if any(node.by_provider for node in nodes):
            return pair_results(join_calls([one for node in nodes for one in node.messages]))
        answer = merged(one for node in nodes for one in node.messages)
        # Claude Code goes on without a call that has no result, in ways that changed with its versions
        lost = {"role": "tool", "tool_call_id": "", "content": "", "unread": "result_not_recorded"}
        return [answer, *(self._results.get(call["id"], lost) for call in answer.get("tool_calls") or ())]

    def _owner(self, node: _Node, before: _Context, kind: str) -> tuple[str, str, str]:
        """The agent, the session and the parent session of a call: a sub-agent is an agent of its own."""
        session = node.session
        if not node.sidechain and not node.agent_id:
            # a teammate's session is its own, and its lead is named in the team's settings alone
            lead = node.teammate in ("", "team-lead")
            return AGENT if lead else f"{AGENT}/{node.teammate}", session, ""
        own = node.agent_id or before.root[:8]
        task = str(before.messages[0].get("content") or "").strip() if before.messages else ""
        kind = kind or self._types.get(task, "") or "subagent"
        return f"{AGENT}/{kind}", f"{session}:{own}", session

    def _turn(self, node: _Node, before: _Context, tools: list[Json] | None, **fields: Any) -> Iterator[Item]:
        if before.size > MAX_PROMPT_CHARS:
            yield Skipped("prompt_too_long")
            return
        nodes = self._answers[node.answer]
        if any(one.by_provider for one in nodes):
            yield Skipped("tool_of_the_provider")
            return
        whole = self._whole(node.answer)
        known, failed = results_after(whole[0], whole[1:])
        yield from turn(
            self._source,
            before.messages,
            whole[0],
            started_at=node.at,
            line=node.line,
            inferred=tools,
            # a printed stream may lack the question
            completeness="reconstructed"
            if before.complete and node.line < self._folded and any(one["role"] == "user" for one in before.messages)
            else "delta",
            model=next((one.model for one in nodes if one.model), ""),
            call=node.answer if ":" in node.answer else digest([node.answer, whole[0]]),
            result_known=known,
            step_failed=failed or any(one.ended_early or one.uuid in self._stopped for one in nodes),
            **fields,
        )


def _attached(attachment: Json) -> list[Message]:
    """What an attachment shows the model of a person's: words that were said while it worked, a file, some lines.

    The program's own reminders are left out.
    """
    if attachment.get("type") == "queued_command":
        return lower({"role": "user", "content": attachment.get("prompt")})
    if attachment.get("type") == "hook_additional_context":  # what a person's own hook adds to the prompt
        added = attachment.get("content")
        return lower({"role": "user", "content": added if isinstance(added, list | str) else ""})
    if attachment.get("type") not in ("file", "edited_text_file", "selected_lines_in_ide", "nested_memory"):
        return []
    content = first_of(attachment, "content", "snippet")
    if isinstance(content, dict):
        content = as_object(content.get("file", content)).get("content")
    named = name_text(first_of(attachment, "filename", "path"))
    return [user(f"{named}\n{content}")] if isinstance(content, str) and content else []


def _recorded_type(source: Source) -> str:
    """The sub-agent's type as the file beside its log says it (`agent-….meta.json`); "" without one."""
    beside = source.path.with_name(f"{source.path.name.removesuffix('.jsonl')}.meta.json")
    try:
        content = orjson.loads(Source(beside, beside.name).read(1 << 20)) if beside.is_file() else {}
    except (OSError, ValueError, UnreadableError):
        return ""
    return name_text(content.get("agentType")) if isinstance(content, dict) else ""
