"""`--backend vllm`: the `vllm serve` command that serves the same base and the same champions, from the same registry.

It serves each champion under its agent's name. What is the gateway's own (`auto`, rollouts, recordings) needs the
gateway in front of it: `grokora serve --upstream http://…/v1`.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import orjson

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.template import TEMPLATE_FILE
from grokora_pipeline.serving.gateway.champions import find_base
from grokora_pipeline.store import Artifact, Store
from grokora_pipeline.store.champions import BASE, Registry

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank accepts


def vllm_command(store: Store, agents: Sequence[AgentSpec], host: str, port: int) -> list[str]:
    """The command's words. Raises GrokoraError where the store holds no base model, or one that vLLM cannot prompt."""
    found = find_base(store)
    if found is None:
        raise GrokoraError("base_model is not in the store; materialize it first (`make demo`, or in the UI).")
    folder = found[1].resolve()
    base = store.current("base_model")
    template = base.path / TEMPLATE_FILE if base else Path()
    if not template.is_file() and not ChatFormat.load(folder).has_chat_template:
        raise GrokoraError(f"{found[0]} brings no chat template, so vLLM could not prompt it as it was trained.")
    registry = Registry(store)
    champions = {agent.name: champion for agent in agents if (champion := registry.in_service(agent.name))}
    words = ["vllm", "serve", str(folder), "--served-model-name", BASE, "--host", host, "--port", str(port)]
    # A template that this project uses writes calls as hermes does, whatever the model's family; see models.fit.
    words += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    words += ["--chat-template", str(template.resolve())] if template.is_file() else []
    return words + (_lora_words(champions) if champions else [])


def _lora_words(champions: dict[str, Artifact]) -> list[str]:
    rank = max(_rank(champion) for champion in champions.values())
    allowed = next((size for size in _RANKS if size >= rank), rank)
    modules = [
        orjson.dumps({"name": agent, "path": str(champion.path.resolve()), "base_model_name": BASE}).decode()
        for agent, champion in champions.items()
    ]
    limits = ["--max-loras", str(len(champions)), "--max-lora-rank", str(allowed)]
    return ["--enable-lora", *limits, "--lora-modules", *modules]


def _rank(champion: Artifact) -> int:
    config = orjson.loads((champion.path / "adapter_config.json").read_bytes())
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])


def run_vllm(words: Sequence[str], key: str | None) -> None:
    """Become `vllm serve`; the bearer key travels in the environment. GrokoraError where vLLM is not installed."""
    if shutil.which("vllm") is None:
        raise GrokoraError("vllm is not installed here; `pip install vllm` on a CUDA machine, or see it with --print.")
    os.execvpe("vllm", list(words), {**os.environ, **({"VLLM_API_KEY": key} if key else {})})
