"""`python -m grokora_pipeline.evaluation.improve plan.json`: more to learn from, made by the champion itself.

The champion answers held-in prompts several times; what a verifier accepts is written as recordings, marked by the name
of their model (`grokora-improve/<agent>/<version>`). They are read like any log: redacted, deduplicated, split with the
prompts that they came from, trained on together with the logs, and judged by the same gate on rows that were held out.
"""

import importlib
import json
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from grokora_pipeline.agents import AnswerSpec, Improve
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.metrics import accepts, schema_valid
from grokora_pipeline.evaluation.metrics.answers import Answer
from grokora_pipeline.evaluation.plan import example_lines, read_plan, turn_ids
from grokora_pipeline.evaluation.policy import Policy, PolicyResponder
from grokora_pipeline.evaluation.systems import Decoding, Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.messages import Message, calls_of, message_text, tool_function
from grokora_pipeline.models.prompt import FixedPrompt, encode_behind
from grokora_pipeline.sandbox.roles import AgentCall
from grokora_pipeline.sandbox.swarm import Exchange, run_swarm
from grokora_pipeline.sandbox.tasks import Task, sample_tasks
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run

FILE = "recordings.jsonl"
MODEL = "grokora-improve"  # the beginning of the model's name in every recording, for `teachers: {refuse: …}`
Verify = Callable[[Sequence[Message], Sequence[dict[str, Any]] | None, Message], bool]


class ImprovePlan(BaseModel):
    """`plan.json`. `adapters` names the champion's folder of each agent, null for the base; `version` names the round.

    `prompts` stand before the questions of agents that are served behind one. The recordings lack them: what an agent
    can with its prompt, its next adapter learns to do without. `examples` and `split` are the agent's `examples.jsonl`
    and tokenized split; the sandbox needs neither.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent: str
    version: str
    base: Path
    base_hash: str = ""
    adapters: dict[str, Path | None]
    prompts: dict[str, FixedPrompt] = {}
    output: Path
    improve: Improve
    answer: AnswerSpec = AnswerSpec()
    examples: Path | None = None
    split: Path | None = None
    started_at: str = ""


def improve(plan: Plan, reporter: Reporter) -> Result:
    """Sample, verify and write `recordings.jsonl`; returns how many answers (or sessions) were asked and kept."""
    checked = read_plan(ImprovePlan, plan)
    chat = ChatFormat.load(checked.base)
    adapters = {name: folder for name, folder in checked.adapters.items() if folder}
    systems = Systems(checked.base, checked.base_hash, adapters)
    make = _of_sandbox if checked.improve.verify == "sandbox" else _of_examples
    asked, lines = make(checked, chat, systems, reporter)
    checked.output.mkdir(parents=True, exist_ok=True)
    (checked.output / FILE).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    kept = len({line["session_id"] for line in lines})
    reporter.log(f"{kept} of {asked} were accepted by the verifier ({checked.improve.verify})")
    return {"asked": asked, "kept": kept, "lines": len(lines), "accepted_share": kept / max(1, asked)}


def _of_examples(
    plan: ImprovePlan, chat: ChatFormat, systems: Systems, reporter: Reporter
) -> tuple[int, list[dict[str, Any]]]:
    """Samples of the agent's training prompts, each a session of one call."""
    if plan.examples is None or plan.split is None:
        raise GrokoraError("The plan lacks examples or split; only the sandbox verifier does without.")
    verify, spec = verifier(plan.improve, plan.answer), plan.improve
    held_in = turn_ids(plan.split, "train")
    examples = [one for one in example_lines(plan.examples) if one["meta"]["turn_id"] in held_in]
    # by hash, so that another seed asks other prompts and a new session changes few of them
    examples.sort(key=lambda one: sha256(f"{spec.seed}:{one['meta']['example_id']}".encode()).hexdigest())
    samples = [(example, sample) for example in examples[: spec.tasks] for sample in range(spec.samples)]
    before = plan.prompts.get(plan.agent)
    prompts = [encode_behind(before, example["prompt"], example.get("tools"), chat) for example, _ in samples]
    adapter = plan.agent if plan.adapters.get(plan.agent) else None
    decoding = Decoding(spec.max_new_tokens, spec.temperature)
    # a seed a sample; the engine mixes it with the prompt, so that prompts do not share their numbers
    seeds = [spec.seed * 1000 + sample for _, sample in samples]
    completions = systems.answers(adapter, prompts, decoding, reporter.progress, seeds=seeds)
    lines, whole = list[dict[str, Any]](), 0
    for (example, sample), (completion, _) in zip(samples, completions, strict=True):
        message = chat.parse_answer(chat.decode(completion.tokens))
        whole += completion.finish == "stop"
        if completion.finish == "stop" and verify(example["prompt"], example.get("tools"), message):
            session = f"improve-{plan.version}-{example['meta']['turn_id'][:12]}-{sample}"
            call = AgentCall(plan.agent, example["prompt"], example.get("tools"))
            lines.append(recording_line(plan, session, Exchange(call, message)) | {"outcome": {"status": "success"}})
    if isinstance(verify, UserFunction):
        verify.report(whole, reporter.log)
    return len(samples), lines


def _of_sandbox(
    plan: ImprovePlan, chat: ChatFormat, systems: Systems, reporter: Reporter
) -> tuple[int, list[dict[str, Any]]]:
    """Whole sessions of the sandbox's swarm whose goal state was reached, on fresh tasks of the sample's families."""
    spec = plan.improve
    tasks = [task for task in sample_tasks(spec.seed, spec.tasks) for _ in range(spec.samples)]
    adapters = {role: role for role, folder in plan.adapters.items() if folder}
    decoding = Decoding(spec.max_new_tokens, spec.temperature)
    policies = [
        Policy("champions", adapters, plan.prompts, spec.seed * 1000 + index % spec.samples)
        for index in range(len(tasks))
    ]
    responder = PolicyResponder(systems, chat, policies, lambda _: decoding, reporter)
    lines = list[dict[str, Any]]()
    for index, (task, result) in enumerate(zip(tasks, run_swarm(tasks, responder), strict=True)):
        if not result.success:
            continue
        session = f"improve-{plan.version}-{task.task_id}-{index % spec.samples}"
        own_lines = [
            recording_line(plan, session, exchange, step, task) for step, exchange in enumerate(result.transcript)
        ]
        # one line is enough: an outcome is the session's
        own_lines[-1]["outcome"] = {"status": "success"}
        lines += own_lines
    return len(tasks), lines


def recording_line(
    plan: ImprovePlan, session: str, exchange: Exchange, step: int = 0, task: Task | None = None
) -> dict[str, Any]:
    """A call as a line of a recording. A task of the sandbox is named, so that its samples stay on one side."""
    call, message = exchange.call, exchange.message
    model = f"{MODEL}/{plan.agent}/{plan.version}"
    request: dict[str, Any] = {"model": model, "messages": list(call.messages)}
    request |= {"tools": call.tools} if call.tools else {}
    request |= {"metadata": {"task_id": f"improve-{task.task_id}"}} if task else {}
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "session_id": session,
        "agent": call.agent,
        "step": step,
        "started_at": plan.started_at,
        "request": request,
        "response": {"model": model, "choices": [{"index": 0, "message": message, "finish_reason": finish}]},
    }


def verifier(spec: Improve, answer: AnswerSpec) -> Verify:
    """What says whether an answer is kept; GrokoraError if it cannot be made."""
    if spec.verify == "function":
        return UserFunction(spec)
    if spec.verify == "command":
        return lambda prompt, tools, message: _command_accepts(spec, message)
    if answer.type == "json" and answer.schema_ is None:
        raise GrokoraError("verify: schema needs a JSON Schema (`answer: {type: json, schema: …}` in agents.yaml).")
    if answer.type not in ("json", "tool_call"):
        raise GrokoraError(f"verify: schema checks JSON and tool calls, not {answer.type}; use command or function.")
    return lambda prompt, tools, message: fits_schema(answer, tools, message)


def fits_schema(answer: AnswerSpec, tools: Sequence[dict[str, Any]] | None, message: Message) -> bool:
    """Whether a JSON answer is valid by the agent's schema, or every tool call by that of a tool that was offered."""
    if answer.type == "json":
        return not message.get("tool_calls") and bool(schema_valid(Answer(message, {}, schema=answer.schema_ or {})))
    functions = {one.get("name"): one.get("parameters") or {} for one in map(tool_function, tools or ())}
    calls = calls_of(message)
    return bool(calls) and all(
        call.name in functions and call.arguments is not None and accepts(functions[call.name], call.arguments)
        for call in calls
    )


def _command_accepts(spec: Improve, message: Message) -> bool:
    """Whether the user's command ends with status 0; the answer is its standard input, never part of its line.

    The input is the text of the answer, or the whole message as JSON if it calls tools.
    """
    text = json.dumps(message) if message.get("tool_calls") else message_text(message)
    try:
        done = subprocess.run(
            list(spec.command),
            input=text.encode("utf-8", "replace"),
            capture_output=True,
            timeout=spec.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    except OSError as error:
        raise GrokoraError(f"improve.command {spec.command[0]!r} cannot be started: {error.strerror}.") from error
    return done.returncode == 0


class UserFunction:
    """The function `module:name` as a verifier: it gets the prompt's messages and the answer, and says True or False.

    It is the user's, and judges what a model made up: if it raises, takes longer than `seconds` or says neither, the
    answer is not kept, and `failures` counts how (never what was said, which nobody has redacted).
    """

    def __init__(self, spec: Improve) -> None:
        module, _, attribute = spec.function.partition(":")
        sys.path.insert(0, str(Path.cwd()))  # a module beside agents.yaml, where the run was started
        try:
            self._function: Callable[[Sequence[Message], Message], object] = getattr(
                importlib.import_module(module), attribute
            )
        except Exception as error:  # an import runs the user's module, which raises what it likes
            raise GrokoraError(
                f"improve.function {spec.function!r} cannot be imported ({type(error).__name__}: {error}); write "
                "module:function."
            ) from error
        finally:
            sys.path.pop(0)
        if not callable(self._function):
            raise GrokoraError(f"improve.function {spec.function!r} is no function; write module:function.")
        self.name, self.seconds, self.failures = spec.function, spec.seconds, Counter[str]()

    def __call__(self, prompt: Sequence[Message], tools: object, message: Message) -> bool:
        """Whether the answer is kept."""
        timed = threading.current_thread() is threading.main_thread()  # signals reach no other thread
        before = signal.signal(signal.SIGALRM, self._stop) if timed else None
        try:
            if timed:
                signal.setitimer(signal.ITIMER_REAL, self.seconds)
            # a copy: a function that changes what it is given would change what is recorded
            accepted = self._function(deepcopy(list(prompt)), deepcopy(message))
        except (Exception, SystemExit, _TooLateError) as error:  # noqa: BLE001 - whatever the user's function raises says no
            line = traceback.extract_tb(error.__traceback__)[-1].lineno
            late = isinstance(error, _TooLateError)
            self.failures["took too long" if late else f"raised {type(error).__name__} at line {line}"] += 1
            return False
        finally:
            if timed:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
        if type(accepted).__name__ not in ("bool", "bool_"):  # bool_: numpy's
            self.failures[f"returned {type(accepted).__name__}, neither True nor False"] += 1
            return False
        return bool(accepted)

    def report(self, asked: int, log: Callable[[str], None]) -> None:
        """Say how often the function failed; GrokoraError if it judged nothing at all."""
        failed = self.failures.total()
        if not failed:
            return
        how = ", ".join(f"{how} ({count})" for how, count in self.failures.most_common(3))
        text = f"improve.function {self.name!r} judged {asked - failed} of {asked} answers; it {how}"
        if failed == asked:
            raise GrokoraError(f"{text}. Mend the function: it gets (messages, answer) and returns True or False.")
        log(text)

    def _stop(self, *_: object) -> None:
        raise _TooLateError


class _TooLateError(BaseException):
    """The user's function was stopped; no `except Exception` of its own keeps it running."""


if __name__ == "__main__":
    sys.exit(run(improve))
