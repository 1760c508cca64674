"""New logs become turns, datasets and splits, decided by level at every tick.

What there is now is compared with what things were last made from; no event is waited for, so none can be lost.
"""

from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from typing import Any

import dagster as dg
import orjson

from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.session_logs import KEY as LOGS_KEY
from grokora_pipeline.assets.sources import LOG_FILES
from grokora_pipeline.automation import history
from grokora_pipeline.automation.history import INPUTS_TAG, backoff, running
from grokora_pipeline.automation.jobs import INGEST_JOB, ingest_keys
from grokora_pipeline.automation.staleness import (
    AssetStaleness,
    blocked_assets,
    observation,
    source_versions,
    stored_version,
)
from grokora_pipeline.errors import GrokoraError

TICK_SECONDS = 3  # at least; Dagster itself looks every five seconds
MAX_UNSETTLED_TICKS = 24  # ticks; a file that never rests is then set aside by the ingest, and the others are read
ATTEMPTS, BACKOFF = 5, timedelta(minutes=1)


def log_sensor(project: Project, specs: Iterable[dg.AssetSpec]) -> dg.SensorDefinition:
    """`new_logs`; running from the start only if GROKORA_AUTOMATION is `on`."""
    on = project.settings.automation == "on"
    ingested = [spec for spec in specs if spec.key in ingest_keys(project)]

    @dg.sensor(
        name=project.label("new_logs"),
        job_name=project.label(INGEST_JOB),
        minimum_interval_seconds=max(TICK_SECONDS, round(project.settings.settle_seconds)),
        default_status=dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED,
        description="Logs that changed become turns, datasets and splits.",
    )
    def new_logs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Request what is out of date between the logs and the splits, and made from something that is not.

        The cursor holds the manifest's hash and for how many ticks it has been changing: no clock is asked whether a
        file is still being written.
        """
        try:
            sources = source_versions(project)
        except GrokoraError as error:
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
        logs, files = project.key(LOGS_KEY), sources[project.key(LOG_FILES)]
        before = _read_cursor(context.cursor)
        unsettled_ticks = 0 if files == before.get("files") else before.get("unsettled_ticks", 0) + 1
        cursor = orjson.dumps({"files": files, "unsettled_ticks": unsettled_ticks}).decode()
        staleness = AssetStaleness(context.instance, ingested, sources, partial(stored_version, project))
        keys = staleness.ready(staleness.specs)
        for key in blocked_assets(project, staleness.stale, project.agents):
            keys.pop(key, None)
        if logs in keys and 0 < unsettled_ticks < MAX_UNSETTLED_TICKS:
            keys.pop(logs)
            if not keys:
                return dg.SensorResult(
                    skip_reason=f"The logs are changing (tick {unsettled_ticks}); they may rest.", cursor=cursor
                )
        if not keys:
            return dg.SensorResult(skip_reason=f"Nothing new: everything is made from the logs {files}.", cursor=cursor)
        inputs = staleness.inputs_hash(keys)
        waiting = running(context.instance, staleness.specs) or backoff(
            context.instance, inputs, ATTEMPTS, BACKOFF, history.clock()
        )
        if waiting:
            names = ", ".join(key.to_user_string() for key in keys)
            return dg.SensorResult(skip_reason=f"{names} can wait: {waiting}.", cursor=cursor)
        context.log.info("; ".join(f"{key.to_user_string()}: {reason}" for key, reason in keys.items()))
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(job_name=project.label(INGEST_JOB), asset_selection=list(keys), tags={INPUTS_TAG: inputs})
            ],
            # what a dataset was made from is what was observed last, so both are noted with every request
            asset_events=[observation(key, version) for key, version in sources.items()],
            cursor=cursor,
        )

    return new_logs


def _read_cursor(text: str | None) -> dict[str, Any]:
    """The cursor of the tick before; empty if there is none, or if a person edited it: then the watch starts anew."""
    try:
        cursor = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {}
    return cursor if isinstance(cursor, dict) and isinstance(cursor.get("unsettled_ticks", 0), int) else {}
