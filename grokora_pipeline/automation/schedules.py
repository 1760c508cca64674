"""When an agent is trained anew: a schedule an agent, whose cron is the `window` of its policy in agents.yaml.

Every tick decides by level: what there is now against what the adapter was made from. No event is waited for, so none
can be lost: logs that land during a training are new examples at a later tick, and a tick that never came is made up
by the one after it. An agent has no other schedule or sensor, so that nothing is started twice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec, Improve, RetrainPolicy, locate
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.improvement import LINK
from grokora_pipeline.automation import history
from grokora_pipeline.automation.evidence import gather, lacking, reason_to_train
from grokora_pipeline.automation.history import AGENT_TAG, INPUTS_TAG, WHY_TAG, backoff, gpu_hours, running
from grokora_pipeline.automation.jobs import SWARM_JOB
from grokora_pipeline.automation.staleness import AssetStaleness, blocked_assets, stored_version
from grokora_pipeline.errors import GrokoraError

BACKOFF = timedelta(minutes=10)
LATE = timedelta(minutes=5)  # Dagster makes up for ticks that it missed; then the window may be closed
_SOURCES = {"session_logs", "base_model"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What could be requested, and why; no keys: nothing, and why not. `waits_for`: what must not be running."""

    why: str
    keys: Sequence[dg.AssetKey] = ()
    trained_at: datetime | None = None  # set for a training, which keeps a minimum gap
    waits_for: Sequence[dg.AssetKey] = ()


def schedules(project: Project, specs: Iterable[dg.AssetSpec]) -> list[dg.ScheduleDefinition]:
    """`<agent>_when_due` for every agent and `swarm_when_due`; on from the start if GROKORA_AUTOMATION is `on`."""
    known = list(specs)
    definitions = [
        _schedule(
            project,
            agent.name,
            job=project.label(f"retrain_{agent.name}"),
            policy=agent.retrain,
            specs=[spec for spec in known if project.store_key(spec.key).split("/")[0] in {agent.name, *_SOURCES}],
            find=partial(agent_candidate, project, agent),
        )
        for agent in project.agents
    ]
    if judged := [spec for spec in known if spec.key == project.key("swarm_report")]:
        job, find = project.label(SWARM_JOB), partial(_swarm_candidate, project)
        definitions.append(_schedule(project, "swarm", job=job, policy=RetrainPolicy(), specs=judged, find=find))
    return [*definitions, *(_improve(project, agent.name, agent.improve) for agent in project.agents if agent.improve)]


def _improve(project: Project, agent: str, improve: Improve) -> dg.ScheduleDefinition:
    """`improve_<agent>_regularly`, off until a person switches it on: its data are the model's own answers.

    Each tick asks other tasks: the day is the seed. What it writes is a log like any other, so that it is trained on
    when the agent is due by its policy.
    """

    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        """Request recordings of the tasks that the day's seed chooses."""
        op = "__".join(project.key(agent, LINK).path)
        seed = context.scheduled_execution_time.date().toordinal()
        return dg.RunRequest(run_config={"ops": {op: {"config": {"seed": seed}}}})

    return _cron(
        project,
        agent,
        "improve.schedule",
        improve.schedule,
        name=project.label(f"improve_{agent}_regularly"),
        job_name=project.label(f"improve_{agent}"),
        execution_fn=tick,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"More recordings of {agent}'s own verified answers; off until you switch it on.",
    )


def _cron(project: Project, agent: str, key: str, cron: str, **options: Any) -> dg.ScheduleDefinition:
    """A schedule whose cron stands in agents.yaml at this key; GrokoraError names it if its moment never comes."""
    try:
        return dg.ScheduleDefinition(cron_schedule=cron, execution_timezone=project.settings.timezone, **options)
    except dg.DagsterInvalidDefinitionError as error:
        where = locate(project.settings.agents, "agents", agent, *key.split("."))
        raise GrokoraError(f"{where}: agent {agent!r}, key {key!r}: {cron!r} never comes; correct it.") from error


def _schedule(
    project: Project,
    name: str,
    *,
    job: str,
    policy: RetrainPolicy,
    specs: Sequence[dg.AssetSpec],
    find: Callable[[AssetStaleness], Candidate],
) -> dg.ScheduleDefinition:
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Request what is due for the agent at this moment, or say what it lacks."""
        staleness = AssetStaleness(context.instance, specs, stored=partial(stored_version, project))
        if history.clock() - context.scheduled_execution_time > LATE:
            return dg.SkipReason(f"The moment of {context.scheduled_execution_time:%Y-%m-%d %H:%M} was missed.")
        candidate = find(staleness)
        if refusal := next(
            _skip_reasons(project, context.instance, name, policy=policy, candidate=candidate, staleness=staleness), ""
        ):
            return dg.SkipReason(f"{name}: {refusal}.")
        inputs = staleness.inputs_hash(candidate.keys)
        tags = {AGENT_TAG: project.label(name), WHY_TAG: candidate.why[:200], INPUTS_TAG: inputs}
        return dg.RunRequest(asset_selection=candidate.keys, tags=tags)

    on = project.settings.automation == "on"
    return _cron(
        project,
        name,
        "retrain.window",
        policy.window,
        name=project.label(f"{name}_when_due"),
        job_name=job,
        execution_fn=tick,
        default_status=dg.DefaultScheduleStatus.RUNNING if on else dg.DefaultScheduleStatus.STOPPED,
        description=f"Starts what is due for {name} by its policy in agents.yaml; a skipped tick says why.",
    )


def _skip_reasons(
    project: Project,
    instance: dg.DagsterInstance,
    name: str,
    *,
    policy: RetrainPolicy,
    candidate: Candidate,
    staleness: AssetStaleness,
) -> Iterator[str]:
    """Why a candidate is not requested now. A generator, so that a reason is looked for only if none came before."""
    now = history.clock()
    if not candidate.keys:
        yield candidate.why
    if busy := running(instance, [*candidate.keys, *candidate.waits_for]):
        yield busy
    if waiting := backoff(instance, staleness.inputs_hash(candidate.keys), policy.attempts, BACKOFF, now):
        yield waiting
    hours = (now - candidate.trained_at).total_seconds() / 3600 if candidate.trained_at else policy.gap_hours
    if 0 <= hours < policy.gap_hours:  # negative if the clock was set back since then
        yield f"{candidate.why}, but it was trained {hours:.1f} h ago; the gap is {policy.gap_hours:g} h"
    own = [key for key in staleness.specs if project.store_key(key).startswith(f"{name}/")]
    spent = gpu_hours(instance, project.label(name), own, now)
    if spent >= policy.gpu_hours:
        yield f"{candidate.why}, but {spent:.2f} of {policy.gpu_hours:g} GPU hours are spent in the last 24"


def agent_candidate(project: Project, agent: AgentSpec, staleness: AssetStaleness) -> Candidate:
    """What is next for an agent: a training with all that follows, the rest of a chain that broke off, or nothing."""
    train = project.key(agent.name, "lora_adapter")
    tail = [project.key(agent.name, link) for link in ("eval_report", "champion", "merged_model")]
    evidence = gather(project.store, agent)
    if evidence.split is None:
        return Candidate("too few examples for a split")
    if why := reason_to_train(evidence, agent.retrain):
        return Candidate(why, [train, *tail], evidence.trained_at)
    left_out = blocked_assets(project, staleness.stale, [agent])
    unfinished = [key for key in tail if key in staleness.stale and key not in left_out]
    if evidence.adapter and not evidence.evaluated:
        return Candidate("its new adapter is not judged yet", unfinished)
    # enough new held-out rows that the report does not know: the evaluation runs to measure the drift alone
    if not evidence.report_current and evidence.new_held_out >= agent.retrain.drift_rows:
        return Candidate(f"perplexity of its champion on {evidence.new_held_out} new held-out rows", unfinished)
    if not evidence.up_to_date:
        return Candidate(lacking(evidence, agent.retrain))
    if late := [key for key in staleness.ready(tail) if key not in left_out]:
        return Candidate("its chain was not finished", late)
    return Candidate("up to date")


def _swarm_candidate(project: Project, staleness: AssetStaleness) -> Candidate:
    swarm = project.key("swarm_report")
    champions = [dep.asset_key for dep in staleness.specs[swarm].deps]
    if (why := staleness.changed.get(swarm)) and all(staleness.version(key) for key in champions):
        return Candidate(why, [swarm], waits_for=champions)
    return Candidate("up to date")
