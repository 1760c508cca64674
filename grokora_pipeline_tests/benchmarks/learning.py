"""Is it worth learning from failures and ratings? `python -m grokora_pipeline_tests.benchmarks.learning --base FOLDER`.

Sandbox logs in which 30 % of the sessions were meant to fail; every way of learning (`learn_from`) trains the same
agents with the same seeds and the same number of optimiser steps, and is judged by exact answers to the same unseen
calls (sessions of another seed, without failures). Each training is one line of `results.jsonl` in --output: a run that
was stopped goes on where it was. Prints one JSON line: per agent and way the mean over seeds, and the paired difference
from `successes` with its standard error. `--question improve` asks whether a round of `improve` raises the
swarm's success on unseen tasks: all four roles trained on the logs, then on the logs and on what the sandbox verified
of their own sessions, against a second training on the logs alone (`again`), all with the same number of steps.
`--tiny` is a random model and a few steps: it shows that everything runs.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from grokora_pipeline.agents import AgentSpec, load_agents
from grokora_pipeline.datasets.examples import Example, build_examples, near_places, read_examples, read_worse
from grokora_pipeline.datasets.preferences import judged_rows
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.datasets.split import SplitOptions, split_examples
from grokora_pipeline.evaluation.improve import improve
from grokora_pipeline.evaluation.metrics import exact_match
from grokora_pipeline.evaluation.metrics.answers import Answer
from grokora_pipeline.evaluation.significance import difference, ratio
from grokora_pipeline.evaluation.swarm import swarm_test
from grokora_pipeline.evaluation.systems import Decoding, Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.sandbox import record
from grokora_pipeline.sandbox.roles import AGENTS
from grokora_pipeline.sessions.ingest import ingest
from grokora_pipeline.settings import PROJECT_ROOT
from grokora_pipeline.store import write_atomic
from grokora_pipeline.training.run import train
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline.workers.frame import Reporter

WAYS = ("successes", "failures", "ratings", "preferences")
UNSEEN = 1007  # the seed of the sessions that are judged on
Results = list[dict[str, Any]]
Folders = dict[str, str]  # of adapters, by role


class Quiet(Reporter):
    """Progress is the benchmark's own."""

    def log(self, text: str) -> None:
        """Say nothing."""


def write_logs(root: Path, seed: int, sessions: int, *, failing: bool) -> None:
    """Recordings of the sandbox's swarm; in three of ten sessions one role slips, if `failing`, else in none."""
    for session in record.plan_sessions(seed, sessions):
        rng = random.Random(f"benchmark-{seed}-{session.index}")
        slip = rng.choice(AGENTS) if failing and session.index % 10 in {2, 5, 9} else ""
        record._write_recording(root, replace(session, kind="recording", slip=slip), rng)


def read_logs(root: Path, agents: tuple[AgentSpec, ...]) -> Path:
    """The turns of logs, read once."""
    turns = root.with_name(f"{root.name}-turns")
    if not (turns / "manifest.json").is_file():
        turns.mkdir(parents=True, exist_ok=True)
        ingest(root, agents, None, turns, settle_seconds=0, workers=1)
    return turns


def datasets(turns: Path, agent: AgentSpec, way: str, chat: ChatFormat, max_length: int) -> Path:
    """The tokenized split of an agent's sandbox logs when it learns in one way."""
    split = turns.with_name(f"{turns.name}-{agent.name}-{way}")
    if (split / "done").is_file():
        return split
    split.mkdir(parents=True, exist_ok=True)
    build_examples(turns, agent, split, DatasetOptions.model_validate({"learn_from": way}))
    examples, worse = list(read_examples(split)), read_worse(split)
    every = sorted([*examples, *worse], key=lambda one: one.id)
    near = near_places(every, DatasetOptions().near_duplicate).tolist()
    sides = split_examples(every, SplitOptions(), [(every[a].id, every[b].id) for a, b in near]).sides
    rows = list(judged_rows(examples, worse, sides))
    tokenize_split([row for row, _ in rows], [side for _, side in rows], chat, split, max_length=max_length, seed=7)
    (split / "done").touch()
    return split


def unseen(folder: Path, agent: AgentSpec, rows: int) -> list[Example]:
    """Calls of sessions that no training saw: none has the prompt of a logged one."""
    logged = folder / f"{agent.name}-logged"
    new = folder / f"{agent.name}-unseen"
    for output, turns in ((logged, "logs-turns"), (new, "unseen-turns")):
        output.mkdir(parents=True, exist_ok=True)
        build_examples(folder / turns, agent, output, DatasetOptions(unknown_outcome="all", min_rating=1))
    known = {json.dumps(one.prompt) for one in read_examples(logged)}
    chosen = sorted((one for one in read_examples(new) if json.dumps(one.prompt) not in known), key=lambda one: one.id)
    return chosen[:rows]


def exact(base: Path, chat: ChatFormat, adapter: Path, cases: list[Example]) -> list[bool]:
    """Which of the calls the adapter answers exactly as the expert did, greedily."""
    prompts = [chat.encode_prompt(case.prompt, case.tools) for case in cases]
    answers = Systems(base, "", {"adapter": adapter}).answers("adapter", prompts, Decoding(160))
    return [
        exact_match(Answer(chat.parse_answer(chat.decode(completion.tokens)), case.completion[0], case.tools))
        for (completion, _), case in zip(answers, cases, strict=True)
    ]


def run(options: argparse.Namespace, agents: tuple[AgentSpec, ...]) -> Results:
    """All trainings that `results.jsonl` does not hold yet, one after the other; returns every result."""
    folder: Path = options.output
    for name, seed, failing in (("logs", 7, True), ("unseen", UNSEEN, False)):
        if not (folder / f"{name}-turns" / "manifest.json").is_file():
            write_logs(folder / name, seed, options.sessions, failing=failing)
        read_logs(folder / name, agents)
    chat = ChatFormat.load(options.base)
    file = folder / "results.jsonl"
    results: Results = [orjson.loads(line) for line in file.read_bytes().splitlines()] if file.is_file() else []
    ways = dict.fromkeys(("successes", *options.ways))  # all others are compared with it
    every = ((name, way, seed) for seed in options.seeds for name in options.agents for way in ways)
    for name, way, seed in every:
        if any((one["agent"], one["way"], one["seed"]) == (name, way, seed) for one in results):
            continue
        agent = next(agent for agent in agents if agent.name == name)
        split = datasets(folder / "logs-turns", agent, way, chat, options.max_length)
        output = folder / "adapters" / f"{name}-{way}-{seed}"
        trained = fit(options, split, output, seed)
        right = exact(options.base, chat, output, unseen(folder, agent, options.rows))
        costs = {key: trained[key] for key in ("steps", "train_rows", "train_seconds", "validation_loss")}
        results.append(
            {"agent": name, "way": way, "seed": seed, "exact": statistics.fmean(right), "right": right, **costs}
        )
        write_atomic(file, b"".join(orjson.dumps(one) + b"\n" for one in results))
    return results


def fit(options: argparse.Namespace, split: Path, output: Path, seed: int) -> dict[str, Any]:
    """Train one adapter; one that was finished before is taken. Returns its record."""
    # batches and rates are those of the sample's preset, so that what is measured is what the demo trains
    knobs = {"preset": "sample", "max_steps": options.steps, "epochs": 1000, "seed": seed, "max_examples": 0}
    knobs |= {"max_length": options.max_length, "self_test": False}
    return train({"base": str(options.base), "split": str(split), "output": str(output), "knobs": knobs}, Quiet())


def teach(options: argparse.Namespace, agents: tuple[AgentSpec, ...], turns: Path, stage: str, seed: int) -> Folders:
    """Adapters of all four roles, trained on the turns."""
    chat, adapters = ChatFormat.load(options.base), Folders()
    for agent in (agent for agent in agents if agent.name in AGENTS):
        adapters[agent.name] = str(options.output / "adapters" / f"{agent.name}-{stage}-{seed}")
        split = datasets(turns, agent, "successes", chat, options.max_length)
        fit(options, split, Path(adapters[agent.name]), seed + 100 * (stage == "again"))
    return adapters


def improved_turns(options: argparse.Namespace, agents: tuple[AgentSpec, ...], adapters: Folders, seed: int) -> Path:
    """The turns of the logs and of what the sandbox verified of these adapters' own sessions."""
    logs = options.output / f"improved-{seed}"
    if not (logs / "recordings.jsonl").is_file():
        rule = {"verify": "sandbox", "tasks": options.tasks, "samples": 4, "seed": seed + 1000}
        where = {"base": str(options.base), "output": str(logs), "started_at": "2026-01-01T00:00:00Z"}
        plan = {"agent": "coordinator", "version": f"seed{seed}", "adapters": adapters, "improve": rule, **where}
        improve(plan, Quiet())
    shutil.copytree(options.output / "logs", logs / "logs", dirs_exist_ok=True)
    return read_logs(logs, agents)


def run_improve(options: argparse.Namespace, agents: tuple[AgentSpec, ...]) -> Results:
    """Swarm success of each seed before a round of `improve`, after it, and trained once more on the logs alone."""
    if not (options.output / "logs-turns" / "manifest.json").is_file():
        write_logs(options.output / "logs", 7, options.sessions, failing=True)
    turns, file = read_logs(options.output / "logs", agents), options.output / "improve.jsonl"
    results: Results = [orjson.loads(line) for line in file.read_bytes().splitlines()] if file.is_file() else []
    for seed in (seed for seed in options.seeds if seed not in {one["seed"] for one in results}):
        stages = {"before": teach(options, agents, turns, "before", seed)}
        stages["after"] = teach(options, agents, improved_turns(options, agents, stages["before"], seed), "after", seed)
        stages["again"] = teach(options, agents, turns, "again", seed)
        row: dict[str, Any] = {"seed": seed}
        for stage, adapters in stages.items():
            output = options.output / "swarm" / f"{stage}-{seed}"
            plan = {"base": str(options.base), "adapters": adapters, "output": str(output), "tasks": options.tasks}
            row[stage] = swarm_test(plan, Quiet())["systems"]["champions"]["success_rate"]
        results.append(row)
        write_atomic(file, b"".join(orjson.dumps(one) + b"\n" for one in results))
    return results


def summary(results: Results) -> Iterator[dict[str, Any]]:
    """A row an agent and way: mean over seeds, mean paired difference from `successes`, its standard error over seeds,
    and its interval and p over the calls, which say nothing of how much another seed would differ."""
    calls = {(one["agent"], one["way"], one["seed"]): np.array(one["right"], dtype=float) for one in results}
    scores = {(one["agent"], one["way"], one["seed"]): one["exact"] for one in results}
    for agent in sorted({one["agent"] for one in results}):
        for way in WAYS:
            seeds = sorted(seed for name, kind, seed in scores if (name, kind) == (agent, way))
            if not seeds:
                continue
            gains = [scores[agent, way, seed] - scores[agent, "successes", seed] for seed in seeds]
            error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
            mean = statistics.fmean(scores[agent, way, seed] for seed in seeds)
            tables = [np.sum([calls[agent, kind, seed] for seed in seeds], axis=0) for kind in (way, "successes")]
            weights = np.full(len(tables[0]), float(len(seeds)))
            ours, theirs = (np.stack([right, weights], axis=1) for right in tables)
            apart = difference(ours, theirs, ratio)
            yield {
                "agent": agent,
                "way": way,
                "seeds": len(seeds),
                "exact": mean,
                "gain": statistics.fmean(gains),
                "standard_error": error,
                "low": apart.low,
                "high": apart.high,
                "p_over_calls": apart.p_value,
            }


def main(arguments: list[str]) -> dict[str, Any]:
    """Run the benchmark of these command-line arguments; returns what is printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--output", type=Path, required=True, help="kept between runs")
    parser.add_argument("--question", choices=["learn_from", "improve"], default="learn_from")
    parser.add_argument("--tasks", type=int, default=50, help="of the sandbox, for improve and for the swarm's test")
    parser.add_argument("--agents", nargs="+", default=["actor", "coordinator"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="beside successes")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--sessions", type=int, default=240)
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps of every training")
    parser.add_argument("--rows", type=int, default=100, help="unseen calls an agent is judged on")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--tiny", action="store_true", help="a few sessions, steps and rows")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.sessions, options.steps, options.rows, options.max_length, options.tasks = 30, 2, 2, 2048, 2
    agents = load_agents(PROJECT_ROOT / "data" / "agents.yaml")
    if options.question == "improve":
        return {"steps": options.steps, "sessions": options.sessions, "table": run_improve(options, agents)}
    results = run(options, agents)
    return {"steps": options.steps, "sessions": options.sessions, "table": list(summary(results))}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
