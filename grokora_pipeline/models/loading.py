"""Base models and adapters in memory: device, dtype, quantisation (torch)."""

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    BitsAndBytesConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import get_layer_types_and_kwargs

from grokora_pipeline.errors import GrokoraError, one_line
from grokora_pipeline.workers.lease import leased_cpus

Quantisation = Literal["none", "nf4", "int8"]


def choose_device() -> torch.device:
    """The process's own CUDA device if there is one (LOCAL_RANK among those visible), else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def choose_dtype(device: torch.device) -> torch.dtype:
    """bf16 if the hardware multiplies it natively, else fp32: emulated bf16 is slower, fp16 needs loss scaling."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    abilities = torch.cpu.get_capabilities()
    native = any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16", "sve_bf16"))
    return torch.bfloat16 if native else torch.float32


@cache
def all_threads() -> int:
    """The threads that torch computes with if this process has all cores: as many as there were at the first call."""
    return torch.get_num_threads()


def share_cores() -> None:
    """Compute with this process's share of the cores, now: a half of them while another process has the CPU's other
    slot leased. Called before each piece of work, since the other one may begin or end at any time.

    Beside other work on two cores a training's step with one thread takes 5 % less CPU than with two, and 500 switches
    between threads instead of 24,000 (in turns): at the end of every operation each thread waits for the last.
    """
    threads = max(1, all_threads() // max(1, leased_cpus()))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def load_base(
    path: Path | str,
    *,
    quantisation: Quantisation = "none",
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """The base model, frozen, on its device.

    A quantised one is ready for k-bit training: PEFT's `prepare_model_for_kbit_training` would turn what is not
    quantised into fp32, which for the embeddings and head of an 8B model takes 2 GiB more, and autocast from the rest.
    """
    device = device or choose_device()
    dtype = dtype or choose_dtype(device)
    # The attention implementation is transformers' choice: sdpa if the architecture has it, else eager.
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "use_safetensors": True}
    if quantisation != "none":
        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
        bits = {"load_in_8bit": True} if quantisation == "int8" else {"load_in_4bit": True, **nf4}
        options |= {"quantization_config": BitsAndBytesConfig(**bits), "device_map": {"": device}}
    try:
        kind = auto_class(AutoConfig.from_pretrained(str(path), trust_remote_code=False))
        model, info = kind.from_pretrained(str(path), output_loading_info=True, **options)
    except (OSError, ValueError) as error:
        raise GrokoraError(
            f"The model in {path} cannot be loaded ({one_line(error)}); materialize base_model again."
        ) from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise GrokoraError(f"The weights in {path} are not of the shapes that its config.json says.") from error
    if missing := sorted(info["missing_keys"]):  # transformers fills them with random numbers and only warns
        raise GrokoraError(f"The model in {path} lacks {len(missing)} weights, such as {missing[0]}; fetch it again.")
    if quantisation == "none":
        model.to(device)
    if quantisation == "nf4":
        from bitsandbytes.nn import Linear4bit

        # On a CPU, bitsandbytes repacks a weight at its first pass in eval mode; no gradient flows through it after.
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    frozen: PreTrainedModel = model.eval()
    return frozen


def auto_class(config: PreTrainedConfig) -> Any:
    """The transformers class that loads a model of this config for text; GrokoraError if there is none.

    Models that read pictures (Mistral 3, Qwen3-VL) or hear (Voxtral) are no causal language models to transformers,
    and write text alike.
    """
    for kind in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        # A text model within the whole one must be one that can be loaded again: Mllama's has no class for its config.
        if type(config) in kind._model_mapping:
            model = kind._model_mapping[type(config)]
            readable = model.config_class is type(config) or model.config_class in kind._model_mapping
            # Qwen-Omni's whole is parts without a pass; DiffusionGemma and PI0 write no token after the other
            if readable and model.forward is not torch.nn.Module.forward and issubclass(model, GenerationMixin):
                return kind
    raise GrokoraError(f"Models of type {config.model_type!r} write no text; give a causal language model.")


def shown_layers(text: PreTrainedConfig) -> int:
    """How many of the first layers of a text config show every kind of layer that it has; two at least.

    GrokoraError if it has no number of layers (BLT: several models, one after the other), or none of them has keys of
    its own (Gemma-4's assistants, which draft for another model and read its keys).
    """
    total = getattr(text, "num_hidden_layers", None)
    if not isinstance(total, int):
        raise GrokoraError(f"Models of type {text.model_type!r} are no single stack of layers; give another model.")
    own = total - (getattr(text, "num_kv_shared_layers", 0) or 0)  # Gemma 3n: the last ones use the keys of others
    if own <= 0:
        raise GrokoraError(f"Models of type {text.model_type!r} read the keys of another model; give that one.")
    mlps = getattr(text, "mlp_layer_types", None) or [""] * total  # DeepSeek: the first ones are dense
    layers = list(zip(get_layer_types_and_kwargs(text)[0][:own], mlps, strict=False)) or [("", "")]
    dense = getattr(text, "first_k_dense_replace", 0) or 0
    shown = max(2, 1 + max(layers.index(kind) for kind in set(layers)), dense + 1)
    if text.model_type == "zamba":  # its hybrid layers share their weights, which takes two of them
        shown += 1 + [kind for kind, _ in layers[shown:]].index("hybrid")
    return min(total, shown)


def reads_prompt_both_ways(model: PreTrainedModel) -> bool:
    """Whether every token of a prompt sees all of the prompt (PaliGemma), so that a pass must know where it ends."""
    both_ways = getattr(model.config.get_text_config(decoder=True), "use_bidirectional_attention", None) is True
    return both_ways and "token_type_ids" in inspect.signature(model.forward).parameters


def prompt_marks(model: PreTrainedModel, ids: torch.Tensor, prompts: Sequence[int]) -> dict[str, torch.Tensor]:
    """What the model's `forward` and `generate` take beside ids [B, T] whose first `prompts[i]` are row i's prompt.

    Nothing, unless a prompt is read in both directions: then 0 for the prompt's tokens and 1 for those that follow.
    """
    if not reads_prompt_both_ways(model):
        return {}
    ends = torch.tensor(prompts, device=ids.device)[:, None]
    return {"token_type_ids": (torch.arange(ids.shape[1], device=ids.device) >= ends).long()}


def load_adapter(base: PreTrainedModel | PeftModel, adapter: Path | str, *, name: str = "default") -> PeftModel:
    """The base with a LoRA adapter on top, beside those it has, for inference; only safetensors weights are read."""
    weights = Path(adapter) / "adapter_model.safetensors"
    if not weights.is_file():
        raise GrokoraError(f"{adapter} holds no adapter_model.safetensors; materialize lora_adapter first.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # see `set_adapter_weights`
        if isinstance(base, PeftModel):
            base.load_adapter(str(adapter), adapter_name=name, use_safetensors=True)
            model = base
        else:
            model = PeftModel.from_pretrained(base, str(adapter), adapter_name=name, use_safetensors=True)
    set_adapter_weights(model, load_file(weights), name)
    return model.eval()


@torch.no_grad()
def set_adapter_weights(model: PeftModel, weights: Mapping[str, torch.Tensor], name: str = "default") -> None:
    """Put weights, by the names that PEFT stores, into the adapter `name`; GrokoraError if it needs others.

    PEFT's loaders rename an adapter's keys as transformers renames the keys of the base's checkpoints, and only warn of
    those that are then missing. A pattern that matches its own result (Laguna's `shared_expert.`) loses layers so; keys
    that are the model's own need no renaming.
    """
    own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if own.keys() == weights.keys():
        for key, parameter in own.items():  # it shares its memory with the model's
            parameter.copy_(weights[key])
        return
    loaded = set_peft_model_state_dict(model, dict(weights), adapter_name=name)
    if missing := [key for key in loaded.missing_keys if ".lora_" in key and f".{name}" in key]:
        raise GrokoraError(f"The adapter lacks {len(missing)} weights, such as {missing[0]}; train it anew.")
