"""The engine of the server: a decoder in a thread of its own, asked from any event loop (torch).

Between two steps of the decoder rows join and leave, and adapters come and go.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path

import torch

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.engine.adapters import read_adapter
from grokora_pipeline.serving.engine.decoder import Decoder
from grokora_pipeline.serving.engine.kv import release_memory
from grokora_pipeline.serving.engine.request import CUT, ENDED, EngineStats, GenerationRequest, TokenChunk
from grokora_pipeline.serving.engine.rows import ActiveRow
from grokora_pipeline.serving.engine.runner import PASS_ERRORS

PREFILL_TOKENS = 256  # of waiting prompts between two tokens of the running rows
IDLE_SECONDS = 1.0  # of quiet, after which the memory of rows that have left goes back to the system


class TorchEngine:
    """`request.Engine` on this machine's device; the limits are those of `Decoder`."""

    def __init__(
        self,
        base: Path,
        *,
        max_rows: int = 32,
        row_bytes: int = 2 << 30,
        cache_bytes: int = 512 << 20,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.decoder = Decoder.load(
            base,
            dtype=dtype,
            max_rows=max_rows,
            row_bytes=row_bytes,
            cache_bytes=cache_bytes,
            prefill_tokens=PREFILL_TOKENS,
            paced=True,
        )
        self.chat = self.decoder.chat
        self.context_length, self.slow_reason = self.chat.context_length, self.decoder.slow_reason
        self._wake = threading.Condition()  # guards what follows; the decoder belongs to the thread
        self._closed = False
        self._submitted: deque[ActiveRow] = deque()
        self._commands: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._run, name="grokora-engine", daemon=True)
        self._thread.start()

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter and put it in between two steps; blocks until then. A name in use now means the new one,
        while rows that run go on with the old. GrokoraError if it cannot be read or does not fit the base."""
        adapter = read_adapter(name, folder, self.decoder.model)
        self._between_steps(lambda: self.decoder.install(adapter))

    def remove_adapter(self, name: str) -> None:
        """Refuse new requests for it; its memory is freed when its last running row has finished."""
        self._between_steps(lambda: self.decoder.retire(name))

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """The answer's chunks as they come. GrokoraError if it cannot be answered; closing it ends the row."""
        loop, chunks = asyncio.get_running_loop(), asyncio.Queue[TokenChunk | GrokoraError]()

        def deliver(chunk: TokenChunk | GrokoraError) -> None:
            """Hand a chunk to the caller's event loop, from the engine's thread."""
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except RuntimeError:  # the caller's event loop has ended
                row.done = True

        # in another thread, because a large grammar takes long to compile
        row = await asyncio.to_thread(self.decoder.row, request, deliver)
        with self._wake:
            if self._closed:
                raise GrokoraError(ENDED)
            self._submitted.append(row)
            self._wake.notify()
        try:
            while True:
                chunk = await chunks.get()
                if isinstance(chunk, GrokoraError):
                    raise chunk
                yield chunk
                if chunk.finish:
                    return
        finally:
            row.done = True

    def stats(self) -> EngineStats:
        """The counters now."""
        decoder = self.decoder
        return EngineStats(
            running=len(decoder.scheduler.rows) + (decoder.alone is not None),
            waiting=len(decoder.scheduler.waiting) + len(self._submitted),
            cache_bytes=decoder.prefixes.used_bytes,
            **decoder.counts,
        )

    def close(self) -> None:
        """Fail what is still running, end the thread and free the model."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if alone := self.decoder.alone:  # the thread is inside `generate` until this row is done
            alone.finish(GrokoraError(CUT))
        self._thread.join()
        self.decoder.model = None

    def _between_steps(self, command: Callable[[], None]) -> None:
        """Have the thread do something, and wait until it has."""
        result: Future[None] = Future()

        def do() -> None:
            """Run the command on the engine's thread, and set its result."""
            try:
                command()
                result.set_result(None)
            except PASS_ERRORS as error:
                result.set_exception(error)

        with self._wake:
            if self._closed:
                raise GrokoraError(ENDED)
            self._commands.append(do)
            self._wake.notify()
        result.result()

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        try:
            while self._wait():
                self.decoder.step()
        finally:
            with self._wake:
                self._closed = True
                scheduler = self.decoder.scheduler
                rows = [*scheduler.rows, *scheduler.waiting, *self._submitted]
                commands = list(self._commands)
            for row in rows:
                row.finish(GrokoraError(CUT))
            for command in commands:
                command()
            if self.decoder.runner:
                self.decoder.runner.slots.clear()

    def _wait(self) -> bool:
        """Sleep until there is something to do, do the commands and hand over new rows; False if the engine closes."""
        busy = not self.decoder.idle
        with self._wake:
            if not self._wake.wait_for(
                lambda: busy or self._submitted or self._commands or self._closed, timeout=IDLE_SECONDS
            ):
                release_memory()
                self._wake.wait_for(lambda: self._submitted or self._commands or self._closed)
            commands = [self._commands.popleft() for _ in range(len(self._commands))]
            rows = [self._submitted.popleft() for _ in range(len(self._submitted))]
        for row in rows:  # before the commands: an adapter that one retires must already count these rows as its users
            self.decoder.submit(row)
        for command in commands:
            command()
        return not self._closed
