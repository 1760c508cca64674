"""Jobs: what a person or a sensor starts."""

from collections.abc import Iterable
from typing import Any

import dagster as dg
from pydantic import Field

from grokora_pipeline.agents import find_agent
from grokora_pipeline.assets.champion import report_rollback
from grokora_pipeline.assets.common import Project, plain_errors
from grokora_pipeline.assets.export import LINK as EXPORT
from grokora_pipeline.assets.improvement import LINK
from grokora_pipeline.automation.history import AGENT_TAG
from grokora_pipeline.training.ranks import RANKS

ALL_JOB, INGEST_JOB, SWARM_JOB = "retrain_all", "ingest", "evaluate_swarm"
_RANKS = ("rank_trial", "rank_report")


def ingest_keys(project: Project) -> list[dg.AssetKey]:
    """What follows the logs at once: turns, datasets and splits, and the base model that the splits are cut for."""
    links = [project.key(agent.name, link) for agent in project.agents for link in ("task_dataset", "tokenized_split")]
    return [project.key("session_logs"), project.key("base_model"), *links]


def jobs(project: Project, specs: Iterable[dg.AssetSpec]) -> list[Any]:
    """`retrain_all`, `retrain_<agent>`, `ingest`, `evaluate_only` and `rollback`.

    `evaluate_swarm`, `rank_experiment` and `export_champions`, if there is something to select.
    """
    keys = [spec.key for spec in specs]
    # by keys, not by `all()` or by groups: others' assets may stand beside ours, and whoever loads the component may
    # put ours into other groups
    ranks, improvements, exports = (
        [key for key in keys if key.path[-1] in link] for link in (_RANKS, {LINK}, {EXPORT})
    )
    chain = [key for key in keys if key not in {*ranks, *improvements, *exports}]
    judged = [project.key(agent.name, link) for agent in project.agents for link in ("eval_report", "champion")]
    swarm = [key for key in keys if key == project.key("swarm_report")]  # a job of its own: its page shows the schedule
    trials = {"__".join(key.path): {"config": {"ranks": list(RANKS)}} for key in ranks if key.path[-1] == _RANKS[0]}
    files = {"__".join(key.path): {"config": {"to": "gguf"}} for key in exports}
    selections: list[tuple[str, list[dg.AssetKey], dict[str, Any], str]] = [
        (ALL_JOB, chain, {}, "Logs in, champions out, for all agents."),
        (INGEST_JOB, ingest_keys(project), {}, "Logs to datasets, train nothing."),
        ("evaluate_only", judged, {}, "Judge the adapters that there are, train nothing."),
        (SWARM_JOB, swarm, {}, "The whole swarm on unseen tasks, with the champions that there are."),
        # without a config these assets try no rank, and export nothing
        ("rank_experiment", ranks, trials, "Which rank is worth its size? Take agents out of the config to try fewer."),
        (
            "export_champions",
            exports,
            files,
            "The champions as files for another engine; name it, and leave agents out, in the config.",
        ),
    ]
    definitions = [
        dg.define_asset_job(
            project.label(name),
            dg.AssetSelection.assets(*selected),
            config={"ops": config} if config else None,
            description=description,
        )
        for name, selected, config, description in selections
        if selected
    ]
    improve = "The champion's own answers that a verifier accepts become recordings to learn from."
    for key in improvements:
        name = project.label(f"improve_{project.store_key(key).split('/')[0]}")
        definitions.append(dg.define_asset_job(name, dg.AssetSelection.assets(key), description=improve))
    for agent in project.agents:
        own = dg.AssetSelection.assets(*(key for key in chain if project.store_key(key).startswith(f"{agent.name}/")))
        definitions.append(
            dg.define_asset_job(
                project.label(f"retrain_{agent.name}"),
                own.upstream() | own,
                # of which the run queue lets one go at a time, whoever started it
                tags={AGENT_TAG: project.label(agent.name)},
                description=f"The whole chain for {agent.name} alone.",
            )
        )
    return [*definitions, rollback_job(project)]


class RollbackConfig(dg.Config):
    """Whose champion goes, and which version comes back."""

    agent: str = Field(description="Whose champion goes.")
    to: str = Field(default="", description="One of its history, `base`, or empty for the one before.")


def rollback_job(project: Project) -> dg.JobDefinition:
    """`rollback`, the job of one op that moves a champion pointer back."""

    @dg.op(name=project.label("roll_back"))
    def roll_back(context: dg.OpExecutionContext, config: RollbackConfig) -> None:
        """Move the champion pointer back, and show it as a materialization."""
        with plain_errors():
            find_agent(project.agents, config.agent)
            version = project.registry.rollback(config.agent, config.to or None)
        report_rollback(project, context.instance, config.agent, version)
        context.log.info(f"{config.agent} is served by {version} now.")

    # in this process: it moves a pointer, for which a process of its own would cost seconds
    @dg.job(name=project.label("rollback"), executor_def=dg.in_process_executor)
    def rollback() -> None:
        """Put an earlier champion back in service."""
        roll_back()

    return rollback
