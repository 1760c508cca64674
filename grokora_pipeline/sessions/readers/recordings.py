"""Recordings: JSONL, a line a call with the request and the response verbatim, or a session's verdict."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from grokora_pipeline.models.messages import Message, offered_tools
from grokora_pipeline.sessions.readers.bodies import api_of, body_in, exchange, is_reference, is_reply, is_request
from grokora_pipeline.sessions.readers.chats import HALF, RESTART_GAP
from grokora_pipeline.sessions.readers.common import (
    Line,
    Source,
    decode,
    first_of,
    leaves_folder,
    loads,
    name_text,
    sound_answer,
    to_utc,
    whole_number,
)
from grokora_pipeline.sessions.readers.documents import (
    SESSION_NAMES,
    as_json,
    as_list,
    as_object,
    moment,
    peek_objects,
    plain,
    records,
)
from grokora_pipeline.sessions.readers.halves import Halves
from grokora_pipeline.sessions.readers.lowering import (
    ROLES,
    clean,
    ended_early,
    is_cut_text,
    lost_result,
    lower,
    shown_results,
)
from grokora_pipeline.sessions.readers.outcomes import call_failed, scored, scores_in, verdict
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Turn

BOM = b"\xef\xbb\xbf"
MAX_PROBLEMS = 50
MAX_RESPONSES = 1024  # that a later call of a file may go on from
_ANSWERS = {name for name, role in ROLES.items() if role == "assistant"}
_KEPT = ("role", "content", "tool_calls", "reasoning_content")


def looks_like(head: bytes) -> bool:
    """Whether the first record is an object with a request, a response or a verdict."""
    first = head.split(b"\n", 1)[0]
    value = next(iter(peek_objects(head)), None) if _is_document(head) else None
    if value is None and first.rstrip().endswith(b"}"):  # a whole line: other logs have such a member deeper inside
        with suppress(orjson.JSONDecodeError):
            value = as_object(loads(first))
    if value is not None:
        request = as_object(value.get("request"))
        if "uri" in request and "body" not in request:  # what Kong says of HTTP, beside the call itself
            return False
        first = b" ".join(b'"%s"' % key.encode() for key in value)
    elif not first.startswith(b"{"):
        return False
    if b'"request"' in first:
        return any(key in first for key in (b'"response"', b'"session_id"', b'"messages"'))
    return b'"session_id"' in first and b'"outcome"' in first


def _is_document(head: bytes) -> bool:
    """Whether a file is a JSON list, or an object over several lines."""
    return head.startswith(b"[") or head.partition(b"\n")[0].strip() == b"{"


def read(source: Source) -> Iterator[Item]:
    """Turns and verdicts in file order; a line that cannot be read is a problem, and the next one is tried."""
    sessions = _Sessions(source)
    problems = offset = 0
    foreign = False
    if _is_document(plain(source.head(64 << 10))):
        for record in records(source):
            if isinstance(record, Problem):
                yield record
            elif isinstance(record.value, dict):
                yield from sessions.read(record.value, record.number, 0)
            else:
                yield Problem("wrong_schema", 0, f"element {record.number} is no JSON object")
        yield from sessions.rest()
        return
    for line in source.lines():
        offset = line.offset
        for item in _read_line(sessions, line):
            if isinstance(item, Problem):
                problems += 1
                if problems > MAX_PROBLEMS or (foreign and item.reason == "not_utf8"):
                    continue
                foreign = foreign or item.reason == "not_utf8"
            yield item
    yield from sessions.rest()
    if problems > MAX_PROBLEMS:
        yield Problem("more", offset, f"{problems - MAX_PROBLEMS} more lines could not be read")


def _read_line(sessions: "_Sessions", line: Line) -> Iterator[Item]:
    raw = line.raw.removeprefix(BOM) if line.number == 1 else line.raw
    if line.problem:
        yield line.problem
    if not raw.strip():
        return
    try:
        content = loads(raw)
    except orjson.JSONDecodeError as error:
        text, problem = decode(raw)
        if problem is None:
            yield Problem(_fault(error, raw), line.offset, f"line {line.number}")
            return
        yield Problem("not_utf8", line.offset + problem.offset, f"from line {line.number} on, read as Windows-1252")
        try:
            content = loads(text)
        except orjson.JSONDecodeError as again:
            yield Problem(_fault(again, raw), line.offset, f"line {line.number}")
            return
    if not isinstance(content, dict):
        yield Problem("wrong_schema", line.offset, f"line {line.number} is no JSON object")
    else:
        yield from sessions.read(content, line.number, line.offset)


def _fault(error: orjson.JSONDecodeError, raw: bytes) -> str:
    if "limit" in str(error):
        return "too_deep"
    return "malformed_json" if raw.endswith(b"\n") else "truncated"


@dataclass(slots=True)
class Run:
    """What is known of the run of a session id that is on: how it began, and how far it got."""

    number: int = 1
    first: int = 0
    last: int = -1
    ended: bool = False  # an outcome was stated since the last call
    latest: str = ""
    starts: dict[str, str] = field(default_factory=dict)  # what each agent was asked in the run's first step
    calls: dict[str, int] = field(default_factory=dict)  # the run of each receipt
    went_on: bool = False  # a call showed an answer of the run

    def is_left_by(self, agent: str, step: int, started_at: str, question: str) -> bool:
        """Whether a call begins the session anew, so that it is of a second session with the same id.

        It does if it takes the first step (or an earlier one) after an outcome was stated or after a long pause, or if
        an agent that was further on takes its first step with another question. Else it is a retry.
        """
        times = [datetime.fromisoformat(one) for one in (self.latest, started_at) if one]
        pause = abs(times[-1] - times[0]) if times else timedelta(0)  # whichever came first
        return step <= self.first and (
            self.ended
            or (agent in self.starts and pause > RESTART_GAP)
            or (self.last > self.first and self.starts.get(agent, question) != question)
        )


def stated_task(line: Mapping[str, Any]) -> str:
    """The task that a call's session works on, "" if the line does not state it.

    An id comes before a text, since trials of one task may be worded differently: `task_id`, then `task`, each in the
    line, in its `metadata` or in its request's `metadata`.
    """
    request = line.get("request")
    holders = [line, as_object(line.get("metadata")), as_object(as_object(request).get("metadata"))]
    names = (name_text(holder.get(key)) for key in ("task_id", "task") for holder in holders)
    return next((name for name in names if name), "")


class _Conversations:
    """The latest Responses calls of a file, so that one that goes on from another's is read with all that it means."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, list[Any]] = OrderedDict()  # of each response: its conversation up to its end
        self._by_id: OrderedDict[str, Any] = OrderedDict()  # items that were answered

    def whole(self, line: dict[str, Any]) -> dict[str, Any]:
        """The line with the items that its request refers to in its input; as it is if one of them is not known."""
        request, response = line.get("request"), line.get("response")
        if not (isinstance(request, dict) and isinstance(response, dict) and isinstance(response.get("output"), list)):
            return line
        turns, previous = request.get("input"), name_text(request.get("previous_response_id"))
        items = [{"role": "user", "content": turns}] if isinstance(turns, str) else as_list(turns)
        items = [self._by_id.get(name_text(one.get("id")), one) if is_reference(one) else one for one in items]
        self._by_id |= {str(one["id"]): one for one in response["output"] if isinstance(one, dict) and one.get("id")}
        items = [*self._items.get(previous, ()), *items]
        if (previous and previous not in self._items) or any(map(is_reference, items)):
            return line
        self._items[name_text(response.get("id"))] = [*items, *response["output"]]
        for known in (self._items, self._by_id):
            while len(known) > MAX_RESPONSES:
                known.popitem(last=False)
        return {**line, "request": {**request, "input": items, "previous_response_id": None}}


class _Sessions:
    """The sessions of one file: tells apart two that share an id."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[str, Run] = {}
        self._conversations = _Conversations()
        self._halves = Halves()

    def rest(self) -> Iterator[Item]:
        """What is known once all lines were read."""
        yield from (Skipped(HALF) for _ in range(self._halves.left()))

    def read(self, record: dict[str, Any], number: int, offset: int) -> Iterator[Item]:
        """The items of one line; of a request with its reply in another line, those of the reply."""
        whole = self._halves.take(record)
        if whole is None:
            return
        line = _as_chat(self._conversations.whole(whole))
        request, outcome = line.get("request"), line.get("outcome")
        messages = request.get("messages") if isinstance(request, dict) else None
        named = {key: one for key, one in as_object(line.get("metadata")).items() if key in SESSION_NAMES} | line
        stated = name_text(first_of(named, *SESSION_NAMES))
        session = stated or _conversation(line, messages)
        if leaves_folder(session):
            yield Problem("path_traversal", offset, f"line {number}: the session id is a path that leaves its folder")
            return
        if outcome is not None and not isinstance(outcome, dict):
            outcome = {"status": outcome}
        if isinstance(request, dict):
            if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
                yield Problem("wrong_schema", offset, f"line {number}: the request has no chat messages")
                return
            yield from self._read_call(session, line, number, is_named=bool(stated))
        elif not isinstance(outcome, dict) and self._halves.seen:
            yield Skipped("no_model_call")
        elif not isinstance(outcome, dict):
            yield Problem("wrong_schema", offset, f"line {number} has neither a request nor an outcome")
            return
        if isinstance(outcome, dict):
            yield from self._read_outcome(session, line, outcome, f"line {number}", offset)

    def _read_call(self, session: str, line: dict[str, Any], number: int, *, is_named: bool) -> Iterator[Item]:
        request, response = line["request"], line.get("response")
        choice = as_object(next(iter(as_list(as_object(response).get("choices"))), None))
        message = choice.get("message")
        step = whole_number(line.get("step"))
        step = number - 1 if step is None else step
        agent = name_text(first_of(line, "agent", "workload_id"))
        started_at, call = moment(line, as_object(response)), name_text(line.get("call"))
        question = _digest(request["messages"])
        is_answered = any(str(one["role"]).lower() in _ANSWERS for one in request["messages"])
        asks_first = not (is_named or is_answered)
        known = self._tell_apart(session, agent, step, started_at, question, asks_first=asks_first)
        known.went_on = known.went_on or is_answered
        if call:
            known.calls[call] = known.number
        if not isinstance(message, dict):
            yield Skipped("no_answer")
            return
        if message.get("unread") or not _is_message({**message, "role": "assistant"}):
            yield Skipped("part_of_unknown_kind" if message.get("unread") else "answer_not_in_schema")
            return
        answer = sound_answer(message)
        if isinstance(answer, str):
            yield Skipped(answer)
            return
        held, fault = line.get("completeness"), _fault_of(request["messages"])
        if fault:
            yield Problem(fault, 0, f"line {number}: the prompt is not the one that the model saw")
        rating, opinion = scored(scores_in(line))
        tools = offered_tools(request)
        tools = tools if tools and _are_objects(tools) else None
        yield Turn(
            session_id=self._name(session),
            agent=agent or None,
            step=step,
            started_at=started_at,
            source_file=self._source.name,
            source_sha256=self._source.sha256,
            source_format=self._source.format,
            prompt=list(map(clean, request["messages"])),
            completion={"role": "assistant"} | {key: answer[key] for key in _KEPT if answer.get(key) is not None},
            tools=tools,
            line=number,
            task=stated_task(line),
            status=opinion,
            rating=rating,
            step_failed=ended_early(choice) or call_failed(line),
            tools_known="recorded" if tools else "none",
            # who answered: the request's may be an alias, or the gateway's `auto`
            model=name_text(response.get("model") if response else None) or name_text(request.get("model")),
            call=call,
            completeness="delta" if held == "delta" else "cut" if held == "cut" or fault else "whole",
            parent_session_id=name_text(line.get("parent_session_id")),
            **shown_results(request["messages"]),
        )

    def _tell_apart(
        self, session: str, agent: str, step: int, started_at: str, question: str, *, asks_first: bool
    ) -> Run:
        """The run of a session that a call is of. `asks_first`: nothing names it, and it shows no answer yet."""
        known = self._known.get(session)
        if known is None:
            known = self._known[session] = Run(first=step, last=step)
        elif known.is_left_by(agent, step, started_at, question) or (asks_first and known.went_on):
            self._known[session] = known = Run(known.number + 1, step, step, calls=known.calls)
        known.first, known.last, known.ended = min(known.first, step), step, False
        known.latest = started_at or known.latest
        if step <= known.first:
            known.starts[agent] = question
        return known

    def _name(self, session: str, run: int = 0) -> str:
        run = run or (self._known[session].number if session in self._known else 1)
        return session if run == 1 else f"{session}#{run}"

    def _read_outcome(
        self, session: str, line: Mapping[str, Any], outcome: Mapping[str, Any], where: str, offset: int
    ) -> Iterator[Item]:
        blame = outcome.get("blame")
        blame = blame if isinstance(blame, dict) else {}
        call = name_text(blame.get("call"))
        known = self._known.get(session)
        if known is not None:
            known.ended = True
        status = first_of(outcome, "status", "success", "resolved", "passed")
        rating = first_of(outcome, "rating", "user_rating", "stars")
        if status is None and rating is None and not blame:  # it says something in members that nobody knows
            status = sorted(outcome.keys() - {"status", "rating", "blame", "at", "timestamp"}) or None
        yield from verdict(
            self._name(session, known.calls.get(call, 0) if known else 0),
            where,
            offset,
            outcome=status,
            rating=rating,
            blamed_agent=name_text(blame.get("agent")) or None,
            blamed_step=whole_number(blame.get("step")),
            blamed_call=call,
            at=to_utc(first_of(outcome, "at", "timestamp") or first_of(line, "at", "timestamp")),
        )


def _as_chat(line: dict[str, Any]) -> dict[str, Any]:
    """The line with a request and a reply of another API (`api`, or told by their shape) as a chat completion."""
    request, response = as_json(line.get("request")), as_json(line.get("response"))
    if not isinstance(request, dict):
        return line
    if isinstance(line["request"], str):  # Cloudflare's gateway stores both as text
        line = {**line, "request": request, "response": response}
    if request.keys().isdisjoint(("messages", "contents", "input", "message", "prompt")):  # of HTTP: it wraps a body
        request = as_object(request.get("body")) or body_in(request, is_request) or request
        if isinstance(response, dict) and not response.keys().isdisjoint(("body", "body_raw")):
            response = as_json(first_of(response, "body", "body_raw"))  # the second is claude-trace's, of a stream
        response = (body_in(response, is_reply) or response) if isinstance(response, dict) else response
        line = {**line, "request": request, "response": response}
    foreign = isinstance(response, str | list) or not {"message", "response"}.isdisjoint(as_object(response))
    if not foreign and api_of(request, response, line.get("api")) == "chat":
        return line
    call = exchange(request, response, line.get("api"))
    choice = {"message": call.answer, "finish_reason": "length" if call.cut else "stop"}
    request = {
        **{key: request[key] for key in ("model",) if key in request},
        "messages": call.prompt,
        "tools": call.tools,
    }
    response = {"model": call.model, "choices": [choice] if call.answer else []}
    is_cut = any(one.get("unread") for one in call.prompt)
    known = "delta" if call.delta else "cut" if is_cut else "whole"
    return {**line, "request": request, "response": response, "completeness": known}


def _fault_of(messages: Sequence[Message]) -> str:
    """Why messages are no whole prompt, as a reason of the quarantine; "" if they are one."""
    in_parts = (message for message in messages if isinstance(message.get("content"), list))
    if any(one.get("unread") for message in in_parts for one in lower(message)) or any(
        str(message["role"]).lower() not in ROLES for message in messages
    ):
        return "part_of_unknown_kind"
    if any(is_cut_text(text) for message in messages if isinstance(text := message.get("content"), str)):
        return "cut"
    return lost_result(messages)


def _is_message(message: object) -> bool:
    """A role, a content that is text, parts or nothing, and tool calls that are objects."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    calls = message.get("tool_calls")
    return isinstance(message.get("content"), str | list | None) and (calls is None or _are_objects(calls))


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(element, dict) for element in value)


def _conversation(line: dict[str, Any], messages: object) -> str:
    """A session for a log that names none: calls of one agent that start from the same first messages."""
    start = []
    for message in messages if isinstance(messages, list) else []:
        start.append(message)
        if isinstance(message, dict) and message.get("role") == "user":
            break
    agent = first_of(line, "agent", "workload_id")
    return "conversation-" + _digest([agent, start])[:16]


def _digest(value: object) -> str:
    try:
        return hashlib.sha256(orjson.dumps(value)).hexdigest()
    except orjson.JSONEncodeError:  # nested deeper than orjson writes; the row is refused for it later
        return ""
