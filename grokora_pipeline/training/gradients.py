"""Loss and gradient of a laid-out batch, each shared token computed once, exactly (torch).

A node's tokens run once; its keys and values are handed to what hangs below as leaves of a graph of their own. Each
batch of rows below is run forward and backward at once and leaves its gradient on those keys and values; then the node
runs backward with the sum. Peak memory is one root-to-leaf path, never the whole tree, and nothing is computed twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel

from grokora_pipeline.training.attention import joint_mask
from grokora_pipeline.training.layout import Joint, Layout, Node, Row, in_batches
from grokora_pipeline.training.loss import weighted_loss

KeysValues = list[tuple[Tensor, Tensor]]
_IDLE = Row((0, 0), (0.0, 1.0))
_FLEX_MULTIPLE = 512  # every new length compiles flex attention anew


@dataclass(slots=True)
class Segments:
    """Tokens to run in one forward pass [B, T]: input ids, the ids that follow, their loss weights, their positions."""

    ids: Tensor
    targets: Tensor
    weights: Tensor
    positions: Tensor
    mask: Any = None  # where causal attention is not enough

    @classmethod
    def padded(cls, nodes: Sequence[Node], device: torch.device) -> "Segments":
        """A row for each node; all share their start. Padding comes last, where causal attention never looks."""
        width = max(node.length for node in nodes)
        columns = zip(*(node.segment() for node in nodes), strict=True)
        ids, targets, weights = ([[*row, *([0] * (width - len(row)))] for row in column] for column in columns)
        positions = [list(range(nodes[0].start, nodes[0].start + width))] * len(nodes)
        return cls._of(ids, targets, weights, positions, device)

    @classmethod
    def packed(cls, nodes: Sequence[Node], device: torch.device) -> "Segments":
        """All nodes in one row; restarting positions keep them apart (no mask, no cache: else they contaminate)."""
        columns = zip(*(node.segment() for node in nodes), strict=True)
        ids, targets, weights = ([[token for row in column for token in row]] for column in columns)
        positions = [[place for node in nodes for place in range(node.length)]]
        return cls._of(ids, targets, weights, positions, device)

    @classmethod
    def joint(cls, tree: Node, device: torch.device, attention: str) -> "Segments":
        """A whole tree in one row; what is not an ancestor is masked. For flex, of a length that recurs."""
        row = Joint.of(tree, multiple=_FLEX_MULTIPLE if attention == "flex" else 1)
        segments = cls._of([row.ids], [row.targets], [row.weights], [row.positions], device)
        segments.mask = joint_mask(torch.tensor(row.last, device=device), attention)
        return segments

    @classmethod
    def _of(cls, ids: Any, targets: Any, weights: Any, positions: Any, device: torch.device) -> "Segments":
        whole = (torch.tensor(part, dtype=torch.long, device=device) for part in (ids, targets, positions))
        ids_, targets_, positions_ = whole
        return cls(ids_, targets_, torch.tensor(weights, dtype=torch.float32, device=device), positions_)


class TreeLoss:
    """Weighted sum of the negative log-likelihoods of a layout's labelled tokens, with or without its gradient."""

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        """With the layout `plain` the model's own forward pass makes the logits, all of them."""
        self.model, self.layout = model, layout
        self.decoder = model.get_decoder()
        self.head = model.get_output_embeddings()
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.computed_tokens = 0

    def run(self, root: Node, *, scale: float = 1.0, backward: bool = False, idle: int = 0) -> float:
        """Sum over rows and labelled tokens of weight x nll, in nats. With `backward`, gradients of `scale` times the
        sum are added to the parameters' `.grad`. `idle` passes that change nothing come after it: processes that hold
        a base together make equally many."""
        with torch.set_grad_enabled(backward), autocast(self.device, self.dtype):
            total = self._all(root, scale, backward)
            for _ in range(idle):
                self._all(self.layout.of([_IDLE]), 0.0, backward)
            return total

    def _all(self, root: Node, scale: float, backward: bool) -> float:
        if self.layout.kind == "joint":
            return sum(self._joint(tree, scale, backward) for tree in root.children)
        return self._below(root, None, scale, backward)

    def _below(self, node: Node, past: KeysValues | None, scale: float, backward: bool) -> float:
        total = sum(self._inner(child, past, scale, backward) for child in node.children)
        for batch in in_batches(node.leaves, self.layout.token_budget, packed=self.layout.kind == "packed"):
            total += self._leaves(batch, past, scale, backward)
        return total

    def _inner(self, node: Node, past: KeysValues | None, scale: float, backward: bool) -> float:
        """A node and all below it: forward, then what hangs below (forward and backward), then its own backward."""
        cache = _cache(past, 1)
        loss = self._loss(Segments.padded([node], self.device), cache)
        made = [(layer.keys, layer.values) for layer in cache.layers]
        handed = [(k.detach().requires_grad_(backward), v.detach().requires_grad_(backward)) for k, v in made]
        total = loss.item() + self._below(node, handed, scale, backward)
        if backward:
            pairs = zip((x for pair in made for x in pair), (x.grad for pair in handed for x in pair), strict=True)
            below = [(output, gradient) for output, gradient in pairs if gradient is not None and output.requires_grad]
            own = [(loss * scale, torch.ones_like(loss))] if loss.requires_grad else []
            outputs, gradients = zip(*own, *below, strict=True) if own or below else ((), ())
            torch.autograd.backward(outputs, gradients)
        return total

    def _leaves(self, batch: list[Node], past: KeysValues | None, scale: float, backward: bool) -> float:
        if self.layout.kind == "packed":
            loss = self._loss(Segments.packed(batch, self.device), None)
        else:
            loss = self._loss(Segments.padded(batch, self.device), _cache(past, len(batch)) if past else None)
        return self._done(loss, scale, backward)

    def _joint(self, tree: Node, scale: float, backward: bool) -> float:
        return self._done(self._loss(Segments.joint(tree, self.device, self.layout.attention), None), scale, backward)

    def _done(self, loss: Tensor, scale: float, backward: bool) -> float:
        if backward and loss.requires_grad:
            torch.autograd.backward([loss * scale])
        return float(loss.item())

    def _loss(self, segments: Segments, cache: DynamicCache | None) -> Tensor:
        """Sum of weight x nll of the segments; logits exist only where a weight is."""
        self.computed_tokens += segments.ids.numel()
        labelled = segments.weights > 0
        targets, weights = segments.targets[labelled], segments.weights[labelled]
        if self.layout.kind == "plain":
            logits = self.model(input_ids=segments.ids, use_cache=False).logits[labelled]
            return (cross_entropy(logits.float(), targets, reduction="none") * weights).sum()
        hidden = self.decoder(
            input_ids=segments.ids,
            position_ids=segments.positions,
            attention_mask=segments.mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return weighted_loss(hidden[labelled], self.head, targets, weights, self.layout.loss_chunk)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Matmuls of a bf16 base and its fp32 adapter in bf16; fp32 bases are left alone."""
    half = dtype == torch.bfloat16
    return torch.autocast(device.type, dtype if half else None, enabled=half)


def _cache(past: KeysValues | None, rows: int) -> DynamicCache:
    """A cache that starts with the past, for so many rows; writing to it leaves the past as it is."""
    if past is None:
        return DynamicCache()
    return DynamicCache([(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in past])
