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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from grokora_pipeline.agents import AgentSpec, load_agents
from grokora_pipeline.datasets.example import Example, read_examples, read_worse
from grokora_pipeline.datasets.examples import build_examples, near_places
from grokora_pipeline.datasets.preferences import judged_rows
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.datasets.split import SplitOptions, split_examples
from grokora_pipeline.evaluation.improve import improve
from grokora_pipeline.evaluation.metrics import exact_match
from grokora_pipeline.evaluation.metrics.answers import Answer
from grokora_pipeline.evaluation.policy import Policy, PolicyResponder
from grokora_pipeline.evaluation.significance import difference, ratio
from grokora_pipeline.evaluation.systems import Decoding, Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.sandbox import record
from grokora_pipeline.sandbox.roles import AGENTS
from grokora_pipeline.sandbox.swarm import run_swarm, swarm_tasks
from grokora_pipeline.sandbox.tasks import SAMPLE_FAMILIES, make_task
from grokora_pipeline.sandbox.words import SAMPLE
from grokora_pipeline.sessions.ingest import ingest
from grokora_pipeline.settings import PROJECT_ROOT
from grokora_pipeline.store import write_atomic
from grokora_pipeline.training.run import train
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline.workers.frame import Reporter
from grokora_pipeline_tests.benchmarks.pictures import solved_by_task

WAYS = ("successes", "failures", "ratings", "preferences")
STAGES = ("before", "after", "again")
AREAS = {  # what the logs hold, one after the other: the desktop, files and folders, texts
    "A": ("fill_form", "press_button", "settings", "keyboard", "clipboard", "browsing", "context_menu"),
    "B": ("copy", "move", "rename", "folders", "tidy"),
    "C": ("count", "search", "read", "take_notes", "sort"),
}
UNSEEN = 1007  # the seed of the sessions that are judged on
Results = list[dict[str, Any]]
Folders = dict[str, str]  # of adapters, by role


class Quiet(Reporter):
    """Progress is the benchmark's own."""

    def log(self, text: str) -> None:
        """Say nothing."""


def stored(file: Path) -> Results:
    """What an earlier run measured."""
    return [orjson.loads(line) for line in file.read_bytes().splitlines()] if file.is_file() else []


def write_lines(file: Path, results: Results) -> None:
    """Keep all results, a line each."""
    write_atomic(file, b"".join(orjson.dumps(one) + b"\n" for one in results))


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


def tokenized(
    settings: argparse.Namespace,
    agent: AgentSpec,
    turns: Path,
    split: Path,
    options: DatasetOptions,
    *,
    earlier: Sequence[Path] = (),
) -> Path:
    """The folder `split` with what an agent learns from the turns, tokenized; made once."""
    if (split / "done").is_file():
        return split
    split.mkdir(parents=True, exist_ok=True)
    report = build_examples(turns, agent, split, options, earlier=earlier)
    examples, worse = list(read_examples(split)), read_worse(split)
    every = sorted([*examples, *worse], key=lambda one: one.id)
    near = near_places(every, options.near_duplicate).tolist()
    sides = split_examples(every, SplitOptions(), [(every[a].id, every[b].id) for a, b in near]).sides
    rows = list(judged_rows(examples, worse, sides))
    chat, lengths = ChatFormat.load(settings.base), {"max_length": settings.max_length, "seed": 7}
    tokenize_split([row for row, _ in rows], [side for _, side in rows], chat, split, **lengths)
    (split / "done").write_bytes(orjson.dumps({"rows": report.rows, "replayed": report.replayed}))
    return split


def way_of_learning(settings: argparse.Namespace, agent: AgentSpec, turns: Path, way: str) -> Path:
    """The tokenized split of an agent's sandbox logs when it learns in one way."""
    split = turns.with_name(f"{turns.name}-{agent.name}-{way}")
    return tokenized(settings, agent, turns, split, DatasetOptions.model_validate({"learn_from": way}))


def unseen(folder: Path, agent: AgentSpec, rows: int, logs: str = "logs", new: str = "unseen") -> list[Example]:
    """Calls of sessions that no training saw: none has the prompt of a logged one."""
    calls = list[list[Example]]()
    for name in (logs, new):
        output = folder / f"{agent.name}-{name}-calls"
        output.mkdir(parents=True, exist_ok=True)
        build_examples(folder / f"{name}-turns", agent, output, DatasetOptions(unknown_outcome="all", min_rating=1))
        calls.append(list(read_examples(output)))
    known = {json.dumps(one.prompt) for one in calls[0]}
    return sorted((one for one in calls[1] if json.dumps(one.prompt) not in known), key=lambda one: one.id)[:rows]


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
    results = stored(file)
    ways = dict.fromkeys(("successes", *options.ways))  # all others are compared with it
    every = ((name, way, seed) for seed in options.seeds for name in options.agents for way in ways)
    for name, way, seed in every:
        if any((one["agent"], one["way"], one["seed"]) == (name, way, seed) for one in results):
            continue
        agent = next(agent for agent in agents if agent.name == name)
        split = way_of_learning(options, agent, folder / "logs-turns", way)
        output = folder / "adapters" / f"{name}-{way}-{seed}"
        trained = fit(options, split, output, seed)
        right = exact(options.base, chat, output, unseen(folder, agent, options.rows))
        costs = {key: trained[key] for key in ("steps", "train_rows", "train_seconds", "validation_loss")}
        results.append(
            {"agent": name, "way": way, "seed": seed, "exact": statistics.fmean(right), "right": right, **costs}
        )
        write_lines(file, results)
    return results


def fit(options: argparse.Namespace, split: Path, output: Path, seed: int, steps: int = 0) -> dict[str, Any]:
    """Train one adapter; one that was finished before is taken. Returns its record."""
    # layers and rates of the tables in docs/evaluation.md, so that a seed more can be compared with those before it
    knobs = {"preset": "sample", "max_steps": steps or options.steps, "epochs": 1000, "seed": seed, "max_examples": 0}
    knobs |= {"target_modules": "all-linear", "last_layers": 0, "learning_rate": 2e-3, "loraplus_lr_ratio": 1}
    knobs |= {"schedule": "cosine", "max_length": options.max_length, "self_test": False}
    return train({"base": str(options.base), "split": str(split), "output": str(output), "knobs": knobs}, Quiet())


def teach(options: argparse.Namespace, agents: tuple[AgentSpec, ...], stage: str, seed: int) -> Folders:
    """The swarm's adapters at a stage: those of `--keep` as they are, all others trained.

    After a round there are more rows: as in a training of so many epochs, the steps grow in proportion. The control has
    as many steps, on the logs alone.
    """
    adapters = dict(folder.split("=", 1) for folder in options.keep)
    for agent in (agent for agent in agents if agent.name in AGENTS and agent.name not in adapters):
        splits = {"before": way_of_learning(options, agent, options.output / "logs-turns", "successes")}
        if stage != "before":
            after = options.output / f"improved-{seed}-turns"
            splits["after"] = (
                way_of_learning(options, agent, after, "successes") if after.is_dir() else splits["before"]
            )
        rows = {name: orjson.loads((split / "done").read_bytes())["rows"] for name, split in splits.items()}
        steps = round(options.steps * rows.get("after", rows["before"]) / rows["before"])
        adapters[agent.name] = str(options.output / "adapters" / f"{agent.name}-{stage}-{seed}")
        split = splits["after" if stage == "after" else "before"]
        fit(options, split, Path(adapters[agent.name]), seed + 100 * (stage == "again"), steps)
        note = {"trained": agent.name, "stage": stage, "seed": seed, "rows": rows, "steps": steps}
        print(json.dumps(note), file=sys.stderr, flush=True)
    return adapters


def improved_turns(options: argparse.Namespace, agents: tuple[AgentSpec, ...], adapters: Folders, seed: int) -> None:
    """Make the turns of the logs and of what the sandbox verified of these adapters' own sessions."""
    logs = options.output / f"improved-{seed}"
    if not (logs / "recordings.jsonl").is_file():
        rule = {"verify": "sandbox", "tasks": options.tasks, "samples": options.samples, "seed": seed + 1000}
        where = {"base": str(options.base), "output": str(logs), "started_at": "2026-01-01T00:00:00Z"}
        plan = {"agent": "coordinator", "version": f"seed{seed}", "adapters": adapters, "improve": rule, **where}
        done = improve(plan, Quiet())
        print(json.dumps({"improve": done, "seed": seed}), file=sys.stderr, flush=True)
    shutil.copytree(options.output / "logs", logs / "logs", dirs_exist_ok=True)
    read_logs(logs, agents)


def solved(options: argparse.Namespace, adapters: Folders, known: list[bool]) -> list[bool]:
    """Which of the unseen tasks the swarm of these adapters solves, greedily; of the first ones it is known."""
    tasks = swarm_tasks(UNSEEN, options.unseen or options.tasks)[len(known) :]
    chat, systems = ChatFormat.load(options.base), Systems(options.base, "", {k: Path(v) for k, v in adapters.items()})
    policies = [Policy("swarm", {role: role for role in adapters}, {})] * len(tasks)
    responder = PolicyResponder(systems, chat, policies, lambda _: Decoding(144), Quiet())
    return [*known, *(result.success for result in run_swarm(tasks, responder))]


def run_improve(options: argparse.Namespace, agents: tuple[AgentSpec, ...]) -> Results:
    """Which unseen tasks are solved before a round of `improve`, after it, and when trained again on the logs alone."""
    if not (options.output / "logs-turns" / "manifest.json").is_file():
        write_logs(options.output / "logs", 7, options.sessions, failing=True)
    read_logs(options.output / "logs", agents)
    file = options.output / "improve.jsonl"
    results = {(one["seed"], one["stage"]): one for one in stored(file)}
    for seed in options.seeds:
        before = teach(options, agents, "before", seed)
        for stage in options.stages:
            known = results[seed, stage]["solved"] if (seed, stage) in results else []
            if len(known) >= (options.unseen or options.tasks):
                continue
            if stage == "after":
                improved_turns(options, agents, before, seed)
            adapters = before if stage == "before" else teach(options, agents, stage, seed)
            results[seed, stage] = {"seed": seed, "stage": stage, "solved": solved(options, adapters, known)}
            write_lines(file, list(results.values()))
    return list(results.values())


def improvement(results: Results) -> Iterator[dict[str, Any]]:
    """A row a seed, and one of all seeds together if there are several: the share of tasks solved at each stage, and
    how `after` and the control differ from `before` over the tasks."""
    seeds = sorted({one["seed"] for one in results})
    for chosen in [*([seed] for seed in seeds), *([seeds] if len(seeds) > 1 else [])]:
        tables = {stage: solved_by_task(results, stage, chosen) for stage in STAGES}
        tables = {stage: table for stage, table in tables.items() if len(table)}
        row = {"seed": chosen[0] if len(chosen) == 1 else "all"}
        row |= {stage: float(table[:, 0].sum() / table[:, 1].sum()) for stage, table in tables.items()}
        for stage in tables.keys() - {"before"}:
            apart = difference(tables[stage], tables["before"], ratio)
            row |= {f"{stage}_gain": [apart.low, apart.high], f"{stage}_p": apart.p_value}
        yield row


def write_area(root: Path, seed: int, sessions: int, families: Sequence[str]) -> None:
    """Recordings of successful sessions whose tasks are of these families of the sandbox, in turn."""
    rng, wordings = random.Random(f"area-{seed}-{families[0]}"), Counter[str]()
    kinds = [(family, steps) for family in families for steps in SAMPLE_FAMILIES[family]]
    for index in range(sessions):
        task = make_task(rng, f"{families[0]}_{seed}_{index}", kinds[index % len(kinds)], SAMPLE, wordings=wordings)
        session = record.Session(index, task, record.FIRST_DAY + timedelta(minutes=index), "recording")
        record._write_recording(root, session, rng)


def run_forgetting(options: argparse.Namespace, agents: tuple[AgentSpec, ...]) -> Results:
    """What an agent still knows of area A when its logs were first of A, then only of B, then only of C.

    An adapter is trained anew at each turn on what the logs hold and `replay` brings back; steps are in proportion to
    rows, as in a training of so many epochs.
    """
    folder, file = options.output, options.output / "forgetting.jsonl"
    for name, families in AREAS.items():
        if not (folder / f"{name}-turns" / "manifest.json").is_file():
            write_area(folder / name, 7, options.sessions, families)
        read_logs(folder / name, agents)
    if not (folder / "unseen-turns" / "manifest.json").is_file():
        write_area(folder / "unseen", UNSEEN, options.sessions, AREAS["A"])
    read_logs(folder / "unseen", agents)
    chat, results = ChatFormat.load(options.base), stored(file)
    agent = next(agent for agent in agents if agent.name == options.agents[0])
    cases = unseen(folder, agent, options.rows, "A")
    for seed in options.seeds:
        for replay in (None, *options.replay):  # None: the adapter of A itself
            if any((one["seed"], one["replay"]) == (seed, replay) for one in results):
                continue
            splits = list[Path]()
            for name in AREAS if replay is not None else "A":
                split = folder / f"{name}-{agent.name}-replay-{replay}"
                chosen = DatasetOptions(replay=replay or 0.0)
                tokenized(options, agent, folder / f"{name}-turns", split, chosen, earlier=splits)
                splits.append(split)
            counts = orjson.loads((splits[-1] / "done").read_bytes())
            steps = round(options.steps * counts["rows"] / (counts["rows"] - counts["replayed"]))
            output = folder / "adapters" / f"{agent.name}-replay-{replay}-{seed}"
            fit(options, splits[-1], output, seed, steps)
            right = exact(options.base, chat, output, cases)
            row = {"agent": agent.name, "seed": seed, "replay": replay, "steps": steps, **counts}
            results.append({**row, "exact": statistics.fmean(right), "right": right})
            write_lines(file, results)
    return results


def retention(results: Results) -> Iterator[dict[str, Any]]:
    """A row an amount of replay: exact answers to unseen calls of A after A, B and C, beside those right after A."""
    for replay in dict.fromkeys(one["replay"] for one in results):
        rows = {one["seed"]: one for one in results if one["replay"] == replay}
        first = {one["seed"]: one for one in results if one["replay"] is None}
        tables = [np.sum([one[seed]["right"] for seed in rows], axis=0, dtype=float) for one in (rows, first)]
        ours, theirs = (np.stack([right, np.full(len(right), float(len(rows)))], axis=1) for right in tables)
        apart, scores = (
            difference(ours, theirs, ratio),
            [float(table[:, 0].mean() / len(rows)) for table in (ours, theirs)],
        )
        yield {
            "replay": replay,
            "seeds": len(rows),
            **{name: next(iter(rows.values()))[name] for name in ("rows", "replayed", "steps")},
            "exact": scores[0],
            "kept": scores[0] / scores[1] if scores[1] else 0.0,
            "low": apart.low,
            "high": apart.high,
            "p": apart.p_value,
        }


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
    parser.add_argument("--question", choices=["learn_from", "improve", "forgetting"], default="learn_from")
    parser.add_argument("--tasks", type=int, default=50, help="of the sandbox, for improve and for the swarm's test")
    parser.add_argument("--unseen", type=int, default=0, help="tasks of the swarm's test, if not as many as --tasks")
    parser.add_argument("--samples", type=int, default=4, help="sessions a task that improve samples")
    parser.add_argument("--keep", nargs="+", default=[], metavar="ROLE=ADAPTER", help="roles that improve trains not")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES, help="of improve")
    parser.add_argument("--replay", nargs="+", type=float, default=[0.0, 0.5, 1.0], help="for forgetting")
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
        return {
            "steps": options.steps,
            "sessions": options.sessions,
            "table": list(improvement(run_improve(options, agents))),
        }
    if options.question == "forgetting":
        return {"sessions": options.sessions, "table": list(retention(run_forgetting(options, agents)))}
    results = run(options, agents)
    return {"steps": options.steps, "sessions": options.sessions, "table": list(summary(results))}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
