"""The next token of each row: the likeliest, or a sample; within the row's grammar, where it has one (torch)."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor

from grokora_pipeline.serving.ask import Ask


class Choosing(Protocol):
    """A row, as far as choosing its next token goes."""

    @property
    def ask(self) -> Ask:
        """Temperature and top_p."""

    @property
    def matcher(self) -> LLMatcher | None:
        """Where the row's grammar stands."""

    @property
    def noise(self) -> torch.Generator | None:
        """The row's own random stream; None: greedy."""


def choose(logits: Tensor, rows: Sequence[Choosing], stop_ids: Sequence[int]) -> list[int]:
    """[rows, vocabulary] → a token a row; grammars move on by it. Who shares the batch changes nobody's choice."""
    for place, row in enumerate(rows):
        if row.matcher:
            logits[place].masked_fill_(~_allowed(row.matcher, logits[place]), -torch.inf)
    chosen: list[int] = logits.argmax(-1).tolist()
    for place, row in enumerate(rows):
        if row.noise:
            chosen[place] = _sample(logits[place], row.ask, row.noise)
        if row.matcher and chosen[place] not in stop_ids:
            row.matcher.consume_token(chosen[place])
    return chosen


def matcher_error(matcher: LLMatcher | None) -> str:
    """Why a grammar can no longer be followed, "" where it can."""
    return matcher.get_error() if matcher and matcher.is_error() else ""


def _allowed(matcher: LLMatcher, logits: Tensor) -> Tensor:
    """[vocabulary], True where the grammar goes on."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return torch.from_numpy(bits[: len(logits)]).to(logits.device, torch.bool)


def _sample(logits: Tensor, ask: Ask, noise: torch.Generator) -> int:
    """A token by its probability at this temperature, among the likeliest that make up `top_p` of it (Holtzman 2020).

    On the CPU, so that a seed gives the same answer on every device.
    """
    chances, order = torch.softmax(logits.float().cpu() / ask.temperature, -1).sort(descending=True)
    beyond = chances.cumsum(0) - chances >= ask.top_p
    beyond[0] = False
    drawn = torch.multinomial(chances.masked_fill(beyond, 0.0), 1, generator=noise)
    return int(order[drawn])
