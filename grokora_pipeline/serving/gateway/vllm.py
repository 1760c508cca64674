"""`--backend vllm`: the `vllm serve` command that serves the same base and the same champions, from the same registry.

It serves each champion under its agent's name. What is the gateway's own (`auto`, rollouts, redaction, recordings)
needs the gateway in front of it: `grokora serve --upstream http://…/v1`.
"""

import os
import shutil
from collections.abc import Sequence

import orjson

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.answers import AnswerForm
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.handover import max_lora_rank
from grokora_pipeline.models.template import TEMPLATE_FILE
from grokora_pipeline.serving.gateway.champions import find_base
from grokora_pipeline.store import Artifact, Store
from grokora_pipeline.store.champions import BASE, Registry


def vllm_command(store: Store, agents: Sequence[AgentSpec], host: str, port: int) -> list[str]:
    """The command's words. Raises GrokoraError where vLLM would not prompt or read the models as they were trained."""
    located, base = find_base(store), store.current("base_model")
    if located is None or base is None:
        raise GrokoraError("base_model is not in the store; materialize it first (`make demo`, or in the UI).")
    model_id, folder = located
    template = base.path / TEMPLATE_FILE
    if not template.is_file():
        raise GrokoraError(
            f"{base.path} has no {TEMPLATE_FILE}, without which vLLM would prompt {model_id} otherwise than it was "
            "trained; materialize base_model again."
        )
    registry = Registry(store)
    champions = {agent.name: champion for agent in agents if (champion := registry.in_service(agent.name))}
    if prompted := [agent.name for agent in agents if registry.prompt(agent.name)]:
        raise GrokoraError(
            f"{', '.join(prompted)} has a fixed prompt in service, which vLLM does not add; use the gateway's backend."
        )
    toon = [agent.name for agent in agents if agent.payload_format == "toon" and agent.name in champions]
    if toon:
        raise GrokoraError(
            f"{', '.join(toon)} reads payloads as TOON, which vLLM does not write; use the gateway's own backend."
        )
    words = ["vllm", "serve", str(folder.resolve()), "--served-model-name", BASE, "--host", host, "--port", str(port)]
    # The effective template writes calls as hermes does, whatever the model's family: models.fit takes no template
    # whose calls `parse_calls` does not read back.
    words += ["--chat-template", str(template.resolve()), "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    words += _reasoning_words(model_id, ChatFormat.load(folder).form)
    return words + (_lora_words(champions) if champions else [])


def _reasoning_words(model_id: str, form: AnswerForm) -> list[str]:
    """Without a parser vLLM leaves the reasoning in the content, where the gateway has it in `reasoning_content`."""
    if not form.closing:
        return []
    if "</think>" not in form.closing:
        raise GrokoraError(
            f"{model_id} ends its reasoning with {form.closing.strip()!r}, for which no parser is known."
        )
    # Where the prompt opens the reasoning, all that stands before `</think>` is reasoning; `qwen3` waits for `<think>`.
    return ["--reasoning-parser", "qwen3" if "<think>" in form.opening else "deepseek_r1"]


def _lora_words(champions: dict[str, Artifact]) -> list[str]:
    configs = (orjson.loads((champion.path / "adapter_config.json").read_bytes()) for champion in champions.values())
    modules = [
        orjson.dumps({"name": agent, "path": str(champion.path.resolve()), "base_model_name": BASE}).decode()
        for agent, champion in champions.items()
    ]
    limits = ["--max-loras", str(len(champions)), "--max-lora-rank", str(max_lora_rank(*configs))]
    return ["--enable-lora", *limits, "--lora-modules", *modules]


def run_vllm(words: Sequence[str], key: str | None) -> None:
    """Become `vllm serve`; the bearer key travels in the environment. GrokoraError where vLLM is not installed."""
    if shutil.which("vllm") is None:
        raise GrokoraError("vllm is not installed here; `pip install vllm` on a CUDA machine, or see it with --print.")
    os.execvpe("vllm", list(words), {**os.environ, **({"VLLM_API_KEY": key} if key else {})})
