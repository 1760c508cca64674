"""The training knobs of an agent: preset, agents.yaml and launchpad, in this order of rising strength."""

from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin

import dagster as dg
from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from grokora_pipeline.agents import AgentSpec, locate
from grokora_pipeline.assets.common import Project
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.training.plan import TrainingKnobs, resolve_knobs


def _optional(name: str, knob: FieldInfo) -> Any:
    """A knob as a field of Dagster's config that may be left out; what Dagster's types cannot say stays Any."""
    kind, make_enum = knob.annotation, cast(Any, Enum)
    if get_origin(kind) is Literal:
        choices = make_enum(name, {str(value): value for value in get_args(kind)})  # Dagster tells enums apart by name
        return choices | None, Field(default=None, description=knob.description)
    known = kind in {int, float, bool}
    return (kind | None if known and kind else Any), Field(default=None, description=knob.description)


class Overrides(dg.Config):
    """The base of `KnobOverrides`, whose fields are made from `TrainingKnobs`."""

    def as_knobs(self) -> dict[str, Any]:
        """The knobs that were set, as `resolve` takes them."""
        return self.model_dump(mode="json", exclude_none=True)


if TYPE_CHECKING:
    KnobOverrides = Overrides
else:  # training knobs for one run, such as `{"rank": 32}`: Dagster refuses a misspelt one before the run starts
    _FIELDS = {name: _optional(name, knob) for name, knob in TrainingKnobs.model_fields.items() if name != "preset"}
    KnobOverrides = create_model("KnobOverrides", __base__=Overrides, **_FIELDS)


def resolve(project: Project, agent: AgentSpec, overrides: dict[str, Any] | None = None) -> TrainingKnobs:
    """The knobs of an agent; GROKORA_PRESET wins over the agent's preset, and both unset mean `best`.

    GrokoraError names the agent and the knob that is wrong.
    """
    preset = project.settings.preset or agent.preset or "best"
    try:
        return resolve_knobs(preset, agent.training, overrides or {})
    except GrokoraError as error:
        where = locate(project.settings.agents, "agents", agent.name)
        raise GrokoraError(f"{where}: agent {agent.name!r}: {error}") from error
