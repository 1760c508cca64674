"""`A/rank_trial` and `A/rank_report`: which rank is worth its size. Made on demand only, by the job `rank_experiment`.

Ranks are a config, not partitions: Dagster launches no run of partitioned and other assets together, so that
"Materialize all" in the global graph would fail. There no rank is configured and none is tried, and the report is
skipped with it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    AssetResult,
    Project,
    code_version,
    plain_errors,
    publish_once,
    result,
    table,
    write_json,
)
from grokora_pipeline.assets.eval_report import EvaluationConfig, evaluation_plan
from grokora_pipeline.assets.knobs import KnobOverrides, resolve
from grokora_pipeline.assets.lora_adapter import forget_work, training_plan
from grokora_pipeline.assets.plots import rank_curves
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.execution.process import GPU_SECONDS
from grokora_pipeline.store import Artifact, content_version
from grokora_pipeline.training.ranks import RANKS, recommend, summarise, trial_knobs

GROUP = "rank_trials"  # apart from the agents' groups, whose chains one click makes
_FIGURES = ("validation_loss", "trainable_share", "peak_memory_mib", "tokens_per_second", "wall_seconds")


class RankConfig(dg.Config):
    """Which ranks are tried, and how."""

    ranks: list[int] = Field(default=[], description="Ranks to try, such as [8, 16, 32, 64]; none: nothing is trained.")
    seeds: list[int] = Field(default=[7, 8], description="A training each; one alone says nothing about noise.")
    rows: int = Field(
        default=-1, description="Held-out rows for the main metric; -1: as eval_report takes, 0: the loss alone."
    )
    knobs: KnobOverrides = Field(default=KnobOverrides(), description="Training knobs for all ranks alike.")

    def evaluation(self, sample: bool) -> dict[str, Any]:
        """How the adapters are judged: on the main metric alone."""
        alone = EvaluationConfig(
            max_rows=max(self.rows, 0), few_shot=0, retrieved=0, adapter_few_shot=False, redacted_canaries=0
        )
        config = alone.resolved(sample)
        return {**config, "probe": False, "max_rows": config["max_rows"] if self.rows else 0}


def rank_trial_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `rank_trial` asset of one agent."""

    @dg.asset(
        **project.identity(f"{agent.name}/rank_trial", GROUP),
        deps=project.links_and_base(agent.name, "tokenized_split", "task_dataset"),
        output_required=False,
        kinds={"pytorch", "huggingface"},
        code_version=code_version(resolve(project, agent).model_dump()),
        **project.gpu_step(),
    )
    def rank_trial(context: dg.AssetExecutionContext, config: RankConfig) -> Iterator[AssetResult]:
        """Adapters of several ranks, a seed each: validation loss, main metric, size, memory, speed."""
        if not config.ranks:
            context.log.info("No rank is configured, so none is tried; the job rank_experiment tries them all.")
            return
        with plain_errors():
            if unknown := sorted(set(config.ranks) - set(RANKS)):
                raise GrokoraError(f"The rank {unknown[0]} cannot be tried; choose from {', '.join(map(str, RANKS))}.")
            trials = {rank: _trial(project, agent, context, config, rank) for rank in config.ranks}
        records = {rank: artifact.read_json("trial.json")["records"] for rank, artifact in trials.items()}
        apart = [{"rank": rank, **record} for rank, seeds in records.items() for record in seeds]
        yield dg.MaterializeResult(
            metadata={
                "ranks": table(summarise(records)),
                "seeds_apart": table(apart),
                "folder": dg.MetadataValue.path("/".join([project.store.url, agent.name, "rank_trial"])),
                GPU_SECONDS: sum(record["wall_seconds"] for record in apart),
            },
            data_version=dg.DataVersion(content_version({rank: one.version for rank, one in trials.items()})),
        )

    return rank_trial


def _trial(
    project: Project, agent: AgentSpec, context: dg.AssetExecutionContext, config: RankConfig, rank: int
) -> Artifact:
    """The trial of one rank; a rank that was tried like this before is not trained again."""
    overrides = config.knobs.as_knobs()
    knobs = resolve(project, agent, overrides)
    plans = {
        seed: training_plan(project, agent, {**overrides, **trial_knobs(knobs, rank, seed)}) for seed in config.seeds
    }
    judged = config.evaluation(knobs.preset == "sample")
    inputs = {
        "trainings": [(plan["knobs"], plan["versions"]) for plan in plans.values()],
        "evaluation": judged,
        "code": code_version(),
    }

    def build(staged: Path) -> None:
        """Train and judge an adapter a seed; write the adapters and `trial.json`."""
        records = []
        for seed, plan in plans.items():
            folder = staged / f"seed-{seed}"
            record = _trained(project, context, plan, folder)
            if judged["max_rows"]:
                evaluation = folder / "evaluation"
                task = {
                    **evaluation_plan(project, agent, folder),
                    **judged,
                    "fresh": "unseen",  # a rank is chosen by these rows, so the gate's final look must be at others
                }
                report = project.run_gpu(context, "grokora_pipeline.evaluation", task, evaluation)
                record["metric"] = report["systems"]["adapter"]["metrics"][agent.metric]["value"]
            records.append(record)
        write_json(staged / "trial.json", {"versions": _versions(project, agent), "records": records})

    artifact = publish_once(project, context, f"{agent.name}/rank_trial/{rank}", inputs, build)
    for plan in plans.values():  # kept until now: a retry trains no seed again
        forget_work(project, f"{agent.name}/rank_trial", {"knobs": plan["knobs"], "versions": plan["versions"]})
    return artifact


def _trained(project: Project, context: dg.AssetExecutionContext, plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train with one seed into a folder; what `training/ranks.py` wants to know of it."""
    inputs = {"knobs": plan["knobs"], "versions": plan["versions"]}
    with project.store.work(f"{plan['agent']}/rank_trial", content_version(inputs)) as work:
        training = project.run_gpu(context, "grokora_pipeline.training", {**plan, "work": str(work)}, folder)
    size = (folder / "adapter_model.safetensors").stat().st_size / 2**20
    figures = {name: training[name] for name in _FIGURES}
    return {"seed": training["knobs"]["seed"], **figures, "adapter_mib": round(size, 3), "metric": None}


def _versions(project: Project, agent: AgentSpec) -> dict[str, str]:
    """Trials are compared if they saw the same data and base model: the versions of both."""
    keys = (f"{agent.name}/tokenized_split", "base_model")
    return {key: project.store.require(key).version for key in keys}


def rank_report_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `rank_report` asset of one agent."""
    key = f"{agent.name}/rank_report"

    @dg.asset(
        **project.identity(key, GROUP),
        deps=[project.key(agent.name, "rank_trial")],
        kinds={"json"},
        code_version=code_version(agent.metric),
    )
    def rank_report(context: dg.AssetExecutionContext) -> AssetResult:
        """Loss, main metric, size, memory and speed by rank, and the smallest rank that loses nothing."""
        with plain_errors():
            trials = _trials(project, agent)
            inputs = {"trials": {rank: artifact.version for rank, artifact in trials.items()}, "code": code_version()}

            def build(staged: Path) -> None:
                """Write `report.json`."""
                records = {rank: trial.read_json("trial.json")["records"] for rank, trial in trials.items()}
                rows = summarise(records)
                write_json(
                    staged / "report.json", {"ranks": rows, "metric": agent.metric, "recommendation": recommend(rows)}
                )

            artifact = publish_once(project, context, key, inputs, build)
        report = artifact.read_json("report.json")
        rows, advice = report["ranks"], report["recommendation"]
        missing = sorted(set(RANKS) - {row["rank"] for row in rows})
        metadata = {
            "recommendation": advice["reason"],
            "table": table(rows),
            "picture": rank_curves(rows, report["metric"]),
            "ranks_not_tried": ", ".join(map(str, missing)) or "none",
        }
        if advice["rank"]:
            own = resolve(project, agent)
            knobs = trial_knobs(own, advice["rank"], own.seed)
            lines = "\n".join(f"{name}: {value:g}" for name, value in knobs.items() if name in {"rank", "alpha"})
            metadata["for_agents_yaml"] = dg.MetadataValue.md(f"```yaml\n{lines}\nrslora: true\n```")
        return result(project, artifact, metadata)

    return rank_report


def _trials(project: Project, agent: AgentSpec) -> dict[int, Artifact]:
    """The trials of the present split and base model, by rank."""
    store, versions = project.store, _versions(project, agent)
    current = {rank: store.current(f"{agent.name}/rank_trial/{rank}") for rank in RANKS}
    trials = {
        rank: artifact
        for rank, artifact in current.items()
        if artifact and artifact.read_json("trial.json")["versions"] == versions
    }
    if not trials:
        raise GrokoraError(f"{agent.name} has no rank trial on its present split; materialize rank_trial first.")
    return trials
