"""`Swarm`: a swarm's whole chain as a Dagster component, for a `defs.yaml` in anybody's code location."""

from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import Field

from grokora_pipeline.agents import AgentSpec, load_agents, parse_agents
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.factory import build_defs
from grokora_pipeline.settings import Settings

STARTER_AGENTS = Path(__file__).parent / "execution" / "agents.yaml"


class SwarmAutomation(dg.Model, dg.Resolvable):
    """When things start by themselves."""

    enabled: bool = Field(default=False, description="Whether the sensor and the schedules run from the start.")
    settle_seconds: float = Field(
        default=2.0, ge=0, description="A log that changed this recently is still being written."
    )
    timezone: str = Field(default="UTC", description="IANA name of the zone that the windows are in.")
    retrain: dict[str, Any] = Field(
        default_factory=dict,
        description="Defaults of every agent's `retrain:` (`window`, a cron; `new_examples`, `gap_hours`, ...).",
    )


class SwarmScaffolder(dg.Scaffolder[Any]):
    """`dg scaffold defs grokora_pipeline.Swarm NAME`: a filled-in defs.yaml and an agents.yaml with comments."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write both files; an agents.yaml that is there already is kept."""
        name = request.target_path.name
        attributes = {
            "name": name,
            "logs": f"../../../../logs/{name}",
            "store": f"../../../../store/{name}",
            "agents": "agents.yaml",
            "preset": "best",
            "automation": {"enabled": False},
        }
        dg.scaffold_component(request, attributes)
        agents = request.target_path / "agents.yaml"
        if not agents.exists():
            agents.write_bytes(STARTER_AGENTS.read_bytes())


@dg.scaffold_with(SwarmScaffolder)
class Swarm(dg.Component, dg.Model, dg.Resolvable):
    """A swarm of LLM agents: session logs in, one proven LoRA adapter an agent out.

    Paths are relative to the folder of the `defs.yaml`. Every key and name begins with `name`, so that several swarms
    stand beside each other and beside other definitions.
    """

    name: str = Field(default="", description="Begins every asset key, job, schedule, sensor, pool and resource.")
    logs: str = Field(description="Root of the session logs; formats are told apart by content.")
    store: str = Field(description="Where artifacts go: a folder, or an fsspec URL such as s3://bucket/prefix.")
    # not `str | Mapping`: Dagster resolves a union member by member, and a mapping is taken as it stands
    agents: Annotated[
        str | dict[str, Any], Field(description="The path of an agents.yaml, or the mapping of its `agents:` inline.")
    ]
    base_model: str = Field(default="", description="`org/name`, `org/name@revision`, a folder, or empty: bundled.")
    preset: Literal["plan", "best", "sample", ""] = Field(default="", description="Wins over the agents' presets.")
    devices: str = Field(
        default="", description="GPU indices, as `0,1`; `cpu`, or `cpu,cpu2` for two steps at once; empty: all GPUs."
    )
    automation: SwarmAutomation = Field(
        default_factory=SwarmAutomation, description="When things start by themselves, and the thresholds."
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The swarm's definitions; GrokoraError names the file and the key that is wrong."""
        folder = context.path if context.path.is_dir() else context.path.parent
        if self.name and not self.name.isidentifier():
            raise GrokoraError(f"{folder}: name {self.name!r} must be letters, digits and _, such as night_shift.")
        settings = Settings(
            home=folder,
            logs=folder / self.logs,
            store=self.store if "://" in self.store else str(folder / self.store),
            base_model=str(folder / self.base_model)
            if (folder / self.base_model).is_dir() and self.base_model
            else (self.base_model),
            preset=self.preset,
            devices=self.devices,
            automation="on" if self.automation.enabled else "off",
            settle_seconds=self.automation.settle_seconds,
            timezone=self.automation.timezone,
        )
        return build_defs(settings, self._agents(folder), self.name)

    def _agents(self, folder: Path) -> tuple[AgentSpec, ...]:
        source = f"{folder / 'defs.yaml'}, attributes.agents"
        path = folder / self.agents if isinstance(self.agents, str) else None
        agents = load_agents(path) if path else parse_agents(self.agents, source)
        defaults = self.automation.retrain
        return tuple(
            AgentSpec.model_validate(
                {
                    **agent.model_dump(by_alias=True),
                    "retrain": {**defaults, **agent.retrain.model_dump(exclude_unset=True)},
                }
            )
            for agent in agents
        )
