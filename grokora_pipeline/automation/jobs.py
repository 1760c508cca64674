"""Jobs: what a person or a sensor starts."""

from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from grokora_pipeline.agents import find_agent
from grokora_pipeline.assets.champion import report_rollback
from grokora_pipeline.assets.common import Project, plain_errors
from grokora_pipeline.assets.export import LINK as EXPORT
from grokora_pipeline.assets.improvement import LINK
from grokora_pipeline.automation.history import AGENT_TAG
from grokora_pipeline.store.champions import Registry
from grokora_pipeline.training.ranks import RANKS

ALL_JOB, INGEST_JOB, SWARM_JOB = "retrain_all", "ingest", "evaluate_swarm"
_ON_DEMAND = ("rank_trial", "rank_report")


def ingest_keys(project: Project) -> list[dg.AssetKey]:
    """What follows the logs at once: turns, datasets and splits, and the base model that the splits are cut for."""
    links = [project.key(agent.name, link) for agent in project.agents for link in ("task_dataset", "tokenized_split")]
    return [project.key("session_logs"), project.key("base_model"), *links]


def retrain_job(project: Project, agent: str) -> str:
    """The name of an agent's job."""
    return project.label(f"retrain_{agent}")


def improve_job(project: Project, agent: str) -> str:
    """The name of the job that makes recordings of an agent's verified answers."""
    return project.label(f"improve_{agent}")


def jobs(project: Project, specs: Iterable[dg.AssetSpec]) -> list[Any]:
    """`retrain_all`, `retrain_<agent>`, `ingest`, `evaluate_only` and `rollback`.

    `evaluate_swarm`, `rank_experiment` and `export_champions`, if there is something to select.
    """
    keys = [spec.key for spec in specs]
    ranks = [key for key in keys if key.path[-1] in _ON_DEMAND]
    improvements = [key for key in keys if key.path[-1] == LINK]
    exports = [key for key in keys if key.path[-1] == EXPORT]
    asked = [*ranks, *improvements, *exports]
    on_demand = dg.AssetSelection.assets(*ranks)
    every = dg.AssetSelection.assets(*keys) - dg.AssetSelection.assets(*asked)  # not all(): others' assets may be there
    definitions = [
        dg.define_asset_job(project.label(ALL_JOB), every, description="Logs in, champions out, for all agents."),
        *(_retrain(project, agent.name, keys, asked) for agent in project.agents),
        *(
            dg.define_asset_job(
                improve_job(project, project.store_key(key).split("/")[0]),
                dg.AssetSelection.assets(key),
                description="The champion's own answers that a verifier accepts become recordings to learn from.",
            )
            for key in improvements
        ),
        dg.define_asset_job(
            project.label(INGEST_JOB),
            dg.AssetSelection.assets(*ingest_keys(project)),
            description="Logs to datasets, train nothing.",
        ),
        dg.define_asset_job(
            project.label("evaluate_only"),
            dg.AssetSelection.assets(
                *(project.key(agent.name, link) for agent in project.agents for link in ("eval_report", "champion"))
            ),
            description="Judge the adapters that there are, train nothing.",
        ),
        rollback_job(project),
    ]
    if (swarm := project.key("swarm_report")) in keys:  # a job of its own, whose page shows the schedule that starts it
        definitions.append(
            dg.define_asset_job(
                project.label(SWARM_JOB),
                dg.AssetSelection.assets(swarm),
                description="The whole swarm on unseen tasks, with the champions that there are.",
            )
        )
    if ranks:
        definitions.append(
            dg.define_asset_job(
                project.label("rank_experiment"),
                on_demand,
                config=_all_ranks(ranks),
                description="Which rank is worth its size? Take agents out of the config to try fewer.",
            )
        )
    if exports:
        steps = {"__".join(key.path): {"config": {"to": "gguf"}} for key in exports}
        definitions.append(
            dg.define_asset_job(
                project.label("export_champions"),
                dg.AssetSelection.assets(*exports),
                config={"ops": steps},
                description="The champions as files for another engine; name it, and leave agents out, in the config.",
            )
        )
    return definitions


def _all_ranks(keys: Iterable[dg.AssetKey]) -> dict[str, Any]:
    """The run config that tries every rank for every agent; without it the asset tries none."""
    steps = ["__".join(key.path) for key in keys if key.path[-1] == "rank_trial"]
    return {"ops": {step: {"config": {"ranks": list(RANKS)}} for step in steps}}


def _retrain(project: Project, agent: str, keys: Sequence[dg.AssetKey], asked: Sequence[dg.AssetKey]) -> Any:
    # by keys, not by group: whoever loads the component may put the assets into other groups
    own = [key for key in keys if project.store_key(key).startswith(f"{agent}/") and key not in asked]
    chain = dg.AssetSelection.assets(*own)
    return dg.define_asset_job(
        retrain_job(project, agent),
        chain.upstream() | chain,
        tags={AGENT_TAG: project.label(agent)},  # of which the run queue lets one go at a time, whoever started it
        description=f"The whole chain for {agent} alone.",
    )


class RollbackConfig(dg.Config):
    """Whose champion goes, and which version comes back: one of its history, `base`, or empty for the one before."""

    agent: str
    to: str = ""


def rollback_job(project: Project) -> dg.JobDefinition:
    """`rollback`, the job of one op that moves a champion pointer back."""

    @dg.op(name=project.label("roll_back"))
    def roll_back(context: dg.OpExecutionContext, config: RollbackConfig) -> None:
        """Move the champion pointer back, and show it as a materialization."""
        with plain_errors():
            find_agent(project.agents, config.agent)
            version = Registry(project.store).rollback(config.agent, config.to or None)
        report_rollback(project, context.instance, config.agent, version)
        context.log.info(f"{config.agent} is served by {version} now.")

    @dg.job(
        name=project.label("rollback"),
        executor_def=dg.in_process_executor,
        description="Put an earlier champion back in service.",
    )
    def rollback() -> None:
        roll_back()

    return rollback
