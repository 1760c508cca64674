"""Start GPU work as a process of its own, through Dagster Pipes and a device lease."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import orjson

CUDA_POOL = "cuda"
CUDA_TAG = "grokora/accelerator"
GPUS_TAG = "grokora/gpus"
_GRACE_SECONDS = 60  # for a child to write its checkpoint after SIGTERM


def cuda_tags(gpus: int = 1) -> dict[str, str]:
    """The tags that send a step to the CUDA executor and tell it how many devices the step wants."""
    return {CUDA_TAG: "cuda", GPUS_TAG: str(gpus)}


class GpuProcess(dg.ConfigurableResource[Any]):
    """Runs `python -m <module> plan.json` on leased devices; its log lines stream into the run's event log."""

    def run(self, context: dg.AssetExecutionContext, module: str, plan: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Run a worker to its end and return its result; a worker's own error becomes a Failure of one sentence.

        The plan is written beside `folder`, the staging folder that the worker writes into.
        """
        plan_file = folder.with_name(f"{folder.name}.plan.json")
        plan_file.write_bytes(orjson.dumps(plan, option=orjson.OPT_INDENT_2))
        try:
            status, messages = self._run(context, [sys.executable, "-m", module, str(plan_file)])
        finally:
            plan_file.unlink(missing_ok=True)
            plan_file.with_suffix(".result.json").unlink(missing_ok=True)
        result: dict[str, Any] = next((m["result"] for m in reversed(messages) if "result" in m), {})
        if "error" in result:
            raise dg.Failure(result["error"], allow_retries=False)
        if status != 0 or not result:
            why = result.get("crash", "it was killed or ran out of memory")
            raise dg.Failure(f"{module} ended with status {status}: {why}; its output is in the step's stderr.")
        return result

    def _run(self, context: dg.AssetExecutionContext, command: list[str]) -> tuple[int, list[dict[str, Any]]]:
        gpus = context.op.tags.get(GPUS_TAG, "1")
        lease = [sys.executable, "-m", "grokora_pipeline.execution.lease", "--count", gpus, "--"]
        with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), dg.PipesTempFileMessageReader()) as session:
            environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **session.get_bootstrap_env_vars()}
            process = subprocess.Popen([*lease, *command], env=environment)
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                process.wait(timeout=_GRACE_SECONDS)
                raise
        return status, list(session.get_custom_messages())
