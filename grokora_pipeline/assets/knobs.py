"""The training knobs of an agent: preset, agents.yaml and launchpad, in this order of rising strength."""

from typing import Any

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import Project
from grokora_pipeline.training.plan import TrainingKnobs, resolve_knobs


def resolve(project: Project, agent: AgentSpec, overrides: dict[str, Any] | None = None) -> TrainingKnobs:
    """The knobs of an agent; GROKORA_PRESET wins over the agent's preset, and both unset mean `best`."""
    preset = project.settings.preset or agent.preset or "best"
    return resolve_knobs(preset, agent.training, overrides or {})
