"""Rows: one answer in progress each (torch)."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from llguidance import LLMatcher

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.engine.adapters import Adapter
from grokora_pipeline.serving.engine.drafts import TokenText
from grokora_pipeline.serving.engine.request import GREEDY_BELOW, GenerationRequest, TokenChunk


@dataclass(eq=False, slots=True)
class ActiveRow:
    """One answer in progress. `tokens` begins with the prompt; the keys and values of the first `computed` of them are
    in the row's slot. `done`: finished, failed, or its caller has left."""

    request: GenerationRequest
    adapter: Adapter | None
    limit: int  # tokens, prompt and answer together
    matcher: LLMatcher | None
    deliver: Callable[[TokenChunk | GrokoraError], None]
    tokens: list[int] = field(init=False)
    text: TokenText = field(init=False)  # the same tokens, to be searched
    noise: torch.Generator | None = None  # the row's own random stream; None: greedy
    computed: int = 0
    cached: int = 0
    overtaken: int = 0  # prefill rounds in which a shorter row went first
    decoding: bool = False
    done: bool = False
    failed: bool = False
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        self.text = TokenText(self.tokens)
        if self.request.temperature >= GREEDY_BELOW:
            # On the CPU: a CUDA generator draws other numbers, and a seed must mean the same answer on every device.
            self.noise = torch.Generator()
            seed = self.request.seed
            self.noise.seed() if seed is None else self.noise.manual_seed(seed & (2**63 - 1))

    @property
    def remaining(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.tokens) - self.computed

    def advance(self, token: int | GrokoraError, stop_ids: tuple[int, ...]) -> None:
        """Append a chosen token and deliver it; an error instead of a token ends this row alone."""
        if isinstance(token, GrokoraError):
            self.finish(token)
        elif token in stop_ids and not self.request.ignore_stop:
            self.finish(TokenChunk((), "stop", self.cached))
        else:
            self.tokens.append(token)
            self.text.extend([token])
            if self.matcher and self.matcher.is_stopped():
                self.finish(TokenChunk((token,), "stop", self.cached))
            elif len(self.tokens) >= self.limit:
                self.finish(TokenChunk((token,), "length", self.cached))
            else:
                self.deliver(TokenChunk((token,)))

    def finish(self, last: TokenChunk | GrokoraError) -> None:
        """Deliver the last chunk, or the error that ended the row."""
        self.done, self.failed = True, isinstance(last, GrokoraError)
        self.deliver(last)
