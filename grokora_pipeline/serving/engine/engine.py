"""The engine: one base model, any number of adapters on it, all rows that are being answered in one batch (torch).

A thread of its own runs the model. Between two steps rows join, leave, and adapters come and go. A step prefills at
most `PREFILL_TOKENS` of the rows that wait, so that the running ones are not starved, and then gives every running row
one more token in a single forward pass. What a prompt begins with is taken from the prefix cache where it is known.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from llguidance import LLMatcher
from torch import Tensor
from transformers.cache_utils import Cache

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.kv import empty_cache, token_bytes
from grokora_pipeline.models.loading import Quantisation, load_base
from grokora_pipeline.serving.engine.adapters import Adapter, AdapterStack, read_adapter
from grokora_pipeline.serving.engine.constrain import build_tokenizer
from grokora_pipeline.serving.engine.kv import PrefixCache, Slots, fill, release_memory
from grokora_pipeline.serving.engine.request import EngineStats, GenerationRequest, TokenChunk
from grokora_pipeline.serving.engine.rows import Row, choose

PREFILL_TOKENS = 256  # of waiting prompts between two tokens of the running rows
IDLE_SECONDS = 1.0  # of quiet, after which the memory of rows that have left goes back to the system
_STEP_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, AssertionError)


@dataclass(slots=True)
class _Joining:
    """A row whose prompt is being run, in a cache of its own."""

    row: Row
    cache: Cache


class TorchEngine:
    """`ask.Engine` on this machine's device. `row_bytes` bounds the keys and values of running rows, all together, and
    `cache_bytes` those of kept prompt beginnings; rows beyond `max_rows` or `row_bytes` wait, first come, first served.
    """

    def __init__(
        self,
        base: Path,
        *,
        quantisation: Quantisation = "none",
        max_rows: int = 32,
        row_bytes: int = 2 << 30,
        cache_bytes: int = 512 << 20,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.chat = ChatFormat.load(base)
        self.context_length = self.chat.context_length
        self.model: Any = load_base(base, quantisation=quantisation, dtype=dtype, device=device)
        self._max_rows, self._row_bytes = max_rows, row_bytes
        self._stack, self._slots = AdapterStack(self.model), Slots(self.model)
        self._prefixes = PrefixCache(cache_bytes)
        tokenizer = build_tokenizer(self.chat, self.model.config.get_text_config().vocab_size)
        self._matcher: Callable[[str], LLMatcher] = lru_cache(maxsize=64)(lambda text: LLMatcher(tokenizer, text))
        self._wake = threading.Condition()  # guards what follows
        self._closed = False
        self._adapters: dict[str, Adapter] = {}
        self._waiting: deque[Row] = deque()
        self._commands: deque[Callable[[], None]] = deque()
        self._running: list[Row] = []  # from here on the thread's own; place for place the rows of the slots
        self._joining: _Joining | None = None
        self._active: list[Adapter | None] = []
        self._retired: list[Adapter] = []
        self._counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "generated_tokens", "steps", "failed"), 0)
        self._thread = threading.Thread(target=self._run, name="grokora-engine", daemon=True)
        self._thread.start()

    @property
    def adapters(self) -> frozenset[str]:
        """Names that an ask may use now."""
        with self._wake:
            return frozenset(self._adapters)

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter and put it in between two steps; blocks until then. A name in use now means the new one,
        while rows that run go on with the old. GrokoraError if it does not fit the base."""
        adapter = read_adapter(name, folder, self.model)
        self._between_steps(lambda: self._install(adapter))
        with self._wake:
            old, self._adapters[name] = self._adapters.get(name), adapter
        if old:
            self._between_steps(lambda: self._retired.append(old))

    def remove_adapter(self, name: str) -> None:
        """No new ask may use it; its memory is freed when the last row that does has left."""
        with self._wake:
            adapter = self._adapters.pop(name, None)
        if adapter:
            self._between_steps(lambda: self._retired.append(adapter))

    async def stream(self, ask: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """The answer's pieces as they come. GrokoraError where it cannot be answered; closing it ends the row."""
        row = await self._enter(ask)
        try:
            while True:
                piece = await row.pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if piece.finish:
                    return
        finally:
            row.over = True

    def stats(self) -> EngineStats:
        """The counters now."""
        running = len(self._running) + (self._joining is not None)
        return EngineStats(
            running=running, waiting=len(self._waiting), cache_bytes=self._prefixes.used_bytes, **self._counts
        )

    def close(self) -> None:
        """Fail what is still running, end the thread and free the model."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self.model = None

    async def _enter(self, ask: GenerationRequest) -> Row:
        """A row in the queue; the grammar is compiled outside of the event loop."""
        limit = min(len(ask.prompt) + ask.max_new_tokens, self.context_length)
        if not 0 < len(ask.prompt) < limit:
            raise GrokoraError(
                f"The prompt has {len(ask.prompt)} tokens and asks for {ask.max_new_tokens}; the context holds "
                f"{self.context_length} for prompt and answer together."
            )
        matcher = (await asyncio.to_thread(self._matcher, ask.grammar)).deep_copy() if ask.grammar else None
        if matcher and matcher.is_error():
            raise GrokoraError(f"The grammar cannot be used: {matcher.get_error()}")
        with self._wake:
            if self._closed:
                raise GrokoraError("The engine has ended; restart the server.")
            if ask.adapter is not None and ask.adapter not in self._adapters:
                raise GrokoraError(f"There is no adapter {ask.adapter!r} on this engine.")
            adapter = self._adapters[ask.adapter] if ask.adapter else None
            row = Row(ask, adapter, limit, matcher, asyncio.get_running_loop())
            self._waiting.append(row)
            self._wake.notify()
        return row

    def _between_steps(self, command: Callable[[], None]) -> None:
        """Have the thread do something, and wait until it has."""
        done: Future[None] = Future()

        def do() -> None:
            try:
                command()
                done.set_result(None)
            except _STEP_ERRORS as error:
                done.set_exception(error)

        with self._wake:
            if self._closed:
                raise GrokoraError("The engine has ended; restart the server.")
            self._commands.append(do)
            self._wake.notify()
        done.result()

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._wait():
                    self._drop_those_who_left()
                    self._prefill()
                    if self._running:
                        self._decode()
                    self._free_retired()
        finally:
            self._end()

    def _wait(self) -> bool:
        """Sleep until there is something to do, and do the commands; False when the engine is closed."""
        busy = self._running or self._joining
        with self._wake:
            if not self._wake.wait_for(
                lambda: busy or self._waiting or self._commands or self._closed, timeout=IDLE_SECONDS
            ):
                release_memory()
                self._wake.wait_for(lambda: self._waiting or self._commands or self._closed)
            commands = [self._commands.popleft() for _ in range(len(self._commands))]
            going_on = not self._closed
        for command in commands:
            command()
        return going_on

    def _end(self) -> None:
        with self._wake:
            self._closed = True
            rows = [*self._running, *self._waiting, *([self._joining.row] if self._joining else [])]
            commands = list(self._commands)
        for row in rows:
            row.send(GrokoraError("The engine has ended before the answer was whole; ask again."))
        for command in commands:
            command()
        self._slots.clear()

    def _install(self, adapter: Adapter) -> None:
        self._stack.install(adapter)
        self._active = []

    def _free_retired(self) -> None:
        if not self._retired:
            return
        with self._wake:
            used = {row.adapter for row in [*self._waiting, *self._running]}
        used |= {self._joining.row.adapter} if self._joining else set()
        for adapter in [adapter for adapter in self._retired if adapter not in used]:
            self._stack.remove(adapter)
            self._prefixes.forget(adapter)
            self._retired.remove(adapter)
            self._active = []

    def _drop_those_who_left(self) -> None:
        for place in reversed(range(len(self._running))):
            if self._running[place].over:
                self._leave(place)
        if self._joining and self._joining.row.over:
            self._joining = None

    @contextmanager
    def _failing(self, rows: Sequence[Row]) -> Iterator[None]:
        """What goes wrong inside is these rows' failure, and nobody else's."""
        try:
            yield
        except _STEP_ERRORS as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            for row in [row for row in rows if not row.over]:
                row.over = True
                self._counts["failed"] += 1
                row.send(GrokoraError(f"The model failed on this answer ({reason})."))
            self._active = []

    def _prefill(self) -> None:
        """Run prompts that wait, a share of them, the eldest first."""
        budget = PREFILL_TOKENS
        while budget > 0 and (joining := self._joining or self._next()):
            with self._failing([joining.row]):
                budget -= self._run_prompt(joining, budget)
            if joining.row.over:
                self._joining = None

    def _next(self) -> _Joining | None:
        """The eldest waiting row, if there is a place for it, with what is known of its prompt in its cache."""
        with self._wake:
            while self._waiting and self._waiting[0].over:
                self._waiting.popleft()
            if not self._waiting or not self._has_room(self._waiting[0]):
                return None
            row = self._waiting.popleft()
        cache = empty_cache(self.model, len(row.tokens))
        self._joining = _Joining(row, cache)
        # its last token is run in any case: it yields the first logits
        known = self._prefixes.find(row.adapter, row.tokens[:-1])
        if known:
            fill(cache.layers, known)
        row.cached = cache.get_seq_length()
        self._counts["prompt_tokens"] += len(row.tokens)
        self._counts["cached_tokens"] += row.cached
        return self._joining

    def _has_room(self, row: Row) -> bool:
        if not self._running:
            return True
        longest = max(one.limit for one in [row, *self._running])
        rows = len(self._running) + 1
        return rows <= self._max_rows and rows * longest * token_bytes(self.model) <= self._row_bytes

    def _run_prompt(self, joining: _Joining, budget: int) -> int:
        """Run the next part of a prompt; when it is whole, the row joins. Gives the number of tokens run."""
        row, cache = joining.row, joining.cache
        start = cache.get_seq_length()
        part = row.tokens[start : start + budget]
        self._activate([row.adapter])
        out = self.model(
            input_ids=torch.tensor([part], device=self.model.device),
            position_ids=torch.arange(start, start + len(part), device=self.model.device)[None],
            past_key_values=cache,
            logits_to_keep=1,
        )
        self._counts["steps"] += 1
        if start + len(part) == len(row.tokens):
            self._joining = None
            self._prefixes.add(row.adapter, row.tokens, cache)
            self._slots.join(cache)
            self._running.append(row)
            self._take([row], out.logits[:, -1])
        return len(part)

    def _decode(self) -> None:
        """One more token for every running row, in one pass."""
        rows = list(self._running)
        with self._failing(rows):
            self._activate([row.adapter for row in rows])
            logits = self._slots.step([row.tokens[-1] for row in rows])
            self._counts["steps"] += 1
            self._take(rows, logits)
        if self._running and all(row.over for row in self._running):
            self._running.clear()
            self._slots.clear()

    def _activate(self, adapters: list[Adapter | None]) -> None:
        if adapters != self._active:
            self._stack.activate(adapters)
            self._active = adapters

    def _take(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Choose each row's next token from its logits [rows, vocabulary] and send it; who is done leaves."""
        for row, token in zip(rows, choose(logits, rows, self.chat.stop_ids), strict=True):
            if error := row.grammar_error():
                self._counts["failed"] += 1
                row.send(GrokoraError(f"The grammar could not be followed: {error}"))
                self._leave(self._running.index(row))
            elif token in self.chat.stop_ids:
                self._finish(row, TokenChunk((), "stop", row.cached))
            else:
                row.tokens.append(token)
                self._counts["generated_tokens"] += 1
                if row.matcher and row.matcher.is_stopped():
                    self._finish(row, TokenChunk((token,), "stop", row.cached))
                elif len(row.tokens) >= row.limit:
                    self._finish(row, TokenChunk((token,), "length", row.cached))
                else:
                    row.send(TokenChunk((token,)))

    def _finish(self, row: Row, last: TokenChunk) -> None:
        row.send(last)
        self._leave(self._running.index(row))

    def _leave(self, place: int) -> None:
        """Keep what the row has computed for the session's next turn, and give its place to the last row."""
        row = self._running[place]
        row.over = True
        length = self._slots.lengths[place]
        with suppress(torch.OutOfMemoryError):  # a beginning that finds no room is not kept
            self._prefixes.add(row.adapter, row.tokens[:length], self._slots.cache, place)
        self._slots.leave(place)
        self._running[place] = self._running[-1]
        self._running.pop()
