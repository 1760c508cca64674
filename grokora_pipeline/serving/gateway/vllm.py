"""`--backend vllm`: the `vllm serve` command that serves the same base and the same champions, from the same registry.

It serves each champion under its agent's name. What is the gateway's own (`auto`, rollouts, redaction, recordings)
needs the gateway in front of it: `grokora serve --upstream http://…/v1`.
"""

from collections.abc import Sequence

import orjson

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.engines import ServedAdapter, refuse_agents, vllm_words
from grokora_pipeline.models.template import TEMPLATE_FILE
from grokora_pipeline.serving.gateway.champions import find_base
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import BASE, Registry


def vllm_command(store: Store, agents: Sequence[AgentSpec], host: str, port: int) -> list[str]:
    """The command's words. Raises GrokoraError if vLLM would not prompt or read the models as they were trained."""
    base, artifact = find_base(store), store.current("base_model")
    if base is None or artifact is None:
        raise GrokoraError("base_model is not in the store; materialize it first (`make demo`, or in the UI).")
    template = artifact.path / TEMPLATE_FILE
    if not template.is_file():
        raise GrokoraError(
            f"{artifact.path} has no {TEMPLATE_FILE}, without which vLLM would prompt {base.model_id} otherwise than "
            "it was trained; materialize base_model again."
        )
    registry = Registry(store)
    for agent in agents:
        if version := registry.of_another_base(agent.name):  # vLLM would answer with the base, and nobody would know
            raise GrokoraError(
                f"{agent.name}'s champion {version} was trained on another base model than {base.model_id}: train the "
                f"agent on this one, or `grokora champion rollback {agent.name}`."
            )
    champions = {agent.name: champion for agent in agents if (champion := registry.in_service(agent.name))}
    refuse_agents(
        "vllm",
        toon=[agent.name for agent in agents if agent.payload_format == "toon" and agent.name in champions],
        prompted=[agent.name for agent in agents if registry.prompt(agent.name)],
    )
    named = [str(base.folder.resolve()), "--served-model-name", BASE, "--host", host, "--port", str(port)]
    adapters = [
        ServedAdapter(name, str(champion.path.resolve()), orjson.loads(champion.read("adapter_config.json")))
        for name, champion in champions.items()
    ]
    return vllm_words(base.chat, named, str(template.resolve()), adapters, base.model_id)
