"""A fresh LoRA adapter on a base model, and an adapter folder that holds nothing of this machine (torch)."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import file_sha256
from grokora_pipeline.training.plan import TrainingKnobs


def add_adapter(base: PreTrainedModel, knobs: TrainingKnobs) -> PeftModel:
    """The base with a LoRA adapter whose weights are fp32 and whose initial effect is none (B = 0)."""
    if knobs.target_modules != "all-linear":
        _check_targets(base, knobs.target_modules)
    targets = "all-linear" if knobs.target_modules == "all-linear" else list(knobs.target_modules)
    config = LoraConfig(
        r=knobs.rank,
        lora_alpha=knobs.alpha,
        lora_dropout=knobs.dropout,
        use_rslora=knobs.rslora,
        use_dora=knobs.dora,
        target_modules=targets,
        task_type="CAUSAL_LM",
        bias="none",
    )
    torch.manual_seed(knobs.seed)
    model: PeftModel = get_peft_model(base, config)
    keep_fp32(model)
    return model


def keep_fp32(model: PeftModel) -> None:
    """Adapter weights in fp32, and no cast of activations to fp32: autocast computes in the base's dtype instead."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and next(model.parameters()).dtype != torch.float32:
            module.cast_input_dtype_enabled = False


def _check_targets(base: PreTrainedModel, targets: tuple[str, ...]) -> None:
    known = sorted(
        {name.rpartition(".")[2] for name, module in base.named_modules() if _is_linear(module)} - {"lm_head"}
    )
    for target in targets:
        if target.rpartition(".")[2] not in known:
            raise GrokoraError(
                f"Training knob target_modules: this model has no layer {target!r}; it has {', '.join(known)}."
            )


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) or "Linear" in type(module).__name__


def trainable_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
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
    config = {name: _plain(value) for name, value in model.peft_config["default"].to_dict().items()}
    config |= {"base_model_name_or_path": base_id, "inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set | frozenset) else value


def write_checksums(folder: Path) -> None:
    """`checksums.json`: the SHA-256 of every other file below the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "checksums.json")
    sums = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
