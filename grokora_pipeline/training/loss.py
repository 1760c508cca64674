"""The loss of labelled tokens without keeping their logits (torch).

The output layer is frozen, so the gradient of the hidden states can be taken in the forward pass, for some tokens at a
time (as in Liger Kernel's fused linear cross-entropy, arXiv 2410.10989): logits of a whole batch never exist.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: nn.Linear, labels: tuple[Tensor, Tensor], chunk: int) -> Tensor:
        total, gradients = hidden.new_zeros((), dtype=torch.float32), list[Tensor]()
        parts = (torch.split(part, chunk) for part in (hidden, *labels))
        for states, following, weight in zip(*parts, strict=True):
            logits = linear(states, head.weight, head.bias).float()
            norm, place = logits.logsumexp(-1, keepdim=True), following[:, None]
            total += ((norm - logits.gather(1, place))[:, 0] * weight).sum()
            if ctx.needs_input_grad[0]:
                share = logits.sub_(norm).exp_().scatter_add_(1, place, -torch.ones_like(norm))
                gradients.append(share.mul_(weight[:, None]).to(head.weight.dtype) @ head.weight)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (to_hidden,) = ctx.saved_tensors
        return to_hidden * gradients[0].to(to_hidden.dtype), None, None, None


def weighted_loss(hidden: Tensor, head: nn.Linear, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
    """Sum over T tokens of weight x nll in nats; hidden [T, h], targets [T], weights [T]. `chunk` 0: all at once."""
    if chunk and len(hidden):
        loss: Tensor = _Chunked.apply(hidden, head, (targets, weights), chunk)  # type: ignore[no-untyped-call]
        return loss
    losses = cross_entropy(head(hidden).float(), targets, reduction="none")
    return (losses * weights).sum()
