"""Loss and gradient of a laid-out batch, each shared token computed once, exactly (torch).

A node's tokens run once; its keys and values are handed to what hangs below as leaves of a graph of their own. Each
batch of rows below it is run forward and backward at once and leaves its gradient on those keys and values; then the
node runs backward with the sum. Peak memory is one root-to-leaf path, never the whole tree, and nothing is computed
twice. The keys of a path are contiguous (padding is only at the end), so a column is a depth: a sliding or chunked
window, which the model's own mask counts in columns, sees exactly what it sees in a plain row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from grokora_pipeline.models.loading import prompt_marks, reads_prompt_both_ways
from grokora_pipeline.training.layout import Layout, Node, Row, in_batches
from grokora_pipeline.training.loss import OutputHead

KeysValues = list[tuple[Tensor, Tensor]]
_IDLE = Row((0, 0), (0.0, 1.0))


@dataclass(slots=True)
class Segments:
    """Tokens of one forward pass: input ids [B, T]; where in B x T a label follows, which one, and its weight [N].

    The labelled places are known here, so that nothing has to be read back from the device to find them.
    """

    ids: Tensor
    labelled: Tensor
    targets: Tensor
    weights: Tensor

    @classmethod
    def padded(cls, nodes: Sequence[Node], device: torch.device) -> "Segments":
        """A row for each node. Padding comes last, where causal attention and recurrent states never look."""
        width = max(node.length for node in nodes)
        ids, places, targets, weights = list[list[int]](), list[int](), list[int](), list[float]()
        for row, node in enumerate(nodes):
            inputs, following, token_weights = node.segment()
            ids.append([*inputs, *([0] * (width - len(inputs)))])
            labelled = [index for index, weight in enumerate(token_weights) if weight]
            places += [row * width + index for index in labelled]
            targets += [following[index] for index in labelled]
            weights += [token_weights[index] for index in labelled]
        return cls(
            ids=torch.tensor(ids, dtype=torch.long, device=device),
            labelled=torch.tensor(places, dtype=torch.long, device=device),
            targets=torch.tensor(targets, dtype=torch.long, device=device),
            weights=torch.tensor(weights, dtype=torch.float32, device=device),
        )


class TreeLoss:
    """Weighted sum of the negative log-likelihoods of a layout's labelled tokens, with or without its gradient."""

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self.layout, self.head = layout, OutputHead(model)
        # what tells a prompt from its answer is a layer above the decoder
        body = getattr(self.head.model, self.head.body)
        self.decoder = body if reads_prompt_both_ways(self.head.model) else self.head.decoder
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.computed_tokens = 0
        self._nlls: dict[tuple[int, ...], float] | None = None  # set while `nlls` collects

    def nlls(self, rows: Sequence[Row]) -> list[float]:
        """The nll in nats of each row's labelled tokens, without weights and gradient, in one run over their layout.

        Rows share what is computed, so tokens are told apart by the ids up to them.
        """
        known = self._nlls = dict[tuple[int, ...], float]()
        try:
            self.run(self.layout.of(rows))
        finally:
            self._nlls = None
        return [sum(known[row.ids[: at + 1]] for at, weight in enumerate(row.weights) if weight) for row in rows]

    def run(self, root: Node, *, scale: float = 1.0, backward: bool = False, idle: int = 0) -> Tensor:
        """Sum over rows and labelled tokens of weight x nll, in nats: one number, left on the device.

        With `backward`, gradients of `scale` times the sum are added to the parameters' `.grad`. `idle` passes that
        change nothing come after it: processes that hold a base together make equally many.
        """
        half = self.dtype == torch.bfloat16  # then matmuls of base and fp32 adapter in bf16; fp32 bases are left alone
        mixed = torch.autocast(self.device.type, self.dtype if half else None, enabled=half)
        with torch.set_grad_enabled(backward), mixed:
            total = self._below(root, None, scale, backward)
            for _ in range(idle):
                self._below(self.layout.of([_IDLE]), None, 0.0, backward)
        return total

    def _below(self, node: Node, past: KeysValues | None, scale: float, backward: bool) -> Tensor:
        """What hangs below a node whose keys and values (and its ancestors') are `past`."""
        total = torch.zeros((), device=self.device)
        for child in node.children:
            total += self._inner(child, past, scale, backward)
        for batch in in_batches(node.leaves, self.layout.token_budget, self.layout.pass_tokens):
            loss, outputs, gradients = self._forward(batch, _cache(past, len(batch)) if past else None, scale)
            if backward:
                torch.autograd.backward(outputs, gradients)
            total += loss
        return total

    def _inner(self, node: Node, past: KeysValues | None, scale: float, backward: bool) -> Tensor:
        """A node and all below it: forward, then what hangs below (forward and backward), then its own backward."""
        cache = _cache(past, 1)
        loss, outputs, gradients = self._forward([node], cache, scale)
        computed = [(layer.keys, layer.values) for layer in cache.layers]
        # layers below the first adapted one have nothing to learn, so their keys and values need no gradient
        leaves = [
            (k.detach().requires_grad_(k.requires_grad), v.detach().requires_grad_(v.requires_grad))
            for k, v in computed
        ]
        total = loss + self._below(node, leaves, scale, backward)
        if backward:
            for tensor, leaf in zip(chain(*computed), chain(*leaves), strict=True):
                if leaf.grad is not None and tensor.requires_grad:
                    outputs.append(tensor)
                    gradients.append(leaf.grad)
            torch.autograd.backward(outputs, gradients)
        return total

    def _forward(
        self, nodes: Sequence[Node], cache: DynamicCache | None, scale: float
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """(sum of weight x nll, hidden states it depends on, gradients of `scale` x the sum with respect to them)."""
        segments = Segments.padded(nodes, self.device)
        marks = prompt_marks(self.head.model, segments.ids, [node.prompt for node in nodes])
        self.computed_tokens += segments.ids.numel()
        # No positions and no mask: every row starts where the cache ends, and padding is last. So nothing is said that
        # an architecture without position ids (ALiBi, recurrent) or with three of them (multimodal RoPE) lacks.
        caching = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
        hidden = self.decoder(input_ids=segments.ids, **caching, **marks).last_hidden_state
        states = hidden.flatten(0, 1)[segments.labelled]
        if self._nlls is not None:
            width, nlls = segments.ids.shape[1], self.head.nlls(states, segments.targets, self.layout.loss_chunk)
            for at, nll in zip(segments.labelled.tolist(), nlls.tolist(), strict=True):
                node = nodes[at // width]
                self._nlls[node.ids[: node.start + at % width + 2]] = nll
            return nlls.sum(), [], []
        loss, gradient = self.head.loss(states, segments.targets, segments.weights, self.layout.loss_chunk)
        return (loss, [], []) if gradient is None else (loss, [states], [gradient * scale])


def _cache(past: KeysValues | None, rows: int) -> Any:
    """A cache that starts with the past, for so many rows; writing to it leaves the past as it is.

    Every layer keeps all keys, those of a window too: a cache made from the config would drop the keys that left the
    window of this node's last token, which are still in the window of rows that branch off earlier.
    """
    if past is None:
        return DynamicCache()
    return DynamicCache([(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in past])
