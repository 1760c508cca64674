"""Recordings: JSONL, a line a call with the request and the response verbatim, or a session's verdict."""

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson

from grokora_pipeline.models.messages import offered_tools
from grokora_pipeline.sessions.readers.common import (
    Source,
    decode,
    is_error,
    leaves_folder,
    loads,
    stars,
    to_utc,
    whole_number,
)
from grokora_pipeline.sessions.turns import Item, Message, Problem, Skipped, Status, Turn, Verdict

BOM = b"\xef\xbb\xbf"
MAX_PROBLEMS = 50
MAX_WAITING = 256
_STATUS: dict[str, Status] = {
    "success": "success",
    "succeeded": "success",
    "completed": "success",
    "failure": "failure",
    "failed": "failure",
    "error": "failure",
}
_KEPT = ("role", "content", "tool_calls", "reasoning_content")


def looks_like(head: bytes) -> bool:
    """Whether the first line is a JSON object with a request, a response or a verdict."""
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\n", 1)[0]
    if not first.startswith(b"{") or b'"' not in first:
        return False
    if b'"request"' in first:
        return any(key in first for key in (b'"response"', b'"session_id"', b'"messages"'))
    return b'"session_id"' in first and b'"outcome"' in first


def read(source: Source) -> Iterator[Item]:
    """Turns and verdicts in file order; a line that cannot be read is a problem, and the next one is tried."""
    sessions = _Sessions()
    offset = problems = 0
    foreign = False
    with source.path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            for item in _read_line(source, sessions, raw, number, offset):
                if isinstance(item, Problem):
                    problems += 1
                    if problems > MAX_PROBLEMS or (foreign and item.reason == "not_utf8"):
                        continue
                    foreign = foreign or item.reason == "not_utf8"
                yield item
            offset += len(raw)
    yield from sessions.finish()
    if problems > MAX_PROBLEMS:
        yield Problem("more", offset, f"{problems - MAX_PROBLEMS} more lines could not be read")


def _read_line(source: Source, sessions: "_Sessions", raw: bytes, number: int, offset: int) -> Iterator[Item]:
    if not raw.strip():
        return
    try:
        line = loads(raw.removeprefix(BOM) if number == 1 else raw)
    except orjson.JSONDecodeError as error:
        text, problem = decode(raw)
        if problem is None:
            yield Problem(_fault(error, raw), offset, f"line {number}")
            return
        yield Problem("not_utf8", offset + problem.offset, f"from line {number} on, read as Windows-1252")
        try:
            line = loads(text)
        except orjson.JSONDecodeError as again:
            yield Problem(_fault(again, raw), offset, f"line {number}")
            return
    if not isinstance(line, dict):
        yield Problem("wrong_schema", offset, f"line {number} is no JSON object")
    else:
        yield from sessions.read(source, line, number, offset)


def _fault(error: orjson.JSONDecodeError, raw: bytes) -> str:
    if "limit" in str(error):
        return "too_deep"
    return "malformed_json" if raw.endswith(b"\n") else "truncated"


class _Sessions:
    """The sessions of one file: tells apart two that share an id, and holds a turn until its tool results are seen."""

    def __init__(self) -> None:
        self._runs: dict[str, int] = {}
        self._steps: dict[str, tuple[int, int, set[str]]] = {}  # session id -> first step, last, who took the first
        self._waiting: dict[tuple[str, str], Turn] = {}  # until the agent's next request shows the tool results

    def read(self, source: Source, line: dict[str, Any], number: int, offset: int) -> Iterator[Item]:
        """The items of one line."""
        request, outcome = line.get("request"), line.get("outcome")
        messages = request.get("messages") if isinstance(request, dict) else None
        session = str(line.get("session_id") or line.get("conversation_id") or _conversation(line, messages))
        if leaves_folder(session):
            yield Problem("path_traversal", offset, f"line {number}: the session id is a path that leaves its folder")
            return
        if isinstance(request, dict):
            if not _is_chat(messages):
                yield Problem("wrong_schema", offset, f"line {number}: the request has no chat messages")
                return
            yield from self._read_call(source, session, line, number)
        elif not isinstance(outcome, dict):
            yield Problem("wrong_schema", offset, f"line {number} has neither a request nor an outcome")
            return
        if isinstance(outcome, dict):
            yield _verdict(self._name(session), outcome)

    def _read_call(self, source: Source, session: str, line: dict[str, Any], number: int) -> Iterator[Item]:
        request, response = line["request"], line.get("response")
        choice = _choice(response)
        message = choice.get("message")
        step = whole_number(line.get("step"))
        step = number - 1 if step is None else step
        agent = str(line.get("agent") or line.get("workload_id") or "")
        self._tell_apart(session, agent, step)
        yield from self._release((session, agent), request["messages"])
        if not isinstance(message, dict) or not (message.get("content") or message.get("tool_calls")):
            yield Skipped("no_answer")
            return
        if not _is_message({"role": "assistant", **message}):
            yield Skipped("answer_not_in_schema")
            return
        tools = offered_tools(request)
        turn = Turn(
            session_id=self._name(session),
            agent=agent or None,
            step=step,
            started_at=to_utc(line.get("started_at") or line.get("timestamp")),
            source_file=source.name,
            source_sha256=source.sha256,
            source_format=source.format,
            prompt=request["messages"],
            completion={key: message[key] for key in _KEPT if message.get(key) is not None},
            tools=tools if tools and _are_objects(tools) else None,
            line=number,
            task=str(line.get("task") or ""),
            tools_known="recorded" if tools and _are_objects(tools) else "none",
            model=_text(request.get("model")) or _text(response.get("model") if isinstance(response, dict) else None),
            call=_text(line.get("call")),
            parent_session_id=_text(line.get("parent_session_id")),
            step_failed=choice.get("finish_reason") in ("length", "content_filter"),
        )
        turn.completion.setdefault("role", "assistant")
        self._waiting[session, agent] = turn
        if len(self._waiting) > MAX_WAITING:
            yield self._waiting.pop(next(iter(self._waiting)))

    def _tell_apart(self, session: str, agent: str, step: int) -> None:
        """An agent that takes the first step again means that a second session took the same id."""
        first, last, agents = self._steps.get(session, (step, step - 1, set[str]()))
        if step <= first and last > first and agent in agents:
            self._runs[session] = self._runs.get(session, 1) + 1
            first, agents = step, set()
        self._steps[session] = (first, step, agents | {agent} if step <= first else agents)

    def _name(self, session: str) -> str:
        run = self._runs.get(session, 1)
        return session if run == 1 else f"{session}#{run}"

    def _release(self, key: tuple[str, str], messages: list[Message]) -> Iterator[Turn]:
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return
        calls = [call.get("id") for call in waiting.completion.get("tool_calls") or ()]
        if calls:
            results = [m.get("content") for m in messages if m.get("role") == "tool" and m.get("tool_call_id") in calls]
            waiting.result_known = bool(results)
            waiting.step_failed = waiting.step_failed or any(is_error(result) for result in results)
        yield waiting

    def finish(self) -> Iterator[Turn]:
        """The turns that no later request followed."""
        yield from self._waiting.values()
        self._waiting.clear()


def _text(value: object) -> str:
    """A name or an id as text; numbers are ids, too."""
    return value if isinstance(value, str) else str(value) if whole_number(value) is not None else ""


def _is_chat(messages: object) -> bool:
    return isinstance(messages, list) and bool(messages) and all(_is_message(message) for message in messages)


def _is_message(message: object) -> bool:
    """A role, a content that is text, parts or nothing, and tool calls that are objects."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    calls = message.get("tool_calls")
    return isinstance(message.get("content"), str | list | None) and (calls is None or _are_objects(calls))


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(element, dict) for element in value)


def _choice(response: object) -> dict[str, Any]:
    choices = response.get("choices") if isinstance(response, dict) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _conversation(line: dict[str, Any], messages: object) -> str:
    """A session for a log that names none: calls of one agent that start from the same first messages."""
    start = []
    for message in messages if isinstance(messages, list) else []:
        start.append(message)
        if isinstance(message, dict) and message.get("role") == "user":
            break
    agent = line.get("agent") or line.get("workload_id")
    return "conversation-" + hashlib.sha256(orjson.dumps([agent, start])).hexdigest()[:16]


def _verdict(session: str, outcome: dict[str, Any]) -> Verdict:
    blame = outcome.get("blame")
    blame = blame if isinstance(blame, dict) else {}
    return Verdict(
        session_id=session,
        status=_STATUS.get(str(outcome.get("status", "")).lower(), "unknown"),
        rating=stars(outcome.get("rating")),
        blamed_agent=str(blame["agent"]) if blame.get("agent") else None,
        blamed_step=whole_number(blame.get("step")),
    )
