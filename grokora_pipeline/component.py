"""`Swarm`: a swarm's whole chain as a Dagster component, for a `defs.yaml` in anybody's code location."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
from pydantic import Field, ValidationError

from grokora_pipeline.agents import (
    RetrainPolicy,
    load_agents,
    locate,
    parse_agents,
    refusal,
    refuse_duplicate_keys,
    validated,
)
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.factory import NAME, NAME_RULE, build_defs
from grokora_pipeline.settings import Settings, from_folder

STARTER_AGENTS = Path(__file__).parent / "execution" / "agents.yaml"
# Of an attribute with a default, dg shows the description of its resolver: Dagster 1.13 overwrites that of pydantic's
# `Field` with it, even if that has none (`derive_model_type`).
_described = dg.Resolver.default


class SwarmAutomation(dg.Model, dg.Resolvable):
    """When things start by themselves."""

    enabled: Annotated[bool, _described(description="Whether the sensor and the schedules run from the start.")] = False
    # no `ge=0` here, which refuses a template variable before it is resolved: `Settings` checks the value
    settle_seconds: Annotated[
        float, _described(description="A log that changed this recently is still being written.")
    ] = 2.0
    timezone: Annotated[str, _described(description="IANA name of the zone that the windows are in.")] = "UTC"
    retrain: Annotated[
        dict[str, Any],
        _described(
            description="Defaults of every agent's `retrain:` (`window`, a cron; `new_examples`, `gap_hours`, ...)."
        ),
    ] = Field(default_factory=dict)


class SwarmScaffolder(dg.Scaffolder[Any]):
    """`dg scaffold defs grokora_pipeline.Swarm NAME`: a filled-in defs.yaml and an agents.yaml with comments."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write both files; an agents.yaml that is there already is kept."""
        # a folder may be called `night-shift`, and a swarm may not
        name = re.sub(r"^(?![A-Za-z])", "swarm_", re.sub(r"[^A-Za-z0-9_]", "_", request.target_path.name))
        # measured, since projects with a folder `src` have one level more than others
        project, folder = (path.resolve() for path in (request.project_root or Path.cwd(), request.target_path))
        root = Path(os.path.relpath(project, folder)).as_posix()
        attributes = {
            "name": name,
            "logs": f"{root}/logs/{name}",
            "store": f"{root}/store/{name}",
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

    name: Annotated[
        str, _described(description="Begins every asset key, job, schedule, sensor, pool and resource.")
    ] = ""
    logs: str = Field(description="Root of the session logs; formats are told apart by content.")
    store: str = Field(description="Where artifacts go: a folder, or an fsspec URL such as s3://bucket/prefix.")
    # not `str | Mapping`: Dagster resolves a union member by member, and a mapping is taken as it stands
    agents: Annotated[
        str | dict[str, Any], Field(description="The path of an agents.yaml, or the mapping of its `agents:` inline.")
    ]
    base_model: Annotated[
        str, _described(description="`org/name`, `org/name@revision`, a folder, or empty: bundled.")
    ] = ""
    # no `Literal`: Dagster's error for a string that is none of its values names neither file nor line
    preset: Annotated[
        str, _described(description="`plan`, `best` or `sample`, and wins over the agents' presets; empty: theirs.")
    ] = ""
    devices: Annotated[
        str | Annotated[int, Field(strict=True)],  # a single index without quotes is a number in YAML, `true` is none
        _described(description="GPU indices, as `0,1`; `cpu`, or `cpu,cpu2` for two steps at once; empty: all GPUs."),
    ] = ""
    automation: Annotated[
        SwarmAutomation, _described(description="When things start by themselves, and the thresholds.")
    ] = Field(default_factory=SwarmAutomation)

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> "Swarm":
        """The component of a `defs.yaml`; GrokoraError names the key whose template variable has no value, too."""
        try:
            return super().load(attributes, context)
        except ValidationError as error:
            raise refusal(error, _file(context)) from error

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The swarm's definitions; GrokoraError names the file, the line and the key that is wrong."""
        automation, file = self.automation, _file(context)
        folder = file.parent
        if file.is_file():  # else the component is made in Python
            refuse_duplicate_keys(file)
        if self.name and not NAME.fullmatch(self.name):
            raise GrokoraError(f"{locate(file, 'name')}: key 'name': {self.name!r} {NAME_RULE}.")
        if isinstance(self.agents, dict):
            agents_file, agents = file, parse_agents(self.agents, file)
        else:
            agents_file = Path(from_folder("agents", self.agents, folder))
            agents = load_agents(agents_file, f"correct `agents:` in {locate(file, 'agents')}")
        attributes = {name: str(getattr(self, name)) for name in ("logs", "store", "base_model", "preset", "devices")}
        values: dict[str, Any] = {name: from_folder(name, value, folder) for name, value in attributes.items() if value}
        values |= {"home": folder, "agents": agents_file}
        validated(Settings, values, file)
        clock = automation.model_dump(include={"settle_seconds", "timezone"})
        values |= {"automation": "on" if automation.enabled else "off", **clock}
        settings = validated(Settings, values, file, "automation")
        retrain = validated(RetrainPolicy, automation.retrain, file, "automation", "retrain")
        own = [agent.retrain.model_dump(exclude_unset=True) for agent in agents]  # wins over the defaults of all
        merged = [{"retrain": retrain.model_copy(update=policy)} for policy in own]
        agents = tuple(agent.model_copy(update=policy) for agent, policy in zip(agents, merged, strict=True))
        return build_defs(settings, agents, self.name)


def _file(context: dg.ComponentLoadContext) -> Path:
    """The `defs.yaml` of a component; it is not there if the component is made in Python."""
    return (context.path if context.path.is_dir() else context.path.parent) / "defs.yaml"
