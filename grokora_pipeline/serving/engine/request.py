"""What the gateway asks of an engine, and what streams back. Free of torch, so that the HTTP side never imports it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer wanted. `adapter` is the name of a loaded adapter, None the base model; `grammar` is a serialised
    llguidance grammar, None free text; at temperature 0 the answer is greedy, and `seed`, `top_p` do not matter."""

    prompt: tuple[int, ...]
    adapter: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    grammar: str | None = None


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Tokens as they come, without the stop token. The last piece alone has `finish`, and says in `cached_tokens`
    for how many of the prompt's tokens keys and values were there already."""

    tokens: tuple[int, ...]
    finish: Literal["stop", "length"] | None = None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """`running`, `waiting`: rows now; `cache_bytes`: kept keys and values now; all else counts since the start.
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
    """Answers asks with one base model in memory and any number of named adapters on it.

    Every method is thread-safe. `stream` raises GrokoraError where an ask cannot be answered (too long for the
    context, an adapter or grammar it does not know); closing the generator makes the row leave the batch.
    """

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""

    @property
    def adapters(self) -> frozenset[str]:
        """Names that an ask may use now."""

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter between two steps; no request fails. GrokoraError if it does not fit the base."""

    def remove_adapter(self, name: str) -> None:
        """No new ask may use it; its memory is freed when no running row does any more."""

    def stream(self, ask: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """An async generator of the answer's pieces."""

    def stats(self) -> EngineStats:
        """The counters now."""

    def close(self) -> None:
        """Fail what is still running, end the thread and free the model."""
