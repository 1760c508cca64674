"""`build_defs`: the definitions of one swarm, made from what it is given and nothing else."""

import warnings

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.chain import all_assets
from grokora_pipeline.assets.common import Project
from grokora_pipeline.automation.jobs import jobs
from grokora_pipeline.automation.schedules import schedules
from grokora_pipeline.automation.sensors import log_sensor
from grokora_pipeline.settings import Settings


def build_defs(settings: Settings, agents: tuple[AgentSpec, ...], name: str = "") -> dg.Definitions:
    """The assets, jobs, schedules and the sensor of a swarm, and the resource that runs its GPU work.

    `name` begins every asset key, job, schedule, sensor, pool, group and the resource, so that several swarms and
    other definitions stand side by side in one code location (`dg.Definitions.merge`). There is no executor in it: a
    location has one for all, and `execution.executor.chosen_executor` is an offer.
    """
    project = Project(settings, agents, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # observable assets and code references: pinned and tested
        assets = dg.with_source_code_references(all_assets(project))
    specs = [spec for asset in assets if isinstance(asset, dg.AssetsDefinition) for spec in asset.specs]
    return dg.Definitions(
        assets=assets,
        jobs=jobs(project, specs),
        schedules=schedules(project, specs),
        sensors=[log_sensor(project, specs)],
        resources=project.resources(),
    )
