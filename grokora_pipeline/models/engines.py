"""What another engine than this project's has to be told, so that it answers as an agent's champion does here.

`grokora export`, the asset `A/export` and `grokora serve --backend vllm` all ask here. An engine that cannot do what a
champion was trained with is refused in one sentence, since it would answer fluently and wrongly.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.answers import AnswerForm
from grokora_pipeline.models.chat import ChatFormat, read_json, text_settings
from grokora_pipeline.models.messages import Message

NAMES = {"gguf": "llama.cpp", "ollama": "Ollama", "vllm": "vLLM", "mlx": "mlx-lm", "peft": "PEFT"}
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank accepts
# vLLM's parser by how the effective template writes a call; the first pattern that is found.
_TOOL_PARSERS = {
    r"<tool_call>\s*<function=": "qwen3_coder",
    r"<tool_call>\s*[{\[]": "hermes",
    r"\[TOOL_CALLS\]": "mistral",
    r"<\|python_tag\|>|^\s*\{\s*\"name\"": "llama3_json",
    r"<\|tool_call\|>\s*\[": "granite",
}
# The settings of PEFT's LoRA with which an adapter is pairs of A and B, added to the base's own weights.
_PAIRS = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "bias"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights", "eva_config"),
    *("megatron_core", "qalora_group_size"),
}
_TOOL: Message = {"type": "function", "function": {"name": "zq7tool", "parameters": {"properties": {"zq7key": {}}}}}
_CALL: Message = {"id": "zq7call01", "type": "function", "function": {"name": "zq7tool", "arguments": {"zq7key": 1}}}


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """An agent's adapter as an engine gets it: its folder, as the command names it, and its `adapter_config.json`."""

    agent: str
    path: str
    config: Mapping[str, Any]


def refuse_agents(engine: str, *, toon: Sequence[str] = (), prompted: Sequence[str] = ()) -> str:
    """GrokoraError if `engine` cannot prompt these agents as they were trained; else what its caller must do itself.

    `toon`: agents whose payloads are TOON; `prompted`: agents with a fixed prompt in service.
    """
    name = NAMES[engine]
    if prompted:
        raise GrokoraError(
            f"{', '.join(prompted)} has a fixed prompt in service, which {name} does not add; serve it by the gateway."
        )
    if toon and engine != "peft":
        raise GrokoraError(
            f"{', '.join(toon)} reads payloads as TOON, which {name} does not write; serve it by the gateway, or train "
            "it anew with `payload_format: json`."
        )
    return "Write JSON in prompts as TOON (grokora_pipeline.datasets.toon.encode_message), as training did." * bool(
        toon
    )


def vllm_words(
    chat: ChatFormat, base: Sequence[str], template: str, adapters: Sequence[ServedAdapter], model_id: str
) -> list[str]:
    """`vllm serve` for a base (the words that name it) and adapters on it, each under its agent's name.

    `template` is the file of the effective chat template. GrokoraError if vLLM cannot apply an adapter, or has no
    parser for the calls or the reasoning that the template writes.
    """
    for adapter in adapters:
        if name := beyond_pairs(adapter.config):
            raise GrokoraError(f"vLLM serves no adapter that was trained with {name}; export --to peft, merge it.")
    words = ["vllm", "serve", *base, "--chat-template", template]
    # Judged were greedy answers; a base's own generation_config.json may sample, or punish repetition.
    words += ["--generation-config", "vllm", "--override-generation-config", '{"temperature": 0.0}']
    words += ["--enable-auto-tool-choice", "--tool-call-parser", tool_parser(chat)]
    if parser := reasoning_parser(chat.form, model_id):
        words += ["--reasoning-parser", parser]
    if adapters:
        rank = max(adapter_rank(adapter.config) for adapter in adapters)
        rank = next((size for size in _VLLM_RANKS if size >= rank), rank)
        words += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(rank)]
        named = ({"name": one.agent, "path": one.path, "base_model_name": "base"} for one in adapters)
        words += ["--lora-modules", *(json.dumps(module) for module in named)]
    return words


def beyond_pairs(config: Mapping[str, Any]) -> str:
    """The setting of an `adapter_config.json` that makes it more than pairs of A and B, which engines leave out or
    misread; "" if there is none. A setting that nobody here knows counts, too.
    """
    if config.get("peft_type", "LORA") != "LORA":
        return f"peft_type {config.get('peft_type')}"
    start = config.get("init_lora_weights", True)
    if start not in (True, False, "gaussian", "orthogonal", "eva"):  # others take what they start with out of the base
        return f"init_lora_weights {start}"
    if config.get("bias", "none") != "none":
        return f"bias {config['bias']}"
    return next((name for name, value in config.items() if value and name not in _PAIRS), "")


def tool_parser(chat: ChatFormat) -> str:
    """vLLM's parser of the calls that the effective template writes; GrokoraError if it has none.

    A made-up call is rendered: a model's own template and the one that is used may write calls differently.
    """
    ask, answer = {"role": "user", "content": "zq7ask"}, {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    text = chat.render_completion([ask], [answer], [_TOOL])
    for pattern, parser in _TOOL_PARSERS.items():
        if re.search(pattern, text):
            return parser
    raise GrokoraError(f"vLLM has no parser that is known here for calls written as {text.strip()[:60]!r}.")


def reasoning_parser(form: AnswerForm, model_id: str) -> str:
    """vLLM's parser of the reasoning that the template writes, "" if it writes none; GrokoraError if there is none.

    Without a parser vLLM leaves the reasoning in the content, while the gateway has it in `reasoning_content`.
    """
    if not form.closing:
        return ""
    if "</think>" not in form.closing:
        raise GrokoraError(
            f"{model_id} ends its reasoning with {form.closing.strip()!r}, for which no parser is known."
        )
    # If the prompt opens the reasoning, all that stands before `</think>` is reasoning; `qwen3` waits for `<think>`.
    return "qwen3" if "<think>" in form.opening else "deepseek_r1"


def state_layers(base: Path) -> list[str]:
    """The kinds of a base's layers that keep a state instead of keys and values, such as `mamba`; [] if none."""
    config = text_settings(read_json(base / "config.json"))
    kinds = {*map(str, config.get("layer_types") or config.get("layers_block_type") or ())}
    kinds |= {str(config.get("model_type"))} & {"mamba", "mamba2", "falcon_mamba", "rwkv"}
    return sorted(kinds - {"full_attention", "sliding_attention", "chunked_attention", "attention"})


def lora_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """PEFT's scale of a module: alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023).

    A pattern of `alpha_pattern` is a regex for the end of a module's name.
    """
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(patterns.keys(), module), config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def adapter_rank(config: Mapping[str, Any]) -> int:
    """The largest rank of an adapter's layers, by its `adapter_config.json`."""
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
