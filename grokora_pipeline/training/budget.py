"""Peak memory predicted before the run, and the micro-batch that keeps it below the cap.

Bytes, for a decoder of L layers with hidden size h, attention width q (heads x head size), MLP width f, vocabulary V:

- weights: what the loaded parameters occupy (measured: packed 4-bit parameters and their constants included)
- adapter: 4 for each weight, 4 for its gradient, and the optimiser's 8 (AdamW) or 2 (8-bit)
- activations, a token and layer, in the compute dtype of s bytes: 8h for the fp32 inputs of two norms, and
  s (2h + 3q + q + 4f) for what the LoRA and attention matmuls and the gated MLP keep; `short` attention keeps s bytes a
  head and key. With checkpointing: s h, and one layer in full.
  The layer whose backward pass runs takes six times its share: gradients, and what autocast converts.
- logits, a token of those that have logits at once: V (2s + 4); all of a pass (`loss_chunk` 0): V (s + 12);
  where the model's own forward pass makes them, 2 V s for every token on top
- on a CPU: the resident memory of the process before (interpreter and libraries), `LATER` for what is loaded later, and
  the largest matrix twice more, as oneDNN lays it out for the forward and the backward pass

The backward pass's temporaries on top are `SLACK`, on a CPU + `CREEP` ln(steps); the constants are fitted to measured
peaks: twenty CPU runs of 1 to 79 steps, of the sample, ScreenAgent and the benchmark, are predicted within 12 %.
What a run needs is the largest of its steps, each laid out as it will be.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.training.layout import Layout, Node, Row, in_batches
from grokora_pipeline.training.planner import batch_size, token_budgets

MIB = 2**20
SLACK = {"cpu": 1.18, "cuda": 1.1}  # cuda: an assumption, not measured yet
CREEP = 0.025  # a CPU's heap fills with gaps, step by step
GAPS = 120 * MIB  # that a CPU's heap is left with where every pass has a length of its own: joint rows
LATER = 190 * MIB  # trainer, TensorBoard, oneDNN's kernels
DEFAULT_CAP_GIB = {"cuda": 8.0, "cpu": 6.0}


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model's config decides its activations. `dtype_bytes` is that of the compute dtype."""

    layers: int
    hidden: int
    attention: int
    heads: int
    mlp: int
    vocabulary: int
    dtype_bytes: int

    @classmethod
    def of(cls, config: Any, *, dtype_bytes: int) -> "Shape":
        """From a transformers config (its text part)."""
        text = config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            attention=text.num_attention_heads * head,
            heads=text.num_attention_heads,
            mlp=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            vocabulary=text.vocab_size,
            dtype_bytes=dtype_bytes,
        )


@dataclass(frozen=True, slots=True)
class Fixed:
    """Bytes that do not depend on the batch."""

    process: int
    weights: int
    adapter: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.process + self.weights + self.adapter


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

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Demand:
    """Bytes that passes of a layout keep for their backward pass."""

    shape: Shape
    layout: Layout
    checkpointing: bool = False

    def step(self, root: Node) -> int:
        """The most of one laid-out batch: in a tree, the nodes of one path and one batch of rows below them."""
        if self.layout.kind == "joint":
            return max(self._pass(tree.tokens, tree.tokens, _labelled(tree)) for tree in root.children)
        return self._below(root)

    def _below(self, node: Node) -> int:
        inner = max((self._path(child) for child in node.children), default=0)
        batches = in_batches(node.leaves, self.layout.token_budget, packed=self.layout.kind == "packed")
        return max(inner, max((self._batch(batch) for batch in batches), default=0))

    def _path(self, node: Node) -> int:
        own = sum(weight > 0 for weight in node.segment()[2])
        return self._pass(node.length, node.stop, own) + self._below(node)

    def _batch(self, batch: Sequence[Node]) -> int:
        tokens, keys = batch_size(batch, self.layout)
        return self._pass(tokens, keys, sum(map(_labelled, batch)))

    def _pass(self, tokens: int, keys: int, labelled: int) -> int:
        shape, size = self.shape, self.shape.dtype_bytes
        layer = 8 * shape.hidden + size * (2 * shape.hidden + 4 * shape.attention + 4 * shape.mlp)
        layer += shape.heads * keys * size if self.layout.attention == "short" else 0
        rest = shape.layers * shape.hidden * size if self.checkpointing else (shape.layers - 1) * layer
        plain, chunk = self.layout.kind == "plain", self.layout.loss_chunk
        logits = min(labelled, chunk) * (2 * size + 4) if chunk and not plain else labelled * (size + 12)
        logits += tokens * 2 * size if plain else 0
        return tokens * (6 * layer + rest) + logits * shape.vocabulary


def _labelled(node: Node) -> int:
    own = sum(weight > 0 for weight in node.segment()[2])
    return own + sum(map(_labelled, (*node.children, *node.leaves)))


def choose(
    steps: Sequence[Sequence[Row]],
    layout: Layout,
    shape: Shape,
    fixed: Fixed,
    *,
    probe: Sequence[Row],
    attentions: Sequence[str],
    cap_gib: float,
    checkpointing: str,
    device: str,
) -> Budget:
    """The first attention and cheapest token budget, without checkpointing if it can be, predicted to fit the cap.

    They are set in `layout`. `probe`: the self-test's rows, which the model itself runs one by one. `checkpointing` is
    auto, on or off. GrokoraError where nothing fits: a tree of many passes keeps keys and values, which checkpointing
    drops, so it has to do without.
    """
    cap, least = cap_gib * 1024 * MIB, math.inf
    slack = SLACK[device] + (CREEP * math.log(len(steps)) if device == "cpu" else 0)
    may = {"on": (True,), "off": (False,), "auto": (False, True)}[checkpointing]
    may = (False,) if layout.kind == "tree" else may
    plain, gaps = Layout("plain", 1), GAPS if device == "cpu" and layout.kind == "joint" else 0
    tested = {dropping: Demand(shape, plain, dropping).step(plain.of(probe)) if probe else 0 for dropping in may}
    for dropping, attention, tokens in product(
        may, attentions, token_budgets(steps, layout.kind, shape.hidden, device)
    ):
        layout.token_budget, layout.attention = tokens, attention
        demand = Demand(shape, layout, dropping)
        needed = max(tested[dropping], *(demand.step(layout.of(rows)) for rows in steps))
        total = int(slack * needed + fixed.total + gaps)
        least = min(least, total)
        if total <= cap:
            sizes = {"process": fixed.process, "weights": fixed.weights, "adapter": fixed.adapter, "step": needed}
            parts = {f"{name}_mib": round(size / MIB, 1) for name, size in {**sizes, "predicted": total}.items()}
            return Budget(cap_mib=cap / MIB, token_budget=tokens, attention=attention, checkpointing=dropping, **parts)
    raise GrokoraError(
        f"Training needs about {least / MIB / 1024:.1f} GiB of memory, more than the cap of {cap_gib:g} GiB; "
        "lower max_length or rank, quantise (nf4), or raise the knob memory_gib."
    )
