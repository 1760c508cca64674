"""Any number of LoRA adapters on one base model, rows of different ones in one forward pass (torch).

Every linear layer's low-rank matrices lie side by side in one stack. A pass computes all of a layer's adapters in two
products: rows @ A of the adapters at hand, times a mask that leaves each row its own adapter's columns, @ B. This is
exact, since what the mask removes is zero, and costs three operations a layer, however many adapters there are.
PEFT's own mixed batches (`adapter_names=`) index, convert and scatter for each adapter and layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from grokora_pipeline.errors import GrokoraError

_PREFIX = "base_model.model."
_SUFFIXES = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True, eq=False, slots=True)
class Adapter:
    """One adapter's matrices by layer name: A [rank, in], and B [rank, out] with the scaling multiplied in."""

    name: str
    weights: dict[str, tuple[Tensor, Tensor]]


@dataclass(slots=True)
class _Stack:
    """One layer's matrices, and which of their rows belong to whom; `chosen` is what this pass needs of them."""

    down: Tensor  # [ranks, in]
    up: Tensor  # [ranks, out]
    ranks: tuple[tuple[Adapter, int], ...] = ()
    chosen: tuple[Tensor, Tensor, Tensor | None] | None = None  # A, B, mask [rows, 1, ranks]

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """The forward hook: the layer's output and what the adapters add to it."""
        if self.chosen is None:
            return None
        down, up, mask = self.chosen
        low = nn.functional.linear(inputs[0], down)
        if mask is not None:
            low = low * mask
        flat = torch.addmm(output.reshape(-1, output.shape[-1]), low.reshape(-1, low.shape[-1]), up)
        return flat.view(output.shape)


@dataclass(slots=True)
class AdapterStack:
    """All adapters on a model. Only the thread that runs the model calls its methods."""

    model: PreTrainedModel
    adapters: list[Adapter] = field(default_factory=list)
    _stacks: dict[str, _Stack] = field(default_factory=dict)

    def install(self, adapter: Adapter) -> None:
        """Put an adapter beside the others."""
        self.adapters.append(adapter)
        for name, (down, up) in adapter.weights.items():
            if name not in self._stacks:
                self._stacks[name] = _Stack(down[:0], up[:0])
                self.model.get_submodule(name).register_forward_hook(self._stacks[name])
            stack = self._stacks[name]
            stack.down, stack.up = torch.cat([stack.down, down]), torch.cat([stack.up, up])
            stack.ranks = (*stack.ranks, (adapter, len(down)))
        adapter.weights.clear()  # they live in the stacks

    def remove(self, adapter: Adapter) -> None:
        """Take an adapter's matrices out of the stacks."""
        self.adapters.remove(adapter)
        for stack in self._stacks.values():
            kept = [place for place, owner in enumerate(_owners(stack.ranks)) if owner is not adapter]
            stack.down, stack.up = stack.down[kept], stack.up[kept]
            stack.ranks = tuple(entry for entry in stack.ranks if entry[0] is not adapter)
            stack.chosen = None

    def activate(self, rows: Sequence[Adapter | None]) -> None:
        """The following passes have these rows; None is the base model."""
        plans: dict[Any, tuple[slice, Tensor | None] | None] = {}
        for stack in self._stacks.values():
            if stack.ranks not in plans:
                plans[stack.ranks] = _plan(stack.ranks, rows, stack.down)
            plan = plans[stack.ranks]
            stack.chosen = plan and (stack.down[plan[0]], stack.up[plan[0]], plan[1])


def _owners(ranks: tuple[tuple[Adapter, int], ...]) -> list[Adapter]:
    return [adapter for adapter, rank in ranks for _ in range(rank)]


def _plan(
    ranks: tuple[tuple[Adapter, int], ...], rows: Sequence[Adapter | None], like: Tensor
) -> tuple[slice, Tensor | None] | None:
    """The part of a stack from the first to the last adapter in use, and the rows' mask on it; no mask where all
    rows have the same adapter."""
    owners = _owners(ranks)
    used = [place for place, owner in enumerate(owners) if owner in rows]
    if not used:
        return None
    part = slice(used[0], used[-1] + 1)
    mask = torch.tensor([[[owner is row for owner in owners[part]]] for row in rows])
    return part, None if mask.all() else mask.to(like)


def read_adapter(name: str, folder: Path, model: PreTrainedModel) -> Adapter:
    """An adapter folder's matrices in the model's dtype and on its device; GrokoraError where it does not fit."""
    refuse = partial(_refusal, folder)
    if not (folder / "adapter_model.safetensors").is_file():
        raise refuse("it holds no adapter_model.safetensors")
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig) or config.use_dora or config.modules_to_save or config.bias != "none":
        raise refuse("only plain LoRA is served (no DoRA, no trained biases or whole modules); serve its merged model")
    tensors = load_file(folder / "adapter_model.safetensors")
    names = {key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in tensors}
    if set(tensors) != {_PREFIX + name + suffix for name in names for suffix in _SUFFIXES}:
        raise refuse("it holds other weights than LoRA's A and B")
    layers = dict(model.named_modules())
    weights = {}
    for layer in sorted(names):
        down, up = (tensors[_PREFIX + layer + suffix] for suffix in _SUFFIXES)
        module = layers.get(layer)
        shape = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if shape != (down.shape[1], up.shape[0]):
            raise refuse(f"its layer {layer} maps {down.shape[1]} to {up.shape[0]} values, the base model's {shape}")
        up = up.T.float() * _scaling(config, layer, len(down))
        if not (down.isfinite().all() and up.isfinite().all()):
            raise refuse(f"its layer {layer} holds values that are no numbers")
        weights[layer] = (down.to(model.device, model.dtype), up.to(model.device, model.dtype).contiguous())
    return Adapter(name, weights)


def _scaling(config: LoraConfig, layer: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) with rank-stabilised LoRA (Kalajdzievski 2023)."""
    alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), layer), config.lora_alpha)
    return float(alpha) / (sqrt(rank) if config.use_rslora else rank)


def _refusal(folder: Path, reason: str) -> GrokoraError:
    return GrokoraError(f"The adapter in {folder} cannot be served on this base model: {reason}.")
