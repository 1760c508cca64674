"""What callers ask of the engine, and what they get back. Free of torch, so that the HTTP side never imports it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from grokora_pipeline.errors import GrokoraError

Finish = Literal["stop", "length"]
GREEDY_BELOW = 1e-5  # of the temperature: logits divided by less overflow to inf, and inf - inf is nan
CUT = "The engine has ended before the answer was whole; ask again."
ENDED = "The engine has ended; restart the server."


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to answer. `adapter` is the name of a loaded adapter, None the base model; `grammar` is a serialised
    llguidance grammar, None free text. Below a temperature of 1e-5 the answer is greedy, and `seed` and `top_p` do not
    matter. With `ignore_stop` the answer goes on after a stop token, to its `max_new_tokens`."""

    prompt: tuple[int, ...]
    adapter: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    grammar: str | None = None
    ignore_stop: bool = False

    def token_limit(self, context_length: int) -> int:
        """The most tokens of prompt and answer together; GrokoraError if the context has no room for an answer."""
        limit = min(len(self.prompt) + self.max_new_tokens, context_length)
        if not 0 < len(self.prompt) < limit:
            raise GrokoraError(
                f"The prompt has {len(self.prompt)} tokens and asks for {self.max_new_tokens}; the context holds "
                f"{context_length} for prompt and answer together."
            )
        return limit


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """New tokens of an answer, without the stop token. Only the last chunk has `finish`; its `cached_tokens` counts the
    prompt tokens whose keys and values came from the prefix cache."""

    tokens: tuple[int, ...]
    finish: Finish | None = None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer without its stop token. `seconds` is its share of the time of the passes that it took part in."""

    tokens: list[int]
    finish: Finish
    seconds: float
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """`running`, `waiting`: rows now; `cache_bytes`: size of the prefix cache now; all else counts since the start.
    `steps` are forward passes of the model, `failed` the rows that ended with an exception."""

    running: int
    waiting: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    steps: int
    failed: int
    cache_bytes: int


class Engine(Protocol):
    """Answers requests with one base model in memory and any number of named adapters on it.

    Every method is thread-safe. `stream` raises GrokoraError if a request cannot be answered (too long for the
    context, an adapter or grammar it does not know); closing the generator takes the row out of the batch.
    """

    context_length: int  # the most tokens that a prompt and its answer may have together
    slow_reason: str  # why every row is answered alone, as a clause; "" if rows share batches

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter between two steps; no request fails. GrokoraError if it does not fit the base."""

    def remove_adapter(self, name: str) -> None:
        """Refuse new requests for it; its memory is freed when its last running row has finished."""

    def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """An async generator of the answer's chunks."""

    def stats(self) -> EngineStats:
        """The counters now."""

    def close(self) -> None:
        """Fail what is still running, end the thread and free the model."""
