"""Steps as jobs of a Ray cluster: Ray finds the node, counts the GPUs and notices when a node dies.

The cluster is the one of RAY_ADDRESS. Its nodes need this package installed, the way to Dagster's database and to the
store in their own environment, and the logs, agents.yaml and a base model given as a folder at the same paths.
"""

import dagster as dg

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import Settings, get_settings

_SHARED = ("logs", "store", "agents", "base_model", "preset", "settle_seconds")  # no secrets: Ray shows them


def ray_executor() -> dg.ExecutorDefinition:
    """dagster-ray's executor: each step takes a CPU wherever one is free, and the GPUs that its tags ask for."""
    try:
        from dagster_ray import ray_executor as executor
    except ImportError as error:
        raise GrokoraError(
            "GROKORA_EXECUTOR=ray needs Ray; run `pip install 'grokora_pipeline[ray]'` or set it to local."
        ) from error
    ray = {
        "num_cpus": 1,
        "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},  # of steps that do not bring their own
        "env_vars": _shared(get_settings()),
    }
    configured: dg.ExecutorDefinition = executor.configured({"ray": ray}, name="ray")
    return configured


def _shared(settings: Settings) -> list[str]:
    """What was set here and holds on every node; devices and cache are each node's own."""
    return [
        f"GROKORA_{name.upper()}={getattr(settings, name)}" for name in _SHARED if name in settings.model_fields_set
    ]
