"""What runs by itself, decided by level at every tick: what there is now against what things were last made from.

No event is waited for, so none can be lost: logs that land during a training are new examples at the next tick, and a
tick that never came is made up by the one after it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import orjson
from dagster._utils.schedules import (  # no public equivalent
    cron_string_iterator,
    is_valid_cron_string,
    reverse_cron_string_iterator,
)

from grokora_pipeline.agents import AgentSpec, RetrainPolicy
from grokora_pipeline.assets.common import get_store
from grokora_pipeline.assets.session_logs import LOG_FILES_KEY, log_files_version
from grokora_pipeline.automation.evidence import Evidence, gather, hours_since, lacking, reason_to_train
from grokora_pipeline.automation.history import AGENT_TAG, LEVEL_TAG, gpu_hours, tried, under_way
from grokora_pipeline.automation.jobs import ALL_JOB, INGEST_JOB, ingest_keys, retrain_job
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import get_settings
from grokora_pipeline.staleness import Levels, impossible, observation
from grokora_pipeline.store import content_version

LOGS_SECONDS, TRAINING_SECONDS = 5, 10  # between two ticks
PATIENCE = 24  # ticks; a file that never rests is then set aside by the ingest, and the others are read
INGEST_ATTEMPTS, INGEST_BACKOFF = 5, timedelta(minutes=1)
TRAINING_BACKOFF = timedelta(minutes=10)
_LOGS, _LOG_FILES, _SWARM = dg.AssetKey("session_logs"), dg.AssetKey(LOG_FILES_KEY), dg.AssetKey("swarm_report")


def sensors(
    agents: Sequence[AgentSpec], specs: Iterable[dg.AssetSpec], jobs: Sequence[Any]
) -> list[dg.SensorDefinition]:
    """`new_logs` and `retrain`; running from the start only where GROKORA_AUTOMATION is `on`."""
    on = get_settings().automation == "on"
    status = dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED
    for agent in agents:
        if not is_valid_cron_string(agent.retrain.window):
            raise GrokoraError(
                f"agent {agent.name!r}, retrain.window: {agent.retrain.window!r} never comes; correct it."
            )
    known = [spec for spec in specs if spec.key != _LOG_FILES]
    ingested = [spec for spec in known if spec.key in ingest_keys(agents)]

    @dg.sensor(
        job_name=INGEST_JOB,
        minimum_interval_seconds=max(LOGS_SECONDS, round(get_settings().settle_seconds)),
        default_status=status,
        description="Logs that changed become turns, datasets and splits.",
    )
    def new_logs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return follow_logs(context, agents, ingested)

    @dg.sensor(
        jobs=[job for job in jobs if job.name in {ALL_JOB, *(retrain_job(agent.name) for agent in agents)}],
        minimum_interval_seconds=TRAINING_SECONDS,
        default_status=status,
        description="Agents with enough to learn are trained, judged and promoted, each by its policy in agents.yaml.",
    )
    def retrain(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return follow_datasets(context, agents, known)

    return [new_logs, retrain]


def clock() -> datetime:
    """The local time."""
    return datetime.now().astimezone()


def follow_logs(
    context: dg.SensorEvaluationContext, agents: Sequence[AgentSpec], specs: Iterable[dg.AssetSpec]
) -> dg.SensorResult:
    """Request what is out of date between the logs and the splits, and made from something that is not.

    The cursor holds the manifest's hash and for how many ticks it has been changing: no clock is asked whether a file
    is still being written.
    """
    try:
        files = log_files_version()
    except GrokoraError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
    before = orjson.loads(context.cursor or "{}")
    restless = 0 if files == before.get("files") else before.get("restless", 0) + 1
    cursor = orjson.dumps({"files": files, "restless": restless}).decode()
    levels = Levels(context.instance, specs, {_LOG_FILES: files})
    keys = levels.ready(levels.specs)
    for key in impossible(levels.stale, agents):
        keys.pop(key, None)
    if _LOGS in keys and 0 < restless < PATIENCE:
        keys.pop(_LOGS)
        if not keys:
            return dg.SensorResult(
                skip_reason=f"The logs are changing (tick {restless}); they may rest.", cursor=cursor
            )
    if not keys:
        return dg.SensorResult(skip_reason=f"Nothing new: everything is made from the logs {files}.", cursor=cursor)
    level = content_version(levels.inputs(keys))
    waiting = under_way(context.instance, levels.specs) or tried(
        context.instance, level, INGEST_ATTEMPTS, INGEST_BACKOFF, clock()
    )
    if waiting:
        return dg.SensorResult(skip_reason=f"{_named(keys)} can wait: {waiting}.", cursor=cursor)
    context.log.info("; ".join(f"{key.to_user_string()}: {reason}" for key, reason in keys.items()))
    return dg.SensorResult(
        run_requests=[dg.RunRequest(job_name=INGEST_JOB, asset_selection=list(keys), tags={LEVEL_TAG: level})],
        asset_events=[observation(LOG_FILES_KEY, files)] if _LOGS in keys else [],
        cursor=cursor,
    )


def follow_datasets(
    context: dg.SensorEvaluationContext, agents: Sequence[AgentSpec], specs: Iterable[dg.AssetSpec]
) -> dg.SensorResult:
    """Request the chain of every agent that is due, at most one run an agent; else say of each why not."""
    levels, now = Levels(context.instance, specs), clock()
    candidates = [_agent_candidate(agent, levels) for agent in agents]
    if not any(candidate.keys for candidate in candidates):
        candidates.append(_swarm_candidate(levels))
    requests, refusals = [], []
    for candidate in candidates:
        if refusal := _refusal(context.instance, candidate, levels, now):
            refusals.append(f"{candidate.name}: {refusal}")
            continue
        context.log.info(f"{candidate.name}: {candidate.why}")
        tags = {LEVEL_TAG: candidate.level(levels), AGENT_TAG: candidate.name, "grokora/why": candidate.why[:200]}
        requests.append(dg.RunRequest(job_name=candidate.job, asset_selection=candidate.keys, tags=tags))
    if requests:
        context.log.info("; ".join(refusals))
        return dg.SensorResult(run_requests=requests)
    return dg.SensorResult(skip_reason="; ".join(refusals))


@dataclass(frozen=True, slots=True)
class Candidate:
    """What could be requested for an agent, and why; no keys: nothing, and why not."""

    name: str
    job: str
    policy: RetrainPolicy
    why: str
    keys: Sequence[dg.AssetKey] = ()
    trained_at: datetime | None = None  # set where it is a training, which the minimum gap holds back

    def level(self, levels: Levels) -> str:
        """Equal as long as trying again would be trying the same."""
        return content_version(levels.inputs(self.keys))


def _agent_candidate(agent: AgentSpec, levels: Levels) -> Candidate:
    train = dg.AssetKey([agent.name, "lora_adapter"])
    tail = [dg.AssetKey([agent.name, link]) for link in ("eval_report", "champion", "merged_model")]
    evidence = gather(get_store(), agent)

    def made(why: str, *keys: dg.AssetKey, training: bool = False) -> Candidate:
        trained_at = evidence.trained_at if training else None
        return Candidate(agent.name, retrain_job(agent.name), agent.retrain, why, keys, trained_at)

    if evidence.split is None:
        return made("too few examples for a split")
    if why := reason_to_train(evidence, agent.retrain):
        return made(why, train, *tail, training=True)
    left_out = impossible(levels.stale, [agent])
    unfinished = [key for key in tail if key in levels.stale and key not in left_out]
    if evidence.adapter and not evidence.evaluated:
        return made("its new adapter is not judged yet", *unfinished)
    if _drift_due(evidence, agent.retrain):
        return made(f"perplexity of its champion on {evidence.new_held_out} new held-out rows", *unfinished)
    if not evidence.up_to_date:
        return made(lacking(evidence, agent.retrain))
    if late := [key for key in levels.ready(tail) if key not in left_out]:
        return made("its chain was not finished", *late)
    return made("up to date")


def _drift_due(evidence: Evidence, policy: RetrainPolicy) -> bool:
    """Whether the evaluation should run for the drift alone: enough new rows that the report does not know."""
    return not evidence.report_current and evidence.new_held_out >= policy.drift_rows


def _swarm_candidate(levels: Levels) -> Candidate:
    why = levels.changed.get(_SWARM, "")
    ready = bool(why) and all(levels.version(dep.asset_key) for dep in levels.specs[_SWARM].deps)
    return Candidate("swarm", ALL_JOB, RetrainPolicy(), why if ready else "up to date", [_SWARM] if ready else [])


def _refusal(instance: dg.DagsterInstance, candidate: Candidate, levels: Levels, now: datetime) -> str:
    """Why a candidate is not requested now; empty where it is."""
    if not candidate.keys:
        return candidate.why
    return next(filter(None, _hindrances(instance, candidate, levels, now)), "")


def _hindrances(instance: dg.DagsterInstance, candidate: Candidate, levels: Levels, now: datetime) -> Iterator[str]:
    policy = candidate.policy
    yield under_way(instance, candidate.keys)
    yield tried(instance, candidate.level(levels), policy.attempts, TRAINING_BACKOFF, now)
    hours = hours_since(candidate.trained_at, now)
    if hours is not None and hours < policy.gap_hours:
        yield f"{candidate.why}, but it was trained {hours:.1f} h ago; the gap is {policy.gap_hours:g} h"
    spent = gpu_hours(instance, candidate.name, [key for key in levels.specs if key.path[0] == candidate.name], now)
    if spent >= policy.gpu_hours:
        yield f"{candidate.why}, but {spent:.2f} of {policy.gpu_hours:g} GPU hours are spent in the last 24"
    if opens := closed_until(policy, now):
        yield f"{candidate.why}; the window opens at {opens:%Y-%m-%d %H:%M}"


def closed_until(policy: RetrainPolicy, now: datetime) -> datetime | None:
    """When the window opens next; None while it is open. Cron is read in local time, an hour lost in spring aside."""
    wall = now.replace(tzinfo=UTC).timestamp()
    opened = next(reverse_cron_string_iterator(wall, policy.window, "UTC"))
    if wall < opened.timestamp() + 3600 * policy.window_hours:
        return None
    return next(cron_string_iterator(wall, policy.window, "UTC"))


def _named(keys: Iterable[dg.AssetKey]) -> str:
    return ", ".join(key.to_user_string() for key in keys)
