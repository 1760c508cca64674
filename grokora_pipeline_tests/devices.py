"""A code location whose steps only hold devices: `dagster asset materialize -m grokora_pipeline_tests.devices`.

Each step's child is this module as a script; it writes which devices it saw, from when to when, and who started it.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.execution.executor import cuda_executor
from grokora_pipeline.execution.process import CUDA_POOL, GpuProcess, cuda_tags
from grokora_pipeline.settings import get_settings
from grokora_pipeline.workers.frame import run

FOLDER = "HOLD_FOLDER"  # environment: where the records go
SECONDS = "HOLD_SECONDS"


def holder(name: str, gpus: int = 1) -> dg.AssetsDefinition:
    """An asset whose child holds devices for a while."""

    @dg.asset(name=name, op_tags=cuda_tags(gpus), pool=CUDA_POOL)
    def held(context: dg.AssetExecutionContext, gpu: GpuProcess) -> dg.MaterializeResult[None]:
        folder = Path(os.environ[FOLDER])
        gpu.run(context, "grokora_pipeline_tests.devices", {"name": name}, folder / f"{context.run_id}-{name}")
        return dg.MaterializeResult()

    return held


@dg.asset
def beside() -> dg.MaterializeResult[None]:
    """A step without the tag."""
    return dg.MaterializeResult(metadata={"sees": os.environ.get("CUDA_VISIBLE_DEVICES", "unset")})


def hold(plan: dict[str, Any], reporter: object) -> dict[str, Any]:
    """Hold the devices, and write when."""
    record = {
        **plan,
        "devices": os.environ["CUDA_VISIBLE_DEVICES"].split(","),
        "step": os.getppid(),
        "child": os.getpid(),
    }
    path = Path(os.environ[FOLDER]) / f"{os.getpid()}.held.json"
    record["start"] = time.time()
    path.write_text(json.dumps(record))
    time.sleep(float(os.environ[SECONDS]))
    path.write_text(json.dumps({**record, "end": time.time()}))
    return {"ok": True}


if __name__ == "__main__":
    sys.exit(run(hold))

defs = dg.Definitions(
    assets=[*(holder(name) for name in ("coordinator", "observer", "actor", "validator")), holder("wide", 2), beside],
    resources={"gpu": GpuProcess()},
    executor=cuda_executor(get_settings().devices),
)
