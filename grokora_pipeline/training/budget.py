"""Peak memory predicted before the run, and the micro-batch that keeps it below the cap.

Bytes, for a decoder of L layers with hidden size h, attention width q (heads x head size), MLP width f, vocabulary V:

- weights: what the loaded parameters occupy (measured: packed 4-bit parameters and their constants included)
- adapter: 4 for each weight, 4 for its gradient, and the optimiser's 8 (AdamW) or 2 (8-bit)
- activations, a token and layer, in the compute dtype of s bytes: 4n for the fp32 inputs of norms whose widths sum up
  to n (Llama: 2h; Gemma-3, Qwen3: more), and s (2h + 3q + q + 4f) for what the LoRA and attention matmuls and the
  gated MLP keep; `short` attention keeps s bytes a head and key. With checkpointing: s h, and one layer in full.
- logits, a token of those that have logits at once, on CUDA: 14 V (bf16 logits, their fp32 copy, its softmax and its
  gradient); on a CPU V (2s + 4), all of a pass (`loss_chunk` 0): V (s + 12)
- the layer whose backward pass runs: on CUDA 1.2 times its share (1.4 with checkpointing) and the largest matrix in 16
  bits, and never at the same time as the logits; on a CPU six times its share: gradients, and what autocast converts
- on a CPU: the resident memory of the process before (interpreter and libraries), `LATE_LIBRARIES`, and the largest
  matrix twice more, as oneDNN lays it out for the forward and the backward pass

The CUDA figures are those of the trainer's own step on fake tensors (`training/fake.py`), within 10 % (tested).
On a CPU they are multiplied by `TEMPORARIES`, and `HEAP_GROWTH` ln(steps) comes on top; both were fitted to measured
peaks of 18 runs of 5 to 195 steps (SmolLM2-135M and a tiny model, 2 cores, 2026-11-29), which they give within 9 %.
What a run needs is the largest of its steps, each laid out as it will be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from transformers import PreTrainedModel

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.training.attention import decoder_layers
from grokora_pipeline.training.layout import Layout, Node, Row, in_batches
from grokora_pipeline.training.planner import batch_size, token_budgets

MIB = 2**20
# Share of the activations on top; cuda: what its caching allocator reserves beside what is used, an assumption.
TEMPORARIES = {"cpu": 1.28, "cuda": 1.1}
# A CPU's heap grows with the logarithm of the steps, by as much for 6 layers as for 30. Measured with mallinfo2: oneDNN
# keeps kernels for lengths that it has seen (245 MiB after 22 steps), and glibc keeps the holes between them (600 MiB
# free after 96). MALLOC_MMAP_THRESHOLD_ would leave no holes (28 MiB), but every tensor's pages are then made anew:
# 432 tokens a CPU second instead of 690.
HEAP_GROWTH = 80 * MIB
LATE_LIBRARIES = 130 * MIB  # what is loaded after the first measurement: trainer, TensorBoard, oneDNN's kernels
DEFAULT_CAP_GIB = {"cuda": 8.0, "cpu": 6.0}


@dataclass(frozen=True, slots=True)
class ModelDimensions:
    """What of a model's config decides its activations. `dtype_bytes` is that of the compute dtype."""

    layers: int
    hidden: int
    attention: int
    heads: int
    mlp: int
    vocabulary: int
    dtype_bytes: int
    norms: int

    @classmethod
    def of(cls, model: PreTrainedModel, *, dtype_bytes: int, last_layers: int = 0) -> "ModelDimensions":
        """From a model: its config's text part, and the norms of one of its layers.

        If only the last layers are adapted, those below keep nothing for a backward pass and do not count.
        """
        config = model.config
        text = config.get_text_config(decoder=True)
        heads = getattr(text, "num_attention_heads", None) or 1  # recurrent models have none
        head = getattr(text, "head_dim", None) or text.hidden_size // heads
        mlp = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        if experts := getattr(text, "num_experts_per_tok", None):  # a token passes through so many of them
            mlp = experts * (getattr(text, "moe_intermediate_size", None) or mlp)
            mlp += getattr(text, "shared_expert_intermediate_size", None) or 0
        norms = 0
        for name, module in decoder_layers(model)[-1].named_modules():
            width = module.weight.numel() if "Norm" in type(module).__name__ and hasattr(module, "weight") else 0
            if width == head and width != text.hidden_size:  # one norm for the heads of queries, one for those of keys
                width *= heads if "q_" in name else getattr(text, "num_key_value_heads", None) or heads
            norms += width
        return cls(
            layers=min(text.num_hidden_layers, last_layers or text.num_hidden_layers),
            hidden=text.hidden_size,
            attention=heads * head,
            heads=heads,
            mlp=max(mlp) if isinstance(mlp, list | tuple) else mlp,  # Gemma-3n: one a layer
            vocabulary=text.vocab_size,
            dtype_bytes=dtype_bytes,
            norms=norms or 2 * text.hidden_size,
        )


@dataclass(frozen=True, slots=True)
class FixedMemory:
    """Bytes that do not depend on the batch."""

    process: int
    weights: int
    adapter: int


@dataclass(frozen=True, slots=True)
class Budget:
    """The prediction and the choice that follows from it; MiB."""

    cap_mib: float
    predicted_mib: float
    process_mib: float
    weights_mib: float
    adapter_mib: float
    step_mib: float
    token_budget: int
    attention: str
    checkpointing: bool


@dataclass(frozen=True, slots=True)
class ActivationMemory:
    """Bytes that passes of a layout keep for their backward pass."""

    dimensions: ModelDimensions
    layout: Layout
    device: str
    checkpointing: bool = False

    def step(self, root: Node) -> int:
        """The most of one laid-out batch: in a tree, the nodes of one path and one batch of rows below them."""
        most = 0
        for child in root.children:
            own = sum(weight > 0 for weight in child.segment()[2])
            most = max(most, self.one_pass(child.length, child.stop, own) + self.step(child))
        for batch in in_batches(root.leaves, self.layout.token_budget):
            labelled = sum(weight > 0 for leaf in batch for weight in leaf.segment()[2])
            most = max(most, self.one_pass(*batch_size(batch), labelled))
        return most

    def one_pass(self, tokens: int, keys: int, labelled: int) -> int:
        """Bytes of one forward and backward pass over so many tokens, each looking at `keys` keys."""
        sizes, size = self.dimensions, self.dimensions.dtype_bytes
        layer = 4 * sizes.norms + size * (2 * sizes.hidden + 4 * sizes.attention + 4 * sizes.mlp)
        layer += sizes.heads * keys * size if self.layout.attention == "short" else 0
        chunk = self.layout.loss_chunk
        with_logits = min(labelled, chunk) if chunk else labelled
        if self.device == "cuda":
            kept = sizes.layers * (sizes.hidden * size if self.checkpointing else layer)
            matrix = sizes.hidden * max(sizes.attention, sizes.mlp) * size
            backward = tokens * layer * (1.4 if self.checkpointing else 1.2) + matrix
            return round(tokens * kept + max(14 * with_logits * sizes.vocabulary, backward))
        rest = sizes.layers * sizes.hidden * size if self.checkpointing else (sizes.layers - 1) * layer
        logits = with_logits * ((2 * size + 4) if chunk else (size + 12))
        return tokens * (6 * layer + rest) + logits * sizes.vocabulary


def with_heap(needed: int, steps: int, device: str) -> int:
    """Bytes that the activations of a run's largest step take, with what the allocator holds beside them."""
    # Small steps grow less: their holes are small, and oneDNN leaves small matrices to others.
    growth = min(HEAP_GROWTH, 2 * needed) * math.log(steps) if device == "cpu" else 0
    return round(TEMPORARIES[device] * needed + growth)


def choose(
    steps: Sequence[Sequence[Row]],
    layout: Layout,
    dimensions: ModelDimensions,
    fixed: FixedMemory,
    *,
    attentions: Sequence[str],
    cap_gib: float,
    checkpointing: str,
    device: str,
) -> Budget:
    """The first attention and cheapest token budget, without checkpointing if it can be, predicted to fit the cap.

    They are set in `layout`. `checkpointing` is auto, on or off. GrokoraError if nothing fits: a tree of many passes
    keeps keys and values, which checkpointing drops, so it has to do without.
    """
    cap, least = cap_gib * 1024 * MIB, math.inf
    dropping = {"on": (True,), "off": (False,), "auto": (False, True)}[checkpointing]
    dropping = (False,) if layout.kind == "tree" else dropping
    budgets = token_budgets(steps, layout.kind, dimensions.hidden, device)
    for recompute, attention, tokens in product(dropping, attentions, budgets):
        layout.token_budget, layout.attention = tokens, attention
        activations = ActivationMemory(dimensions, layout, device, recompute)
        needed = max(activations.step(layout.of(rows)) for rows in steps)
        total = fixed.process + fixed.weights + fixed.adapter + with_heap(needed, len(steps), device)
        least = min(least, total)
        if total <= cap:
            sizes = {"process": fixed.process, "weights": fixed.weights, "adapter": fixed.adapter, "step": needed}
            parts = {f"{name}_mib": round(size / MIB, 1) for name, size in {**sizes, "predicted": total}.items()}
            return Budget(cap_mib=cap / MIB, token_budget=tokens, attention=attention, checkpointing=recompute, **parts)
    raise GrokoraError(
        f"Training needs about {least / MIB / 1024:.1f} GiB of memory, more than the cap of {cap_gib:g} GiB; "
        "lower max_length or rank, quantise (nf4), or raise the knob memory_gib."
    )
