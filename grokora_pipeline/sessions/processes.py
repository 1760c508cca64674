"""Jobs in several processes that share what each of them would load: imports, rules, compiled patterns.

Redaction's rules and patterns take some 100 MB a process. So one process loads them, and forks a child for each job:
the children share its pages, and what a job allocates goes back to the system when its child ends.
"""

import gc
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

Job = tuple[Any, ...]


def run_jobs(
    function: Callable[..., Any], jobs: Sequence[Job], workers: int | None, load: Callable[[], object] = gc.collect
) -> list[Any]:
    """The results of `function(*job)` in the order of the jobs, from as many processes as pay.

    `workers`: at most so many, by default the cores that this process may use. `load` loads what all jobs share.
    Raises what a job raises.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(len(jobs), workers or cores)
    if count <= 1:
        return [function(*job) for job in jobs]
    if sys.platform != "linux":  # a fork is not safe on macOS, and Windows has none
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            return [future.result() for future in [pool.submit(function, *job) for job in jobs]]
    # Not forked from here: Dagster's step process has threads, and a fork of one may hold their locks for ever.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_fork_for_each, function, jobs, count, load).result()


def _fork_for_each(
    function: Callable[..., Any], jobs: Sequence[Job], count: int, load: Callable[[], object]
) -> list[Any]:
    load()
    gc.freeze()  # a collection in a child would write to each shared page
    fork, parent = get_context("fork"), parent_process()
    results: list[Any] = [None] * len(jobs)
    pending = list(enumerate(jobs))[::-1]
    # by the connection that brings the result: number of the job, process
    running: dict[Connection, tuple[int, Any]] = {}
    try:
        while pending or running:
            while pending and len(running) < count:
                number, job = pending.pop()
                receiver, sender = fork.Pipe(duplex=False)
                child = fork.Process(target=_run, args=(sender, function, job))
                child.start()
                sender.close()  # so that the end of the child is the end of the pipe
                running[receiver] = number, child
            ready = wait([*running, *([parent.sentinel] if parent else [])])
            if parent and parent.sentinel in ready:  # nobody wants the results, or would end this process
                for _, child in running.values():
                    child.kill()
                os._exit(1)
            for receiver in [one for one in running if one in ready]:
                number, child = running.pop(receiver)
                try:
                    results[number], error = receiver.recv()
                except EOFError:
                    raise BrokenProcessPool("a process that reads logs was killed; is there enough memory?") from None
                receiver.close()
                child.join()
                if error:
                    raise error
    finally:
        for _, child in running.values():
            child.terminate()
            child.join()
    return results


def _run(sender: Connection, function: Callable[..., Any], job: Job) -> None:
    """What a child does: it sends the result, or the error."""
    try:
        sender.send((function(*job), None))
    except Exception as error:
        sender.send((None, error))
        raise
