"""How a layout's tokens look at each other: attention for short rows, and the mask of a joint tree (torch).

`short` keeps the bf16 shares of every pair of tokens and nothing else: on a CPU that is faster than SDPA, whose
backward pass is slow there, and the key heads need no copies. Its memory grows with the square of the length.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

NAMES = {"sdpa": "sdpa", "short": "grokora_short", "flex": "flex_attention", "flash": "flash_attention_2"}


def use_attention(model: PreTrainedModel, kind: str) -> None:
    """Let a model attend by sdpa, short, flex or flash."""
    model.set_attn_implementation(NAMES[kind])


def joint_mask(last: Tensor, kind: str) -> Any:
    """The ancestor mask of a joint sequence: j looks at i where i <= j <= last[i]. A BlockMask for flex, else
    [1, 1, T, T]; `last` [T] is the place where the subtree that token i belongs to ends."""
    size = len(last)
    if kind == "flex":
        from torch.nn.attention.flex_attention import create_block_mask

        def looks(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query <= last[key])

        return create_block_mask(looks, None, None, size, size, device=str(last.device))
    place = torch.arange(size, device=last.device)
    return ((place[None] <= place[:, None]) & (place[:, None] <= last[None]))[None, None]


class _Short(torch.autograd.Function):
    """softmax(scale q k^T where the mask allows) v, for G query heads on each of H key heads.

    q [B, H, G, T, d], k and v [B, H, K, d]; `look` is the mask [B or 1, 1, T, K] (True: looked at) and the scale.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, look: tuple[Tensor, float]) -> Tensor:
        mask, scale = look
        flat = q.flatten(2, 3) * scale
        scores = (flat @ k.transpose(-1, -2)).view(*q.shape[:-1], -1)
        shares = scores.masked_fill_(~mask[:, :, None], float("-inf")).softmax(-1).flatten(2, 3)
        ctx.save_for_backward(flat, k, v, shares)
        ctx.scale, ctx.shape = scale, q.shape
        return (shares @ v).view(q.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, shares = ctx.saved_tensors
        outer = gradients[0].reshape(q.shape)
        inner = torch._softmax_backward_data(outer @ v.transpose(-1, -2), shares, -1, shares.dtype)
        to_k, to_v = inner.transpose(-1, -2) @ q, shares.transpose(-1, -2) @ outer
        return (inner @ k).mul_(ctx.scale).view(ctx.shape), to_k, to_v, None


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface; query [B, heads, T, d] → [B, T, heads, d]."""
    batch, _heads, tokens, width = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, tokens, width)
    result: Tensor = _Short.apply(grouped, key, value, (attention_mask, scaling))  # type: ignore[no-untyped-call]
    return result.flatten(1, 2).transpose(1, 2), None


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    mask: Tensor | None = sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
    return mask


AttentionInterface.register(NAMES["short"], _attend)
AttentionMaskInterface.register(NAMES["short"], _mask)
