"""What orchestration costs: `python -m grokora_pipeline_tests.benchmarks.orchestration [--instance data/dagster]`.

Prints one JSON line about the latest `retrain_all` run of an instance; without one, about a run of its own on a small
sample and a tiny random model, where the children do hardly more than import torch. `overhead_share` is the share of
the run's wall time in which no child process held a device: starting steps, reading and writing, and the steps that
need no child (logs, datasets, splits), as far as they do not run beside one.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.automation.jobs import ALL_JOB
from grokora_pipeline.execution.process import GPU_SECONDS
from grokora_pipeline_tests.chain import demo, make_home

_OPENED = "external process successfully opened dagster pipes"
_ENDED = {"STEP_OUTPUT", "STEP_FAILURE", "STEP_UP_FOR_RETRY"}
Interval = tuple[float, float]


def measure(instance: dg.DagsterInstance) -> dict[str, Any]:
    """The figures of the latest successful run of the whole chain."""
    done = dg.RunsFilter(job_name=ALL_JOB, statuses=[dg.DagsterRunStatus.SUCCESS])
    record = instance.get_run_records(done, limit=1)[0]
    wall = (record.end_time or 0.0) - (record.start_time or 0.0)
    children = list(child_intervals(instance.all_logs(record.dagster_run.run_id)))
    inside = covered(children)
    return {
        "overhead_share": round(1 - inside / wall, 4),
        "wall_seconds": round(wall, 1),
        "child_seconds": round(inside, 1),
        "children": len(children),
        "steps": len(instance.get_run_step_stats(record.dagster_run.run_id)),
    }


def child_intervals(entries: Iterable[dg.EventLogEntry]) -> Iterable[Interval]:
    """(start, end) of every child: from its lease on, or from its first message on where no lease was timed."""
    opened: dict[str, float] = {}
    ended: dict[str, float] = {}
    for entry in sorted(entries, key=lambda one: one.timestamp):
        step, event = entry.step_key or "", entry.dagster_event
        if _OPENED in entry.user_message:
            opened[step] = entry.timestamp
        elif event and event.event_type_value in _ENDED and step in opened:
            ended.setdefault(step, entry.timestamp)
        elif event and event.is_step_materialization and step in ended:
            seconds = event.step_materialization_data.materialization.metadata.get(GPU_SECONDS)
            opened[step] = ended[step] - float(str(seconds.value)) if seconds else opened[step]
    return [(opened[step], end) for step, end in ended.items()]


def covered(intervals: Iterable[Interval]) -> float:
    """The length of the union of intervals."""
    total, last = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instance", type=Path, help="a folder of Dagster's SQLite files, such as data/dagster")
    given: Path | None = parser.parse_args().instance
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given is None:
            run = demo(make_home(folder))
            assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
        else:
            shutil.copytree(given / "history", folder / "dagster" / "history")  # the original is left alone
        with dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance:
            print(json.dumps(measure(instance)))


if __name__ == "__main__":
    main()
