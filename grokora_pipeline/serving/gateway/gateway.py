"""A chat completion from request to recorded reply: admitted, routed, answered here or upstream, judged, recorded."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from grokora_pipeline.agents import recognise
from grokora_pipeline.serving.gateway.answers import LocalAnswer, fault, prepare
from grokora_pipeline.serving.gateway.champions import Champions
from grokora_pipeline.serving.gateway.metrics import Metrics
from grokora_pipeline.serving.gateway.protocol import (
    DONE,
    ApiError,
    Assembly,
    ChatRequest,
    Json,
    chunk,
    event,
    read_object,
)
from grokora_pipeline.serving.gateway.recorder import Recorder
from grokora_pipeline.serving.gateway.routing import Route, Router
from grokora_pipeline.serving.gateway.sessions import Sessions
from grokora_pipeline.serving.gateway.upstream import Upstream, passed_back, unreachable

LOG = logging.getLogger("grokora.serving")
_BROKEN_OFF = {"error": {"message": "the caller went away before the answer was whole", "type": "client_gone"}}
_OURS = {"auto", "base"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one gateway takes on. Beyond `requests` at the same time callers get 429."""

    body_bytes: int = 16 << 20
    requests: int = 64
    session_gap: float = 120.0  # seconds of quiet after which a client that names no session starts a new one


@dataclass(slots=True)
class Exchange:
    """A request under way."""

    session: str
    route: Route
    asked: ChatRequest
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.perf_counter)
    recorded: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What the caller may want to know: the session, for feedback, and who answered."""
        return {"x-session-id": self.session, "x-served-by": self.route.served_by}


class Gateway:
    """Everything behind the routes."""

    def __init__(
        self,
        champions: Champions,
        recorder: Recorder,
        upstream: Upstream | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.champions, self.recorder, self.upstream, self.limits = champions, recorder, upstream, limits or Limits()
        self.router = Router(champions, upstream is not None)
        self.metrics = Metrics(champions, recorder)
        self._sessions = Sessions(self.limits.session_gap)
        self._running = 0

    @asynccontextmanager
    async def call(self, request: Request, upstream_key: str | None) -> AsyncIterator[Response]:
        """The response to a chat-completions request, to be sent inside the context; ApiError where there is none."""
        with self._admitted():
            exchange = self._exchange(request, read_object(await read_body(request, self.limits.body_bytes)))
            async with self._accounted(exchange):
                forward = exchange.route.upstream
                opened = self._forward(exchange, upstream_key) if forward else self._answer(exchange, request)
                async with opened as response:
                    yield response

    def _exchange(self, request: Request, body: Json) -> Exchange:
        """Whose call it is and who answers. What passes through may hold what only the upstream understands."""
        asked = ChatRequest.unchecked(body)
        session = self._sessions.name(request.headers.get("x-session-id") or asked.user, _client(request))
        given = body.get("messages")
        messages = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        route = self.router.route(asked.model, messages, session)
        try:
            asked = ChatRequest.parse(body)
        except ApiError:
            if not route.upstream:
                raise
        return Exchange(session, route, asked)

    @asynccontextmanager
    async def _accounted(self, exchange: Exchange) -> AsyncIterator[None]:
        """Sees to it that an exchange is counted and recorded however it ends, but for a caller's mistake."""
        try:
            yield
        except ClientDisconnect:
            raise
        except ApiError as error:
            if error.status >= 500:
                await self._finish(exchange, error.body(), status=error.status)
            exchange.recorded = True
            raise
        except Exception as error:
            failed = ApiError(500, f"The answer failed: {type(error).__name__}.", code="internal_error")
            await self._finish(exchange, failed.body(), status=500)
            raise
        finally:
            if not exchange.recorded:
                self._record(exchange, _BROKEN_OFF)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._running >= self.limits.requests:
            raise ApiError(429, f"{self._running} requests are being answered; try again in a second.", code="busy")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    @asynccontextmanager
    async def _answer(self, exchange: Exchange, request: Request) -> AsyncIterator[Response]:
        route, asked, engine, base = exchange.route, exchange.asked, self.champions.engine, self.champions.base
        assert engine is not None and base is not None  # the router saw to it
        name = route.agent.name if route.agent else None
        async with self.champions.using(name, route.version) as adapter:
            agent = route.agent if asked.model != "base" else None
            ask = await prepare(asked, agent, adapter, base.chat, engine.context_length)
            answer = LocalAnswer(asked, ask, base.chat, engine, route.served_by)
            if asked.stream:
                async with aclosing(self._events(exchange, answer)) as events:
                    yield StreamingResponse(events, headers=exchange.headers, media_type="text/event-stream")
                return
            await _unless_gone(request, self._drain(answer))
            await self._finish(exchange, answer.reply, repaired=answer.repaired)
            yield _json(answer.reply, exchange.headers)

    @staticmethod
    async def _drain(answer: LocalAnswer) -> None:
        async with aclosing(answer.deltas()) as deltas:
            async for _ in deltas:
                pass

    async def _events(self, exchange: Exchange, answer: LocalAnswer) -> AsyncGenerator[bytes, None]:
        yield chunk(answer.head, {"role": "assistant", "content": ""})
        try:
            async with aclosing(answer.deltas()) as deltas:
                async for delta in deltas:
                    yield chunk(answer.head, delta)
        except ApiError as error:
            await self._finish(exchange, error.body(), status=error.status)
            yield event(error.body())
            return
        await self._finish(exchange, answer.reply, repaired=answer.repaired)
        yield chunk(answer.head, {}, answer.finish)
        options = exchange.asked.stream_options
        if options and options.include_usage:
            head = {**answer.head, "object": "chat.completion.chunk", "choices": []}
            yield event({**head, "usage": answer.reply["usage"]})
        yield DONE

    @asynccontextmanager
    async def _forward(self, exchange: Exchange, key: str | None) -> AsyncIterator[Response]:
        assert self.upstream is not None
        body = exchange.asked.body
        if self.upstream.model and self._is_ours(exchange.asked.model):
            body = {**body, "model": self.upstream.model}
        async with self.upstream.send(orjson.dumps(body), key) as response:
            headers = exchange.headers | passed_back(response)
            if response.status_code == 200 and "event-stream" in response.headers.get("content-type", ""):
                async with aclosing(self._pass_on(exchange, response)) as events:
                    yield StreamingResponse(events, headers=headers)
                return
            try:
                raw = await response.aread()
            except httpx.HTTPError as error:
                raise unreachable(error) from error
            secret = key.rpartition(" ")[2] if key and response.status_code >= 400 else ""
            await self._finish(exchange, _reply_of(raw, secret), status=response.status_code)
            yield Response(raw, response.status_code, headers)

    async def _pass_on(self, exchange: Exchange, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The upstream's events as they come; the last one only once the exchange is recorded."""
        assembly, last = Assembly(), b""
        try:
            async for raw in response.aiter_bytes():
                assembly.feed(raw)
                now, done, rest = raw.partition(DONE.strip())
                last = done + rest
                if now:
                    yield now
        except httpx.HTTPError as error:
            last = event(unreachable(error).body())
        await self._finish(exchange, assembly.reply())
        yield last

    def _is_ours(self, model: str) -> bool:
        return model in _OURS or recognise(self.champions.agents, [], model.partition("@")[0]) is not None

    async def _finish(self, exchange: Exchange, reply: Json, *, status: int = 200, repaired: bool = False) -> None:
        """Count, judge and record an exchange; returns when the recording is on the disk."""
        seconds = time.perf_counter() - exchange.started
        route, who = exchange.route, _who(exchange.route)
        message, usage = _message_of(reply), reply.get("usage")
        wrong = fault(message, exchange.asked, route.agent) if message else "error"
        self.metrics.requests.labels(*who, str(status)).inc()
        self.metrics.seconds.labels(*who).observe(seconds)
        if wrong:
            self.metrics.faults.labels(*who, wrong).inc()
        if repaired:
            self.metrics.repaired.labels(*who).inc()
        for kind in ("prompt", "completion"):
            count = usage.get(f"{kind}_tokens") if isinstance(usage, dict) else None
            self.metrics.tokens.labels(*who, kind).inc(count if isinstance(count, int) and count > 0 else 0)
        self.router.observe(route, exchange.session, not wrong, seconds)
        await asyncio.gather(asyncio.wrap_future(self._record(exchange, reply)), return_exceptions=True)

    def _record(self, exchange: Exchange, reply: Json) -> Future[None]:
        exchange.recorded = True
        agent = exchange.route.agent.name if exchange.route.agent else None
        body = exchange.asked.body
        done = self.recorder.call(exchange.session, agent, exchange.started_at, body, reply)
        done.add_done_callback(_complain)
        return done


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request; ApiError 413 beyond the limit, 415 for another content type."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":  # what a web page may send unasked is another
        raise ApiError(415, "Send the request as content-type application/json.", code="unsupported_media_type")
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > limit:
            raise ApiError(413, f"The body is larger than {limit} bytes.", code="request_too_large")
    return b"".join(parts)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, but stop where the caller goes away first: then nobody wants the answer."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _client(request: Request) -> tuple[str, str]:
    key = request.headers.get("authorization", "")
    return request.client.host if request.client else "", hashlib.sha256(key.encode()).hexdigest()


def _who(route: Route) -> tuple[str, str]:
    return route.agent.name if route.agent else "", route.served_by


def _message_of(reply: Json) -> Json | None:
    """The answer in a reply of whatever shape."""
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, dict) else None


def _reply_of(raw: bytes, secret: str) -> Json:
    """An upstream's reply as it may be stored; some APIs quote the key that they refuse."""
    raw = raw.replace(secret.encode(), b"<SECRET:api_key>") if secret else raw
    try:
        reply = orjson.loads(raw)
    except orjson.JSONDecodeError:
        reply = None
    return reply if isinstance(reply, dict) else {"error": {"message": "the upstream sent no JSON object"}}


def _json(content: Json, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), headers=headers, media_type="application/json")


def _complain(done: Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()):
        LOG.error("ALERT an exchange could not be recorded: %s", error)
