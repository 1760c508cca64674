"""What the run history says before something is requested: running runs, failures to back off from, GPU hours spent."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from grokora_pipeline.execution.process import GPU_SECONDS

# of a run: the hash of the inputs that it was requested for, by the name that the runs of a history have it under
INPUTS_TAG = "grokora/level"
AGENT_TAG, WHY_TAG = "grokora/agent", "grokora/why"
_STATUS = dg.DagsterRunStatus
_FAILED = [_STATUS.FAILURE, _STATUS.CANCELED]
_FINISHED = [*_FAILED, _STATUS.SUCCESS]
# whatever status Dagster adds: rather wait for such a run than start a second one beside it
_UNFINISHED = [status for status in _STATUS if status not in _FINISHED]


def clock() -> datetime:
    """The local time."""
    return datetime.now().astimezone()


def running(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> str:
    """The queued or running run that makes one of these assets, in words; empty if there is none.

    A run without a selection of assets may make any.
    """
    wanted = set(keys)
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_UNFINISHED)):
        if run.asset_selection is None or wanted & run.asset_selection:
            return f"run {run.run_id[:8]} of {run.job_name} is {run.status.value.lower()}"
    return ""


def backoff(instance: dg.DagsterInstance, inputs: str, attempts: int, first_wait: timedelta, now: datetime) -> str:
    """Why the inputs of this hash should not be tried again yet, as a sentence; empty if they may.

    Every failure doubles the wait, and after `attempts` of them it is left to a person, or to a change of its inputs.
    A run that succeeded and changed nothing counts as a reason to wait, too.
    """
    records = instance.get_run_records(dg.RunsFilter(tags={INPUTS_TAG: inputs}, statuses=_FINISHED))
    if not records:
        return ""
    failed = [record for record in records if record.dagster_run.status in _FAILED]
    last = max(records, key=lambda record: record.end_time or record.create_timestamp.timestamp())
    if len(failed) >= attempts:
        return f"it failed {len(failed)} times, last in run {last.dagster_run.run_id[:8]}; start it by hand"
    wait = first_wait * 2 ** max(0, len(failed) - 1)
    waited = now.timestamp() - (last.end_time or last.create_timestamp.timestamp())
    if not 0 <= waited < wait.total_seconds():  # negative if the clock was set back since then: nobody waits for that
        return ""
    minutes = (wait.total_seconds() - waited) / 60
    what = f"was attempt {len(failed)} of {attempts}" if failed else "changed nothing"
    return f"run {last.dagster_run.run_id[:8]} {what}; the next is in {minutes:.0f} min"


def gpu_hours(instance: dg.DagsterInstance, agent: str, keys: Iterable[dg.AssetKey], now: datetime) -> float:
    """Hours that an agent's GPU processes took in the last 24: of what was made, and of what its runs failed at."""
    since = now - timedelta(days=1)
    seconds = 0.0
    for key in keys:
        filters = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since.timestamp())
        for record in instance.fetch_materializations(filters, limit=100).records:
            seconds += _seconds(record.asset_materialization)
    failed = dg.RunsFilter(tags={AGENT_TAG: agent}, statuses=_FAILED, created_after=since)
    for run in instance.get_runs(filters=failed):
        for record in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records:
            event = record.event_log_entry.dagster_event
            seconds += _seconds(event.step_failure_data.user_failure_data if event else None)
    return seconds / 3600


def _seconds(event: Any) -> float:
    """What the metadata of a materialization or a failure says; 0 if it says nothing."""
    value = event.metadata.get(GPU_SECONDS) if event else None
    return float(value.value) if value else 0.0
