"""The front door: one Definitions object from the environment's settings, for `dagster dev` and every step process."""

import dagster as dg

from grokora_pipeline.assets.common import load_project
from grokora_pipeline.execution.executor import chosen_executor
from grokora_pipeline.factory import build_defs


def environment_defs() -> dg.Definitions:
    """The swarm of the environment's settings with the executor that they choose."""
    project = load_project()
    executor = dg.Definitions(executor=chosen_executor(project.settings))
    return dg.Definitions.merge(build_defs(project.settings, project.agents), executor)


defs = environment_defs()
