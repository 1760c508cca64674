"""Runs on this machine that can be asked whether they are alive, so that Dagster's run monitoring ends the dead ones.

Dagster's own local launcher cannot say, and a run that was cut off by a power failure would be "started" for ever.
"""

import os
import socket
import time

import dagster as dg
import psutil

# private, like what a run launcher returns and asks: Dagster 1.13 offers no public way to write one
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster_shared.serdes import deserialize_value

_SILENT_SECONDS = 3600  # a training says how far it is about twenty times, and takes two hours at most by default
_TICK_SECONDS = 2  # the kernel tells the time of its start in whole seconds, and it is read twice
PROCESS_TAG = "grokora/process"  # of runs that no launcher started


def this_process() -> str:
    """Process identity that survives PID reuse: host, pid, start time (seconds since the epoch)."""
    return f"{socket.gethostname()} {os.getpid()} {_uptime_at_start(os.getpid())}"


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Dagster's local run launcher, and whether the process of a run lives."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring asks only launchers that say so."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Failed if its code server is gone, or does not know it while it is silent; runs of other origin pass."""
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return _health(_lives(run.tags.get(PROCESS_TAG, "")), "the process that ran it is gone")
        try:
            reply = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=10)
        except DagsterUserCodeUnreachableError:
            return _health(False, "the code server that ran it is gone")
        if deserialize_value(reply, CanCancelExecutionResult).can_cancel:
            return _health(True, "")
        # A server reports the end of its own runs. One that does not know a run was restarted, or only reloaded: then
        # the run goes on in the process before, of which Dagster 1.13's proxy asks nothing (CanCancelExecution).
        latest = self._instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
        recent = bool(latest) and time.time() - latest[0].event_log_entry.timestamp < _SILENT_SECONDS
        return _health(recent, "its code server does not know it, and it has said nothing for an hour")


def close_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process died (kill -9, power cut, closed terminal) as failed, and free the pool slots of all
    that ended; returns the ids of the dead. The daemon does the same, but a command cannot wait for it.
    """
    unfinished = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    dead = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=unfinished)):
        launcher = instance.run_launcher
        if isinstance(launcher, WatchedRunLauncher):
            alive = launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
        else:
            alive = _lives(run.tags.get(PROCESS_TAG, ""))
        if not alive:
            instance.report_run_failed(run, "Its process died; what it had finished is kept.")
            dead.append(run.run_id)
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits:
        for run_id in storage.get_concurrency_run_ids():
            holder = instance.get_run_by_id(run_id)
            if holder is None or holder.is_finished:
                storage.free_concurrency_slots_for_run(run_id)
    return dead


def _health(alive: bool, otherwise: str) -> CheckRunHealthResult:
    return CheckRunHealthResult(WorkerStatus.RUNNING) if alive else CheckRunHealthResult(WorkerStatus.FAILED, otherwise)


def _uptime_at_start(pid: int) -> float:
    """Seconds between the start of this machine and that of a process; psutil.NoSuchProcess if there is none.

    The kernel counts them, while `create_time` adds the clock's: it changes when the clock is set (psutil#2526).
    """
    return psutil.Process(pid).create_time() - psutil.boot_time()


def _lives(process: str) -> bool:
    """Whether a process lives; of one that is unknown or elsewhere nothing can be said, so it does."""
    if process.split(" ", 1)[0] != socket.gethostname():
        return True
    _, pid, created = process.split(" ")
    try:
        return abs(_uptime_at_start(int(pid)) - float(created)) < _TICK_SECONDS
    except psutil.NoSuchProcess:
        return False
