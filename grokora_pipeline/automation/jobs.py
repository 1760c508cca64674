"""Jobs: what a person or a sensor starts."""

from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.champion import report_rollback
from grokora_pipeline.assets.common import get_agents, get_store, plain_errors
from grokora_pipeline.automation.history import AGENT_TAG
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store.champions import Registry

ALL_JOB, INGEST_JOB = "retrain_all", "ingest"
_ON_DEMAND = ("rank_trial", "rank_report")


def ingest_keys(agents: Iterable[AgentSpec]) -> list[dg.AssetKey]:
    """What follows the logs at once: turns, datasets and splits, and the base model that the splits are cut for."""
    links = [dg.AssetKey([agent.name, link]) for agent in agents for link in ("task_dataset", "tokenized_split")]
    return [dg.AssetKey("session_logs"), dg.AssetKey("base_model"), *links]


def retrain_job(agent: str) -> str:
    """The name of an agent's job."""
    return f"retrain_{agent}"


def jobs(agents: Sequence[AgentSpec], specs: Iterable[dg.AssetSpec]) -> list[Any]:
    """`retrain_all`, `retrain_<agent>`, `ingest`, `evaluate_only`, `rollback`, and `rank_experiment` if it can be."""
    ranks = [spec.key for spec in specs if spec.key.path[-1] in _ON_DEMAND]
    on_demand = dg.AssetSelection.assets(*ranks)
    every = dg.AssetSelection.all() - on_demand
    made = [
        dg.define_asset_job(ALL_JOB, every, description="Logs in, champions out, for all agents."),
        *(_retrain(agent.name, on_demand) for agent in agents),
        dg.define_asset_job(
            INGEST_JOB, dg.AssetSelection.assets(*ingest_keys(agents)), description="Logs to datasets, train nothing."
        ),
        dg.define_asset_job(
            "evaluate_only",
            dg.AssetSelection.assets(*([agent.name, link] for agent in agents for link in ("eval_report", "champion"))),
            description="Judge the adapters that there are, train nothing.",
        ),
        rollback,
    ]
    if ranks:
        made.append(dg.define_asset_job("rank_experiment", on_demand, description="Which rank is worth its size?"))
    return made


def _retrain(agent: str, on_demand: dg.AssetSelection) -> Any:
    group = dg.AssetSelection.groups(agent) - on_demand
    return dg.define_asset_job(
        retrain_job(agent),
        group.upstream() | group,
        tags={AGENT_TAG: agent},  # of which the run queue lets one go at a time, whoever started it
        description=f"The whole chain for {agent} alone.",
    )


class RollbackConfig(dg.Config):
    """Whose champion goes, and which version comes back: one of its history, `base`, or empty for the one before."""

    agent: str
    to: str = ""


@dg.op
def roll_back(context: dg.OpExecutionContext, config: RollbackConfig) -> None:
    """Move the champion pointer back, and show it as a materialization."""
    with plain_errors():
        names = [agent.name for agent in get_agents()]
        if config.agent not in names:
            raise GrokoraError(f"There is no agent {config.agent!r}; agents.yaml has {', '.join(names)}.")
        version = Registry(get_store()).rollback(config.agent, config.to or None)
    report_rollback(context.instance, config.agent, version)
    context.log.info(f"{config.agent} is served by {version} now.")


@dg.job(executor_def=dg.in_process_executor, description="Put an earlier champion back in service.")
def rollback() -> None:
    """The job of one op."""
    roll_back()
