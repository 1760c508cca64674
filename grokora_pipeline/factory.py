"""`build_defs`: the definitions of one swarm, made from what it is given and nothing else."""

import re
import warnings

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.chain import all_assets
from grokora_pipeline.assets.common import Project
from grokora_pipeline.automation.jobs import jobs
from grokora_pipeline.automation.schedules import schedules
from grokora_pipeline.automation.sensors import log_sensor
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import Settings

# Of a group, whose letters are ASCII (Dagster's own rule), and of a resource, which a step reads as an attribute:
# Dagster keeps resources in a namedtuple, so that a name such as `1st` or `_night` would fail in every step.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
NAME_RULE = "must be letters (a-z, A-Z), digits and _, the first a letter, such as night_shift"
# Of each swarm built in this process, by its store: its name, and those of its jobs, schedules, sensors and resources.
_BUILT: dict[str, tuple[str, set[str]]] = {}


def build_defs(settings: Settings, agents: tuple[AgentSpec, ...], name: str = "") -> dg.Definitions:
    """The assets, jobs, schedules and the sensor of a swarm, and the resource that runs its GPU work.

    `name` begins every asset key, job, schedule, sensor, pool, group and the resource, so that several swarms and
    other definitions stand side by side in one code location (`dg.Definitions.merge`). There is no executor in it: a
    location has one for all, and `execution.executor.chosen_executor` is an offer. GrokoraError if Dagster cannot use
    the name, or if it makes a schedule's name equal to one of another swarm of this process.
    """
    if name and not NAME.fullmatch(name):
        raise GrokoraError(f"The name of a swarm {NAME_RULE}; {name!r} is not.")
    project = Project(settings, agents, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # observable assets and code references: pinned and tested
        assets = dg.with_source_code_references(all_assets(project))
    specs = [spec for asset in assets if isinstance(asset, dg.AssetsDefinition) for spec in asset.specs]
    defs = dg.Definitions(
        assets=assets,
        jobs=jobs(project, specs),
        schedules=schedules(project, specs),
        sensors=[log_sensor(project, specs)],
        resources=project.resources(),
    )
    named = [*(defs.jobs or ()), *(defs.schedules or ()), *(defs.sensors or ())]
    names = {*(one.name for one in named), *(defs.resources or {})}
    # Dagster would speak of the duplicate alone: that the swarm `a` has an agent `b_c`, and `a_b` an agent `c`, is hard
    # to see from it
    for store, (other, theirs) in list(_BUILT.items()):
        if other == name or store == settings.store:  # this one, before it was moved or renamed and loaded again
            del _BUILT[store]
        elif shared := sorted(names & theirs):
            raise GrokoraError(
                f"The swarms {other!r} and {name!r} would both have a {shared[0]}: rename one of them, or an agent."
            )
    _BUILT[settings.store] = name, names
    return defs
