"""Programs that tests start as a person or a service would: with their own words in a log, and none left behind."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from grokora_pipeline.workers.lease import die_with_parent


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(holds: Callable[[], bool], what: str, seconds: float = 10.0, every: float = 0.01) -> None:
    """Wait until something holds, asking every so many seconds; fail by name if it does not."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        time.sleep(every)


@contextmanager
def started(
    command: Sequence[str], log: Path, variables: Mapping[str, str], end: signal.Signals, patience: float = 15
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that writes into a log, in its folder; at the end it gets the signal, and is killed if it stays."""
    with log.open("wb") as words:
        process = subprocess.Popen(
            command,
            env=variables,
            cwd=log.parent,
            stdout=words,
            stderr=words,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
    try:
        yield process
    finally:
        process.send_signal(end)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started and left, too
        process.wait()


@contextmanager
def served(
    command: Sequence[str], log: Path, variables: Mapping[str, str]
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL of a program that serves on the `--port` it is given, once its `/health` answers, and its process.

    It must end within a minute when it is asked to.
    """
    url = f"http://127.0.0.1:{(port := free_port())}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/health").is_success
        return False

    with started([*command, "--port", str(port)], log, variables, signal.SIGTERM, patience=60) as process:
        until(answers, f"an answer of {command[0]}", 300, every=0.2)
        yield url, process
    assert process.returncode != -signal.SIGKILL, "it did not end when it was asked to"
