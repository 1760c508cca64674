"""Steps on more than one machine: as jobs of a Ray cluster, or as Kubernetes jobs.

The cluster finds the node, counts the GPUs and notices when a node dies. Nodes need this package installed, the way to
Dagster's database and to the store in their own environment, and the logs, agents.yaml and a base model given as a
folder at the same paths.
"""

import dagster as dg

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import Settings

_SHARED = ("logs", "store", "agents", "base_model", "preset", "settle_seconds")  # no secrets: clusters show them


def ray_executor(settings: Settings) -> dg.ExecutorDefinition:
    """dagster-ray's executor on the cluster of RAY_ADDRESS: a step takes a CPU anywhere, and the GPUs of its tags."""
    try:
        from dagster_ray import ray_executor as executor
    except ImportError as error:
        raise _missing("ray") from error
    ray = {
        "num_cpus": 1,
        "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},  # of steps that do not bring their own
        "env_vars": _shared(settings),
    }
    return executor.configured({"ray": ray}, name="ray")


def k8s_executor(settings: Settings) -> dg.ExecutorDefinition:
    """dagster-k8s's executor, with the image and the namespace of the instance's K8sRunLauncher: a pod a step."""
    try:
        from dagster_k8s import k8s_job_executor as executor
    except ImportError as error:
        raise _missing("k8s") from error
    return executor.configured({"env_vars": _shared(settings)}, name="k8s")


def _missing(extra: str) -> GrokoraError:
    return GrokoraError(
        f"GROKORA_EXECUTOR={extra} needs the extra of that name; run `pip install 'grokora_pipeline[{extra}]'`."
    )


def _shared(settings: Settings) -> list[str]:
    """What was set here and holds on every node; devices and cache are each node's own."""
    return [
        f"GROKORA_{name.upper()}={getattr(settings, name)}" for name in _SHARED if name in settings.model_fields_set
    ]
