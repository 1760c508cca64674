"""The ladder on real sessions: `python -m grokora_pipeline_tests.benchmarks.screenagent --logs FOLDER --output FOLDER`.

Runs the chain of `data/agents.screenagent.yaml` on ScreenAgent's recordings (3,005 real calls, Apache-2.0), from the
logs to the reports, with every rung that a report can have but the search for an instruction. A run that was stopped
goes on where it was: finished steps are found in the output's store, a training goes on from its checkpoint. Writes
`table.md` and prints one JSON line: per agent the rungs with quality, interval, tokens and seconds, and the verdict.
`--agents` names some of planner, actor and reflector; `--tiny` is a random model and two rows of each kind of rung.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from grokora_pipeline.evaluation.report import LABELS, number
from grokora_pipeline.settings import PROJECT_ROOT
from grokora_pipeline.store import Store
from grokora_pipeline_tests.tiny import tiny_base

LINKS = ("task_dataset", "tokenized_split", "lora_adapter", "eval_report")


def main() -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--agents", default="planner,actor,reflector")
    parser.add_argument("--rows", type=int, default=24, help="held-out rows an agent, a third for the final look")
    parser.add_argument("--examples", type=int, default=2, help="in a prompt, fixed or retrieved")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    started = time.monotonic()
    names = arguments.agents.split(",")
    environment = _home(arguments)
    _run(environment, names, arguments)
    figures = {name: _figures(Store(environment["GROKORA_STORE"]), name) for name in names}
    (arguments.output / "table.md").write_text(table(figures), encoding="utf-8")
    print(json.dumps({"what": "screenagent.ladder", "seconds": round(time.monotonic() - started), "agents": figures}))


def _home(arguments: argparse.Namespace) -> dict[str, str]:
    """The environment of the chain, in which everything is in the output's folder."""
    output = arguments.output.absolute()
    (output / "dagster").mkdir(parents=True, exist_ok=True)
    document = yaml.safe_load((PROJECT_ROOT / "data" / "agents.screenagent.yaml").read_text(encoding="utf-8"))
    own = {"GROKORA_LOGS": str(arguments.logs.absolute()), "GROKORA_AGENTS": str(output / "agents.yaml")}
    own |= {"GROKORA_STORE": str(output / "store"), "DAGSTER_HOME": str(output / "dagster")}
    own |= {"GROKORA_CACHE": str(output / "cache"), "GROKORA_SETTLE_SECONDS": "0", "GROKORA_DEVICES": "cpu,cpu2"}
    if arguments.tiny:
        if not (output / "base").exists():
            tiny_base(output / "base")
        own["GROKORA_BASE_MODEL"] = str(output / "base")
        for agent in document["agents"].values():
            agent |= {"max_examples": 24, "min_examples": 5, "epochs": 1, "max_length": 2048, "self_test": False}
    (output / "agents.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return {**os.environ, **own}


def _run(environment: dict[str, str], agents: Sequence[str], arguments: argparse.Namespace) -> None:
    """Materialize the agents' chains up to their reports, two steps at once, by Dagster's own command line."""
    config: dict[str, Any] = {"max_rows": arguments.rows, "few_shot": arguments.examples}
    config |= {"retrieved": arguments.examples, "adapter_few_shot": True}
    if arguments.tiny:
        config["max_new_tokens"] = 16
    keys = ["session_logs", "base_model", *(f"{agent}/{link}" for agent in agents for link in LINKS)]
    command = [str(Path(sys.executable).with_name("dagster")), "asset", "materialize", "--select", ",".join(keys)]
    command += ["-m", "grokora_pipeline.definitions"]
    ops = {f"{agent}__eval_report": {"config": config} for agent in agents}
    command += ["--config-json", json.dumps({"ops": ops})]
    with (arguments.output / "dagster.log").open("wb") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    store = Store(environment["GROKORA_STORE"])
    if missing := [agent for agent in agents if not store.current(f"{agent}/eval_report")]:
        what = f"There is no report of {', '.join(missing)}"
    elif done.returncode:
        what = "A step failed"
    else:
        return
    raise SystemExit(f"{what}; {log.name} says why. The same command goes on where it was.")


def _figures(store: Store, agent: str) -> dict[str, Any]:
    report = store.require(f"{agent}/eval_report").read_json("report.json")
    metric, ladder = report["main_metric"], report["ladder"]
    scores = {name: system["metrics"].get(metric, {}) for name, system in report["systems"].items()}
    costs = ("prompt_tokens", "answer_tokens", "seconds")
    rungs = {
        rung["system"]: {**{name: scores[rung["system"]].get(name) for name in ("value", "low", "high")}}
        | {name: round(rung[name], 2) for name in costs}
        for rung in ladder["rungs"]
    }
    facts = {"metric": metric, "rows": report["rows"], "fresh_rows": (report.get("fresh") or {}).get("rows", 0)}
    facts |= {"train_rows": report["data"]["training_rows"], "train_seconds": report["training"].get("wall_seconds")}
    return {**facts, "rungs": rungs, "verdict": ladder["verdict"], "decision": report["decision"]["reason"]}


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures in Markdown: a line a rung, and each agent's verdict below."""
    lines = ["| agent | rung | main metric (95 %) | prompt + answer tokens | s |", "| --- | --- | --- | --- | --- |"]
    for agent, found in figures.items():
        for name, rung in found["rungs"].items():
            value, low, high = (number(rung[key]) for key in ("value", "low", "high"))
            cells = [f"{agent}, {found['metric']}", LABELS.get(name, name), f"{value} ({low} to {high})"]
            cells += [f"{rung['prompt_tokens']:.0f} + {rung['answer_tokens']:.0f}", number(rung["seconds"])]
            lines.append("| " + " | ".join(cells) + " |")
    verdicts = [f"- {agent}: {found['verdict']} {found['decision']}" for agent, found in figures.items()]
    return "\n".join([*lines, "", *verdicts, ""])


if __name__ == "__main__":
    main()
