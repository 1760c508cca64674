"""llama.cpp as an engine: one base as GGUF and the champions as LoRA adapters, for CPUs and Macs (no torch here).

Prompts are rendered and answers read by this project, as for its own engine; llama.cpp gets token ids and gives them
back. It takes adapters only when it starts, so another set of adapters is another server process: it starts beside the
old one, which ends with its last answer.
"""

import asyncio
import json
import logging
import multiprocessing
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import orjson
from httpx_sse import EventSource, SSEError
from llguidance import LLMatcher

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models import gguf
from grokora_pipeline.models.chat import ChatFormat, read_json, text_settings
from grokora_pipeline.models.fingerprint import fingerprint
from grokora_pipeline.serving.backends.slots import SlotQueue, SlotTurn
from grokora_pipeline.serving.engine.constrain import Grammars
from grokora_pipeline.serving.engine.request import (
    CUT,
    ENDED,
    GREEDY_BELOW,
    EngineStats,
    Finish,
    GenerationRequest,
    TokenChunk,
)

LOG = logging.getLogger("grokora.serving")
SLOTS = 16  # answers at the same time
KV_BYTES = 256 << 20  # for all of them together, which llama.cpp takes at once; more if one context needs it,
MOST_KV_BYTES = 2 << 30  # up to this: a longer context is cut
TURN_TOKENS = 64  # of a long answer, before another adapter may have its turn: some seconds on two cores
WAIT_SECONDS = 600  # for a large model to be read from a slow disk, or a long prompt to be run
KEPT_SECONDS = 30 * 86400  # a converted file that nobody used
_TLS = httpx.create_ssl_context()  # unused, but a client that is not given one reads all certificates (20 ms)


@dataclass(eq=False, slots=True)
class _ActiveRow:
    """One answer in progress, on the server on which it began."""

    request: GenerationRequest
    server: "_Server"
    limit: int  # tokens, prompt and answer together
    matcher: LLMatcher | None
    tokens: list[int]
    turns: int = 0
    cached: int | None = None
    finish: Finish | None = None


@dataclass(eq=False)
class _Server:
    """A llama.cpp server that runs: its process, its slots and the numbers of its adapters."""

    process: subprocess.Popen[str]
    folder: Path
    url: str
    key: str
    adapters: dict[str, int]
    slots: SlotQueue
    rows: set[_ActiveRow] = field(default_factory=set)

    @property
    def last_words(self) -> str:
        """What llama.cpp said last, without its clock; never a prompt, at its level of errors."""
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        messages = [line.partition(" E ")[2] or line for line in lines if line.strip()]
        return " ".join(messages[-1].split())[:200] if messages else "it said nothing"


class LlamaCppEngine:
    """`request.Engine` by llama.cpp. `weights` is a key of `gguf.KINDS`; what was converted is kept below `cache`.

    GrokoraError if xllamacpp is not installed, if llama.cpp does not know the base, or has no such `weights`.
    """

    slow_reason = ""

    def __init__(self, base: Path, cache: Path, *, weights: str = "bf16", slots: int = SLOTS, gpu: bool = True) -> None:
        check_installed()
        self.base, self.weights, self.slots, self._gpu = base, weights, slots, gpu
        self.chat = ChatFormat.load(base)
        self.context_length = self.chat.context_length
        self._cache, self._base_key = cache / "gguf", fingerprint(str(base))
        self._folder = Path(tempfile.mkdtemp(prefix="grokora-llamacpp-"))
        self._changing = threading.Lock()  # one start at a time
        self._guard = threading.Lock()  # what follows; held for moments only
        self.adapters: dict[str, Path] = {}  # by the names that a request may use now
        self._server: _Server | None = None
        self._retired: list[_Server] = []
        self._closed = False
        self._started = 0
        self._counts: Counter[str] = Counter()
        self._grammars = Grammars(self.chat, self.chat.tokenizer.get_vocab_size(with_added_tokens=True))
        try:
            # every promotion leaves a converted file; those go that no gateway has started with for a month
            for file in self._cache.glob("*.gguf*"):
                if file.stat().st_mtime < time.time() - KEPT_SECONDS:
                    file.unlink(missing_ok=True)
            LOG.info("llama.cpp: the base is read from %s, or converted there", self._cache)
            self._weights_file = self._converted(weights, partial(gguf.write_base, base, kind=weights))
            self._start(self.adapters)
        except BaseException:
            self.close()
            raise

    def add_adapter(self, name: str, folder: Path) -> None:
        """Start a server with this adapter, too; running answers end on the old one.

        GrokoraError if it does not fit.
        """
        with self._changing:
            file = self._converted(fingerprint(str(folder)), partial(_write_adapter, self.base, folder))
            try:
                self._start({**self.adapters, name: file})
            except GrokoraError as error:
                raise GrokoraError(f"The adapter in {folder} cannot be served by llama.cpp: {error}") from error

    def remove_adapter(self, name: str) -> None:
        """Refuse new requests for it; its memory is freed when the next server starts."""
        with self._guard:
            self.adapters.pop(name, None)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """The answer's chunks as they come. GrokoraError if it cannot be answered; closing it ends the row."""
        # in another thread: a large grammar takes long to compile, and a server that crashed is started anew
        row = await asyncio.to_thread(self._row, request)
        try:
            while row.finish is None:
                async with aclosing(self._turn(row)) as turn:
                    async for tokens in turn:
                        self._counts["generated_tokens"] += len(tokens)
                        yield TokenChunk(tuple(tokens))
                if row.finish is None and len(row.tokens) >= row.limit:
                    row.finish = "length"
            yield TokenChunk((), row.finish, row.cached or 0)
        except GrokoraError:
            self._counts["failed"] += 1
            raise
        finally:
            with self._guard:
                row.server.rows.discard(row)
            self._end_unused()

    def stats(self) -> EngineStats:
        """The counters now; llama.cpp does not tell its passes, and kept prompts lie in slots that are there anyway."""
        queues = [server.slots for server in self._servers()]
        counts = {name: self._counts[name] for name in ("prompt_tokens", "cached_tokens", "generated_tokens", "failed")}
        return EngineStats(
            running=sum(queue.running for queue in queues),
            waiting=sum(queue.waiting for queue in queues),
            steps=0,
            cache_bytes=0,
            **counts,
        )

    def close(self) -> None:
        """Fail what is still running, end the processes and remove the files."""
        self._closed = True
        for server in self._servers():
            _end(server)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _servers(self) -> list[_Server]:
        with self._guard:
            return [*self._retired, *([self._server] if self._server else [])]

    # --- servers -----------------------------------------------------------------------------------------------------

    def _converted(self, name: str, write: Callable[..., None]) -> Path:
        """The file that `write(output=…)` writes; it is kept, so that the next gateway starts without it."""
        file = self._cache / f"{self._base_key}-{gguf.VERSION}-{name}.gguf"
        if not file.is_file():
            self._cache.mkdir(parents=True, exist_ok=True)
            unfinished = self._cache / f"{file.name}.{os.getpid()}"
            try:
                _in_process(write, output=unfinished)
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
        return file

    def _start(self, files: dict[str, Path]) -> None:
        """Start a server with these adapters and put it in service; GrokoraError leaves all as it was."""
        self._started += 1
        folder = self._folder / str(self._started)
        folder.mkdir()
        for file in (self._weights_file, *files.values()):
            with suppress(OSError):  # it is missing: llama.cpp says so
                os.utime(file)
        exact = self.weights == "f32"
        token_bytes = _token_bytes(text_settings(read_json(self.base / "config.json"))) * (2 if exact else 1)
        cells = max(self.context_length, min(self.slots * self.context_length, KV_BYTES // token_bytes))
        cells = min(cells, MOST_KV_BYTES // token_bytes)
        key = secrets.token_hex(16)
        spec = {
            **{"base": str(self._weights_file), "adapters": [str(path) for path in files.values()], "key": key},
            **{"cells": cells, "slots": self.slots, "exact": exact, "gpu": self._gpu},
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "grokora_pipeline.serving.backends.llama_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the gateway, which lets answers end first
            )
        server = _Server(
            process, folder, "", key, {name: at for at, name in enumerate(files)}, SlotQueue(self.slots, cells)
        )
        assert process.stdin and process.stdout
        watch = threading.Timer(WAIT_SECONDS, process.kill)
        watch.start()
        try:
            process.stdin.write(json.dumps(spec) + "\n")
            process.stdin.flush()
            server.url = json.loads(process.stdout.readline())["url"]
        except (OSError, ValueError, KeyError) as error:
            _end(server)
            raise GrokoraError(f"llama.cpp does not start: {server.last_words}.") from error
        finally:
            watch.cancel()
        # the most tokens that llama.cpp gives one answer and its prompt
        with httpx.Client(timeout=WAIT_SECONDS, trust_env=False, verify=_TLS) as client:
            headers = {"authorization": f"Bearer {server.key}"}
            props = client.get(f"{server.url}/props", headers=headers).raise_for_status().json()
        self.context_length = min(self.context_length, int(props["default_generation_settings"]["n_ctx"]))
        with self._guard:
            old, self._server, self.adapters = self._server, server, files
            closed = self._closed
            if old:
                self._retired.append(old)
        if closed:
            _end(server)
        self._end_unused()

    def _end_unused(self) -> None:
        """End the servers that no new answer goes to, once they have none."""
        with self._guard:
            unused = [server for server in self._retired if not server.rows]
            self._retired = [server for server in self._retired if server.rows]
        for server in unused:
            _end(server)

    # --- answers -----------------------------------------------------------------------------------------------------

    def _row(self, request: GenerationRequest) -> _ActiveRow:
        limit = request.token_limit(self.context_length)
        # checked here, for llama.cpp only logs that it cannot use a grammar, and goes on without one
        matcher = self._grammars.matcher(request.grammar) if request.grammar else None
        with self._changing:
            server = self._server
            if server and server.process.poll() is not None and not self._closed:
                LOG.error("ALERT llama.cpp has ended by itself (%s), and is started anew", _why_ended(server))
                self._start(self.adapters)
        with self._guard:
            if self._closed or self._server is None:
                raise GrokoraError(ENDED)
            if request.adapter is not None and request.adapter not in self.adapters:
                raise GrokoraError(f"There is no adapter {request.adapter!r} on this engine.")
            row = _ActiveRow(request, self._server, limit, matcher, list(request.prompt))
            row.server.rows.add(row)
        return row

    async def _turn(self, row: _ActiveRow) -> AsyncGenerator[list[int], None]:
        """Wait for a slot, then give the tokens of the answer's next turn as they come; sets `row.finish`."""
        count = row.limit - len(row.tokens)
        if row.matcher is None:  # llama.cpp cannot go on in the middle of a grammar
            count = min(count, TURN_TOKENS)
        turn = SlotTurn(row.request.adapter, row.tokens, len(row.tokens) + count)
        queue = row.server.slots
        queue.join(turn)
        try:
            slot = await asyncio.wrap_future(turn.slot)
            async with aclosing(self._events(row, slot, count)) as events:
                row.turns += 1
                before = len(row.tokens)
                async for event in events:
                    if row.cached is None and "timings" in event:
                        row.cached = int(event["timings"]["cache_n"])
                        self._counts["prompt_tokens"] += len(row.request.prompt)
                        self._counts["cached_tokens"] += row.cached
                    added = []
                    tokens: list[int] = event["tokens"]
                    # While a character is not whole llama.cpp shows nothing, and then only its last token: the others
                    # are those that our tokenizer gives for the text.
                    if not event["stop"] and event["tokens_predicted"] > len(row.tokens) - before + len(tokens):
                        tokens = self.chat.encode(event["content"])
                    for token in tokens:
                        if self._ends(row, token):
                            break
                        added.append(token)
                        row.tokens.append(token)
                        if row.matcher and row.matcher.is_stopped():
                            row.finish = "stop"
                            break
                    if added:
                        yield added
                    if row.finish:
                        return
                    if event["stop"] and len(row.tokens) == before:
                        row.finish = "length"  # llama.cpp finds no room for another token
        finally:
            queue.leave(turn)

    async def _events(self, row: _ActiveRow, slot: int, count: int) -> AsyncGenerator[dict[str, Any], None]:
        """llama.cpp's events of at most `count` new tokens; GrokoraError if it refuses or breaks off."""
        request, server = row.request, row.server
        wanted = server.adapters.get(request.adapter) if request.adapter else None
        seed = None if request.seed is None else (request.seed + row.turns) & 0x7FFFFFFF
        body: dict[str, Any] = {
            **{"prompt": row.tokens, "n_predict": count, "id_slot": slot, "cache_prompt": True},
            **{"stream": True, "return_tokens": True, "timings_per_token": True, "min_p": 0.0},
            # In this order, as `engine.sampling`: top_p is taken of the probabilities at the temperature.
            **{"samplers": ["temperature", "top_p"], "top_p": request.top_p, "repeat_penalty": 1.0},
            "temperature": request.temperature if request.temperature >= GREEDY_BELOW else 0.0,
            "lora": [{"id": number, "scale": float(number == wanted)} for number in server.adapters.values()],
            **({"seed": seed} if seed is not None else {}),
            **({"grammar": request.grammar} if request.grammar else {}),
        }
        headers = {"authorization": f"Bearer {server.key}", "connection": "close"}
        try:
            # A connection of its own for each turn: llama.cpp closes kept ones without a word.
            async with (
                httpx.AsyncClient(timeout=WAIT_SECONDS, trust_env=False, verify=_TLS) as client,
                client.stream("POST", f"{server.url}/completion", json=body, headers=headers) as response,
            ):
                if response.status_code != 200:
                    raise GrokoraError(f"llama.cpp refuses the request: {_message(await response.aread())}")
                async for event in EventSource(response).aiter_sse():
                    document = orjson.loads(event.data)
                    if "tokens" not in document:
                        raise GrokoraError(f"llama.cpp failed: {_message(event.data.encode())}")
                    yield document
                    if document["stop"]:
                        return
                raise httpx.ReadError("the stream has no end")
        except (httpx.HTTPError, SSEError) as error:
            reason = "" if self._closed else await asyncio.to_thread(_why_ended, server)
            raise GrokoraError(f"llama.cpp broke off ({reason}); ask again." if reason else CUT) from error

    def _ends(self, row: _ActiveRow, token: int) -> bool:
        """Whether the answer ends before or with this token; sets `row.finish`."""
        request = row.request
        if token in self.chat.stop_ids and not request.ignore_stop:
            row.finish = "stop"
        elif row.matcher and not row.matcher.validate_tokens([token]):
            if not row.matcher.is_accepting():
                raise GrokoraError(f"llama.cpp did not follow the grammar at token {token}; ask again.")
            row.finish = "stop"  # a token that ends answers for llama.cpp alone
        elif row.matcher:
            row.matcher.consume_token(token)
        return row.finish is not None


def check_installed() -> None:
    """GrokoraError if llama.cpp is not here."""
    if find_spec("xllamacpp") is None:
        raise GrokoraError("xllamacpp is not installed here; `pip install 'grokora-pipeline[llamacpp]'` brings it.")


def _write_adapter(base: Path, folder: Path, output: Path) -> None:
    """An adapter as GGUF; GrokoraError for what cannot be read, too."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not iterable itself
                if not tensors.get_tensor(name).isfinite().all():
                    raise GrokoraError(f"The adapter in {folder} holds values that are no numbers in {name}.")
        gguf.write_adapter(base, folder, output)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise GrokoraError(f"The adapter in {folder} cannot be read ({type(error).__name__}: {error}).") from error


def _in_process(function: Callable[..., None], **arguments: Any) -> None:
    """Call a function that needs torch in a process of its own: the gateway then does without its memory."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(function, **arguments).result()
    except BrokenProcessPool as error:
        raise GrokoraError("The conversion for llama.cpp ended by itself; is there enough memory?") from error


def _token_bytes(config: dict[str, Any]) -> int:
    """Bytes of a token's keys and values in fp16, by a model's config.json; those of a 7B if it does not say."""
    try:
        heads = int(config["num_attention_heads"])
        size = int(config.get("head_dim") or config["hidden_size"] // heads)
        return 2 * 2 * int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * size
    except KeyError:
        return 128 << 10


def _end(server: _Server) -> None:
    """End a server's process, which ends when its stdin does."""
    assert server.process.stdin and server.process.stdout
    with suppress(OSError):  # what was not read yet
        server.process.stdin.close()
    try:
        server.process.wait(5)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    server.process.stdout.close()


def _why_ended(server: _Server) -> str:
    """How a process ended; one that closed its connections a moment ago may still be about to."""
    try:
        code = server.process.wait(1)
    except subprocess.TimeoutExpired:
        return "it still runs"
    return f"{f'signal {-code}' if code < 0 else f'exit code {code}'}: {server.last_words}"


def _message(raw: bytes) -> str:
    """What llama.cpp says in an error."""
    try:
        error = orjson.loads(raw).get("error")
    except (orjson.JSONDecodeError, AttributeError):
        error = None
    return str(error.get("message") if isinstance(error, dict) else error)[:300]
