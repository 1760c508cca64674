"""Steps on more than one machine: as jobs of a Ray cluster, or as Kubernetes jobs.

The cluster finds the node, counts the GPUs and notices when a node dies. Nodes need this package installed, the way to
Dagster's database and to the store in their own environment, and the logs, agents.yaml and a base model given as a
folder at the same paths.
"""

from typing import Any

import dagster as dg

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import Settings

_SHARED = ("logs", "store", "agents", "base_model", "preset", "settle_seconds")  # no secrets: clusters show them


def cluster_executor(settings: Settings) -> dg.ExecutorDefinition:
    """The executor that the setting names, with what was set here: devices and cache are each node's own.

    `ray`: dagster-ray's, on the cluster of RAY_ADDRESS: a step takes a CPU anywhere, and the GPUs of its tags. `k8s`:
    dagster-k8s's, with the image and the namespace of the instance's K8sRunLauncher: a pod a step.
    """
    extra = settings.executor
    try:
        if extra == "ray":
            from dagster_ray import ray_executor as executor
        else:
            from dagster_k8s import k8s_job_executor as executor
    except ImportError as error:
        raise GrokoraError(
            f"GROKORA_EXECUTOR={extra} needs the extra of that name; run `pip install 'grokora_pipeline[{extra}]'`."
        ) from error
    set_here = [name for name in _SHARED if name in settings.model_fields_set]
    shared: dict[str, Any] = {"env_vars": [f"GROKORA_{name.upper()}={getattr(settings, name)}" for name in set_here]}
    if extra == "ray":
        # of steps that do not bring their own
        shared = {"ray": {"num_cpus": 1, "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}, **shared}}
    return executor.configured(shared, name=extra)
