"""Jobs: what a person or a schedule starts."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec

ALL_JOB = "retrain_all"


def jobs(agents: Sequence[AgentSpec]) -> list[Any]:
    """`retrain_all`, `retrain_<agent>`, `evaluate_only`."""
    every = dg.define_asset_job(ALL_JOB, dg.AssetSelection.all(), description="Logs in, champions out, for all agents.")
    retrain = [
        dg.define_asset_job(
            f"retrain_{agent.name}",
            dg.AssetSelection.groups(agent.name).upstream() | dg.AssetSelection.groups(agent.name),
            description=f"The whole chain for {agent.name} alone.",
        )
        for agent in agents
    ]
    evaluate = dg.define_asset_job(
        "evaluate_only",
        dg.AssetSelection.assets(*([agent.name, link] for agent in agents for link in ("eval_report", "champion"))),
        description="Judge the adapters that there are, train nothing.",
    )
    return [every, *retrain, evaluate]
