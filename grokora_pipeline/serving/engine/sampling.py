"""The next token of every row: the likeliest, or a sample; within the row's grammar, if it has one (torch)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.engine.rows import ActiveRow

LIKELIEST = 1024  # tokens among which top_p is looked for first: sorting a vocabulary of 128k takes 20 ms on a CPU


def choose_tokens(logits: Tensor, rows: Sequence[ActiveRow], stop_ids: Sequence[int]) -> list[int | GrokoraError]:
    """[rows, vocabulary] → a token a row, or why that row has none; grammars move on by the token.

    Nothing that one row asks for or holds (temperature, grammar, logits that are nan) changes another's choice.
    """
    for index, row in enumerate(rows):
        if row.matcher:
            bits = np.unpackbits(np.frombuffer(row.matcher.compute_bitmask(), np.uint8), bitorder="little")
            allowed = torch.from_numpy(bits[: logits.shape[1]]).to(logits.device, torch.bool)
            logits[index].masked_fill_(~allowed, -torch.inf)
    # `max` and not `argmax`: its values show a row of nan (max propagates it) without a second pass over the logits
    values, tokens = (part.tolist() for part in logits.max(-1))
    return [
        _choose(row, logits[index], value, token, stop_ids)
        for index, (row, value, token) in enumerate(zip(rows, values, tokens, strict=True))
    ]


def _choose(row: ActiveRow, logits: Tensor, best: float, likeliest: int, stop_ids: Sequence[int]) -> int | GrokoraError:
    if row.matcher and row.matcher.is_error():
        return GrokoraError(f"The grammar could not be followed: {row.matcher.get_error()}")
    if not math.isfinite(best):
        owner = f"adapter {row.adapter.name!r}" if row.adapter else "base model"
        return GrokoraError(f"The {owner} computed no usable logits ({best}) for this prompt; roll it back or retrain.")
    try:
        token = sample(logits, row.request.temperature, row.request.top_p, row.noise) if row.noise else likeliest
        if row.matcher and token not in stop_ids and not row.matcher.consume_token(token):
            return GrokoraError(f"The grammar could not be followed: {row.matcher.get_error()}")
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        return GrokoraError(f"No token could be chosen for this answer ({type(error).__name__}: {error}).")
    return token


def sample(logits: Tensor, temperature: float, top_p: float, noise: torch.Generator) -> int:
    """A token of [vocabulary] by its probability at this temperature, among the likeliest that make up `top_p` of it
    (Holtzman et al. 2020). One uniform number a token, by the inverse of the cumulative distribution."""
    draw = float(torch.rand((), generator=noise, dtype=torch.float64))
    chances = torch.softmax((logits - logits.max()).float() / temperature, -1)
    order = None
    if top_p < 1:
        # the nucleus: the likeliest tokens that together reach top_p, at least one
        likeliest, order = chances.topk(min(LIKELIEST, len(chances)))
        if float(likeliest.sum()) < top_p:  # a flat distribution: the nucleus is larger than what was looked at
            likeliest, order = chances.sort(descending=True)
        kept = 1 + int((likeliest.cumsum(0)[:-1] < top_p).sum())
        chances, order = likeliest[:kept], order[:kept]
    # float64: in float32 a draw near 1 can round up to the total, and no token would be left
    cumulative = chances.double().cumsum(0)
    index = int(torch.searchsorted(cumulative, draw * float(cumulative[-1]), right=True))
    index = min(index, len(chances) - 1)
    return index if order is None else int(order[index])
