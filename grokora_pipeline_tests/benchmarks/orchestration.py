"""What orchestration costs: `python -m grokora_pipeline_tests.benchmarks.orchestration [--tiny | --instance FOLDER]`.

Runs `grokora demo` on the bundled sample in a temporary folder (about ten minutes on two cores) and prints one JSON
line. `overhead_share` is the share of the command's wall time in which no child process held a device: starting the
command and its steps, reading and writing, and the steps that need no child (logs, datasets, splits), as far as they
do not run beside one. `fixed_seconds` says, for each kind of step that has a child, the median seconds from its lease
to its first message about its work: interpreter, imports, for a training also loading and the plan (Pipes' reader looks
once a second). `--tiny` takes a small sample and a tiny random model, where the children do hardly more than import
torch; `--instance data/dagster` looks at the latest run that is there, from its start to its end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg

from grokora_pipeline.automation.jobs import ALL_JOB
from grokora_pipeline.execution.process import GPU_SECONDS
from grokora_pipeline_tests.chain import environment, make_home, script

_OPENED = "external process successfully opened dagster pipes"
_ENDED = {"STEP_OUTPUT", "STEP_FAILURE", "STEP_UP_FOR_RETRY"}
Interval = tuple[float, float]


def measure(instance: dg.DagsterInstance, wall: float | None = None) -> dict[str, Any]:
    """The figures of the latest successful run of the whole chain, which took `wall` seconds all in all."""
    done = dg.RunsFilter(job_name=ALL_JOB, statuses=[dg.DagsterRunStatus.SUCCESS])
    record = instance.get_run_records(done, limit=1)[0]
    wall = wall or (record.end_time or 0.0) - (record.start_time or 0.0)
    entries = sorted(instance.all_logs(record.dagster_run.run_id), key=lambda entry: entry.timestamp)
    children = child_intervals(entries)
    inside = covered(children.values())
    return {
        "overhead_share": round(1 - inside / wall, 4),
        "wall_seconds": round(wall, 1),
        "child_seconds": round(inside, 1),
        "children": len(children),
        "fixed_seconds": fixed_seconds(entries, children),
        "steps": len(instance.get_run_step_stats(record.dagster_run.run_id)),
    }


def child_intervals(entries: Sequence[dg.EventLogEntry]) -> dict[str, Interval]:
    """Step → (start, end) of its child: from its lease on, or from its first message on where no lease was timed."""
    opened: dict[str, float] = {}
    ended: dict[str, float] = {}
    for entry in entries:
        step, event = entry.step_key or "", entry.dagster_event
        if _OPENED in entry.user_message:
            opened[step] = entry.timestamp
        elif event and event.event_type_value in _ENDED and step in opened:
            ended.setdefault(step, entry.timestamp)
        elif event and event.is_step_materialization and step in ended:
            seconds = event.step_materialization_data.materialization.metadata.get(GPU_SECONDS)
            opened[step] = ended[step] - float(str(seconds.value)) if seconds else opened[step]
    return {step: (opened[step], end) for step, end in ended.items()}


def fixed_seconds(entries: Sequence[dg.EventLogEntry], children: Mapping[str, Interval]) -> dict[str, float]:
    """Kind of step → median seconds from the lease to the first message that a child writes about its work."""
    first: dict[str, float] = {}
    opened: set[str] = set()
    for entry in entries:
        step, text = entry.step_key or "", entry.user_message
        if _OPENED in text:
            opened.add(step)
        elif step in opened and entry.dagster_event is None and not text.startswith("Loading "):
            first.setdefault(step, entry.timestamp)
    kinds: dict[str, list[float]] = {}
    for step in children.keys() & first.keys():
        kinds.setdefault(step.rpartition("__")[2], []).append(first[step] - children[step][0])
    return {kind: round(median(seconds), 1) for kind, seconds in sorted(kinds.items())}


def covered(intervals: Iterable[Interval]) -> float:
    """The length of the union of intervals."""
    total, last = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


def sample_home(folder: Path) -> dict[str, str]:
    """The environment in which `grokora demo` makes everything from the bundled sample, in this folder alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GROKORA_")}
    (folder / "dagster").mkdir()
    (folder / "dagster" / "dagster.yaml").write_text("nux: {enabled: false}\ntelemetry: {enabled: false}\n")
    return {**kept, "GROKORA_STORE": str(folder / "store"), "DAGSTER_HOME": str(folder / "dagster")}


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tiny", action="store_true", help="a tiny random model instead of the bundled sample")
    which.add_argument("--instance", type=Path, help="a folder of Dagster's SQLite files, such as data/dagster")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, wall = Path(temporary), None
        if given.instance:
            shutil.copytree(given.instance / "history", folder / "dagster" / "history")  # the original is left alone
        else:
            variables = environment(make_home(folder)) if given.tiny else sample_home(folder)
            started = time.monotonic()
            subprocess.run([script("grokora"), "demo"], env=variables, cwd=folder, stdout=sys.stderr, check=True)
            wall = time.monotonic() - started
        with dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance:
            print(json.dumps(measure(instance, wall)))


if __name__ == "__main__":
    main()
