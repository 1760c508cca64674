"""`swarm_report`: the whole swarm on unseen tasks, the base model against the champions."""

from pathlib import Path

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    OWNERS,
    Made,
    base_folder,
    code_version,
    get_store,
    plain_errors,
    publish_once,
    read_json,
    result,
)
from grokora_pipeline.assets.eval_report import champion_of
from grokora_pipeline.execution.process import CUDA_POOL, DEVICE_RETRIES, GpuProcess, cuda_tags
from grokora_pipeline.sandbox.roles import AGENTS as ROLES


class SwarmConfig(dg.Config):
    """How many unseen tasks the swarm is given, and with which seeds."""

    tasks: int = 30
    seeds: list[int] = [7]  # noqa: RUF012


def swarm_report_asset(agents: tuple[AgentSpec, ...]) -> dg.AssetsDefinition | None:
    """The `swarm_report` asset, or None where agents.yaml lacks one of the swarm's roles."""
    names = {agent.name for agent in agents}
    if not names.issuperset(ROLES):
        return None

    @dg.asset(
        deps=[*([role, "champion"] for role in ROLES), "base_model"],
        group_name="swarm",
        kinds={"huggingface", "html"},
        owners=OWNERS,
        code_version=code_version(),
        op_tags=cuda_tags(),
        pool=CUDA_POOL,
        retry_policy=DEVICE_RETRIES,
        description="Success of the sandbox swarm on tasks from families and with words that no log holds.",
    )
    def swarm_report(context: dg.AssetExecutionContext, config: SwarmConfig, gpu: GpuProcess) -> Made:
        with plain_errors():
            base = get_store().require("base_model")
            champions = {role: champion_of(role) for role in ROLES}

            def build(staged: Path) -> None:
                plan = {
                    "base": str(base_folder(base.path)),
                    "adapters": {role: str(found.path) if found else None for role, found in champions.items()},
                    "output": str(staged),
                    **config.model_dump(),
                }
                gpu.run(context, "grokora_pipeline.evaluation.swarm", plan, staged)

            inputs = {
                "base": base.version,
                "champions": {role: found.version if found else None for role, found in champions.items()},
                "config": config.model_dump(),
                "code": code_version(),
            }
            artifact = publish_once(context, "swarm_report", inputs, build)
        report = read_json(artifact.path / "swarm.json")
        numbers = {f"{system}/success_rate": run["success_rate"] for system, run in report["systems"].items()}
        return result(
            artifact,
            {**numbers, "tasks": config.tasks, "report": dg.MetadataValue.path(artifact.link("report.html"))},
        )

    return swarm_report
