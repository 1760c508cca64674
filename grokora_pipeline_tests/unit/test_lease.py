"""Devices are leased by the process that uses them, and come back when it dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from grokora_pipeline.models.loading import share_cores
from grokora_pipeline.workers.lease import discover_devices

LEASE = [sys.executable, "-m", "grokora_pipeline.workers.lease"]
SHOW = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
HOLD = [sys.executable, "-c", "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "GROKORA_DEVICES": "4,7"}


def hold(environment: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([*LEASE, "--", *HOLD], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_two_processes_never_share_a_device(environment: dict[str, str]) -> None:
    (first, one), (second, two) = hold(environment), hold(environment)
    first.kill()
    second.kill()
    assert {one, two} == {"4", "7"}


def test_a_third_process_waits_until_kill_9_frees_a_device(environment: dict[str, str]) -> None:
    (first, one), (second, _) = hold(environment), hold(environment)
    waiting = subprocess.Popen([*LEASE, "--", *SHOW], env=environment, stdout=subprocess.PIPE, text=True)
    time.sleep(1.0)
    assert waiting.poll() is None
    first.send_signal(signal.SIGKILL)
    output, _ = waiting.communicate(timeout=20)
    second.kill()
    assert output.strip() == one


def test_two_devices_are_taken_all_or_none(environment: dict[str, str]) -> None:
    command = [*LEASE, "--count", "2", "--", *SHOW]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=30)[0].strip() for process in both] == ["4,7", "4,7"]


@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu2"])
def test_without_a_gpu_the_command_sees_none(environment: dict[str, str], devices: str) -> None:
    done = subprocess.run(
        [*LEASE, "--count", "2", "--", *SHOW],
        env={**environment, "GROKORA_DEVICES": devices},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(("gibibytes", "slots"), [(8, ["cpu"]), (15.6, ["cpu", "cpu2"])])
def test_a_machine_without_a_gpu_runs_two_steps_if_both_have_memory(
    gibibytes: float, slots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(gibibytes * 2**18)}
    monkeypatch.setattr("os.sysconf", sizes.__getitem__)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert discover_devices("") == slots


def test_who_leases_the_cpu_shares_the_cores_while_somebody_else_does(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", environment["TMPDIR"])
    monkeypatch.setattr("grokora_pipeline.models.loading.all_threads", lambda: 4)
    slots = {**environment, "GROKORA_DEVICES": "cpu,cpu2"}
    before, threads, held = torch.get_num_threads(), list[int](), list[subprocess.Popen[str]]()
    for _ in range(3):  # leases: none, one, two
        share_cores()
        threads.append(torch.get_num_threads())
        held.append(hold(slots)[0]) if len(held) < 2 else None
    for process in held:
        process.kill()
        process.wait()
    share_cores()
    assert (*threads, torch.get_num_threads()) == (4, 4, 2, 4)
    torch.set_num_threads(before)


def test_more_devices_than_there_are_is_one_sentence(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*LEASE, "--count", "3", "--", *SHOW], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: 3 GPUs are asked for")


def test_a_step_that_died_before_the_lease_began_starts_nothing(environment: dict[str, str]) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    started = [*LEASE, "--parent", str(gone.pid), "--", *SHOW]
    done = subprocess.run(started, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: The step that asked for a device is gone.\n"


def test_a_lease_needs_no_project_of_ours() -> None:
    code = "import sys, grokora_pipeline.workers.lease; print('grokora_pipeline.settings' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_closed_terminal_stops_nothing_that_nohup_started() -> None:
    show = "from grokora_pipeline.workers.frame import stop_signals; print(*(each.name for each in stop_signals()))"
    plain = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); {show}"]
    for command, signals in (
        (plain, "SIGTERM SIGINT SIGHUP"),
        (["nohup", sys.executable, "-c", show], "SIGTERM SIGINT"),
    ):
        shown = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == signals
