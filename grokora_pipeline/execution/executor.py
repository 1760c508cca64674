"""The CUDA-tagged executor: a process a step; steps tagged for CUDA wait for a device, the others run beside them."""

import os
from typing import Any

import dagster as dg

from grokora_pipeline.execution.process import CUDA_POOL, CUDA_TAG
from grokora_pipeline.settings import Settings
from grokora_pipeline.workers.lease import discover_devices

_NO_LIMIT = 1000  # the most that Dagster allows
_COUNTS_DEVICES = {"cuda_tagged", "ray", "k8s"}  # of `chosen_executor`
_ONE_BY_ONE = {"in_process"}
_PRELOADED = ["grokora_pipeline.execution.forkserver", "grokora_pipeline.definitions"]


def chosen_executor(settings: Settings) -> dg.ExecutorDefinition:
    """The executor that GROKORA_EXECUTOR names."""
    if settings.executor == "local":
        return cuda_executor(settings.devices)
    from grokora_pipeline.execution.cluster import cluster_executor

    return cluster_executor(settings)


def cuda_executor(configured: str) -> dg.ExecutorDefinition:
    """Dagster's multiprocess executor with as many CUDA-tagged steps at once as there are devices.

    The limit holds within a run; across runs the pool `cuda` holds, and on the device its lease. Steps are forked
    from a server that has loaded the definitions already, which is what makes a small step cheap.
    """
    devices = len(discover_devices(configured))

    def without_devices(context: dg.InitExecutorContext) -> dg.Executor:
        """The steps' processes see no GPU; the leases of their children know which there are."""
        os.environ["GROKORA_DEVICES"] = ",".join(discover_devices(configured))
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        create = dg.multiprocess_executor.executor_creation_fn
        assert create is not None
        return create(context)

    schema: Any = dg.multiprocess_executor.config_schema
    cuda_tagged = dg.ExecutorDefinition(
        name="cuda_tagged",
        config_schema=schema,
        requirements=dg.multiple_process_executor_requirements(),
        executor_creation_fn=without_devices,
    )
    return cuda_tagged.configured(
        {
            "max_concurrent": devices + max(2, os.cpu_count() or 1),
            "start_method": {"forkserver": {"preload_modules": _PRELOADED}},
            "tag_concurrency_limits": [{"key": CUDA_TAG, "value": "cuda", "limit": devices}],
        },
        name="cuda_tagged",
    )


def cost_of_executor(executor: str, pool: str, limit: int | None, devices: int) -> str:
    """What is lost if neither the executor nor the limit of the pool of GPU steps counts devices; empty if one does.

    `executor` is the name of a code location's executor, which may be anybody's.
    """
    if executor in _COUNTS_DEVICES | _ONE_BY_ONE or (limit is not None and limit <= devices):
        return ""
    return (
        f"The executor {executor} does not count devices: of the GPU steps that it starts at once, those beyond this "
        f"machine's {devices} hold a process each while they wait for a device. Set the limit of the pool {pool} to "
        f"{devices}, or use grokora_pipeline.execution.executor.chosen_executor."
    )


def fit_pool(instance: dg.DagsterInstance, settings: Settings) -> None:
    """Let as many CUDA steps of all runs go at once as this machine has devices; Ray counts devices itself."""
    slots = len(discover_devices(settings.devices)) if settings.executor == "local" else _NO_LIMIT
    instance.event_log_storage.set_concurrency_slots(CUDA_POOL, slots)
