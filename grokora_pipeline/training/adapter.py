"""A fresh LoRA adapter on a base model, and an adapter folder that holds nothing of this machine (torch)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import file_sha256
from grokora_pipeline.training.attention import decoder_layers
from grokora_pipeline.training.plan import TrainingKnobs

# Experts and what chooses among them, which may have layers of its own (Zaya: `mlp.gate.router_mlp.fc1`).
_ROUTED = re.compile(r"(^|\.)(experts|\w*router\w*|gate)(\.|$)|gate$")
# A mixer's fused CUDA kernel reads these weights past the layer, so that an adapter on them would not act (PEFT refuses
# out_proj for five such architectures).
_READ_BY_KERNELS = {"out_proj", "x_proj", "dt_proj"}


def add_adapter(base: PreTrainedModel, knobs: TrainingKnobs) -> PeftModel:
    """The base with a LoRA adapter whose weights are fp32 and whose initial effect is none (B = 0).

    GrokoraError if the knob `target_modules` names a layer that the model does not have, or not among `last_layers`.
    """
    silence_noise(base)
    if isinstance(knobs.target_modules, str):
        targets = adapted_modules(base, knobs.target_modules)
    else:
        targets = list(knobs.target_modules)
        known = {name.rpartition(".")[2] for name, module in base.named_modules() if _is_linear(module)} - {"lm_head"}
        for target in targets:
            if target.rpartition(".")[2] not in known:
                raise GrokoraError(
                    f"Training knob target_modules: this model has no layer {target!r}; it has "
                    f"{', '.join(sorted(known))}."
                )
    if knobs.last_layers:
        targets = _in_last_layers(base, targets, knobs.last_layers)
    config = LoraConfig(
        r=knobs.rank,
        lora_alpha=knobs.alpha,
        lora_dropout=knobs.dropout,
        use_rslora=knobs.rslora,
        use_dora=knobs.dora,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.modules()),
        task_type="CAUSAL_LM",
        bias="none",
    )
    torch.manual_seed(knobs.seed)
    model: PeftModel = get_peft_model(base, config)
    keep_fp32(model)
    return model


def silence_noise(base: PreTrainedModel) -> None:
    """Turn off the dropout and router jitter that a base's config asks for (GPT-2: 0.1).

    They belong to its pre-training; rows that share a prefix would share their noise. The knob `dropout` is LoRA's.
    """
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):  # attention applies its dropout by a function, not a module
            if isinstance(value, float) and any(word in name for word in ("dropout", "pdrop", "jitter")):
                setattr(module, name, 0.0)


def has_experts(base: PreTrainedModel) -> bool:
    """Whether the model is a mixture of experts."""
    return any(name.rpartition(".")[2] == "experts" for name, _ in base.named_modules())


def _name_of(part: nn.Module, base: PreTrainedModel) -> str:
    """The full name of a part of a model."""
    names: dict[nn.Module, str] = {module: name for name, module in base.named_modules()}
    return names[part]


def adapted_modules(base: PreTrainedModel, kind: Literal["all-linear", "mlp"] = "all-linear") -> list[str]:
    """The linear layers of the text decoder that `kind` stands for, by the last part of their names.

    `mlp` leaves out those of attention if there are others (a mixture of experts may have none). Always left out
    are the experts of a mixture and their router (no server takes an adapter on them: vLLM, llama.cpp and this
    project's engine alike), image encoders, and the layers that a recurrent mixer's fused kernel reads by itself. Full
    names are returned if a layer that is left out has the same last name.
    """
    linear = {name for name, module in base.named_modules() if _is_linear(module)}
    layers, inside = decoder_layers(base), dict[str, nn.Module]()
    prefix = _name_of(layers, base)
    for name, module in layers.named_modules():
        inside[f"{prefix}.{name}"] = module
    mixers = {
        name for name, module in inside.items() if any(isinstance(child, nn.Conv1d) for child in module.children())
    }
    routed = has_experts(base)
    # PEFT renames these to the fused experts of transformers 5, even if a shared expert's layer is meant
    conversion = _MODEL_TO_CONVERSION_PATTERN.get(base.config.model_type, "")
    renamed = _MOE_TARGET_MODULE_MAPPING.get(conversion, {}) if routed else {}
    chosen = {
        name
        for name in linear & inside.keys()
        if not (routed and (_ROUTED.search(name) or name.rpartition(".")[2] in renamed))
        and not (name.rpartition(".")[0] in mixers and name.rpartition(".")[2] in _READ_BY_KERNELS)
    }
    if not chosen:
        raise GrokoraError(
            f"{type(base).__name__} has no linear layer that an adapter can be put on; give another model."
        )
    attention = tuple(
        f"{prefix}.{index}.{name}."
        for index, layer in enumerate(layers)
        for name, module in layer.named_modules()
        if name and "Attention" in type(module).__name__  # Jamba calls a whole layer that
    )
    if kind == "mlp":
        chosen = {name for name in chosen if not name.startswith(attention)} or chosen
    last = {name.rpartition(".")[2] for name in chosen}
    others = {name for name, _ in base.named_modules()} - chosen  # a layer in a list is called "0", as the decoder's
    shadowed = any(name.rpartition(".")[2] in last for name in others)
    return sorted(chosen if shadowed else last)


def _in_last_layers(base: PreTrainedModel, targets: Sequence[str], count: int) -> list[str]:
    """The full names of the linear layers that `targets` name, in the decoder's last `count` layers only.

    No gradient has to reach the layers below: their backward pass, a third of a step's work, is not made.
    """
    layers = decoder_layers(base)
    prefix = _name_of(layers, base)
    kept = tuple(f"{prefix}.{index}." for index in range(len(layers))[-count:])
    linear = (name for name, module in base.named_modules() if _is_linear(module) and name.startswith(kept))
    chosen = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
    if not chosen:
        raise GrokoraError(
            f"The last {count} of {len(layers)} layers have none of {', '.join(targets)}; raise the knob last_layers."
        )
    return chosen


def keep_fp32(model: PeftModel) -> None:
    """Adapter weights in fp32, and no cast of activations to fp32: autocast computes in the base's dtype instead."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and next(model.parameters()).dtype != torch.float32:
            module.cast_input_dtype_enabled = False


def _is_linear(module: nn.Module) -> bool:
    # Not by its name: "Linear" stands in the name of every class of Kimi-Linear. bitsandbytes' layers are `nn.Linear`s.
    if not isinstance(module, nn.Linear) or type(module).__module__.startswith(("torch.", "bitsandbytes.")):
        return isinstance(module, nn.Linear | Conv1D)
    try:  # a subclass may map other shapes: DeepSeek-V4's takes groups of heads, each with weights of its own
        like = torch.zeros(1, 1, module.in_features, dtype=module.weight.dtype, device=module.weight.device)
        return bool(module(like).shape == (1, 1, module.out_features))
    except (RuntimeError, TypeError, AttributeError):
        return False


def trainable_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """The adapter's parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def base_parameters(model: PeftModel) -> int:
    """How many parameters the base has; a tensor packed to 4 bits says how many it stands for."""
    frozen = (parameter for parameter in model.parameters() if not parameter.requires_grad)
    states = ((getattr(parameter, "quant_state", None), parameter) for parameter in frozen)
    return sum((state.shape if state is not None else parameter.shape).numel() for state, parameter in states)


def adapter_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors as PEFT stores them; never asks the hub about the base model's vocabulary."""
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}


def save_adapter(model: PeftModel, folder: Path, base_id: str) -> None:
    """Write adapter_model.safetensors and adapter_config.json; the same adapter gives the same bytes."""
    save_file(adapter_weights(model), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    values = model.peft_config["default"].to_dict()
    config = {name: sorted(value) if isinstance(value, set | frozenset) else value for name, value in values.items()}
    config |= {"base_model_name_or_path": base_id, "inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def write_checksums(folder: Path) -> None:
    """`checksums.json`: the SHA-256 of every other file below the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "checksums.json")
    sums = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Whether every file of an adapter folder is as its checksums say; a power cut may leave empty files behind."""
    try:
        sums = json.loads((folder / "checksums.json").read_bytes())
        return all(file_sha256(folder / name) == checksum for name, checksum in sums.items())
    except (OSError, ValueError):
        return False
