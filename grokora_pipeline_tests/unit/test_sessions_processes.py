"""Jobs in several processes: their results in order, their errors, and their end."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import psutil
import pytest

from grokora_pipeline.sessions.processes import run_jobs


def twice(number: int) -> int:
    """The double of a number, or what becomes of a job that goes wrong."""
    if number == 13:
        raise OSError(28, "No space left on device")
    if number == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def test_results_come_in_the_order_of_the_jobs_however_many_processes_there_are() -> None:
    jobs = [(number,) for number in range(5)]
    assert run_jobs(twice, jobs, 1) == run_jobs(twice, jobs, 2) == [0, 2, 4, 6, 8]


def test_what_a_job_raises_is_raised_and_a_killed_one_is_told() -> None:
    with pytest.raises(OSError, match="No space left"):
        run_jobs(twice, [(1,), (13,), (2,)], 2)
    with pytest.raises(BrokenProcessPool):
        run_jobs(twice, [(1,), (99,), (2,)], 2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks the jobs")
def test_no_process_outlives_the_one_that_wants_the_results() -> None:
    """One that is killed cannot end those that it started."""
    program = "import time; from grokora_pipeline.sessions import processes; "
    program += "processes.run_jobs(time.sleep, [(99,), (99,)], 2)"
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        started: list[psutil.Process] = []
        while len(started) < 4:  # the resource tracker, the head, and the two jobs
            time.sleep(0.05)
            started = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert psutil.wait_procs(started, timeout=30)[1] == []
