"""Writes the sample logs: what the scripted swarm does on the sample tasks, with all that real logs hold.

Most sessions are recordings (OpenAI chat-completions, a file a session); some have Grokputer's own layouts. About
15 % fail because one role slips from some call on. The same seed gives the same bytes: there is no clock and no
unordered set in it.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sandbox import layouts, secrets
from grokora_pipeline.sandbox.experts import expert_answer, split_task, widgets
from grokora_pipeline.sandbox.roles import AGENTS, AgentCall, answer_json, json_message, read_tool_call, tool_message
from grokora_pipeline.sandbox.swarm import Exchange, TaskResult, run_swarm
from grokora_pipeline.sandbox.tasks import Task, dress, make_task, sample_tasks
from grokora_pipeline.sandbox.words import SAMPLE

FIRST_DAY = datetime(2025, 11, 3, 8, tzinfo=UTC)
DAYS = 10
MODEL = "scripted-expert"
# One session in fifteen has one of Grokputer's own layouts: by the session's number modulo 75.
GROKPUTER_LAYOUTS = {4: "v1", 24: "v1", 44: "v1.1", 14: "v1.1", 34: "v2"}


@dataclass(frozen=True, slots=True)
class Session:
    """A session to be written: its task, when it was, and what is special about it."""

    index: int
    task: Task
    started: datetime
    kind: str  # recording, v1, v1.1 or v2
    slip: str = ""  # the role that goes wrong, "" if none does


def record(root: Path, seed: int = 7, sessions: int = 480) -> int:
    """Write the sample logs below a folder; returns the number of sessions. The same seed writes the same bytes."""
    for session in plan_sessions(seed, sessions):
        rng = random.Random(f"write-{seed}-{session.index}")
        if session.kind == "recording":
            _write_recording(root, session, rng)
        else:
            layouts.write(root / "grokputer", session.kind, session.task, session.started, rng)
    _damage(root)
    return sessions


def plan_sessions(seed: int, count: int) -> list[Session]:
    """Which sessions there are: tasks with duplicates, near duplicates and secrets among them, spread over ten days."""
    rng = random.Random(f"plan-{seed}")
    tasks = sample_tasks(seed, count)
    planted = secrets.plant(rng)
    planned = list[Session]()
    for index in range(count):
        kind, task = GROKPUTER_LAYOUTS.get(index % 75, "recording"), tasks[index]
        if index % 50 == 33:
            task = tasks[index - 25]  # the same task again, word by word
        elif index % 40 == 17:
            task = tasks[index - 9]  # the same task in slightly other words
            task = replace(task, text=dress(rng, " and ".join(split_task(task.text))))
        elif planted and (index % 24 == 5 or index % 150 in {4, 14}):
            secret = planted.pop()
            steps = "append_file show_file" if kind.startswith("v1") else rng.choice(secrets.steps(secret))
            task = make_task(rng, task.task_id, ("secrets", steps), SAMPLE, text=secret)
        elif index == count // 2:
            task = make_task(
                rng, task.task_id, ("fill_form", "click_field type_text"), SAMPLE, text="Café Müller – façade"
            )
        slip = rng.choice(AGENTS) if kind == "recording" and index % 20 in {2, 9, 15} else ""
        day, slot = divmod(index * DAYS, count)
        started = FIRST_DAY + timedelta(days=day, seconds=slot * 36000 // count + rng.randrange(60))
        planned.append(Session(index, task, started, kind, slip))
    return planned


class _Slip:
    """The experts with one role that goes wrong from its first call on that can be spoilt; `blamed` is that call."""

    def __init__(self, agent: str, rng: random.Random, after: int) -> None:
        self.agent, self.rng, self.after = agent, rng, after
        self.calls, self.blamed = 0, -1

    def __call__(self, calls: Sequence[AgentCall]) -> list[Message]:
        messages = expert_answer(calls)
        for position, call in enumerate(calls):
            if call.agent == self.agent and self.calls >= self.after:
                spoilt = _spoil(call, messages[position], self.rng)
                if spoilt != messages[position]:
                    messages[position] = spoilt
                    self.blamed = self.calls if self.blamed < 0 else self.blamed
            self.calls += 1
        return messages


def _spoil(call: AgentCall, message: Message, rng: random.Random) -> Message:
    """A wrong answer in place of the right one, as REASONS says; the right one if there is no way to spoil it."""
    answer = answer_json(message)
    if call.agent == "coordinator":
        return json_message(answer[:-1] if len(answer) > 1 else [{**answer[0], "params": {"command": "do the task"}}])
    if call.agent == "observer":
        others = [seen for seen in widgets(call.messages[-1]["content"]) if seen["element"] != answer["element"]]
        return json_message(rng.choice(others)) if others else message
    if call.agent == "validator":
        if "approved" in answer:
            return json_message({**answer, "safety_score": 95, "risk_level": "CRITICAL", "approved": False})
        return json_message({"reason": "I cannot tell", "valid": False, "confidence": 60})
    tool_call = read_tool_call(message)
    if tool_call is None:
        return message
    name, arguments = tool_call
    key = "coordinate" if "coordinate" in arguments else next(k for k in reversed(arguments) if k != "action")
    value = arguments[key]
    wrong: Any = [value[1], value[0] + 40] if key == "coordinate" else -value if key == "amount" else value[:-1]
    return tool_message(name, {**arguments, key: wrong}, message["tool_calls"][0]["id"])


REASONS = {
    "coordinator": "the plan misses a part of the task",
    "observer": "the wrong element was located",
    "actor": "the tool call does not do the subtask",
    "validator": "a good action was rejected",
}


def _run(session: Session, rng: random.Random) -> tuple[TaskResult, str, int]:
    """The session as it went: its result, the role to blame and the step at which it slipped ("" and -1: none)."""
    for agent in [session.slip, "actor", "validator"] if session.slip else []:
        slip = _Slip(agent, rng, rng.choice([0, 0, 3]) if agent != "coordinator" else 0)
        result = run_swarm([session.task], slip)[0]
        if not result.success and slip.blamed >= 0:
            return result, agent, slip.blamed
    return run_swarm([session.task], expert_answer)[0], "", -1


def _outcome(result: TaskResult, agent: str, step: int, rng: random.Random) -> dict[str, Any] | None:
    """What a person said about the session: a status, often a rating, and the blame if it failed; None: nothing."""
    chance = rng.random()
    if result.success:
        rating = None if chance < 0.3 else rng.choice([2, 3]) if chance > 0.97 else rng.choice([4, 5, 5])
        return None if 0.28 < chance < 0.3 else {"status": "success", "rating": rating}
    outcome: dict[str, Any] = {"status": "failure", "rating": None if chance < 0.4 else rng.choice([1, 1, 2])}
    if agent and chance < 0.93:
        outcome["blame"] = {"agent": agent, "step": step, "reason": REASONS[agent]}
    return outcome


def _write_recording(root: Path, session: Session, rng: random.Random) -> None:
    result, agent, step = _run(session, rng)
    session_id = "rec_" + sha256(f"{session.index}-{session.task.seed}".encode()).hexdigest()[:16]
    style = rng.random()  # one in ten does not say who was asked, one in twenty is written for another flywheel
    lines, now = list[dict[str, Any]](), session.started
    for index, exchange in enumerate(result.transcript):
        line = _line(session_id, index, now, exchange, session.task)
        if style < 0.1:
            line["agent"] = None
        elif style < 0.15:
            line = {{"agent": "workload_id", "started_at": "timestamp"}.get(key, key): line[key] for key in line}
        lines.append(line)
        now += timedelta(milliseconds=rng.randint(400, 3500))
    outcome = _outcome(result, agent, step, rng)
    if outcome and rng.random() < 0.4:
        lines.append({"session_id": session_id, "outcome": outcome})
    elif outcome:
        lines[-1]["outcome"] = outcome
    folder = root / "recordings" / session.started.strftime("%Y-%m-%d")
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / f"{session_id}.jsonl").write_bytes(text.encode("utf-8" if "Café" not in text else "cp1252"))


def _line(session_id: str, step: int, now: datetime, exchange: Exchange, task: Task) -> dict[str, Any]:
    """One call, as it went over the wire."""
    call, message = exchange.call, exchange.message
    request: dict[str, Any] = {"model": MODEL, "messages": call.messages}
    request |= {"tools": call.tools} if call.tools else {}
    request |= {"temperature": 0.7, "max_tokens": 4096, "metadata": {"task_id": task.task_id, "family": task.family}}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
    reply_id = "chatcmpl-" + sha256(f"{session_id}-{step}".encode()).hexdigest()[:20]
    response = {
        "id": reply_id,
        "object": "chat.completion",
        "created": int(now.timestamp()),
        "model": MODEL,
        "choices": [choice],
    }
    stamp = now.isoformat(timespec="milliseconds")
    return {
        "session_id": session_id,
        "agent": call.agent,
        "step": step,
        "started_at": stamp,
        "request": request,
        "response": response,
    }


def _damage(root: Path) -> None:
    """Cut two files short, as a kill in the middle of a write does: a recording and a `session.json`."""
    recordings, sessions = (
        sorted(root.glob("recordings/*/*.jsonl")),
        sorted(root.glob("grokputer/session_*/session.json")),
    )
    for path in [*recordings[40:41], *sessions[3:4]]:
        payload = path.read_bytes()
        path.write_bytes(payload[: len(payload) * 2 // 3])
