"""The README's pictures from a store: `python -m grokora_pipeline_tests.benchmarks.pictures STORE [--output .readme]`.

`ladder.png` has a panel an agent: the main metric of every rung of its latest report, with its interval. `improve.png`
has the share of tasks that the swarm solves over the rounds of `improve`, each judged by the last swarm report before
the next round; it needs two reports with a round between them. With --improved it is drawn from the `improve.jsonl` of
`benchmarks.learning --question improve` instead: before and after one round, and beside it, hollow, what training
again on the logs alone gives. Prints one JSON line: what was written, and what not.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from grokora_pipeline.evaluation.report import LABELS
from grokora_pipeline.evaluation.significance import estimate, ratio
from grokora_pipeline.store import Store

Score = dict[str, float]


def main() -> None:
    """Draw what the store has, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--output", type=Path, default=Path(".readme"))
    parser.add_argument("--improved", type=Path, help="improve.jsonl of the learning benchmark")
    arguments = parser.parse_args()
    print(json.dumps(draw(Store(arguments.store), arguments.output, arguments.improved)))


def draw(store: Store, output: Path, improved: Path | None = None) -> dict[str, Any]:
    """Write the pictures for which the store has figures; their names, and the figures that are in them."""
    output.mkdir(parents=True, exist_ok=True)
    reports, rounds = _reports(store), measured_rounds(improved) if improved else generations(store)
    written = list[str]()
    if reports:
        _save(ladder_figure(reports), output / "ladder.png", written)
    if len(rounds) > 1:
        _save(improvement_figure(rounds), output / "improve.png", written)
    return {"what": "pictures", "written": written, "agents": sorted(reports), "generations": rounds}


def _reports(store: Store) -> dict[str, dict[str, Any]]:
    agents = sorted(folder.parent.name for folder in store.root.glob("*/eval_report"))
    current = {agent: store.current(f"{agent}/eval_report") for agent in agents}
    return {agent: artifact.read_json("report.json") for agent, artifact in current.items() if artifact}


def generations(store: Store) -> list[Score]:
    """{round, value, low, high}: the last swarm report of every round of `improve`, 0 being before the first."""
    started = sorted(
        str(record["at"])
        for folder in store.root.glob("*/improvement")
        for record in store.history(f"{folder.parent.name}/improvement", "current")
    )
    found: dict[int, Score] = {}
    for record in store.history("swarm_report", "current"):
        artifact = store.find("swarm_report", record["version"])
        if artifact:
            champions = artifact.read_json("swarm.json")["systems"]["champions"]
            number = sum(moment < str(record["at"]) for moment in started)
            figures = {"value": champions["success_rate"], "low": champions["low"], "high": champions["high"]}
            found[number] = {"round": number, **figures}
    return [found[number] for number in sorted(found)]


def measured_rounds(improved: Path) -> list[Score]:
    """{seed, round, value, low, high, control} before and after the learning benchmark's round of improve, for each
    seed. `control`: trained as long as after the round, but on the logs alone."""
    lines = [json.loads(line) for line in improved.read_text(encoding="utf-8").splitlines()]
    return [
        {"seed": seed, "round": number, **asdict(estimate(table, ratio)), "control": stage == "again"}
        for seed in sorted({one["seed"] for one in lines if one["stage"] == "after"})
        for stage, number in (("before", 0), ("after", 1), ("again", 1))
        if len(table := solved_by_task(lines, stage, [seed]))
    ]


def solved_by_task(results: Sequence[dict[str, Any]], stage: str, seeds: Sequence[int]) -> np.ndarray:
    """[tasks, 2] how many of these seeds' swarms solved each task at a stage, and how many tried; empty without any."""
    solved = [one["solved"] for one in results if one["stage"] == stage and one["seed"] in seeds]
    times = np.sum(solved, axis=0, dtype=float)
    return np.stack([times, np.full_like(times, len(solved))], axis=1) if solved else np.empty((0, 2))


def ladder_figure(reports: dict[str, dict[str, Any]]) -> Figure:
    """A panel an agent: rungs from cheap to dear, top to bottom; the cheapest that is as good as the best is filled."""
    rungs = max(len(report["systems"]) for report in reports.values())
    figure = Figure(figsize=(3.1 * len(reports) + 1, 0.7 + 0.42 * rungs), layout="constrained")
    panels = figure.subplots(1, len(reports), squeeze=False, sharex=True)[0]
    for axes, (agent, report) in zip(panels, reports.items(), strict=True):
        metric, cheapest = report["main_metric"], (report.get("ladder") or {}).get("cheapest")
        scores = {name: run["metrics"].get(metric) for name, run in report["systems"].items()}
        names = [name for name, score in scores.items() if score]
        for place, name in enumerate(names):
            _point(axes, scores[name] or {}, place, filled=name == cheapest)
        axes.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names])
        axes.set(xlabel=metric.replace("_", " "), title=agent, ylim=(len(names) - 0.5, -0.5))
    return figure


def _point(axes: Any, score: Score, place: int, *, filled: bool) -> None:
    errors = [[max(0.0, score["value"] - score["low"])], [max(0.0, score["high"] - score["value"])]]
    face = "#3566c4" if filled else "white"
    axes.errorbar(score["value"], place, xerr=errors, fmt="o", capsize=3, color="#3566c4", markerfacecolor=face)


def improvement_figure(rounds: list[Score]) -> Figure:
    """The swarm's success over rounds of `improve`, with intervals; a line a seed where there are several, and hollow
    beside its end what the seed's control has."""
    figure = Figure(figsize=(4.5, 2.8), layout="constrained")
    axes = figure.subplots()
    seeds = sorted({one.get("seed", 0) for one in rounds})
    for place, seed in enumerate(seeds):
        shift = 0.03 * (place - (len(seeds) - 1) / 2)  # so that no interval hides another
        for control, style in ((False, "o-"), (True, "o")):
            line = [one for one in rounds if one.get("seed", 0) == seed and one.get("control", False) == control]
            errors = [
                [max(0.0, one["value"] - one["low"]) for one in line],
                [max(0.0, one["high"] - one["value"]) for one in line],
            ]
            axes.errorbar(
                [one["round"] + shift + 0.15 * control for one in line],
                [one["value"] for one in line],
                yerr=errors,
                fmt=style,
                color=f"C{place}",
                fillstyle="none" if control else "full",
                capsize=4,
                label="" if control else f"seed {seed:g} of training",
            )
    axes.set_xticks(sorted({int(one["round"]) for one in rounds}))
    axes.set(xlabel="rounds of improve", ylabel="tasks solved", ylim=(0, 1))
    if any(one.get("control") for one in rounds):
        axes.plot([], [], "o", color="grey", fillstyle="none", label="trained again, logs alone")
    if len(seeds) > 1:
        axes.legend()
    return figure


def _save(figure: Figure, path: Path, written: list[str]) -> None:
    figure.savefig(path, dpi=110)
    written.append(path.name)


if __name__ == "__main__":
    main()
