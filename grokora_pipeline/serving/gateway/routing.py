"""Who answers a request: `<agent>`, `<agent>@<version>`, `base`, or `auto`, which any name we do not know means too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grokora_pipeline.agents import AgentSpec, recognise
from grokora_pipeline.serving.gateway.champions import Champions
from grokora_pipeline.serving.gateway.protocol import ApiError
from grokora_pipeline.store.champions import BASE


@dataclass(frozen=True, slots=True)
class Route:
    """The agent that a request belongs to (None: nobody's), and the adapter version or the upstream that answers."""

    agent: AgentSpec | None
    version: str = BASE
    upstream: bool = False
    unknown_model: bool = False  # the request named a model that is nobody's here

    @property
    def served_by(self) -> str:
        """The model name of the reply, and the label in metrics."""
        if self.upstream:
            return "upstream"
        return f"{self.agent.name}@{self.version}" if self.agent and self.version != BASE else BASE


@dataclass(frozen=True, slots=True)
class Router:
    """Routes by the table of champions. With `has_upstream`, what no champion answers goes there."""

    champions: Champions
    has_upstream: bool

    def route(
        self,
        model: str,
        messages: Sequence[dict[str, Any]],
        session: str,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> Route:
        """The route of a request; ApiError 503 if nothing can answer it.

        A request that names no agent is recognised as ingest recognises its recording: by its texts, then its `tools`.
        Names are compared without case and without a provider's prefix: `Coordinator` and `openai/coordinator` mean
        the coordinator.
        """
        name, _, version = model.strip().partition("@")
        name, agents = name.rpartition("/")[2], self.champions.agents
        named = recognise(agents, [], name) or recognise(agents, [], name.lower())
        owner = named or recognise(agents, messages, None, tools)
        agent = next((spec for spec in agents if spec.name == owner), None)
        if name == BASE:
            route = Route(agent)
        elif agent and version and named:
            route = Route(agent, version)
        else:
            picked = self.champions.table[agent.name].pick(session) if agent else BASE
            to_upstream = picked == BASE and self.has_upstream
            route = Route(agent, picked, to_upstream, unknown_model=named is None and name != "auto")
        if not route.upstream and self.champions.engine is None:
            raise ApiError(503, "The base model is not in the store yet; materialize base_model.", code="no_base_model")
        return route

    def observe(self, route: Route, session: str, healthy: bool, seconds: float) -> None:
        """Tell the agent's rollout, if one is on, how a call went; one that named its version does not count."""
        service = self.champions.table.get(route.agent.name) if route.agent else None
        if service and service.rollout and route.version in {service.version, service.before}:
            service.rollout.observe(session, route.version, healthy, seconds)
