"""Peak memory predicted before the run, and the micro-batch that keeps it below the cap.

Bytes, for a decoder of L layers with hidden size h, attention width q (heads x head size), MLP width f, vocabulary V:

- weights: what the loaded parameters occupy (measured: packed 4-bit parameters and their constants included)
- adapter: 4 for each weight, 4 for its gradient, and the optimiser's 8 (AdamW) or 2 (8-bit)
- activations, a token and layer, in the compute dtype of s bytes: 8h for the fp32 inputs of two norms, and
  s (2h + 3q + q + 4f) for what the LoRA and attention matmuls and the gated MLP keep; eager attention keeps 3s bytes
  (scores in fp32 and in the compute dtype) a head and key. With checkpointing: s h, and one layer in full.
- logits, a labelled token: V (s + 12): logits, their fp32 copy, log-softmax and its gradient
- on a CPU: the resident memory of the process before (interpreter and libraries), and `LATER` for what is loaded later

The allocator's share on top is `SLACK`. What a run needs is the largest of its steps, each laid out as it will be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.training.layout import Layout, Node, Row, in_batches

MIB = 2**20
# Temporaries of the backward pass and what the allocator keeps, as a factor on a step's bytes. cpu: measured on four
# agents of the sample (1.86-2.05, glibc); cuda: an assumption, not measured yet.
SLACK = {"cpu": 1.94, "cuda": 1.15}
LATER = 160 * MIB  # trainer, TensorBoard, oneDNN's kernels: measured with a tiny model
BUDGETS = (4096, 2048, 1024, 512, 256, 128, 64, 1)
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
    eager: bool

    @classmethod
    def of(cls, config: Any, *, dtype_bytes: int, eager: bool) -> "Shape":
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
            eager=eager,
        )

    def layer_bytes(self, tokens: int, keys: int) -> int:
        """Activations that one layer keeps for `tokens` tokens, each of which looks at `keys` keys."""
        size = self.dtype_bytes
        kept = 8 * self.hidden + size * (2 * self.hidden + 4 * self.attention + 4 * self.mlp)
        scores = self.heads * keys * 3 * size if self.eager else 0
        return tokens * (kept + scores)

    def forward_bytes(self, tokens: int, keys: int, *, checkpointing: bool) -> int:
        """Activations that a forward pass keeps for its backward pass."""
        layer = self.layer_bytes(tokens, keys)
        if not checkpointing:
            return self.layers * layer
        return self.layers * tokens * self.hidden * self.dtype_bytes + layer

    def logits_bytes(self, labelled: int) -> int:
        """Logits of the labelled tokens and what their loss keeps."""
        return labelled * self.vocabulary * (self.dtype_bytes + 12)


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
    checkpointing: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def step_bytes(root: Node, layout: Layout, shape: Shape, *, checkpointing: bool = False) -> int:
    """The most that one path of the layout keeps at once: its inner nodes and one batch of rows below them."""
    inner = max((_path_bytes(child, layout, shape, checkpointing) for child in root.children), default=0)
    return max(inner, _leaves_bytes(root.leaves, layout, shape, checkpointing))


def _path_bytes(node: Node, layout: Layout, shape: Shape, checkpointing: bool) -> int:
    weights = node.segment()[2]
    own = shape.forward_bytes(node.length, node.stop, checkpointing=checkpointing)
    own += shape.logits_bytes(sum(weight > 0 for weight in weights))
    below = max((_path_bytes(child, layout, shape, checkpointing) for child in node.children), default=0)
    return own + max(below, _leaves_bytes(node.leaves, layout, shape, checkpointing))


def _leaves_bytes(leaves: Sequence[Node], layout: Layout, shape: Shape, checkpointing: bool) -> int:
    packed = layout.kind == "packed"
    batches = in_batches(leaves, layout.token_budget, packed=packed)
    return max((_batch_bytes(batch, layout, shape, checkpointing) for batch in batches), default=0)


def _batch_bytes(batch: Sequence[Node], layout: Layout, shape: Shape, checkpointing: bool) -> int:
    width = sum(leaf.length for leaf in batch) if layout.kind == "packed" else max(leaf.length for leaf in batch)
    tokens = width if layout.kind == "packed" else width * len(batch)
    keys = width + (batch[0].start if layout.kind == "tree" else 0)
    labelled = tokens if layout.kind == "plain" else sum(sum(w > 0 for w in leaf.segment()[2]) for leaf in batch)
    return shape.forward_bytes(tokens, keys, checkpointing=checkpointing) + shape.logits_bytes(labelled)


def choose(
    steps: Iterable[Sequence[Row]],
    kind: str,
    shape: Shape,
    fixed: Fixed,
    *,
    cap_gib: float,
    checkpointing: str,
    device: str,
) -> Budget:
    """The largest token budget, without checkpointing if it can be, whose predicted peak is below the cap.

    `checkpointing` is auto, on or off. A tree keeps keys and values, which checkpointing drops: it is used for packed,
    padded and plain layouts only. GrokoraError where nothing fits.
    """
    batches, cap, least = list(steps), cap_gib * 1024 * MIB, 0
    may = {"on": (True,), "off": (False,), "auto": (False, True)}[checkpointing]
    for dropping in may:
        for tokens in BUDGETS:
            layout = Layout("padded" if dropping and kind == "tree" else kind, tokens)
            needed = max(step_bytes(layout.of(rows), layout, shape, checkpointing=dropping) for rows in batches)
            least = int(SLACK[device] * needed + fixed.total)
            if least <= cap:
                return Budget(
                    cap_mib=cap / MIB,
                    predicted_mib=round(least / MIB, 1),
                    process_mib=round(fixed.process / MIB, 1),
                    weights_mib=round(fixed.weights / MIB, 1),
                    adapter_mib=round(fixed.adapter / MIB, 1),
                    step_mib=round(needed / MIB, 1),
                    token_budget=tokens,
                    checkpointing=dropping,
                )
    raise GrokoraError(
        f"Training needs about {least / MIB / 1024:.1f} GiB of memory, more than the cap of {cap_gib:g} GiB; "
        "lower max_length or rank, quantise (nf4), or raise the knob memory_gib."
    )
