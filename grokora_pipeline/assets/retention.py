"""What the champion still can of what earlier champions could: the main metric on the rows that each held out."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import Project, key_of, read_json
from grokora_pipeline.assets.eval_report import champion_of, evaluation_plan
from grokora_pipeline.datasets.examples import read_examples
from grokora_pipeline.datasets.lineage import forgotten
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import Artifact
from grokora_pipeline.store.champions import Registry


def retention(project: Project, agent: AgentSpec, rows: int) -> list[dict[str, Any]]:
    """A row an earlier champion, oldest first: champion, rows, then (its own score), now (today's champion's), kept.

    `rows`: at most so many of the rows that its split held out, 0 for all; `kept` is now / then, None if then is 0. The
    rows come from the datasets that the store still has, without what was forgotten since. GrokoraError if no adapter
    is in service, or if an evaluation fails.
    """
    today = champion_of(project, agent.name)
    if today is None:
        raise GrokoraError(f"No adapter of {agent.name} is in service, so there is nothing to compare; promote one.")
    with tempfile.TemporaryDirectory() as folder:  # answers of a champion to rows of another's split are no artifact
        examples = Path(folder) / "examples.jsonl"
        known = _write_examples(project, agent, examples)
        plan = {
            **evaluation_plan(project, agent, today.path),
            "examples": str(examples),
            "max_rows": rows,
            "probe": False,
        }
        pairs = _earlier(project, agent, today.version)
        table = []
        for adapter, split in pairs:
            reduced = Path(folder) / f"split-{adapter.version}"
            if _reduce(split.path, known, reduced):
                table.append(_measure(agent, {**plan, "split": str(reduced)}, adapter, Path(folder)))
        return table


def _earlier(project: Project, agent: AgentSpec, today: str) -> list[tuple[Artifact, Artifact]]:
    """(adapter, the split that it was trained on) of every other champion that the store still has."""
    promoted = [past["version"] for past in Registry(project.store).history(agent.name) if past["action"] == "promote"]
    pairs = []
    for version in dict.fromkeys(promoted):  # one that came back after a rollback counts once
        adapter = project.store.find(key_of(agent, "lora_adapter"), version) if version != today else None
        if adapter is None:
            continue
        trained_on = str(
            read_json(adapter.path / "training.json")["versions"].get(key_of(agent, "tokenized_split"), "")
        )
        if trained_on and (split := project.store.find(key_of(agent, "tokenized_split"), trained_on)):
            pairs.append((adapter, split))
    return pairs


def _write_examples(project: Project, agent: AgentSpec, path: Path) -> set[str]:
    """Write the examples of all datasets that the store has, each call once, as the newest says it; their turn ids."""
    left_out, lines = set(forgotten(project.store)), dict[str, bytes]()
    for dataset in project.store.versions(key_of(agent, "task_dataset")):
        for example in read_examples(dataset.path):
            meta = example.meta
            if left_out.isdisjoint({meta["session_id"], meta["source_file"], f"sha256:{meta['source_sha256']}"}):
                lines[meta["turn_id"]] = example.to_line()
    path.write_bytes(b"".join(lines.values()))
    return set(lines)


def _reduce(split: Path, known: set[str], output: Path) -> int:
    """Write a split without the turns that nobody may ask any more; how many are left to be judged on."""
    from datasets import DatasetDict, load_from_disk

    sides = load_from_disk(str(split))
    kept = {
        side: rows.select([index for index, name in enumerate(rows["turn_id"]) if name in known])
        for side, rows in sides.items()
    }
    DatasetDict(kept).save_to_disk(str(output), num_shards=dict.fromkeys(kept, 1))
    return len(kept["validation"])


def _measure(agent: AgentSpec, plan: dict[str, Any], adapter: Artifact, folder: Path) -> dict[str, Any]:
    """Let a process of its own answer the rows that an earlier champion held out, with it and with today's."""
    file, output = folder / f"{adapter.version}.json", folder / adapter.version
    plan = {**plan, "champion": str(adapter.path), "output": str(output)}
    file.write_bytes(orjson.dumps(plan))
    done = subprocess.run([sys.executable, "-m", "grokora_pipeline.evaluation", str(file)], check=False)
    if done.returncode:
        raise GrokoraError(f"The rows of {agent.name}'s champion {adapter.version} could not be judged; see above.")
    report = read_json(output / "report.json")
    now, then = (report["systems"][name]["metrics"][agent.metric]["value"] for name in ("adapter", "champion"))
    kept = now / then if then else None
    return {"champion": adapter.version, "rows": report["rows"], "then": then, "now": now, "kept": kept}
