"""`grokora serve`: the gateway as a process."""

import asyncio
import logging
import os
import shlex
import shutil
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from grokora_pipeline.agents import load_agents
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.engine.request import Engine
from grokora_pipeline.serving.gateway.app import build_app
from grokora_pipeline.serving.gateway.champions import Champions
from grokora_pipeline.serving.gateway.gateway import Gateway, Limits
from grokora_pipeline.serving.gateway.recorder import Recorder
from grokora_pipeline.serving.gateway.upstream import Upstream
from grokora_pipeline.serving.gateway.vllm import vllm_command
from grokora_pipeline.settings import LOOPBACK, Settings, get_settings
from grokora_pipeline.store import Store
from grokora_pipeline.workers.frame import PASSIVE_THREADS

LOG = logging.getLogger("grokora.serving")
_SHORTEST_KEY = 16
CPU_ENVIRONMENT = {  # read when torch is loaded
    **PASSIVE_THREADS,
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",  # compiled kernels, one a shape; by default 1024, worth 0.5 GB
    "LRU_CACHE_CAPACITY": "64",  # the same, of torch's layer above
}
# How uvicorn's warnings begin, the second of which has advice that would not help.
_UPGRADES = ("Unsupported upgrade request", "No supported WebSocket library")
_SHUTDOWN_SECONDS = 30
HEAD_SECONDS = 30.0  # for the head of a connection's first request; the next ones have uvicorn's 5
_ERROR_SECONDS = 5  # of these are left to tell the callers of streams that do not end by themselves


@dataclass(frozen=True, slots=True)
class Options:
    """Where the gateway listens, and what answers if no champion does."""

    host: str = "127.0.0.1"
    port: int = 8080
    upstream: str = ""
    upstream_model: str = ""
    limits: Limits = field(default_factory=Limits)
    llamacpp: str = ""  # the kind of weights, if llama.cpp is the engine


def api_key(settings: Settings, host: str) -> str | None:
    """The bearer key; GrokoraError if the gateway would stand open, or behind a key that is easily guessed."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if key is not None and len(key) < _SHORTEST_KEY:
        raise GrokoraError(
            f"GROKORA_API_KEY has fewer than {_SHORTEST_KEY} characters; make one with `openssl rand -hex 24`."
        )
    if key is None and host not in LOOPBACK:
        raise GrokoraError(f"{host} can be reached by others; set GROKORA_API_KEY, or leave --host at 127.0.0.1.")
    return key


def listen(host: str, port: int) -> socket.socket:
    """The socket that listens there; GrokoraError if another program does, or the host is none of this machine's."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), port), family=family)
    except OSError as error:
        raise GrokoraError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port.") from error


def serve(settings: Settings, options: Options) -> None:
    """Serve until interrupted. Raises GrokoraError if nothing could answer, or the address is taken."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(without_message)
    key = api_key(settings, options.host)
    upstream = Upstream(options.upstream, options.upstream_model or None) if options.upstream else None
    host, port = options.host, options.port
    listening = listen(host, port)  # before the model is loaded: a taken port is told at once
    recorder = Recorder(settings.recordings_folder)
    recorder.check_writable()
    start: Callable[[Path], Engine] = start_engine
    if options.llamacpp:
        from grokora_pipeline.serving.backends import llamacpp

        llamacpp.check_installed()
        gpu = not settings.devices.startswith("cpu")  # Metal, if llama.cpp finds one
        start = partial(llamacpp.LlamaCppEngine, cache=settings.cache, weights=options.llamacpp, gpu=gpu)
    champions = Champions(Store.of(settings), load_agents(settings.agents), start)
    champions.refresh()
    if champions.engine is None and upstream is None:
        raise GrokoraError(
            f"{settings.store} holds no base_model; materialize it first (`make demo`), or give --upstream <url>."
        )
    gateway = Gateway(champions, recorder, upstream, options.limits)
    app = build_app(gateway, key, loopback=host in LOOPBACK)
    LOG.info("http://%s:%d/v1 · recordings in %s", host, port, recorder.folder)
    if not recorder.folder.is_relative_to(settings.logs):
        LOG.info("these are not below GROKORA_LOGS; set GROKORA_LOGS=%s to learn from them", recorder.folder.parent)
    Server(app, gateway).run(sockets=[listening])


class _TimedHeads(H11Protocol):
    """uvicorn's HTTP, but a connection on which no whole request head arrives in time is closed, whatever comes on it.

    uvicorn itself waits for ever: connections that send nothing, or a byte now and then, would in the end take all file
    descriptors, and with them everybody's next connection. It keeps the timer that it has for idle connections, and is
    only not let off by bytes that are no head yet. (As of uvicorn 0.54.)
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection begins: the time for its first head runs."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Bytes arrive: the time goes on until they are a whole head."""
        timer, self.timeout_keep_alive_task, latest = self.timeout_keep_alive_task, None, self.cycle
        super().data_received(data)
        if self.cycle is latest and (latest is None or latest.response_complete):
            self.timeout_keep_alive_task = timer
        elif timer:
            timer.cancel()


class Server(uvicorn.Server):
    """uvicorn, but streams that still run so many seconds after SIGTERM end with an error event.

    uvicorn itself cancels them at `timeout_graceful_shutdown`: to their callers the connection just breaks.
    """

    def __init__(
        self,
        app: Starlette,
        gateway: Gateway,
        seconds: float = _SHUTDOWN_SECONDS - _ERROR_SECONDS,
        graceful: int = _SHUTDOWN_SECONDS,
    ) -> None:
        # h11 and not httptools, which loses the body of a request that offers an upgrade to HTTP/2, as Java's
        # HttpClient does by default (LangChain4j, Spring AI), and which answers HTTP/1.0 in chunks.
        config = uvicorn.Config(
            app,
            http=_TimedHeads,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=graceful,
        )
        super().__init__(config)
        self._gateway, self._seconds = gateway, seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the answers, end those that take too long, then close everything."""

        async def end_late_answers() -> None:
            """End the answers that are not done when the time for them is over."""
            await asyncio.sleep(self._seconds)
            await self._gateway.end_answers()

        ending = asyncio.create_task(end_late_answers())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()


def without_message(record: logging.LogRecord) -> bool:
    """A logging filter: of an exception its type and place are told, but not its text, which may quote a prompt.

    That an upgrade is not taken is not told at all: Java's clients offer one with every connection.
    """
    if str(record.msg).startswith(_UPGRADES):
        return False
    if record.exc_info and record.exc_info[0]:
        kind, _, trace = record.exc_info
        record.msg, record.args = f"{record.getMessage()}{''.join(traceback.format_tb(trace))}{kind.__name__}", ()
        record.exc_info, record.exc_text = None, None  # the text as another handler may have formatted it
    return True


def start_engine(folder: Path) -> Engine:
    """The engine of this project, on the device that GROKORA_DEVICES leaves; torch is loaded here and not before."""
    if devices := get_settings().devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = "" if devices.startswith("cpu") else devices
    os.environ.update({**CPU_ENVIRONMENT, **os.environ})
    from grokora_pipeline.serving.engine.engine import TorchEngine

    return TorchEngine(folder)


def serve_vllm(settings: Settings, options: Options, *, only_print: bool) -> str:
    """Become the equivalent `vllm serve`, or return the command as a line of shell.

    The bearer key travels in the environment. GrokoraError if vLLM is not installed.
    """
    key = api_key(settings, options.host)
    words = vllm_command(Store.of(settings), load_agents(settings.agents), options.host, options.port)
    if only_print:
        return shlex.join(words)
    if shutil.which("vllm") is None:
        raise GrokoraError("vllm is not installed here; `pip install vllm` on a CUDA machine, or see it with --print.")
    return os.execvpe("vllm", words, {**os.environ, **({"VLLM_API_KEY": key} if key else {})})
