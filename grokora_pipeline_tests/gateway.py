"""A gateway on a free port with a scripted engine: everything but the model is the real thing."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.template import TEMPLATE_FILE
from grokora_pipeline.serving.engine.request import Engine, EngineStats, GenerationRequest, TokenChunk
from grokora_pipeline.serving.gateway.app import build_app
from grokora_pipeline.serving.gateway.champions import Champions
from grokora_pipeline.serving.gateway.gateway import Gateway, Limits
from grokora_pipeline.serving.gateway.recorder import Recorder
from grokora_pipeline.serving.gateway.rollout import Rule
from grokora_pipeline.serving.gateway.server import Server
from grokora_pipeline.serving.gateway.upstream import Upstream
from grokora_pipeline.store import Store
from grokora_pipeline_tests.processes import until
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.tiny import tiny_tokenizer

Script = Callable[[GenerationRequest], str]


class ScriptedEngine:
    """Answers with what a script says, token by token; as strict about adapters as the real one."""

    def __init__(self, folder: Path, script: Script, seconds_per_token: float = 0.0) -> None:
        self.chat, self.script, self.seconds = ChatFormat.load(folder), script, seconds_per_token
        self.context_length = 512
        self.loaded: dict[str, Path] = {}
        self.removed: list[str] = []
        self.asks: list[GenerationRequest] = []
        self.running = 0
        self.closed_early = 0
        self.slow_reason = ""
        self.closed = False

    def add_adapter(self, name: str, folder: Path) -> None:
        if (folder / "broken").exists():
            raise GrokoraError(f"{name} does not fit the base model; train it anew.")
        if (folder / "unreadable").exists():
            raise RuntimeError("what a library raises when its file is no adapter")
        self.loaded[name] = folder

    def remove_adapter(self, name: str) -> None:
        del self.loaded[name]
        self.removed.append(name)

    async def stream(self, ask: GenerationRequest) -> AsyncIterator[TokenChunk]:
        if ask.adapter is not None and ask.adapter not in self.loaded:
            raise GrokoraError(f"The adapter {ask.adapter} is not loaded.")
        self.asks.append(ask)
        tokens = self.chat.encode(self.script(ask))
        whole = len(tokens) <= ask.max_new_tokens
        self.running += 1
        finished = False
        try:
            for token in tokens[: ask.max_new_tokens]:
                await asyncio.sleep(self.seconds)
                if self.closed:
                    raise GrokoraError("The engine has ended before the answer was whole; ask again.")
                yield TokenChunk((token,))
            finished = True
            yield TokenChunk((), "stop" if whole else "length", cached_tokens=3)
        finally:
            self.running -= 1
            self.closed_early += not finished

    def stats(self) -> EngineStats:
        return EngineStats(self.running, 0, 0, 0, 0, 0, 0, 0)

    def close(self) -> None:
        self.closed = True
        self.loaded.clear()


def make_store(folder: Path) -> Store:
    """A store that holds a base model without weights: a tokenizer and a chat template."""
    store = Store(str(folder))
    with store.stage("base_model") as staged:
        tiny_tokenizer(staged)
        (staged / TEMPLATE_FILE).write_text(ChatFormat.load(staged).template)
        (staged / "base_model.json").write_bytes(orjson.dumps({"model_id": "tiny", "path": "."}))
        store.publish("base_model", "base1", staged)
    return store


def add_adapter(store: Store, agent: str, version: str, *, broken: bool = False) -> None:
    """Publish an adapter's folder under a version."""
    files = {"adapter_config.json": {"r": 12, "rank_pattern": {"q_proj": 20}}}
    publish_files(store, f"{agent}/lora_adapter", version, files | ({"broken": {}} if broken else {}))


@dataclass
class Running:
    """A gateway that runs: where, and what is inside."""

    url: str
    gateway: Gateway
    recordings: Path
    server: uvicorn.Server

    @property
    def engine(self) -> ScriptedEngine:
        """The scripted engine."""
        found = self.gateway.champions.engine
        assert isinstance(found, ScriptedEngine)
        return found

    def lines(self) -> list[dict[str, Any]]:
        """Everything recorded, file by file."""
        files = sorted(self.recordings.glob("*/*.jsonl"))
        return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]


@dataclass
class Setup:
    """What a gateway is made of; start it with `running()`."""

    root: Path
    agents: list[AgentSpec]
    script: Script = lambda ask: "fine"
    store: Store | None = None
    key: str | None = None
    upstream: str | None = None
    upstream_model: str | None = None
    limits: Limits = field(default_factory=Limits)
    rule: Rule | None = None
    seconds_per_token: float = 0.0
    kept_seconds: float = 60.0
    start_engine: Callable[[Path], Engine] | None = None  # None: the scripted one

    @contextmanager
    def running(self) -> Iterator[Running]:
        """Serve on a free port of 127.0.0.1."""
        store = self.store or make_store(self.root / "store")

        def start(folder: Path) -> ScriptedEngine:
            return ScriptedEngine(folder, self.script, self.seconds_per_token)

        champions = Champions(store, self.agents, self.start_engine or start, self.rule, self.kept_seconds)
        champions.refresh()
        recorder = Recorder(self.root / "logs" / "recordings")
        upstream = Upstream(self.upstream, self.upstream_model) if self.upstream else None
        gateway = Gateway(champions, recorder, upstream, self.limits)
        app = build_app(gateway, self.key)
        server = Server(app, gateway, seconds=0.5, graceful=2)
        with serving(app, server) as url:
            yield Running(url, gateway, recorder.folder, server)


@contextmanager
def serving(app: Starlette, server: uvicorn.Server | None = None) -> Iterator[str]:
    """An application on a free port, in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2)
    server = server or uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started, "the server starts")
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
