"""`A/eval_report`: base, few-shot, adapter and champion on the same held-out rows, with intervals."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    AssetResult,
    Project,
    base_folder,
    code_version,
    plain_errors,
    publish_once,
    result,
)
from grokora_pipeline.assets.knobs import resolve
from grokora_pipeline.assets.plots import intervals
from grokora_pipeline.evaluation.plan import EvaluationOptions
from grokora_pipeline.store import Artifact

_SHOWN_HISTORY = 20


class EvaluationConfig(EvaluationOptions, dg.Config):
    """How much is evaluated; more rows give narrower intervals and take longer."""

    max_rows: int = Field(
        default=0,
        description="Held-out rows at most, a third of them for the final look; 0: 30 with `sample`, else 300.",
    )
    few_shot: int = Field(
        default=-1, description="Examples before each question; -1: 2 with `sample`, else 8; 0: without."
    )
    retrieved: int = Field(
        default=-1,
        description="Nearest training examples before each question; -1: none with `sample`, else 8; 0: without.",
    )
    adapter_few_shot: bool | None = Field(
        default=None, description="Also the adapter with the few-shot examples; unset: not with `sample`, else yes."
    )
    redacted_canaries: int = Field(
        default=-1, description="Redacted secrets to look for in the adapter; -1: 1 with `sample`, else 8."
    )
    measure_again: bool = Field(
        default=False,
        description="Measure anew although nothing has changed: answers are generated again, not remembered.",
    )

    def resolved(self, sample: bool) -> dict[str, Any]:
        """The values, with the preset's if none is given; `measure_again` is no part of them."""
        chosen = self.model_dump(exclude={"measure_again"})
        chosen["max_rows"] = self.max_rows or (30 if sample else 300)
        for name, few in (("few_shot", 2), ("retrieved", 0), ("redacted_canaries", 1)):
            chosen[name] = chosen[name] if chosen[name] >= 0 else (few if sample else 8)
        chosen["adapter_few_shot"] = not sample if self.adapter_few_shot is None else self.adapter_few_shot
        return chosen


def eval_report_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `eval_report` asset of one agent."""
    key = f"{agent.name}/eval_report"
    # of the agent only what the figures rest on: a new description makes no report stale
    version = code_version(agent.answer.model_dump(), agent.metric)

    @dg.asset(
        **project.identity(key, agent.name),
        deps=project.links_and_base(agent.name, "lora_adapter", "tokenized_split"),
        kinds={"huggingface", "html"},
        code_version=version,
        **project.gpu_step(),
        description=f"Is the adapter better than the base model? Main metric: {agent.metric}.",
    )
    def eval_report(context: dg.AssetExecutionContext, config: EvaluationConfig) -> AssetResult:
        """Judge base, few-shot, adapter and champion on the held-out rows of the present split."""
        with plain_errors():
            inputs, plan = _inputs(project, agent, config.resolved(resolve(project, agent).preset == "sample"))
            if config.measure_again:  # the run's id makes a new version, and without a cache all is generated anew
                inputs, plan = {**inputs, "measured": context.run_id}, {**plan, "cache": None}

            def build(staged: Path) -> None:
                """Write the report's folder in a process that has the device."""
                # no part of the inputs: they change with every report, and the figures do not
                shown = {
                    "history": _history(project, agent, key),
                    "ranks": _ranks(project, agent),
                    "look": project.registry.look(
                        agent.name, str(plan["versions"]["adapter"]), plan["versions"]["rows"]
                    ),
                }
                project.run_gpu(context, "grokora_pipeline.evaluation", {**plan, **shown}, staged)

            artifact = publish_once(project, context, key, inputs, build)
        return result(project, artifact, _metadata(artifact))

    return eval_report


def _inputs(project: Project, agent: AgentSpec, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the report depends on (its fingerprint), and the plan for the process that makes it."""
    store = project.store
    names = ("task_dataset", "tokenized_split", "lora_adapter")
    dataset, split, adapter = (store.require(f"{agent.name}/{name}") for name in names)
    base, registry = store.require("base_model"), project.registry
    champion, prompt = registry.in_service(agent.name), registry.prompt(agent.name)
    if champion and champion.version == adapter.version and not prompt:
        champion = None  # nothing to compare: this very adapter is in service
    served = prompt or champion
    versions: dict[str, str | None] = {artifact.key: artifact.version for artifact in (base, dataset, split, adapter)}
    versions |= {"adapter": adapter.version, "champion": served.version if served else None}
    comparison = {
        "champion": str(champion.path) if champion else None,
        "champion_prompt": prompt.read_json("prompt.json") if prompt else None,
        "logs": str(project.settings.logs),
        "fresh": "apart",
    }
    # the split and how many of its rows are judged: by others it is another look at this adapter
    rows = {"rows": f"{split.version}/{config['max_rows']}"}
    plan = {**evaluation_plan(project, agent, adapter.path), **comparison, "versions": {**versions, **rows}, **config}
    inputs = {
        "versions": versions,
        "answer": plan["answer"],
        "metric": agent.metric,
        "config": config,
        "code": code_version(),
    }
    return inputs, plan


def evaluation_plan(project: Project, agent: AgentSpec, adapter: Path | None) -> dict[str, Any]:
    """What the evaluation process has to know to judge an adapter on the agent's held-out rows."""
    store = project.store
    dataset, split = (store.require(f"{agent.name}/{name}") for name in ("task_dataset", "tokenized_split"))
    base = store.require("base_model")
    return {
        "agent": agent.name,
        "description": agent.description,
        "answer": agent.answer.model_dump(by_alias=True),
        "main_metric": agent.metric,
        "base": str(base_folder(base.path)),
        "base_hash": base.version,
        "adapter": str(adapter) if adapter else None,
        "split": str(split.path),
        "examples": str(dataset.path / "examples.jsonl"),
        # one folder for all agents: the base's answers are the same whoever asks
        "cache": str(store.root / ".cache" / "answers"),
    }


def _history(project: Project, agent: AgentSpec, key: str) -> list[dict[str, Any]]:
    """Earlier reports with the same main metric, oldest first."""
    store, reports = project.store, dict[str, dict[str, Any]]()
    for record in store.history(key, "current")[-_SHOWN_HISTORY:]:  # by version: one that came back counts once
        if artifact := store.find(key, record["version"]):
            report = artifact.read_json("report.json")
            score = report["systems"]["adapter"]["metrics"].get(agent.metric)
            if report["main_metric"] == agent.metric and score:
                label = f"{record['at'][:16].replace('T', ' ')}, adapter {report['versions']['adapter'][:8]}"
                rank = report["training"].get("knobs", {}).get("rank")
                reports[record["version"]] = {"label": label, "rank": rank, **score}
    return list(reports.values())


def _ranks(project: Project, agent: AgentSpec) -> list[dict[str, Any]]:
    """The main metric of every rank that the latest rank report compares."""
    report = project.store.current(f"{agent.name}/rank_report")
    document = report.read_json("report.json") if report else {"metric": None, "ranks": []}
    rows = [row for row in document["ranks"] if document["metric"] == agent.metric and row["metric"] is not None]
    return [
        {"label": f"rank {row['rank']}, {row['seeds']} seeds", "rank": row["rank"], "value": row["metric"]}
        for row in rows
    ]


def _metadata(artifact: Artifact) -> dict[str, Any]:
    """Verdict and picture first, then a page to read, then at most a dozen numbers, the main metric's before others."""
    report = artifact.read_json("report.json")
    metric, ladder = report["main_metric"], report.get("ladder") or {}
    metrics = {system: run["metrics"] for system, run in report["systems"].items()}
    scores = {system: values[metric] for system, values in metrics.items() if metric in values}
    change = report["comparisons"]["adapter_vs_base"].get(metric, {})
    page, fresh = artifact.link("report.html"), (report.get("fresh") or {}).get("systems", {})
    # the report as Markdown, which the UI shows itself: browsers open no local file from a page
    evidence = [
        f"- {'yes' if item['passed'] else '**no**'}: {item['sentence']}" for item in report["decision"]["evidence"]
    ]
    lines = [f"**{report['decision']['reason']}**", ladder.get("verdict", ""), report["markdown"]]
    lines += ["**What the gate looked at**", "\n".join(evidence), f"With answers and plots: `{page}`"]
    return {
        "verdict": report["decision"]["reason"],
        "worth_it": ladder.get("verdict", ""),
        "systems": intervals(scores, metric),
        "read": dg.MetadataValue.md("\n\n".join(filter(None, lines))),
        "report": dg.MetadataValue.path(page),
        **{
            f"{system}/{metric}": scores[system]["value"] for system in sorted(scores, key=lambda one: one != "adapter")
        },
        **({f"adapter/{metric}, fresh rows": fresh["adapter"]["value"]} if fresh else {}),
        **{f"adapter_vs_base/{name}": change[name] for name in ("value", "p_value") if change},
        "dagster/row_count": report["rows"],
    }
