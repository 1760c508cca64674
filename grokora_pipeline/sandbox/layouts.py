"""Writers of Grokputer's own session folders: v1 (observe-reason-act), v1.1 (rated) and v2 (swarm).

The structure follows the facts in Grokputer's repository: same files, same keys, same types.
"""

import json
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from grokora_pipeline.sandbox.experts import expert_answer, safety
from grokora_pipeline.sandbox.swarm import run_swarm
from grokora_pipeline.sandbox.tasks import Task, carry_out

MODEL = "grok-4-fast-reasoning"
THIN, RULE = "-" * 70, "=" * 70
COMMENTS = {5: "worked first time", 4: "good", 3: "not quite what I asked for", 2: "too slow", 1: "wrong file"}
ISSUES = ("OCR confidence low", "Wrong action selected", "Timeout", "Coordination issue", "Other")


@dataclass(slots=True)
class _Clock:
    now: datetime
    rng: random.Random

    def tick(self) -> float:
        """Let some time pass; returns epoch seconds with microseconds."""
        self.now += timedelta(microseconds=self.rng.randint(150_000, 900_000))
        return self.now.timestamp()


def write(root: Path, kind: str, task: Task, started: datetime, rng: random.Random) -> None:
    """Write a session folder of `kind` v1, v1.1 or v2 below `root`; its name is the time at which it started."""
    name = started.strftime("%Y%m%d_%H%M%S")
    clock = _Clock(started, rng)
    if kind == "v2":
        _write_swarm(root / f"swarm_{name}", task, clock)
    else:
        _write_single(root / f"session_{name}", task, clock, rated=kind == "v1.1")


def _iterations(task: Task, clock: _Clock, *, rated: bool) -> list[dict[str, Any]]:
    """What the single agent does: one subtask an iteration, carried out in the task's world."""
    world = task.world()
    iterations = list[dict[str, Any]]()
    for number, command in enumerate(task.clauses, 1):
        tool, arguments, result = carry_out(world, command)
        if rated and tool == "bash":
            result |= {name: safety(arguments["command"])[name] for name in ("safety_score", "risk_level")}
        call_id = f"call_{clock.rng.randrange(16**8):08x}"
        entry = {
            "iteration_number": number,
            "start_time": clock.tick(),
            "screenshot_captured": True,
            "screenshot_size_bytes": clock.rng.randrange(14000, 15000, 4),
            "api_call_duration": clock.rng.randint(5_000, 250_000) / 1e6,
            "api_call_success": True,
            "tool_calls_count": 1,
            "tool_results": [{"tool_call_id": call_id, "function_name": tool, "result": result}],
            "grok_response": None if not rated and clock.rng.random() < 0.2 else f"I {command}.",
            "errors": [],
        }
        iterations.append(entry)
    return iterations


def _metadata(session_id: str, task: Task, clock: _Clock, *, rated: bool) -> dict[str, Any]:
    now = clock.now.replace(tzinfo=None).isoformat(timespec="microseconds")  # naive, as Grokputer writes it
    metadata: dict[str, Any] = {
        "session_id": session_id, "start_time": now, "task": task.text, "model": MODEL, "max_iterations": 10,
        "debug_mode": False, "require_confirmation": False,
    }  # fmt: skip
    if not rated:
        return metadata
    rating = clock.rng.choice([5, 5, 4, 4, 3, 2, None])
    issues = [clock.rng.choice(ISSUES)] if rating is not None and rating < 4 else []
    comment = None if rating is None else COMMENTS[rating]
    return metadata | {
        "user_rating": rating, "feedback_comment": comment, "lora_version": "base", "what_went_wrong": issues,
    }  # fmt: skip


def _write_single(folder: Path, task: Task, clock: _Clock, *, rated: bool) -> None:
    begin, metadata = clock.now, _metadata(folder.name, task, clock, rated=rated)
    iterations = _iterations(task, clock, rated=rated)
    session = {
        "session_id": folder.name, "metadata": metadata, "start_time": metadata["start_time"], "iterations": iterations,
        "total_iterations": len(iterations),
    }  # fmt: skip
    count = len(iterations)
    metrics = {
        "session_id": folder.name,
        "total_iterations": count,
        "total_tool_calls": count,
        "total_errors": 0,
        "api_success_rate": 1.0,
        "avg_api_duration": sum(entry["api_call_duration"] for entry in iterations) / count,
        "total_screenshot_size_mb": sum(entry["screenshot_size_bytes"] for entry in iterations) / 2**20,
    }
    clock.tick()
    seconds = (clock.now - begin).total_seconds()
    _write(folder / "session.json", json.dumps(session, indent=2))
    _write(folder / "metrics.json", json.dumps(metrics, indent=2))
    _write(folder / "summary.txt", _summary(metadata, iterations, seconds, rated=rated))
    _write(folder / "session.log", _session_log(metadata, iterations, begin, seconds, rated=rated))


_SUMMARY = f"""{RULE}
GROKPUTER SESSION SUMMARY: {{session_id}}
{RULE}

Task: {{task}}
Model: {MODEL}
Start Time: {{start_time}}
Max Iterations: 10

Iterations Completed: {{count}}
Total Duration: {{seconds:.2f}}s

ITERATION BREAKDOWN:
{THIN}

{{breakdown}}{RULE}
Full logs available in:
  - session.log
  - session.json
  - metrics.json
"""
_BREAKDOWN = """Iteration {number}:
  Screenshot: {ok} ({kilobytes:.1f} KB)
  API Call: {ok} ({seconds:.2f}s)
  Tools Executed: 1
  Tool Results:
    - {tool}: {status}

"""


def _summary(metadata: dict[str, Any], iterations: list[dict[str, Any]], seconds: float, *, rated: bool) -> str:
    parts = [
        _BREAKDOWN.format(
            number=entry["iteration_number"],
            ok="[OK]" if rated else "OK",
            kilobytes=entry["screenshot_size_bytes"] / 1024,
            seconds=entry["api_call_duration"],
            tool=entry["tool_results"][0]["function_name"],
            status=entry["tool_results"][0]["result"]["status"],
        )
        for entry in iterations
    ]
    return _SUMMARY.format(**metadata, count=len(iterations), seconds=seconds, breakdown="".join(parts))


_LOG_HEAD = f"""Session logger initialized: {{session_id}}
{RULE}
SESSION STARTED: {{session_id}}
Task: {{task}}
Model: {MODEL}
Max Iterations: 10
{RULE}
"""
_LOG_TAIL = f"""{RULE}
SESSION ENDED: completed
Total duration: {{seconds:.2f}}s
Iterations completed: {{count}}
{RULE}"""


def _session_log(
    metadata: dict[str, Any], iterations: list[dict[str, Any]], begin: datetime, seconds: float, *, rated: bool
) -> str:
    lines = _LOG_HEAD.format(**metadata).split("\n")
    for entry in iterations:
        lines += _iteration_log(entry, rated=rated)
    lines += _LOG_TAIL.format(seconds=seconds, count=len(iterations)).split("\n")
    if rated and metadata["user_rating"] is not None:
        lines += [RULE, "USER FEEDBACK RECORDED", f"  Rating: {metadata['user_rating']}/5 stars"]
        lines += [f"  Comment: {metadata['feedback_comment']}"]
        lines += [f"  Issues: {', '.join(metadata['what_went_wrong'])}"] if metadata["what_went_wrong"] else []
        lines.append(RULE)
    stamp = begin.strftime("%Y-%m-%d %H:%M:%S")
    return "".join(f"{stamp} - INFO - {line}\n" for line in lines)


def _iteration_log(entry: dict[str, Any], *, rated: bool) -> list[str]:
    tool, seconds = entry["tool_results"][0], entry["api_call_duration"]
    observed = [] if rated else [f"[OBSERVE] Screenshot captured: {entry['screenshot_size_bytes'] / 1024:.1f} KB"]
    reasoned = [f"[REASON] Response: {entry['grok_response'][:200]}"] if entry["grok_response"] else []
    return [
        THIN,
        f"ITERATION {entry['iteration_number']} START",
        THIN,
        *observed,
        f"[REASON] Grok API call successful ({seconds:.2f}s)",
        *reasoned,
        f"[ACT] Tool: {tool['function_name']} -> {tool['result']['status']}",
        f"Iteration {entry['iteration_number']} complete ({seconds + 0.05:.2f}s)",
        f"  - API calls: {'[OK]' if rated else 'OK'}",
        "  - Tools executed: 1",
        "  - Errors: 0",
        "",
    ]


def _write_swarm(folder: Path, task: Task, clock: _Clock) -> None:
    begin = clock.now
    result = run_swarm([task], expert_answer)[0]
    executions = list[dict[str, Any]]()
    for action in result.actions:
        if "coordinate" in action.arguments:
            seen = {
                "analysis": {
                    "content": "Visible: a window with widgets. Recommended next step: continue",
                    "model": MODEL,
                }
            }
            executions.append(_execution("screenshot_analysis", {"region": None}, seen, clock))
        executions.append(_execution(*_v2_action(action.name, action.arguments), action.result, clock))
    swarm = _swarm_metrics(executions)
    facts = {
        "session_id": folder.name,
        "task": task.text,
        "duration_seconds": (clock.now - begin).total_seconds(),
        "iterations": 0,
    }
    tail = {"swarm_mode": True, "swarm": swarm}
    session = {**facts, "tool_executions": executions, "api_calls": [], "errors": [], **tail}
    metrics = {**facts, "tool_executions": len(executions), "api_calls": 0, "errors": 0, **tail}
    _write(folder / "session.json", json.dumps(session, indent=2))
    _write(folder / "metrics.json", json.dumps(metrics, indent=2))
    _write(folder / "session.log", _swarm_log(facts, executions, begin))


def _v2_action(name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A tool call in the words of the v2 actor."""
    if name != "computer":
        return ("bash", arguments) if name == "bash" else ("bash", {"command": f"find . -name {arguments['pattern']}"})
    action = arguments["action"]
    if "coordinate" in arguments:
        x, y = arguments["coordinate"]
        return "click", {
            "type": "click",
            "x": x,
            "y": y,
            "button": "right" if action == "right_click" else "left",
            "clicks": 2 if action == "double_click" else 1,
        }
    rest = {"key" if action == "key" else key: value for key, value in arguments.items() if key != "action"}
    return action, {"type": action, **rest}


def _execution(tool: str, params: dict[str, Any], result: dict[str, Any], clock: _Clock) -> dict[str, Any]:
    status = str(result.get("status", "success"))
    return {"tool": tool, "params": params, "result": str(result)[:200], "status": status, "timestamp": clock.tick()}


def _swarm_metrics(executions: list[dict[str, Any]]) -> dict[str, Any]:
    seen = sum(entry["tool"] == "screenshot_analysis" for entry in executions)
    acted, handoffs = len(executions) - seen, len(executions)
    counts = {"coordinator": handoffs, "observer": seen, "actor": acted}
    return {
        "agent_states": {"coordinator": "stopped", "observer": "stopped", "actor": "stopped"},
        "agent_message_counts": {agent: count for agent, count in counts.items() if count},
        "agent_errors": {},
        "total_handoffs": handoffs,
        "handoff_latencies": [0.0] * handoffs,
        "message_count": 2 * handoffs,
        "avg_handoff_latency": 0.0,
        "max_handoff_latency": 0.0,
        "coordinator_decisions": 1,
        "task_decompositions": 1,
        "confirmations_requested": 0,
        "confirmations_approved": 0,
        "heartbeats_received": 0,
        "deadlocks_detected": 0,
        "agent_restarts": 0,
    }


_SWARM_HEAD = """Session: {session_id}
Task: {task}
Started: {started}
Swarm Mode: True
--------------------------------------------------------------------------------

"""
_SWARM_TAIL = f"""{{end}}\x20
{"=" * 80}
Session Summary: {{session_id}}
{"=" * 80}
Task: {{task}}
Duration: {{duration_seconds:.2f}}s
Iterations: 0
Tool Executions: {{count}}
API Calls: 0
Errors: 0

Swarm Metrics:
  Handoffs: {{count}}
  Avg Latency: 0.00ms
  Messages: {{messages}}
  Heartbeats: 0
  Agents: 3
{"=" * 80}
"""


def _swarm_log(facts: dict[str, Any], executions: list[dict[str, Any]], begin: datetime) -> str:
    def at(timestamp: float) -> str:
        """A time of day as Grokputer's logs write it."""
        return f"[{datetime.fromtimestamp(timestamp, begin.tzinfo).strftime('%H:%M:%S.%f')[:-3]}]"

    agents, count = ("coordinator", "observer", "actor"), len(executions)
    lines = [f"{at(begin.timestamp())} [AGENT START] {agent}" for agent in agents]
    for entry in executions:
        agent, now = "observer" if entry["tool"] == "screenshot_analysis" else "actor", at(entry["timestamp"])
        lines.append(f"{now} [HANDOFF] coordinator -> {agent} (0.00ms)")
        lines.append(f"{now} [MESSAGE] coordinator -> {agent}: subtask")
        lines.append(f"{now} [TOOL] {entry['tool']} -> {entry['status']}")
        lines.append(f"{now} [MESSAGE] {agent} -> coordinator: response")
    end = at(begin.timestamp() + facts["duration_seconds"])
    lines += [f"{end} [AGENT STOP] {agent}" for agent in agents]
    started = begin.replace(tzinfo=None).isoformat(timespec="microseconds")
    head, tail = _SWARM_HEAD.format(**facts, started=started), {"end": end, "count": count, "messages": 2 * count}
    return head + "".join(f"{line}\n" for line in lines) + _SWARM_TAIL.format(**facts, **tail)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
