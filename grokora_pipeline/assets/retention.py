"""What the champion still can of what earlier champions could: the main metric on the rows that each held out."""

import tempfile
from pathlib import Path
from typing import Any

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import Project, read_json
from grokora_pipeline.assets.eval_report import evaluation_plan
from grokora_pipeline.datasets.example import read_examples
from grokora_pipeline.datasets.lineage import forgotten
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import Artifact
from grokora_pipeline.store.champions import BASE
from grokora_pipeline.workers.frame import run_alone


def retention(project: Project, agent: AgentSpec, rows: int) -> list[dict[str, Any]]:
    """A row an earlier champion, oldest first: champion, rows, then (its own score), now (today's champion's), kept.

    Both answer as they were served: an adapter, a fixed prompt, or an adapter behind one. `rows`: at most so many of
    the rows that its split held out, 0 for all, and none of a champion on whose rows the main metric says nothing;
    `kept` is now / then (then / now if less is better), None if that divides by 0. The rows come from the datasets
    that the store still has, without what was forgotten since. GrokoraError if neither an adapter nor a prompt is in
    service, or if an evaluation fails.
    """
    today = project.registry.version(agent.name)
    if today == BASE:
        raise GrokoraError(f"No champion of {agent.name} is in service, so there is nothing to compare; promote one.")
    with tempfile.TemporaryDirectory() as folder:  # answers of a champion to rows of another's split are no artifact
        examples = Path(folder) / "examples.jsonl"
        known = _write_examples(project, agent, examples)
        plan = {
            **evaluation_plan(project, agent, None),
            **_served(project, agent.name, today, "adapter"),
            "examples": str(examples),
            "max_rows": rows,
            "probe": False,
        }
        table = []
        for version, split in _earlier(project, agent, today).items():
            reduced = Path(folder) / f"split-{version}"
            if _reduce(split.path, known, reduced):
                earlier, output = _served(project, agent.name, version, "champion"), Path(folder) / version
                run_alone(
                    "grokora_pipeline.evaluation", {**plan, **earlier, "split": str(reduced), "output": str(output)}
                )
                report = read_json(output / "report.json")
                if change := report["comparisons"]["adapter_vs_champion"].get(agent.metric):
                    systems = (report["systems"][name]["metrics"] for name in ("adapter", "champion"))
                    now, then = (metrics[agent.metric]["value"] for metrics in systems)
                    more, less = (now, then) if change["higher_is_better"] else (then, now)
                    kept = more / less if less else None
                    table.append({"champion": version, "rows": report["rows"], "then": then, "now": now, "kept": kept})
        return table


def _served(project: Project, agent: str, version: str, system: str) -> dict[str, Any]:
    """A version that was or is in service, as a system of the evaluation's plan."""
    prompt = project.store.find(f"{agent}/prompt", version)
    adapter = project.store.find(f"{agent}/lora_adapter", project.registry.adapter_version(agent, version))
    return {
        system: str(adapter.path) if adapter else None,
        f"{system}_prompt": prompt.read_json("prompt.json") if prompt else None,
    }


def _earlier(project: Project, agent: AgentSpec, today: str) -> dict[str, Artifact]:
    """Every other champion that the store still has, and the split that it was made of."""
    registry, key, splits = project.registry, f"{agent.name}/tokenized_split", dict[str, Artifact]()
    for past in registry.history(agent.name):
        version = past["version"]
        if past["action"] != "promote" or version == today or not registry.serves(agent.name, version):
            continue
        adapter = project.store.find(f"{agent.name}/lora_adapter", version)
        # a prompt was made of the split of the report that proved it, which the decision names
        record = adapter.read_json("training.json") if adapter else past.get("decision") or {}
        made_of = record.get("versions", {}).get(key)
        if made_of and (split := project.store.find(key, made_of)):
            splits[version] = split
    return splits


def _write_examples(project: Project, agent: AgentSpec, path: Path) -> set[str]:
    """Write the examples of all datasets that the store has, each call once, as the newest says it; their turn ids."""
    # by turn: a later dataset says the same call with the redaction and the format of today
    left_out, lines = set(forgotten(project.store)), dict[str, bytes]()
    for dataset in project.store.versions(f"{agent.name}/task_dataset"):
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
