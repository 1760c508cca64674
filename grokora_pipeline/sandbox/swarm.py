"""The swarm loop: coordinator, then per subtask observer, actor and validator, with all tasks advancing in lock step.

Every round gathers the pending calls of all unfinished tasks in one `answer()`, so a model can batch them. What comes
back is untrusted: a wrong answer ends its task with a reason and never the loop.
"""

import json
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.messages import Message
from grokora_pipeline.sandbox import roles
from grokora_pipeline.sandbox.desktop import ToolResult
from grokora_pipeline.sandbox.experts import expert_answer
from grokora_pipeline.sandbox.roles import AgentCall, Responder
from grokora_pipeline.sandbox.tasks import Task, swarm_tasks

__all__ = ["Action", "AgentCall", "Exchange", "Responder", "TaskResult", "expert_answer", "run_swarm", "swarm_tasks"]
TRIES = 2  # a subtask whose action was not accepted is tried once more


@dataclass(frozen=True, slots=True)
class Exchange:
    """A call and what was answered."""

    call: AgentCall
    message: Message


@dataclass(frozen=True, slots=True)
class Action:
    """A tool call that was executed."""

    name: str
    arguments: dict[str, Any]
    result: ToolResult


@dataclass(slots=True)
class TaskResult:
    """How a task went: `steps` subtasks were done; `invalid_actions` answers were of no use or failed when executed."""

    task_id: str
    family: str
    success: bool = False
    steps: int = 0
    invalid_actions: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    failure: str = ""
    actions: list[Action] = field(default_factory=list)
    transcript: list[Exchange] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)  # by role: answers that differ from the expert's
    first_wrong: str = ""  # the role whose answer differed first, "" if none did


class _StopError(Exception):
    """The task ends here, for this reason."""


_Steps = Generator[AgentCall, Message, None]


def run_swarm(tasks: Sequence[Task], answer: Responder, *, max_steps: int = 40) -> list[TaskResult]:
    """Run tasks side by side; one that needs more than `max_steps` calls fails. Results are in the order of the tasks.

    Raises GrokoraError if `answer` does not return exactly one message a call.
    """
    runs = [_TaskRun(task, max_steps) for task in tasks]
    while calls := [replace(run.call, task=index) for index, run in enumerate(runs) if run.call is not None]:
        messages = answer(calls)
        if len(messages) != len(calls):
            raise GrokoraError(
                f"The swarm asked {len(calls)} questions and got {len(messages)} answers; answer each one."
            )
        for call, message in zip(calls, messages, strict=True):
            runs[call.task].advance(message if isinstance(message, dict) else {})
    return [run.result for run in runs]


class _TaskRun:
    """One task on its way: its world, its next call (None when it is over) and its result."""

    def __init__(self, task: Task, max_steps: int) -> None:
        self.task, self.max_steps, self.world = task, max_steps, task.world()
        self.result = TaskResult(task.task_id, task.family)
        self.refused = self.nothing_there = False
        self._steps = self._solve()
        self.call: AgentCall | None = next(self._steps)

    def advance(self, message: Message) -> None:
        """Hand the answer to the pending call over and find the next one."""
        if self.call is None:
            return
        self.result.transcript.append(Exchange(self.call, message))
        self.result.calls[self.call.agent] += 1
        if not roles.same_answer(message, expert_answer([self.call])[0]):
            self.result.wrong[self.call.agent] += 1
            self.result.first_wrong = self.result.first_wrong or self.call.agent
        try:
            if len(self.result.transcript) >= self.max_steps:
                self._steps.close()
                raise _StopError("too many steps")
            self.call = self._steps.send(message)
        except StopIteration:
            self._finish("")
        except _StopError as stop:
            self._finish(str(stop))

    def _finish(self, reason: str) -> None:
        self.call = None
        reached = self.task.goal().reached_by(self.world.state())
        stopped = (self.refused, self.nothing_there)
        right_end = stopped == (self.task.refused, self.task.absent)
        self.result.success = reached and right_end and (not reason or any(stopped))
        self.result.failure = "" if self.result.success else reason or "goal state not reached"

    def _solve(self) -> _Steps:
        subtasks = roles.read_subtasks((yield roles.ask("coordinator", task=self.task.text)))
        if not subtasks:
            self.result.invalid_actions += 1
            raise _StopError("coordinator gave no valid plan")
        for subtask in subtasks:
            observation, rejection = None, ""
            if subtask.locate:
                seen = roles.answer_json((yield roles.ask("observer", self.world.screen(), command=subtask.command)))
                point = seen.get("coordinates", "") if isinstance(seen, dict) else ""
                if not (isinstance(point, list) and len(point) == 2 and all(type(value) is int for value in point)):
                    self.nothing_there = point is None  # it says so, and not merely something unreadable
                    self.result.invalid_actions += not self.nothing_there
                    raise _StopError("observer found no element")
                observation = json.dumps(seen, ensure_ascii=False)
            for _ in range(TRIES):
                rejection = yield from self._attempt(subtask.command, observation, rejection)
                if not rejection:
                    break
            else:
                raise _StopError(f"rejected twice: {rejection}")
            self.result.steps += 1

    def _attempt(self, command: str, observation: str | None, rejected: str) -> Generator[AgentCall, Message, str]:
        """Try a subtask; returns why it was not accepted, "" when it was."""
        answer = yield roles.ask("actor", subtask=command, observation=observation, rejected=rejected or None)
        call = roles.read_tool_call(answer)
        if call is None:
            return self._invalid("no tool call")
        name, arguments = call
        if name == "bash":
            line = str(arguments.get("command"))
            verdict = roles.read_verdict((yield roles.ask("validator", safety_check=line)), "approved")
            if verdict is None:
                self.result.invalid_actions += 1
                raise _StopError("validator gave no verdict")
            if not verdict[0]:
                self.refused = True
                raise _StopError(f"refused: {line}")
        before = self.world.status
        result = self.world.execute(name, arguments)
        self.result.actions.append(Action(name, arguments, result))
        if result["status"] != "success" or result.get("returncode"):
            return self._invalid(str(result.get("error") or result.get("stderr")).strip())
        if name == "bash":
            return ""
        action = f"{name} {json.dumps(arguments, ensure_ascii=False)}"
        judged = yield roles.ask("validator", subtask=command, action=action, before=before, after=self.world.status)
        verdict = roles.read_verdict(judged, "valid")
        if verdict is None:
            return self._invalid("no verdict")
        return "" if verdict[0] else verdict[1]

    def _invalid(self, reason: str) -> str:
        self.result.invalid_actions += 1
        return reason
