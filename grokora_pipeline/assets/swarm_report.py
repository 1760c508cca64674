"""`swarm_report`: the whole swarm on unseen tasks, the base model against the champions."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from grokora_pipeline.assets.common import (
    AssetResult,
    Project,
    base_folder,
    champions_plan,
    code_version,
    plain_errors,
    publish_once,
    result,
)
from grokora_pipeline.assets.knobs import resolve
from grokora_pipeline.assets.plots import intervals
from grokora_pipeline.sandbox.roles import AGENTS as ROLES
from grokora_pipeline.store import Artifact

# The full test takes a quarter of an hour on two cores, too long for a demo.
_FULL = {"tasks": 50, "seeds": [7, 8, 9], "ablation": True, "few_shot": 4}
_SAMPLE = {"tasks": 30, "seeds": [7], "ablation": False, "few_shot": 0}


class SwarmConfig(dg.Config):
    """How the swarm is tested; what is not given is the full test, or a short one if all roles use `sample`."""

    tasks: int | None = Field(default=None, description="Unseen tasks; unset: 50, or 30 with `sample`.")
    seeds: list[int] | None = Field(default=None, description="A trial each; a single one is greedy.")
    ablation: bool | None = Field(default=None, description="Also every champion alone among base models.")
    few_shot: int | None = Field(default=None, description="Also the base model with so many examples.")
    measure_again: bool = Field(default=False, description="Run the tasks anew although nothing has changed.")

    def resolved(self, sample: bool) -> dict[str, Any]:
        """The values, with the defaults if none is given."""
        return {**(_SAMPLE if sample else _FULL), **self.model_dump(exclude={"measure_again"}, exclude_none=True)}


def swarm_report_asset(project: Project) -> dg.AssetsDefinition | None:
    """The `swarm_report` asset, or None if agents.yaml lacks one of the swarm's roles."""
    # the sandbox plays with all four or not at all
    roles = [agent for agent in project.agents if agent.name in ROLES]
    if len(roles) < len(ROLES):
        return None

    @dg.asset(
        **project.identity("swarm_report", "swarm"),
        deps=[*(project.key(role, "champion") for role in ROLES), project.key("base_model")],
        kinds={"huggingface", "html"},
        code_version=code_version(),
        **project.gpu_step(),
        description="Success of the sandbox swarm on tasks from families and with words that no log holds.",
    )
    def swarm_report(context: dg.AssetExecutionContext, config: SwarmConfig) -> AssetResult:
        """Let the swarm of bases and the swarm of champions do the same unseen tasks."""
        with plain_errors():
            chosen = config.resolved(all(resolve(project, agent).preset == "sample" for agent in roles))
            # read once and at once: a promotion while it is measured is the next report's
            base, served = project.store.require("base_model"), champions_plan(project, ROLES)
            datasets = {role: project.store.current(f"{role}/task_dataset") for role in ROLES if chosen["few_shot"]}
            # a role whose dataset was never made is asked without examples
            examples = {role: dataset for role, dataset in datasets.items() if dataset}

            def build(staged: Path) -> None:
                """Write the report's folder in a process that has the device."""
                plan = {
                    "base": str(base_folder(base.path)),
                    **served,
                    "examples": {role: str(dataset.path / "examples.jsonl") for role, dataset in examples.items()},
                    **chosen,
                }
                project.run_gpu(context, "grokora_pipeline.evaluation.swarm", plan, staged)

            inputs = {
                "base": base.version,
                "champions": {role: project.registry.version(role) for role in ROLES},
                "examples": {role: dataset.version for role, dataset in examples.items()},
                "config": chosen,
                "code": code_version(),
            }
            if config.measure_again:  # the run's id makes a new version
                inputs["measured"] = context.run_id
            artifact = publish_once(project, context, "swarm_report", inputs, build)
        return result(project, artifact, _metadata(artifact))

    return swarm_report


def _metadata(artifact: Artifact) -> dict[str, Any]:
    report = artifact.read_json("swarm.json")
    systems = report["systems"]
    return {
        "verdict": report["verdict"],
        "systems": intervals(
            {name: {**run, "value": run["success_rate"]} for name, run in systems.items()}, "tasks solved"
        ),
        "table": dg.MetadataValue.md(report["markdown"]),
        "report": dg.MetadataValue.path(artifact.link("report.html")),
        "champions/success_rate": systems["champions"]["success_rate"],
        **{f"{name}/success_rate": run["success_rate"] for name, run in systems.items() if name != "champions"},
        "champions/steps": systems["champions"]["steps"],
        "tasks": report["tasks"],
    }
