"""`python -m grokora_pipeline.evaluation.swarm plan.json`: the whole sandbox swarm on unseen tasks, base and champions.

All tasks of all systems and trials advance in lock step, so the calls of a round are answered in one batch for each
agent and adapter, and what two systems ask alike is answered once. One model serves all roles.
"""

import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from grokora_pipeline.evaluation.plan import example_lines, read_plan
from grokora_pipeline.evaluation.policy import Policy, PolicyResponder
from grokora_pipeline.evaluation.prompts import choose_shots
from grokora_pipeline.evaluation.report import LABELS, environment, number
from grokora_pipeline.evaluation.significance import by_cluster, difference, estimate, pass_hat_k, ratio
from grokora_pipeline.evaluation.systems import Decoding, Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.prompt import FixedPrompt, example_turns
from grokora_pipeline.sandbox.swarm import TaskResult, run_swarm, swarm_tasks
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run

Trials = list[list[TaskResult]]  # a list of task results for each trial
SHOT_TOKENS = 1024
SHOWN_FAILURES = 6


class SwarmPlan(BaseModel):
    """`plan.json` of the swarm test. `adapters` names each role's champion folder, null if it has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Path
    base_hash: str = ""
    adapters: dict[str, Path | None]
    prompts: dict[str, FixedPrompt] = Field(default={}, description="Of roles whose champion is a fixed prompt.")
    output: Path
    tasks: int = Field(default=32, ge=1)
    seeds: list[int] = Field(default=[7], min_length=1, description="A trial each; the first one draws the tasks.")
    temperature: float = Field(default=0.3, gt=0, description="Of several trials; a single one is greedy.")
    max_new_tokens: dict[str, int] = {"coordinator": 144}
    ablation: bool = Field(default=False, description="Also every champion alone among base models.")
    few_shot: int = Field(default=0, ge=0, description="Also the base with this many examples a role.")
    examples: dict[str, Path] = Field(default={}, description="Each role's examples.jsonl, for few_shot.")
    quantisation: Literal["none", "nf4", "int8"] = "none"
    alpha: float = Field(default=0.05, gt=0, lt=1)


DEFAULT_NEW_TOKENS = 80  # the longest answer of a role other than the coordinator takes about 45


def swarm_test(plan: Plan, reporter: Reporter) -> Result:
    """Run the swarm as base, with champions and (on demand) few-shot and ablated; write swarm.json and report.html."""
    checked, started = read_plan(SwarmPlan, plan), time.perf_counter()
    chat, seeds = ChatFormat.load(checked.base), checked.seeds
    adapters = {role: folder for role, folder in checked.adapters.items() if folder}
    champions = [role for role, folder in checked.adapters.items() if folder or role in checked.prompts]
    named = ", ".join({**adapters, **checked.prompts}) or "none"
    reporter.log(f"{checked.tasks} unseen tasks, {len(seeds)} trials; champions: {named}")
    systems = Systems(checked.base, checked.base_hash, adapters, quantisation=checked.quantisation)
    teams: dict[str, tuple[Collection[str], Mapping[str, FixedPrompt]]] = {"base": ((), {})}
    if checked.few_shot and checked.examples:
        shots = {
            role: choose_shots(example_lines(path), chat, checked.few_shot, SHOT_TOKENS, seeds[0])
            for role, path in checked.examples.items()
        }
        teams["few_shot"] = ((), {role: FixedPrompt(messages=example_turns(chosen)) for role, chosen in shots.items()})
    teams["champions"] = (champions, checked.prompts)
    for role in champions if checked.ablation else ():
        teams[f"only_{role}"] = ((role,), {name: one for name, one in checked.prompts.items() if name == role})
    policies = [
        Policy(system, {role: role for role in roles if role in adapters}, prompts, seed)
        for system, (roles, prompts) in teams.items()
        for seed in seeds
        for _ in range(checked.tasks)
    ]

    def decoding(role: str) -> Decoding:
        """Greedy in a single trial, sampled in several."""
        limit = checked.max_new_tokens.get(role, DEFAULT_NEW_TOKENS)
        return Decoding(limit, checked.temperature if len(seeds) > 1 else 0.0)

    responder = PolicyResponder(systems, chat, policies, decoding, reporter)
    # all trials have the first seed's tasks: systems are compared in pairs, and pass^k needs equal ones
    results = run_swarm(swarm_tasks(seeds[0], checked.tasks) * (len(teams) * len(seeds)), responder)
    trials = [results[start : start + checked.tasks] for start in range(0, len(results), checked.tasks)]
    by_system = {name: trials[index * len(seeds) :][: len(seeds)] for index, name in enumerate(teams)}
    report = _report(checked, champions, by_system, responder.seconds)
    report["wall_seconds"] = time.perf_counter() - started
    folder = checked.output
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "swarm.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    failed = [result for result in by_system["champions"][0] if not result.success][:SHOWN_FAILURES]
    page = environment().get_template("swarm.html.jinja").render(report=report, failed=failed, labels=LABELS)
    (folder / "report.html").write_text(writable(page), encoding="utf-8")
    reporter.log(report["verdict"])
    return report


def _report(
    plan: SwarmPlan, champions: list[str], by_system: Mapping[str, Trials], seconds: Mapping[str, float]
) -> dict[str, Any]:
    systems = {name: _numbers(trials, seconds[name], plan.alpha) for name, trials in by_system.items()}
    sums = {name: by_cluster(*_table(trials)) for name, trials in by_system.items()}
    # a task is what counts: its trials are alike
    gains = {
        name: difference(table, sums["base"], ratio, alpha=plan.alpha) for name, table in sums.items() if name != "base"
    }
    gain, base = gains["champions"], systems["base"]["success_rate"]
    verdict = (
        f"The champions solve {systems['champions']['success_rate']:.0%} of {plan.tasks} unseen tasks, the base model "
        f"{base:.0%} (difference {gain.value:+.2f}, interval {gain.low:+.2f} to "
        f"{gain.high:+.2f}, p = {gain.p_value:.2g})."
    )
    if not champions:
        verdict = f"No role has a champion: the base model solves {base:.0%} of {plan.tasks} unseen tasks."
    names = ("success_rate", "steps", "invalid_actions", "seconds")
    table = [
        "| system | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
        *(f"| {name} | " + " | ".join(number(run[key]) for key in names) + " |" for name, run in systems.items()),
    ]
    return {
        "verdict": verdict,
        "p": gain.p_value,
        "tasks": plan.tasks,
        "alpha": plan.alpha,
        "seeds": plan.seeds,
        "temperature": plan.temperature if len(plan.seeds) > 1 else 0.0,
        "champions": champions,
        "systems": systems,
        "comparison": asdict(gain),
        "comparisons": {f"{name}_vs_base": asdict(entry) for name, entry in gains.items()},
        "markdown": "\n".join(table),
    }


def _table(trials: Trials) -> tuple[Any, list[str]]:
    """([trials x tasks, 2] successes and ones, each row's task), tasks being what is resampled."""
    results = [result for trial in trials for result in trial]
    return np.array([(float(result.success), 1.0) for result in results]), [result.task_id for result in results]


def _numbers(trials: Trials, seconds: float, alpha: float) -> dict[str, Any]:
    results = [result for trial in trials for result in trial]
    interval = estimate(by_cluster(*_table(trials)), ratio, alpha=alpha)
    families: dict[str, list[bool]] = {}
    for result in results:
        families.setdefault(result.family, []).append(result.success)
    wins = [sum(trial[index].success for trial in trials) for index in range(len(trials[0]))]
    return {
        "success_rate": interval.value,
        "low": interval.low,
        "high": interval.high,
        "families": {name: sum(won) / len(won) for name, won in sorted(families.items())},
        "steps": float(np.mean([result.steps for result in results])),
        "invalid_actions": float(np.mean([result.invalid_actions for result in results])),
        "calls": dict(sum((result.calls for result in results), Counter[str]())),
        "wrong_calls": dict(sum((result.wrong for result in results), Counter[str]())),
        "first_wrong": dict(Counter(result.first_wrong for result in results if not result.success)),
        "failures": dict(
            Counter(writable(result.failure[:80]) for result in results if not result.success).most_common(8)
        ),
        **{f"pass^{k}": pass_hat_k(wins, len(trials), k) for k in range(1, len(trials) + 1)},
        "seconds": seconds,
    }


def writable(text: str) -> str:
    """A text without halves of surrogate pairs, which an answer's JSON may escape and no file can hold."""
    return text.encode("utf-8", "replace").decode()


if __name__ == "__main__":
    sys.exit(run(swarm_test))
