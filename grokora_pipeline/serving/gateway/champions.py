"""The champions on the engine: follows the registry's pointers, loads and frees adapters, runs rollouts of new ones.

What is in service is read from the store every second, so a promotion or a rollback by anybody (the asset, the command
line, another gateway) is picked up without a restart. The routes change only once the adapter is loaded, and an adapter
is freed only when no call uses it: no request fails by a change.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.prompt import FixedPrompt
from grokora_pipeline.serving.engine.request import Engine
from grokora_pipeline.serving.gateway.protocol import ApiError
from grokora_pipeline.serving.gateway.rollout import Rollout, RolloutDecision, Rule
from grokora_pipeline.store import Artifact, Store
from grokora_pipeline.store.champions import BASE, PROMPT_PREFIX, Registry

LOG = logging.getLogger("grokora.serving")
_PROVED = "canary"  # the pointer to the last version that got through its rollout, as stores have named it ever since
POLL_SECONDS = 1.0
REMOTE_POLL_SECONDS = 10.0
KEPT_SECONDS = 60.0  # an adapter that nothing points at stays loaded this long: a rollback is instant
MOST_EXTRA = 4  # adapters loaded only because a request named their version


@dataclass(frozen=True, slots=True)
class InService:
    """Who answers for an agent: `version`, or, while that is in rollout, `before` outside its share."""

    version: str = BASE
    before: str = BASE
    rollout: Rollout | None = None

    def pick(self, session: str) -> str:
        """The version that answers in a session."""
        return self.version if self.rollout is None or self.rollout.takes(session) else self.before


@dataclass(frozen=True, slots=True)
class Base:
    """The base model that all adapters belong to."""

    model_id: str
    folder: Path
    chat: ChatFormat
    version: str


def find_base(store: Store) -> Base | None:
    """The base model in the store; None if it was not materialized yet."""
    artifact = store.current("base_model")
    if artifact is None:
        return None
    record = artifact.read_json("base_model.json")
    folder = artifact.path / record["path"]
    return Base(record["model_id"], folder, ChatFormat.load(folder), artifact.version)


class Champions:
    """The table of who is in service, and the engine that answers. `follow` keeps both up to date."""

    def __init__(
        self,
        store: Store,
        agents: Sequence[AgentSpec],
        start_engine: Callable[[Path], Engine],
        rule: Rule | None = None,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self.store, self.agents, self.registry = store, tuple(agents), Registry(store)
        self.engine: Engine | None = None
        self.base: Base | None = None
        self.table: dict[str, InService] = {agent.name: InService() for agent in agents}
        self.refused: dict[str, str] = {}  # agent → the version that its pointer names and that cannot be served
        self.counts: Counter[str] = Counter()  # changes, rollout_promotions, rollout_rollbacks, refused
        self._start_engine, self._rule, self._kept_seconds = start_engine, rule, kept_seconds
        self._changing = threading.Lock()  # one load or unload at a time; never waited for by the event loop
        self._guard = threading.Lock()  # the two dictionaries below; held for moments only
        self._used: dict[str, float] = {}  # loaded adapters, and when each was used last
        self._held: Counter[str] = Counter()
        self._prompts: dict[tuple[str, str], FixedPrompt] = {}
        self._beside: dict[tuple[str, str], str] = {}  # the adapter's version that a prompt stands before, or BASE
        self._seen: dict[str, dict[str, Any]] = {}  # the pointers as they were acted on

    async def follow(self) -> None:
        """Look at the pointers and the rollouts once a second (less often in a remote store), for ever."""
        while True:
            await asyncio.sleep(REMOTE_POLL_SECONDS if self.store.remote else POLL_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
                await self.decide()
            except Exception as error:  # noqa: BLE001 - whatever it is, following goes on: it is all that acts on rollbacks
                LOG.warning("the store cannot be read, what is in service stays: %s: %s", type(error).__name__, error)

    def refresh(self) -> None:
        """Bring the table in line with the registry. Call in a thread: loading takes its time."""
        with self._changing:
            if self.engine is None and (base := find_base(self.store)):
                self.base, self.engine = base, self._start_engine(base.folder)
            for agent in self.agents:
                self._follow(agent)
            self._unload()

    async def decide(self) -> None:
        """Carry out what the rollouts have decided."""
        for agent, service in list(self.table.items()):
            if service.rollout and (decision := service.rollout.decision()):
                await asyncio.to_thread(self._end_rollout, agent, service, decision, service.rollout.evidence())

    @asynccontextmanager
    async def using(self, agent: str | None, version: str) -> AsyncIterator[str | None]:
        """The engine's name of an adapter (None for the base), which stays loaded meanwhile; ApiError if it cannot."""
        if agent is None:
            yield None
            return
        await self.prompt(agent, version)
        version = self._beside.get((agent, version), version)
        if version == BASE:
            yield None
            return
        name = f"{agent}@{version}"
        while True:
            with self._guard:
                if name in self._used:
                    self._held[name] += 1
                    break
            await asyncio.to_thread(self._load_on_demand, agent, version)
        try:
            yield name
        finally:
            with self._guard:
                self._held[name] -= 1
                self._used[name] = time.monotonic()

    async def prompt(self, agent: str | None, version: str) -> FixedPrompt | None:
        """The fixed prompt of a version; None for an adapter alone or the base, ApiError if it cannot be loaded."""
        if agent is None or not version.startswith(PROMPT_PREFIX):
            return None
        if (agent, version) not in self._prompts:
            await asyncio.to_thread(self._load_on_demand, agent, version)
        return self._prompts[agent, version]

    def versions(self, agent: str) -> list[Artifact]:
        """All adapters and fixed prompts of an agent in the store."""
        return [*self.store.versions(f"{agent}/lora_adapter"), *self.store.versions(f"{agent}/prompt")]

    def _follow(self, agent: AgentSpec) -> None:
        record = self.registry.record(agent.name)
        if self.engine is None or record is None or record == self._seen.get(agent.name):
            return
        self._seen[agent.name] = record  # what cannot be served is not tried again every second
        # not the registry's: whether an adapter fits is a question of the base that runs here
        known = self.registry.exists(agent.name, record["version"])
        version, now = str(record["version"]) if known else BASE, self.table[agent.name]
        rolling_out = bool(agent.rollout and version != BASE) and record["action"] == "promote"
        proved = self.store.pointer(f"{agent.name}/champion", _PROVED)
        rolling_out = rolling_out and not (proved and proved["version"] == version)
        if (now.version, now.rollout is not None) == (version, rolling_out):
            return
        before = self.registry.before(agent.name) if rolling_out else version
        try:
            for one in {before, version} - {BASE}:
                self._load(agent.name, one)
        except Exception as error:  # noqa: BLE001 - one unreadable adapter must not end the others' service
            self.counts["refused"] += 1
            self.refused = {**self.refused, agent.name: version}
            LOG.error("ALERT %s@%s cannot be served, %s stays: %s", agent.name, version, now.version, error)
            return
        self.refused = {name: one for name, one in self.refused.items() if name != agent.name}
        rollout = Rollout(version, agent.rollout, self._rule) if rolling_out else None
        self.table = {**self.table, agent.name: InService(version, before, rollout)}
        self.counts["changes"] += 1
        LOG.info("%s is served by %s%s", agent.name, version, f" in {agent.rollout:.0%} of sessions" if rollout else "")

    def _end_rollout(self, agent: str, service: InService, decision: RolloutDecision, evidence: str) -> None:
        record = self.registry.record(agent)
        if record is None or record["version"] != service.version:  # somebody has moved the pointer meanwhile
            return self.refresh()
        promoted = decision == "promote"
        winner = service.version if promoted else service.before
        with self._changing:
            if self.table[agent] is service:
                self.table = {**self.table, agent: InService(winner, winner)}
        if promoted:
            self.counts["rollout_promotions"] += 1
            LOG.info("%s@%s takes all of its agent's sessions: %s", agent, winner, evidence)
        else:
            self.counts["rollout_rollbacks"] += 1
            LOG.error("ALERT %s@%s is rolled back to %s: %s", agent, service.version, winner, evidence)
        try:
            if promoted:
                self.store.point(f"{agent}/champion", _PROVED, winner, evidence=evidence)
            else:
                self.registry.rollback(agent, why=evidence, of=service.version)
        except (OSError, GrokoraError) as error:  # full or read-only: in this process the decision holds nevertheless
            text = "ALERT the store does not record how the rollout of %s@%s ended: %s"
            LOG.error(text, agent, service.version, error)
        return self.refresh()

    def _load_on_demand(self, agent: str, version: str) -> None:
        try:
            with self._changing:
                self._load(agent, version)
        except GrokoraError as error:
            raise ApiError(404, str(error), param="model", code="model_not_found") from error
        except Exception as error:  # safetensors, PEFT, torch and JSON raise what they like for a broken file
            text = f"{agent}@{version} cannot be loaded ({type(error).__name__})."
            raise ApiError(404, text, param="model", code="model_not_found") from error

    def _load(self, agent: str, version: str) -> None:
        artifact = next((one for one in self.versions(agent) if one.version == version), None)
        if artifact is None or self.engine is None:
            raise GrokoraError(f"{agent} has no adapter {version!r}; GET /v1/models lists those there are.")
        if version.startswith(PROMPT_PREFIX):  # a few texts: kept for as long as the gateway runs
            prompt = FixedPrompt.model_validate(artifact.read_json("prompt.json"))
            beside = self.registry.adapter_version(agent, version)
            if beside != BASE:
                self._load(agent, beside)
            self._beside[agent, version] = beside
            self._prompts[agent, version] = prompt
            return
        name = f"{agent}@{version}"
        if self.base and not self.registry.fits(artifact, self.base.version):
            raise GrokoraError(
                f"{name} was trained on another base model than {self.base.model_id}, which answers here; train the "
                "agent on this one, or start the gateway again if the base model was changed since."
            )
        if name not in self._used:
            self.engine.add_adapter(name, artifact.path)
        with self._guard:
            self._used[name] = time.monotonic()

    def _unload(self) -> None:
        wanted = {
            f"{agent}@{self._beside.get((agent, one), one)}"
            for agent, now in self.table.items()
            for one in (now.version, now.before)
        }
        with self._guard:
            idle = [name for name in self._used if name not in wanted and not self._held[name]]
            idle.sort(key=self._used.__getitem__, reverse=True)
            oldest = time.monotonic() - self._kept_seconds
            leaving = [name for index, name in enumerate(idle) if index >= MOST_EXTRA or self._used[name] < oldest]
            for name in leaving:
                del self._used[name], self._held[name]
        for name in leaving:
            if self.engine is not None:
                self.engine.remove_adapter(name)
