"""Grokputer's v2 swarm sessions: `session.json` whose iterations are a number, with the tools that were executed.

Only the actor's actions are there in full. The observer's analysis is cut at 200 characters and the coordinator's
decisions are not logged, so neither becomes a turn.
"""

import re
from collections.abc import Iterator
from typing import Any

from grokora_pipeline.sessions.readers.common import (
    Source,
    UnreadableError,
    assistant,
    leaves_folder,
    name_text,
    parse_object,
    to_utc,
    tool_call,
    tool_result,
    user,
)
from grokora_pipeline.sessions.readers.grokputer import TOOLS
from grokora_pipeline.sessions.turns import Item, Skipped, Turn

_ITERATIONS = re.compile(rb'"iterations"\s*:\s*\d')
_CLICKS = {
    "click": "left_click",
    "left_click": "left_click",
    "right_click": "right_click",
    "double_click": "double_click",
}


def looks_like(head: bytes) -> bool:
    """Whether it is an object with a session id and executed tools, whose iterations are a number."""
    listed = re.search(rb'"tool_executions"\s*:\s*\[', head)
    return head.startswith(b"{") and (b'"session_id"' in head and bool(listed) and bool(_ITERATIONS.search(head)))


def read(source: Source) -> Iterator[Item]:
    """A turn for each action of the actor: the session's task and its earlier actions, answered by the next call.

    Actions are written in Grokputer's own tool schema.
    """
    document, problems = parse_object(source.read())
    yield from problems
    session = name_text(document.get("session_id")) or source.path.parent.name
    task = name_text(document.get("task"))
    if leaves_folder(session):
        raise UnreadableError("path_traversal", 0, "the session id is a path that leaves its folder")
    executed = document.get("tool_executions")
    prompt = [user(task)]
    for position, entry in enumerate(executed if isinstance(executed, list) else (), 1):
        if not isinstance(entry, dict):
            continue
        name, params = name_text(entry.get("tool")), entry.get("params")
        if name == "screenshot_analysis":
            yield Skipped("observation_cut")
            continue
        call = action_call(name, params if isinstance(params, dict) else {}, position)
        if call is None or not task:
            yield Skipped("action_not_in_schema")
            continue
        yield Turn(
            session_id=session,
            agent="actor",
            step=position,
            started_at=to_utc(entry.get("timestamp")),
            source_file=source.name,
            source_sha256=source.sha256,
            source_format=source.format,
            prompt=list(prompt),
            completion=assistant("", [call]),
            tools=TOOLS,
            tools_known="inferred",
            completeness="reconstructed",
            line=position,
            task=task,
            step_failed=entry.get("status") != "success",
        )
        prompt += [assistant("", [call]), tool_result(call["id"], {"status": entry.get("status")})]


def action_call(name: str, params: dict[str, Any], position: int) -> dict[str, Any] | None:
    """A v2 action in Grokputer's tool schema; None for what the schema cannot say (drags, file operations)."""
    call_id = f"call_{position}_0"
    if name == "bash":
        return tool_call(call_id, "bash", {"command": params["command"]}) if "command" in params else None
    kind = str(params.get("type") or name)
    point = (
        [params["x"], params["y"]] if isinstance(params.get("x"), int) and isinstance(params.get("y"), int) else None
    )
    if kind in _CLICKS or kind == "move":
        action = _CLICKS.get(kind, "mouse_move")
        if params.get("button") == "right":
            action = "right_click"
        elif params.get("clicks") == 2:
            action = "double_click"
        return tool_call(call_id, "computer", {"action": action, "coordinate": point}) if point else None
    text = params.get({"type": "text", "key": "key"}.get(kind, ""))
    if isinstance(text, str) and not params.get("modifiers"):
        return tool_call(call_id, "computer", {"action": kind, "text": text})
    if kind == "screenshot" and not params.get("region"):
        return tool_call(call_id, "computer", {"action": "screenshot"})
    if kind == "scroll" and isinstance(params.get("amount"), int):
        return tool_call(call_id, "computer", {"action": "scroll", "amount": params["amount"]})
    return None
