"""The instance that dagster.yaml describes: dead runs are told from live ones, and the pool fits the devices."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import dagster as dg
import psutil
import pytest
import yaml
from dagster._grpc.types import CanCancelExecutionResult
from dagster_shared.serdes import serialize_value

from grokora_pipeline.cli.demo import open_instance
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.execution.executor import cost_of_executor, fit_pool
from grokora_pipeline.execution.launcher import PROCESS_TAG, WatchedRunLauncher, close_dead_runs, this_process
from grokora_pipeline.execution.process import CUDA_POOL, is_retryable
from grokora_pipeline.settings import PROJECT_ROOT, Settings, get_settings


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    settings = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    for storage in ("storage", "local_artifact_storage", "compute_logs"):
        del settings[storage]  # they would write into the checkout
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made
    get_settings.cache_clear()


def health(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    run = instance.add_run(dg.DagsterRun("retrain_all", status=dg.DagsterRunStatus.STARTED, tags=tags))
    assert isinstance(instance.run_launcher, WatchedRunLauncher)
    return instance.run_launcher.check_run_worker_health(run).status.value


def test_a_run_whose_code_server_is_gone_is_dead(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    assert (
        health(instance, {".dagster/grpc_info": json.dumps({"socket": str(tmp_path / "gone"), "host": "localhost"})})
        == "FAILED"
    )


@pytest.mark.parametrize(("later", "status"), [(0.0, "RUNNING"), (4000.0, "FAILED")])
def test_a_run_that_a_reloaded_code_server_does_not_know_lives_as_long_as_it_says_something(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, later: float, status: str
) -> None:
    class Reloaded:
        def can_cancel_execution(self, request: object, timeout: float) -> str:
            return serialize_value(CanCancelExecutionResult(can_cancel=False))

    run = instance.add_run(dg.DagsterRun("retrain_all", status=dg.DagsterRunStatus.STARTED))
    instance.report_engine_event("step 3/10", run)
    launcher = instance.run_launcher
    assert isinstance(launcher, WatchedRunLauncher)
    monkeypatch.setattr(launcher, "_get_grpc_client_for_termination", lambda run_id: Reloaded())
    now = time.time() + later
    monkeypatch.setattr("grokora_pipeline.execution.launcher.time.time", lambda: now)
    assert launcher.check_run_worker_health(run).status.value == status


def test_a_run_of_a_living_process_lives_and_of_a_dead_one_is_dead(instance: dg.DagsterInstance) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host, _, _ = this_process().split()
    process = f"{host} {other.pid} {psutil.Process(other.pid).create_time() - psutil.boot_time()}"
    assert health(instance, {PROCESS_TAG: process}) == "RUNNING"
    other.communicate()
    assert health(instance, {PROCESS_TAG: process}) == "FAILED"


def test_a_number_that_another_process_has_now_is_not_the_one_that_ran(instance: dg.DagsterInstance) -> None:
    host, pid, created = this_process().split()
    assert health(instance, {PROCESS_TAG: f"{host} {pid} {float(created) - 60}"}) == "FAILED"


def test_a_clock_that_is_set_back_ends_no_run(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    process, boot = this_process(), psutil.boot_time()
    kernel = pytest.importorskip("psutil._pslinux", reason="the time of the start is read from /proc on Linux only")
    monkeypatch.setattr(kernel, "boot_time", lambda: boot - 3600)
    assert psutil.boot_time() == boot - 3600
    assert health(instance, {PROCESS_TAG: process}) == "RUNNING"


@pytest.mark.parametrize("tags", [{}, {PROCESS_TAG: "another-machine 1 0.0"}])
def test_of_a_run_that_was_started_elsewhere_nothing_is_claimed(
    instance: dg.DagsterInstance, tags: dict[str, str]
) -> None:
    assert health(instance, tags) == "RUNNING"


def test_a_run_that_was_killed_is_closed_and_its_slot_is_free(instance: dg.DagsterInstance) -> None:
    host, pid, created = this_process().split()
    storage = instance.event_log_storage
    storage.set_concurrency_slots(CUDA_POOL, 1)
    ended = {PROCESS_TAG: f"{host} {pid} {float(created) - 60}"}
    dead, alive = (
        instance.add_run(dg.DagsterRun("retrain_all", status=dg.DagsterRunStatus.STARTED, tags=tags))
        for tags in (ended, {PROCESS_TAG: this_process()})
    )
    assert storage.claim_concurrency_slot(CUDA_POOL, dead.run_id, "actor__lora_adapter").is_claimed
    assert not storage.claim_concurrency_slot(CUDA_POOL, alive.run_id, "actor__lora_adapter").is_claimed
    assert close_dead_runs(instance) == [dead.run_id]
    assert storage.claim_concurrency_slot(CUDA_POOL, alive.run_id, "actor__lora_adapter").is_claimed
    statuses = {run.run_id: run.status.value for run in instance.get_runs()}
    assert statuses == {dead.run_id: "FAILURE", alive.run_id: "STARTED"}
    assert close_dead_runs(instance) == []


@pytest.mark.parametrize(
    ("devices", "executor", "limit"),
    [("0,1,2", "local", 3), ("cpu", "local", 1), ("cpu,cpu2", "local", 2), ("0", "ray", 1000)],
)
def test_the_pool_fits_the_devices(
    instance: dg.DagsterInstance, devices: str, executor: Literal["local", "ray"], limit: int
) -> None:
    fit_pool(instance, Settings(devices=devices, executor=executor))
    assert {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}[CUDA_POOL] == limit


@pytest.mark.parametrize(
    ("executor", "limit", "counted"),
    [
        ("cuda_tagged", None, True),
        ("k8s", None, True),
        ("in_process", None, True),
        ("multi_or_in_process_executor", None, False),
        ("multi_or_in_process_executor", 3, False),
        ("somebody_elses", 2, True),
    ],
)
def test_an_executor_that_counts_no_devices_is_said_to_unless_the_pool_does(
    executor: str, limit: int | None, counted: bool
) -> None:
    cost = cost_of_executor(executor, "night_cuda", limit, devices=2)
    assert (cost == "") is counted
    assert counted or "Set the limit of the pool night_cuda to 2" in cost


@pytest.mark.parametrize(
    ("crash", "again"),
    [
        ("", True),  # killed before it could say why
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("AcceleratorError: CUDA error: an illegal memory access was encountered", True),
        ("KeyError: 'prompt'", False),
        ("TypeError: got an unexpected keyword argument", False),
    ],
)
def test_only_what_is_retryable_is_tried_again(crash: str, again: bool) -> None:
    assert is_retryable(crash) is again


def test_settings_mean_the_same_from_another_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / ".env").write_text("GROKORA_LOGS=logs\nGROKORA_BASE_MODEL=model\nGROKORA_API_KEY=not-shown\n")
    for name in ("LOGS", "BASE_MODEL", "API_KEY"):
        monkeypatch.delenv(f"GROKORA_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    found = get_settings().environment()
    assert found["GROKORA_LOGS"] == str(tmp_path / "logs")
    assert found["GROKORA_BASE_MODEL"] == str(tmp_path / "model")
    assert found["GROKORA_API_KEY"] == "not-shown"
    get_settings.cache_clear()


def test_a_dagster_home_that_is_not_there_yet_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {**os.environ, "DAGSTER_HOME": "new/home"})
    monkeypatch.chdir(tmp_path)
    with open_instance() as instance:
        assert instance.root_directory == str(tmp_path / "new" / "home")


def test_a_dagster_home_that_cannot_be_made_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("os.environ", {**os.environ, "DAGSTER_HOME": str(tmp_path / "file" / "home")})
    with pytest.raises(GrokoraError, match="cannot be made"), open_instance():
        pass
