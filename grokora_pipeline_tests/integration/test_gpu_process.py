"""GPU work runs in a process of its own: its log streams to the run, its mistakes are one sentence."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from grokora_pipeline.execution.process import GpuProcess, cuda_tags
from grokora_pipeline.workers.frame import NO_COMPILER

WORKER = """
import os, signal, sys, time
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.workers.frame import run

def main(plan, reporter):
    reporter.progress(1, 2, loss=0.5)
    reporter.log("é" * 20_000)
    if plan["mode"] == "mistake":
        raise GrokoraError("The base model is not there; set GROKORA_BASE_MODEL.")
    if plan["mode"] == "killed":
        os.kill(os.getpid(), 9)
    if plan["mode"] == "mute":
        os._exit(2)
    if plan["mode"] == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), file=open(os.environ["TMPDIR"] + "/deaf", "w"), flush=True)
        time.sleep(60)
    if plan["mode"] == "long":
        return {"history": [{"step": step, "loss": 1 / (step + 1)} for step in range(5000)]}
    waiting = [os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]]
    compiler = os.environ.get("TORCHDYNAMO_DISABLE") != "1"
    devices = os.environ["CUDA_VISIBLE_DEVICES"]
    return {"torch": "torch" in sys.modules, "devices": devices, "waiting": waiting, "compiler": compiler}

sys.exit(run(main))
"""


@pytest.fixture(autouse=True)
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("GROKORA_DEVICES", "3")


def execute(
    folder: Path, mode: str, **plan: Any
) -> tuple[dg.ExecuteInProcessResult, dict[str, Any], dg.DagsterInstance]:
    made: dict[str, Any] = {}

    @dg.asset(op_tags=cuda_tags())
    def work(context: dg.AssetExecutionContext, gpu: GpuProcess) -> None:
        made.update(gpu.run(context, "some_worker", {"mode": mode, **plan}, folder / "staged"))

    instance = dg.DagsterInstance.ephemeral()
    result = dg.materialize([work], resources={"gpu": GpuProcess()}, instance=instance, raise_on_error=False)
    return result, made, instance


def test_the_result_comes_back_and_the_progress_is_in_the_event_log(tmp_path: Path) -> None:
    result, made, instance = execute(tmp_path, "fine")
    assert made == {"torch": False, "devices": "3", "waiting": ["passive", "0"], "compiler": False}
    messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("step 1/2: loss 0.5" in message for message in messages)
    longest = max(messages, key=len)  # longer than a pipe writes at once, its reader would meet half of it
    assert longest.startswith("ééé")
    assert len(json.dumps(longest)) < 8192
    assert list(tmp_path.glob("*.plan.json")) == []


@pytest.mark.parametrize(
    "plan", [{"quantisation": "nf4"}, {"knobs": {"quantisation": "nf4"}}, {"knobs": {"compile": True}}]
)
def test_torchs_compiler_is_there_for_what_calls_it(tmp_path: Path, plan: dict[str, Any]) -> None:
    assert execute(tmp_path, "fine", **plan)[1]["compiler"]


@pytest.mark.slow
def test_without_the_compiler_peft_is_imported_a_second_faster() -> None:
    code = "import sys, peft; print('torch._inductor.compile_fx' in sys.modules)"
    shown = [
        subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True).stdout
        for variables in ({**os.environ, **NO_COMPILER}, {**os.environ, "TORCHDYNAMO_DISABLE": "0"})
    ]
    assert shown == ["False\n", "True\n"]


def test_a_result_longer_than_a_pipe_writes_at_once_comes_back_whole(tmp_path: Path) -> None:
    _, made, _ = execute(tmp_path, "long")
    assert len(made["history"]) == 5000


def test_a_mistake_fails_the_step_with_its_sentence(tmp_path: Path) -> None:
    result, _, _ = execute(tmp_path, "mistake")
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert failure.step_failure_data.user_failure_data is not None
    description = failure.step_failure_data.user_failure_data.description
    assert description == "The base model is not there; set GROKORA_BASE_MODEL."


def test_a_killed_child_fails_the_step_but_not_the_process_that_runs_it(tmp_path: Path) -> None:
    result, _, _ = execute(tmp_path, "killed")
    assert not result.success


def test_a_worker_that_could_leave_no_sentence_is_not_called_killed(tmp_path: Path) -> None:
    result, _, _ = execute(tmp_path, "mute")
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert failure.step_failure_data.user_failure_data is not None
    assert "status 2: it left no result" in str(failure.step_failure_data.user_failure_data.description)


def test_a_worker_that_hears_no_sigterm_does_not_keep_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grokora_pipeline.execution import process

    started: list[subprocess.Popen[bytes]] = []

    def interrupted(child: "subprocess.Popen[bytes]") -> int:
        started.append(child)
        while not (tmp_path / "deaf").is_file() and child.poll() is None:
            time.sleep(0.02)
        raise RuntimeError

    monkeypatch.setattr(process, "_wait", interrupted)
    monkeypatch.setattr(process, "_GRACE_SECONDS", 0.5)
    assert not execute(tmp_path, "deaf")[0].success
    assert started[0].wait(timeout=20) == -signal.SIGKILL
