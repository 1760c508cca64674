"""The HTTP side: the three APIs, `/v1/models`, `/v1/traces`, `/v1/feedback`, `/health`, `/metrics`."""

import asyncio
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.gateway import traces
from grokora_pipeline.serving.gateway.apis import APIS, Api
from grokora_pipeline.serving.gateway.feedback import Feedback
from grokora_pipeline.serving.gateway.gateway import Gateway
from grokora_pipeline.serving.gateway.protocol import ApiError, Json
from grokora_pipeline.serving.gateway.sessions import session_name
from grokora_pipeline.settings import LOOPBACK
from grokora_pipeline.store.champions import BASE

ACCESS = logging.getLogger("grokora.access")
_THREADS = 24


def build_app(gateway: Gateway, key: str | None, *, loopback: bool = True) -> Starlette:
    """The application. With a `key`, all but `/health` needs it as the bearer key; it is never sent upstream.

    On a loopback address only requests to a loopback name are served, so that no web page can reach the gateway by a
    name of its own.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        """Follow the champions' pointers while the server runs; close the recordings at its end."""
        # asyncio's own pool has six threads on two cores: six calls that wait for adapters to load would hold up all
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="gateway"))
        app.state.following = asyncio.create_task(gateway.champions.follow())
        try:
            yield
        finally:
            app.state.following.cancel()
            await gateway.recorder.close()
            await gateway.traces.close()
            await gateway.end_answers()

    has_key = key is not None
    own = _Endpoints(gateway, has_key)
    routes = [
        *(Route(f"/v1/{api.path}", _CallEndpoint(gateway, api, has_key), methods=["POST"]) for api in APIS),
        Route("/v1/messages/count_tokens", own.count_tokens, methods=["POST"]),
        Route("/v1/models", own.models, methods=["GET"]),
        Route("/v1/models/{model:path}", own.models, methods=["GET"]),
        Route("/v1/traces", partial(traces.receive, gateway), methods=["POST"]),
        Route("/v1/feedback", own.feedback, methods=["POST"]),
        Route("/metrics", own.metrics, methods=["GET"]),
        Route("/health", own.health, methods=["GET"]),
    ]
    # Starlette would redirect, and not every client sends a POST again (Python's urllib raises)
    routes += [Route(f"{one.path}/", one.endpoint, methods=list(one.methods or ())) for one in routes]
    guards = [Middleware(_AccessLog), Middleware(_Guard, key=key, loopback=loopback, refuse=own.refuse)]
    handled: Any = dict.fromkeys((ApiError, HTTPException, ClientDisconnect, Exception), own.refuse)
    return Starlette(routes=routes, middleware=guards, lifespan=lifespan, exception_handlers=handled)


@dataclass(frozen=True, slots=True)
class _CallEndpoint:
    """An ASGI endpoint: the adapter stays loaded, and the call counts as running, until the response is sent."""

    gateway: Gateway
    api: Api
    has_key: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        keys = _upstream_keys(request, self.api, self.has_key)
        stalled = False

        async def send_in_time(message: Message) -> None:
            """Send, but not to a caller that has stopped reading: it would hold its place for ever."""
            nonlocal stalled
            try:
                async with asyncio.timeout(self.gateway.limits.send_seconds):
                    await send(message)
            except TimeoutError:
                stalled = True
                raise ClientDisconnect from None

        try:
            async with self.gateway.call(request, self.api, keys) as response:
                await response(scope, receive, send_in_time)
        except ClientDisconnect:
            if not stalled:
                raise
            # uvicorn closes the connection of an answer that was not finished


def _upstream_keys(request: Request, api: Api, has_key: bool) -> dict[str, str]:
    """The headers that carry the caller's key upstream.

    If the gateway has a key of its own, the bearer is that one, and the upstream's comes in its own header.
    """
    own = request.headers.get("x-upstream-api-key")
    if own:
        return {"x-api-key": own} if api.name == "messages" else {"authorization": f"Bearer {own}"}
    names = () if has_key else ("authorization", "x-api-key")
    return {name: request.headers[name] for name in names if name in request.headers}


@dataclass(frozen=True, slots=True)
class _Endpoints:
    """The endpoints that no model answers, and what a refused request gets."""

    gateway: Gateway
    has_key: bool

    def refuse(self, request: Request, error: Exception) -> Response:
        """An error in the shape of the API that was called: never more than what is meant for a person."""
        path, headers = request.url.path, dict[str, str]()
        if isinstance(error, ApiError):
            public = error
        elif isinstance(error, ClientDisconnect):
            public = ApiError(499, "The caller went away.")
        elif isinstance(error, HTTPException) and error.status_code == 404:
            spoken = ", ".join(f"/v1/{api.path}" for api in APIS)
            public = ApiError(404, f"{path} is not spoken here; this gateway speaks {spoken}.", code="not_found")
        elif isinstance(error, HTTPException):
            public, headers = ApiError(error.status_code, f"{error.detail}."), dict(error.headers or {})
        else:
            public = ApiError(500, "The gateway failed; its log says where.", code="internal_error")
        self.gateway.metrics.refused.labels(str(public.status)).inc()
        headers |= {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(public.status, {})
        api = next((one for one in APIS if path.startswith(f"/v1/{one.path}")), APIS[0])
        return JSONResponse(api.error(public), public.status, headers)

    async def count_tokens(self, request: Request) -> Response:
        """`POST /v1/messages/count_tokens`."""
        api = next(api for api in APIS if api.name == "messages")
        return await self.gateway.count_tokens(request, api, _upstream_keys(request, api, self.has_key))

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`, and `/v1/models/<name>` for one of them."""
        cards = await asyncio.to_thread(self._cards)
        # as in a request's `model`: without a provider's prefix, and whatever its case
        wanted = request.path_params.get("model", "").strip("/").rpartition("/")[2]
        if not wanted:
            ends = {"first_id": cards[0]["id"], "last_id": cards[-1]["id"], "has_more": False}
            return JSONResponse({"object": "list", "data": cards, **ends})
        for card in cards:
            if card["id"].lower() == wanted.lower():
                return JSONResponse(card)
        raise ApiError(404, f"There is no model {wanted!r}.", param="model", code="model_not_found")

    async def feedback(self, request: Request) -> Response:
        """`POST /v1/feedback`: a session's outcome, for its recording and for the rollouts of the champions in it."""
        recorder = self.gateway.recorder
        feedback = Feedback.parse(await self.gateway.read_body(request, 1 << 16))
        try:
            named = feedback.session_id or await asyncio.to_thread(recorder.session_of, feedback.call or "")
            if not named:
                raise ApiError(404, f"No call {feedback.call!r} was recorded.", param="call", code="call_not_found")
            session = session_name(named)
            if not await asyncio.to_thread(recorder.knows, session):
                raise ApiError(404, f"No call of a session {session!r} was recorded.", code="session_not_found")
            await asyncio.wrap_future(recorder.outcome(session, feedback.outcome()))
        except OSError as error:
            raise ApiError(503, "The feedback could not be written; the log says why.", code="not_recorded") from error
        for service in self.gateway.champions.table.values():
            if service.rollout and feedback.rating:
                service.rollout.rate(session, feedback.rating)
        return JSONResponse({"session_id": session, "recorded": True})

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`."""
        return Response(generate_latest(self.gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def health(self, request: Request) -> Response:
        """`GET /health`."""
        if request.app.state.following.done():
            raise ApiError(503, "The champions are no longer followed; the log says why.", code="unhealthy")
        refused, engine = self.gateway.champions.refused, self.gateway.champions.engine
        served = {agent: service.version for agent, service in self.gateway.champions.table.items()}
        for recorder in (self.gateway.recorder, self.gateway.traces):
            if recorder.trouble:
                with suppress(GrokoraError):
                    await asyncio.to_thread(recorder.check_writable)
        trouble = self.gateway.recorder.trouble or self.gateway.traces.trouble
        status: Json = {"status": "degraded" if refused or trouble else "ok", "champions": served}
        status["engine"] = "ready" if engine else "no base model yet"
        slow = engine.slow_reason if engine else ""  # rows are answered one by one: right, but slow
        problems = {"refused": refused, "not_recorded": trouble, "slow": slow}
        return JSONResponse(status | {name: value for name, value in problems.items() if value})

    def _cards(self) -> list[Json]:
        """The base, each agent (whatever answers for it now) and each version; parent and root are as vLLM has them."""
        base, registry = self.gateway.champions.base, self.gateway.champions.registry
        models: list[tuple[str, str, str | None, int]] = [(BASE, base.model_id if base else BASE, None, 0)]
        for agent, service in self.gateway.champions.table.items():
            history = registry.history(agent)
            since = {past["version"]: int(datetime.fromisoformat(past["at"]).timestamp()) for past in history}
            served = BASE if service.version == BASE else f"{agent}@{service.version}"
            models.append((agent, served, BASE, since.get(service.version, 0)))
            models += [
                (f"{agent}@{adapter.version}", adapter.name, BASE, since.get(adapter.version, 0))
                for adapter in self.gateway.champions.versions(agent)
                if registry.serves(agent, adapter.version, base.version if base else None)
            ]
        return [
            {
                # as OpenAI's package reads a model
                **{"id": name, "object": "model", "created": created, "owned_by": "grokora"},
                **{"root": root, "parent": parent},
                # as Anthropic's does
                **{"type": "model", "display_name": name, "lifecycle": "active"},
                "created_at": datetime.fromtimestamp(created, UTC).isoformat(),
            }
            for name, root, parent, created in models
        ]


@dataclass(frozen=True, slots=True)
class _Guard:
    """Lets through what carries the key, in either header (Claude Code sends both), and calls a loopback address so."""

    app: ASGIApp
    key: str | None
    loopback: bool
    refuse: Callable[[Request, Exception], Response]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(scope)):
            await self.refuse(Request(scope), error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        host = re.sub(r":\d*$", "", headers.get("host", "localhost")).lower()  # HTTP/1.0 need not send it
        if self.loopback and host not in LOOPBACK:
            text = f"This gateway answers to {', '.join(LOOPBACK[:2])} only, not to the name in `Host`."
            return ApiError(400, text, code="unknown_host")
        if self.key is None or scope["path"] == "/health":
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        sent = (key.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""))
        # a sum and not `any`, which would stop at the first match and so tell by its time which header was right
        if sum(hmac.compare_digest(one.encode(), self.key.encode()) for one in sent):
            return None
        return ApiError(401, "Incorrect API key provided.", code="invalid_api_key")


@dataclass(frozen=True, slots=True)
class _AccessLog:
    """A line a request: method, path, status, seconds, who answered. No query, no header, no text of anybody's."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, by = time.perf_counter(), 0, "-"

        async def noted(message: Message) -> None:
            """Note the status and who answered, as the response passes."""
            nonlocal status, by
            if message["type"] == "http.response.start":
                status = message["status"]
                by = Headers(raw=message["headers"]).get("x-served-by", "-")
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - started
            ACCESS.info("%s %r %d %.3f s %s", scope["method"], scope["path"], status, seconds, by)
