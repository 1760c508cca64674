"""Start GPU work as a process of its own, through Dagster Pipes and a device lease."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import dagster as dg
import orjson

from grokora_pipeline.workers.frame import NO_COMPILER, read_result, result_file

CUDA_POOL = "cuda"
CUDA_TAG = "grokora/accelerator"
GPUS_TAG = "grokora/gpus"
GPU_SECONDS = "gpu_seconds"  # metadata: how long a step's process held its devices
DEVICE_RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)  # also when a node dies
NODE_RETRIES = dg.RetryPolicy(max_retries=2, delay=2)  # of steps that need no device
_DEVICE_ERRORS = ("OutOfMemoryError", "AcceleratorError", "out of memory", "CUDA", "cuDNN", "NCCL", "MemoryError")
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 60  # for a child to write its checkpoint after SIGTERM


def cuda_tags(gpus: int = 1) -> dict[str, str]:
    """The tags by which the local executor, Ray and Kubernetes each know how many devices a step wants."""
    ray = {"num_gpus": gpus, "runtime_env": {"env_vars": {}}}  # the empty one: see execution/cluster.py
    pod = {"container_config": {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}}
    engines = {"dagster-ray/config": ray, "dagster-k8s/config": pod}
    return {CUDA_TAG: "cuda", GPUS_TAG: str(gpus), **{name: json.dumps(config) for name, config in engines.items()}}


class GpuProcess(dg.ConfigurableResource[Any]):
    """Runs `python -m <module> plan.json` on leased devices; its log lines stream into the run's event log."""

    environment: dict[str, str] = {}  # noqa: RUF012 - of the processes, beside this process's own

    def run(self, context: dg.AssetExecutionContext, module: str, plan: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Run a worker to its end and return its result; a worker's own error becomes a Failure of one sentence.

        The plan is written beside `folder`, the staging folder that the worker writes into, and so is the result: it is
        never a Pipes message, whose reader meets half a line if it is longer than 8 KiB.
        """
        plan_file = folder.with_name(f"{folder.name}.plan.json")
        plan_file.write_bytes(orjson.dumps(plan, option=orjson.OPT_INDENT_2))
        stamp = plan_file.with_suffix(".leased")
        try:
            settings = {**plan, **plan.get("knobs", {})}
            compiles = settings.get("compile") or settings.get("quantisation") == "nf4"
            environment = {} if compiles else NO_COMPILER
            status = self._run(context, [sys.executable, "-m", module, str(plan_file)], stamp, environment)
            spent = {GPU_SECONDS: max(0.0, time.time() - stamp.stat().st_mtime) if stamp.exists() else 0.0}
            outcome = read_result(plan_file)
        finally:
            for file in (plan_file, result_file(plan_file), stamp):
                file.unlink(missing_ok=True)
        if status == 0 and outcome:
            context.add_asset_metadata(spent)
            return outcome
        if status != 0 and "error" in outcome:
            raise dg.Failure(outcome["error"], metadata=spent, allow_retries=False)
        crash, stopped = outcome.get("crash", ""), status == 2  # 2: no lease, or a disk that did not take the sentence
        why = crash or ("it left no result" if stopped else "it was killed or ran out of memory")
        text = f"{module} ended with status {status}: {why}; its output is in the step's stderr."
        raise dg.Failure(text, metadata=spent, allow_retries=not stopped and is_retryable(crash))

    def _run(
        self, context: dg.AssetExecutionContext, command: list[str], stamp: Path, environment: dict[str, str]
    ) -> int:
        gpus = context.op.tags.get(GPUS_TAG, "1")
        shim = [sys.executable, "-m", "grokora_pipeline.workers.lease", "--parent", str(os.getpid())]
        lease = [*shim, "--count", gpus, "--stamp", str(stamp), "--"]
        # Dagster 1.13 warns that a property of its own message reader is in preview
        warnings.filterwarnings("ignore", message=".*expected_writer_count", category=dg.PreviewWarning)
        with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), dg.PipesTempFileMessageReader()) as session:
            environment = {
                **environment,
                **os.environ,
                "TOKENIZERS_PARALLELISM": "false",
                **self.environment,
                **session.get_bootstrap_env_vars(),
            }
            process = subprocess.Popen([*lease, *command], env=environment)
            try:
                return _wait(process)
            except BaseException:
                process.terminate()
                try:
                    process.wait(timeout=_GRACE_SECONDS)
                except subprocess.TimeoutExpired:  # it must not hold its device; half a checkpoint is not gone on from
                    process.kill()
                raise


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a child; returns its status, or raises a Failure if the process of the run is gone.

    Steps are forked from a server, so the kernel does not end them with the run (`kill -9`, out of memory): a training
    nobody waits for would hold the device, and write into the folder from which the next run goes on.
    """
    run = multiprocessing.parent_process()  # who asked the server for this process; None if steps run in the run itself
    while True:
        try:
            return process.wait(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if run is not None and not run.is_alive():
                raise dg.Failure("The process of the run is gone.", allow_retries=False) from None


def is_retryable(crash: str) -> bool:
    """Whether trying again may help: the device or the machine failed, or killed the process before it said why."""
    return not crash or any(word in crash for word in _DEVICE_ERRORS)
