"""The memory of a CUDA training step, measured on fake tensors: no weights, no GPU, the trainer's own code (torch).

Under `FakeTensorMode` all operations of PyTorch, transformers, PEFT and bitsandbytes run on shapes alone. The bytes of
each storage are counted from its birth to its end, rounded up to 512 as CUDA's allocator does. A model of few layers
is measured at two depths and carried on to all layers, since each layer keeps the same. The fake device is a CPU:
`torch.autocast("cuda")` switches itself off without CUDA.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from grokora_pipeline.models.loading import auto_class, shown_layers
from grokora_pipeline.training.adapter import add_adapter
from grokora_pipeline.training.attention import with_layers
from grokora_pipeline.training.gradients import TreeLoss
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import TrainingKnobs

_ROUNDED = 512  # CUDA's allocator gives multiples of so many bytes
_BLOCK, _NESTED_BLOCK = 64, 256  # NF4: weights a scale, and scales a scale of scales


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes: the frozen base, the adapter with its gradient and optimiser states, and the most of a step on top."""

    weights: int
    adapter: int
    activations: int


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations make, and the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage until it ends; a storage that is counted already is not counted again."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // _ROUNDED) * _ROUNDED
        if key in self.alive:
            return
        self.alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def end() -> None:
            """The storage is gone: count it no longer."""
            self.alive.discard(key)
            self.now -= size

        weakref.finalize(storage, end)


def step_memory(
    config: PreTrainedConfig, rows: list[Row], layout: Layout, knobs: TrainingKnobs, *, nf4: bool, checkpointing: bool
) -> StepMemory:
    """What an optimiser step on these rows takes on CUDA, for a model of this config.

    `layout` is the one that training would use; attention is PyTorch's (sdpa), which keeps no square matrix.
    """
    text = config.get_text_config(decoder=True)
    period, total = int(shown_layers(text)), int(text.num_hidden_layers)
    if period == total:
        return _measure(config, rows, layout, knobs, nf4=nf4, checkpointing=checkpointing)
    # Each figure lies on the line through those of two shallow models: weights over all layers, the others over those
    # that are adapted, since the layers below them keep nothing.
    adapted = min(total, knobs.last_layers or total)
    every, depth = knobs.model_copy(update={"last_layers": 0}), min(total, 2 * period)
    short, long = (
        astuple(_measure(with_layers(config, count), rows, layout, every, nf4=nf4, checkpointing=checkpointing))
        for count in (period, depth)
    )
    further = [(count - period) / (depth - period) for count in (total, adapted, adapted)]
    return StepMemory(*(round(a + (b - a) * more) for a, b, more in zip(short, long, further, strict=True)))


def _measure(
    config: PreTrainedConfig, rows: list[Row], layout: Layout, knobs: TrainingKnobs, *, nf4: bool, checkpointing: bool
) -> StepMemory:
    with FakeTensorMode(allow_non_fake_inputs=True), _modules_stay():
        with no_init_weights():  # there is nothing to fill in a fake tensor
            base: PreTrainedModel = auto_class(config).from_config(
                config, dtype=torch.bfloat16, attn_implementation="sdpa", trust_remote_code=False
            )
        base.tie_weights()
        base.requires_grad_(False)
        if nf4:
            _quantise(base)
        model = add_adapter(base, knobs)
        if checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        live = _LiveBytes()
        for tensor in _frozen(model):
            live.add(tensor)
        weights = live.now
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trained:
            live.add(parameter)
            parameter.grad = torch.zeros_like(parameter)
        states = 2 if knobs.optimizer in {"auto", "adamw_8bit", "paged_adamw_8bit"} else 8
        adapter = sum(parameter.numel() for parameter in trained) * (4 + 4 + states)
        for parameter in trained:
            live.add(parameter.grad)
        before = live.now
        losses = TreeLoss(base, layout)
        with live:
            losses.run(layout.of(rows), backward=True)
        return StepMemory(weights, adapter, live.most - before)


@contextmanager
def _modules_stay() -> Iterator[None]:
    """Leave modules where they are made: PEFT moves adapters by `Module.to`, which cannot swap fake tensors."""
    move = nn.Module.to
    nn.Module.to = lambda module, *_, **__: module  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.to = move  # type: ignore[method-assign]


def _quantise(base: PreTrainedModel) -> None:
    """Give every linear layer but the head the tensors that NF4 with double quantisation leaves of it."""
    head = base.get_output_embeddings()
    for name, module in list(base.named_modules()):
        if not isinstance(module, nn.Linear) or module is head:
            continue
        with unset_fake_temporarily():
            layer = Linear4bit(1, 1, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
        count = module.weight.numel()
        scales = -(-count // _BLOCK)
        nested = QuantState(
            absmax=torch.empty(-(-scales // _NESTED_BLOCK)),
            code=torch.empty(256),
            blocksize=_NESTED_BLOCK,
            dtype=torch.float32,
        )
        state = QuantState(
            absmax=torch.empty(scales, dtype=torch.uint8),
            shape=module.weight.shape,
            code=torch.empty(16),
            blocksize=_BLOCK,
            quant_type="nf4",
            dtype=torch.bfloat16,
            offset=torch.zeros(()),
            state2=nested,
        )
        weight: Any = nn.Parameter(torch.empty((-(-count // 2), 1), dtype=torch.uint8), requires_grad=False)
        for attribute, value in {
            "quant_state": state,
            "quant_type": "nf4",
            "compress_statistics": True,
            "blocksize": _BLOCK,
            "bnb_quantized": True,
        }.items():
            setattr(weight, attribute, value)
        layer.in_features, layer.out_features, layer.quant_state = module.in_features, module.out_features, state
        layer._parameters["weight"], layer._parameters["bias"] = weight, module.bias
        base.set_submodule(name, layer)
    base.is_loaded_in_4bit = True


def _frozen(model: PeftModel) -> Iterator[torch.Tensor]:
    """Every tensor of the base, with the scales of its 4-bit weights."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.requires_grad:
            continue
        yield tensor
        state = getattr(tensor, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.state2.absmax)
