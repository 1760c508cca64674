"""Any number of LoRA and DoRA adapters on one base model, rows of different ones in one forward pass (torch).

Every linear layer's low-rank matrices lie side by side in one stack. A pass computes all of a layer's adapters in two
products: rows @ A of the adapters at hand, times a mask that leaves each row its own adapter's columns, @ B. This is
exact, since what the mask removes is zero, and costs three operations a layer, however many adapters there are.
PEFT's own mixed batches (`adapter_names=`) index, convert and scatter for each adapter and layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.integrations import dequantize_module_weight
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from grokora_pipeline.errors import GrokoraError, one_line
from grokora_pipeline.models.engines import lora_scale

_PREFIX = "base_model.model."
_SUFFIXES = (".lora_A.weight", ".lora_B.weight")
_MAGNITUDE = ".lora_magnitude_vector"


@dataclass(frozen=True, eq=False, slots=True)
class Adapter:
    """One adapter's matrices by layer name: A [rank, in], and B [rank, out] with the scaling multiplied in; with DoRA
    also what multiplies the base's own output [out]."""

    name: str
    weights: dict[str, tuple[Tensor, Tensor]]
    scales: dict[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class _Stack:
    """One layer's matrices, and which of their rows belong to whom; `chosen` is what this pass needs of them."""

    owner: "AdapterStack"
    down: Tensor  # [ranks, in]
    up: Tensor  # [ranks, out]
    owners: tuple[Adapter, ...] = ()  # of each rank
    scales: dict[Adapter, Tensor] = field(default_factory=dict)  # of DoRA adapters, [out]
    scale: Tensor | None = None  # of this pass, [rows, 1, out]
    chosen: tuple[Tensor, Tensor, Tensor | None] | None = None  # A, B, [rows, 1, ranks] True where not a row's own

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """The forward hook: the layer's output and what the adapters add to it."""
        if self.chosen is None:
            return None
        if self.scale is not None:
            bias = getattr(module, "bias", None)
            own = output if bias is None else output - bias  # DoRA does not scale the bias
            output = output + own * (self._of_tokens(self.scale, own) - 1)
        down, up, others = self.chosen
        low = nn.functional.linear(inputs[0], down)
        if others is not None:
            low = low.masked_fill(self._of_tokens(others, low), 0)  # times 0 would keep another adapter's inf as nan
        flat = torch.addmm(output.reshape(-1, output.shape[-1]), low.reshape(-1, low.shape[-1]), up)
        return flat.view(output.shape)

    def _of_tokens(self, of_rows: Tensor, values: Tensor) -> Tensor:
        """What holds for rows [rows, 1, …] in the shape of a layer's values. Some layers flatten rows and tokens (OPT,
        shared experts). RuntimeError if the layer has some tokens only: then nobody can tell whose they are."""
        rows = len(of_rows)
        if rows == 1 or (values.dim() == 3 and len(values) == rows):
            return of_rows if values.dim() == 3 else of_rows[:, 0]
        if values.dim() == 2 and len(values) == rows * self.owner.tokens:
            return of_rows[:, 0].repeat_interleave(self.owner.tokens, 0)
        raise RuntimeError(f"a layer with an adapter mixes rows: it has values of {list(values.shape)} for {rows} rows")


@dataclass(slots=True)
class AdapterStack:
    """All adapters on a model. Only the thread that runs the model calls its methods. `tokens`: of each row of a pass,
    padding included."""

    model: PreTrainedModel
    adapters: list[Adapter] = field(default_factory=list)
    tokens: int = 0
    _stacks: dict[str, _Stack] = field(default_factory=dict)

    def install(self, adapter: Adapter) -> None:
        """Put an adapter beside the others."""
        self.adapters.append(adapter)
        for name, (down, up) in adapter.weights.items():
            if name not in self._stacks:
                self._stacks[name] = _Stack(self, down[:0], up[:0])
                self.model.get_submodule(name).register_forward_hook(self._stacks[name])
            stack = self._stacks[name]
            stack.down, stack.up = torch.cat([stack.down, down]), torch.cat([stack.up, up])
            stack.owners += (adapter,) * len(down)
            if name in adapter.scales:
                stack.scales[adapter] = adapter.scales[name]
        adapter.weights.clear()  # they live in the stacks

    def remove(self, adapter: Adapter) -> None:
        """Take an adapter's matrices out of the stacks."""
        self.adapters.remove(adapter)
        for stack in self._stacks.values():
            kept = [index for index, owner in enumerate(stack.owners) if owner is not adapter]
            stack.down, stack.up = stack.down[kept], stack.up[kept]
            stack.owners = tuple(stack.owners[index] for index in kept)
            stack.scales.pop(adapter, None)
            stack.chosen = None

    def activate(self, rows: Sequence[Adapter | None], tokens: int = 0) -> None:
        """Choose the adapter of each row in the following passes, None for the base model; `tokens` of each row."""
        self.tokens = tokens
        plans: dict[Any, tuple[slice, Tensor | None] | None] = {}
        for stack in self._stacks.values():
            if stack.owners not in plans:
                plans[stack.owners] = _plan(stack.owners, rows, stack.down)
            plan = plans[stack.owners]
            stack.chosen = plan and (stack.down[plan[0]], stack.up[plan[0]], plan[1])
            stack.scale = None
            if any(row in stack.scales for row in rows):
                ones = torch.ones_like(next(iter(stack.scales.values())))
                # rows of one adapter share a vector, so that its layer may see any of their tokens
                alike = all(row is rows[0] for row in rows)
                of_rows = [stack.scales.get(row, ones) if row else ones for row in ([rows[0]] if alike else rows)]
                stack.scale = torch.stack(of_rows)[:, None]


def _plan(
    owners: tuple[Adapter, ...], rows: Sequence[Adapter | None], like: Tensor
) -> tuple[slice, Tensor | None] | None:
    """The part of a stack from the first to the last adapter in use, and the rows' mask on it; no mask if all
    rows have the same adapter."""
    used = [index for index, owner in enumerate(owners) if owner in rows]
    if not used:
        return None
    part = slice(used[0], used[-1] + 1)
    mask = torch.tensor([[[owner is not row for owner in owners[part]]] for row in rows])
    return part, mask.to(like.device) if mask.any() else None


def read_adapter(name: str, folder: Path, model: PreTrainedModel) -> Adapter:
    """An adapter folder's matrices in the model's dtype and on its device; GrokoraError if it does not fit."""

    def refuse(reason: str) -> GrokoraError:
        """The error that says why the adapter cannot be served."""
        return GrokoraError(f"The adapter in {folder} cannot be served on this base model: {reason}.")

    if not (folder / "adapter_model.safetensors").is_file():
        raise refuse("it holds no adapter_model.safetensors")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise refuse(f"it cannot be read ({type(error).__name__}: {one_line(error)})") from error
    if not isinstance(config, LoraConfig) or config.modules_to_save or config.bias != "none":
        raise refuse("only LoRA and DoRA are served (no trained biases or whole modules); serve its merged model")
    suffixes = (*_SUFFIXES, _MAGNITUDE) if config.use_dora else _SUFFIXES
    names = {key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in tensors}
    if set(tensors) != {_PREFIX + name + suffix for name in names for suffix in suffixes}:
        raise refuse("it holds other weights than LoRA's A and B")
    layers = dict(model.named_modules())
    adapter = Adapter(name, {})
    for layer in sorted(names):
        down, up = (tensors[_PREFIX + layer + suffix].float() for suffix in _SUFFIXES)
        module = layers.get(layer)
        # (inputs, outputs) of a linear layer; GPT-2's Conv1D is one, with other names for them
        names_of_shape = ("nx", "nf") if isinstance(module, Conv1D) else ("in_features", "out_features")
        shape = tuple(getattr(module, size, None) for size in names_of_shape)
        if down.dim() != 2 or up.dim() != 2 or len(down) != up.shape[1] or shape != (down.shape[1], up.shape[0]):
            raise refuse(f"its layer {layer} maps {down.shape[-1]} to {up.shape[0]} values, the base model's {shape}")
        up = up * lora_scale(vars(config), layer, len(down))
        if config.use_dora:
            # y = m / |W + BA| * (W x + BA x), norms by output (arXiv 2402.09353, section 4.3)
            weight = dequantize_module_weight(module).float().cpu()
            weight = weight.T if isinstance(module, Conv1D) else weight
            scale = tensors[_PREFIX + layer + _MAGNITUDE].float() / torch.linalg.norm(weight + up @ down, dim=1)
            up = up * scale[:, None]
            adapter.scales[layer] = scale.to(model.device, model.dtype)
        if not (down.isfinite().all() and up.isfinite().all()):
            raise refuse(f"its layer {layer} holds values that are no numbers")
        matrices = (down, up.T.contiguous())
        adapter.weights[layer] = (matrices[0].to(model.device, model.dtype), matrices[1].to(model.device, model.dtype))
    return adapter
