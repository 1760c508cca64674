"""A row of the batch, and its next token: the likeliest, or a sample; within its grammar, where it has one (torch)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor

from grokora_pipeline.serving.engine.adapters import Adapter
from grokora_pipeline.serving.engine.request import GenerationRequest, TokenChunk


@dataclass(eq=False, slots=True)
class Row:
    """One answer on its way. `tokens` begins with the prompt; `over`: it is whole, it failed, or its asker has left."""

    ask: GenerationRequest
    adapter: Adapter | None
    limit: int  # tokens, prompt and answer together
    matcher: LLMatcher | None
    loop: asyncio.AbstractEventLoop
    tokens: list[int] = field(init=False)
    noise: torch.Generator | None = None  # its own random stream; None: greedy
    pieces: asyncio.Queue[TokenChunk | BaseException] = field(default_factory=asyncio.Queue)
    cached: int = 0
    over: bool = False

    def __post_init__(self) -> None:
        self.tokens = list(self.ask.prompt)
        if self.ask.temperature > 0:
            self.noise = torch.Generator()
            self.noise.seed() if self.ask.seed is None else self.noise.manual_seed(self.ask.seed & (2**63 - 1))

    def send(self, piece: TokenChunk | BaseException) -> None:
        """Hand a piece over to the asker's event loop; an asker whose loop has ended has left."""
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
        except RuntimeError:
            self.over = True

    def grammar_error(self) -> str:
        """Why the grammar can no longer be followed, "" where it can."""
        return self.matcher.get_error() if self.matcher and self.matcher.is_error() else ""


def choose(logits: Tensor, rows: Sequence[Row], stop_ids: Sequence[int]) -> list[int]:
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


def _allowed(matcher: LLMatcher, logits: Tensor) -> Tensor:
    """[vocabulary], True where the grammar goes on."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return torch.from_numpy(bits[: len(logits)]).to(logits.device, torch.bool)


def _sample(logits: Tensor, ask: GenerationRequest, noise: torch.Generator) -> int:
    """A token by its probability at this temperature, among the likeliest that make up `top_p` of it (Holtzman 2020).

    On the CPU, so that a seed gives the same answer on every device.
    """
    chances, order = torch.softmax(logits.float().cpu() / ask.temperature, -1).sort(descending=True)
    beyond = chances.cumsum(0) - chances >= ask.top_p
    beyond[0] = False
    drawn = torch.multinomial(chances.masked_fill(beyond, 0.0), 1, generator=noise)
    return int(order[drawn])
