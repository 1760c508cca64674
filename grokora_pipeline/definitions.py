"""The front door: one Definitions object for `dagster dev`, `dagster asset materialize` and the tests."""

import dagster as dg

from grokora_pipeline.assets.chain import all_assets
from grokora_pipeline.assets.common import get_agents
from grokora_pipeline.automation.jobs import jobs
from grokora_pipeline.automation.schedules import schedules
from grokora_pipeline.automation.sensors import log_sensor
from grokora_pipeline.execution.executor import chosen_executor
from grokora_pipeline.execution.process import GpuProcess


def build_defs() -> dg.Definitions:
    """The definitions for the agents.yaml of the current settings."""
    agents = get_agents()
    assets = all_assets(agents)
    specs = [spec for asset in assets if isinstance(asset, dg.AssetsDefinition) for spec in asset.specs]
    return dg.Definitions(
        assets=dg.with_source_code_references(assets),
        jobs=jobs(agents, specs),
        schedules=schedules(agents, specs),
        sensors=[log_sensor(agents, specs)],
        resources={"gpu": GpuProcess()},
        executor=chosen_executor(),
    )


defs = build_defs()
