"""A call from request to recorded reply: admitted, routed, answered here or upstream, judged, recorded."""

import asyncio
import gzip
import hashlib
import logging
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import httpx
import orjson
from httpx_sse import EventSource, ServerSentEvent, SSEError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.engine.constrain import unenforced
from grokora_pipeline.serving.gateway.answers import LocalAnswer, encode_prompt, fault, prepare, refuse_by_length
from grokora_pipeline.serving.gateway.apis import Api, answer_of
from grokora_pipeline.serving.gateway.bodies import OWN_NAMES, chat_request, is_media, optional_tools, part_kinds
from grokora_pipeline.serving.gateway.champions import Champions
from grokora_pipeline.serving.gateway.conversations import Conversations, for_upstream
from grokora_pipeline.serving.gateway.metrics import Metrics
from grokora_pipeline.serving.gateway.protocol import (
    ApiError,
    ChatRequest,
    Json,
    ignored_members,
    is_too_deep,
    read_object,
    without_unread,
)
from grokora_pipeline.serving.gateway.recorder import Recorder, new_receipt
from grokora_pipeline.serving.gateway.routing import Route, Router
from grokora_pipeline.serving.gateway.sessions import Sessions, session_name
from grokora_pipeline.serving.gateway.upstream import Upstream, passed_back, unreachable
from grokora_pipeline.sessions.readers.streams import StreamedReply
from grokora_pipeline.sessions.redaction.redactor import Redactor
from grokora_pipeline.store.champions import BASE

LOG = logging.getLogger("grokora.serving")
_BROKEN_OFF = {"error": {"message": "the caller went away before the answer was whole", "type": "client_gone"}}
_BROKEN_STREAM = {"error": {"message": "the stream broke off"}}
_PASSED_ON = ("anthropic-version", "anthropic-beta", "openai-organization", "openai-project", "openai-beta")
# ours, then what Codex and Claude Code send
_SESSION_HEADERS = ("x-session-id", "session_id", "session-id", "conversation_id", "x-claude-code-session-id")
_KEY_HEADERS = ("authorization", "x-api-key", "x-upstream-api-key")
_NO_HEAD = {"id": "", "created": 0, "model": ""}
UPSTREAM_TIMES = 4
_MOST_IGNORED = 32  # named in a header, which clients take up to 8 KiB of
_UNFINISHED_BODIES = 16  # of the largest size may be in memory together


@dataclass(frozen=True, slots=True)
class Limits:
    """What one gateway takes on. Beyond `requests` at the same time callers get 429.

    A body that only passes to an upstream may be `UPSTREAM_TIMES` as large: pictures and files go there.
    """

    body_bytes: int = 16 << 20
    requests: int = 64
    session_gap: float = 120.0  # seconds of quiet after which a client that names no session starts a new one
    body_seconds: float = 60.0  # for a body to arrive


@dataclass(slots=True)
class Exchange:
    """A request under way: `body` is as it was sent, `asked` the same as a chat request, with all it refers to."""

    session: str
    route: Route
    api: Api
    body: Json
    asked: ChatRequest
    receipt: str
    forwarded: Json  # what an upstream gets of it
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.perf_counter)
    recorded: bool = False
    keys: list[str] = field(default_factory=list)  # the caller's and the upstream's: secret in request and reply
    ignored: list[str] = field(default_factory=list)  # members, tools and a schema's keywords without effect here

    @property
    def headers(self) -> dict[str, str]:
        """What the caller may want to know: the session and the call, for feedback, and who answered."""
        headers = {"x-session-id": self.session, "x-served-by": self.route.served_by, "x-grokora-call": self.receipt}
        headers |= {
            "x-request-id": self.receipt,
            "request-id": self.receipt,
        }  # where OpenAI's and Anthropic's SDKs look
        headers |= {"x-grokora-unknown-model": "1"} if self.route.unknown_model else {}
        ignored = [name for name in self.ignored if name.isascii() and name.isprintable()][:_MOST_IGNORED]
        return headers | ({"x-grokora-ignored": ", ".join(ignored)} if ignored else {})


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
        self.traces = Recorder(recorder.folder / "traces")
        self.router = Router(champions, upstream is not None)
        self.metrics = Metrics(champions, recorder)
        self._sessions = Sessions(self.limits.session_gap)
        self._conversations = Conversations(recorder)
        self._running = 0
        self._unfinished_bytes = 0  # of bodies that are still being read

    @asynccontextmanager
    async def call(self, request: Request, api: Api, keys: Mapping[str, str]) -> AsyncIterator[Response]:
        """The response to a call, to be sent inside the context; ApiError where there is none.

        `keys` are the headers that carry the caller's own key to an upstream.
        """
        raw = await self.read_body(request, self.limits.body_bytes * (UPSTREAM_TIMES if self.upstream else 1))
        with self._admitted():
            exchange = await self._exchange(request, api, raw)
            async with self._accounted(exchange):
                forward = exchange.route.upstream
                opened = self._forward(exchange, request, keys) if forward else self._answer(exchange, request)
                async with opened as response:
                    yield response

    async def count_tokens(self, request: Request, api: Api, keys: Mapping[str, str]) -> Response:
        """How many tokens the model would read of a request: redacted, behind its agent's fixed prompt if it has one.

        An upstream counts those of a request that it would answer: its tokenizer is not here.
        """
        body = read_object(await self.read_body(request, self.limits.body_bytes))
        user = _session_of(request, body)
        session, chat, problem = session_name(user) if user else None, body, None
        try:
            chat = _as_chat(api, body)
        except ApiError as error:
            problem = error
        route = self._route(chat, session or "")
        if route.upstream:
            path = f"{api.path}/count_tokens"
            try:
                with self._admitted():
                    async with self._send(path, body, request, keys) as response:
                        return Response(await response.aread(), response.status_code, passed_back(response))
            except httpx.HTTPError as error:
                raise unreachable(error) from error
        if problem:
            raise problem
        asked, engine, base = ChatRequest.parse(chat, OWN_NAMES[api.name]), self.champions.engine, self.champions.base
        assert engine is not None and base is not None  # the router saw to it
        refuse_by_length(asked, engine.context_length)
        messages, _ = await asyncio.to_thread(self._redacted, session, asked)
        fixed = await self.champions.prompt(route.agent.name if route.agent else None, route.version)
        agent = route.agent if asked.model != BASE else None
        room = engine.context_length
        tokens = await asyncio.to_thread(encode_prompt, asked, agent, base.chat, messages, fixed=fixed, room=room)
        return Response(orjson.dumps({"input_tokens": len(tokens)}), media_type="application/json")

    async def read_body(self, request: Request, limit: int, kinds: Sequence[str] = ("application/json",)) -> bytes:
        """The body of a request whose content type is one of `kinds`.

        Raises ApiError 415 for another content type, 413 beyond the limit, 408 if it does not arrive in time, 429 if
        unfinished bodies fill the memory that they may have. A body that is being read takes no other's turn.
        """
        kind, coding = content_type(request), request.headers.get("content-encoding", "identity").lower()
        if kind not in kinds:  # what a web page may send unasked is another
            text = f"Send the request as content-type {' or '.join(kinds)}."
            raise ApiError(415, text, code="unsupported_media_type")
        if coding not in ("identity", "gzip"):
            raise ApiError(415, f"content-encoding {coding!r} is not read here.", code="unsupported_media_type")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    self._unfinished_bytes += len(part)
                    if size > limit:
                        raise ApiError(413, f"The body is larger than {limit} bytes.", code="request_too_large")
                    if self._unfinished_bytes > _UNFINISHED_BODIES * self.limits.body_bytes:
                        raise ApiError(429, "Too many large bodies are arriving; try again in a second.", code="busy")
        except TimeoutError:
            text = f"The body did not arrive within {self.limits.body_seconds:g} seconds."
            raise ApiError(408, text, code="request_timeout") from None
        finally:
            self._unfinished_bytes -= size
        raw = b"".join(parts)
        return await asyncio.to_thread(_unzipped, raw, limit) if coding == "gzip" else raw

    async def end_answers(self) -> None:
        """End what is still being answered, so that its caller is told; nothing can be answered afterwards."""
        if self.upstream:
            await self.upstream.close()
        if self.champions.engine is not None:
            await asyncio.to_thread(self.champions.engine.close)

    async def _exchange(self, request: Request, api: Api, raw: bytes) -> Exchange:
        """Whose call it is and who answers. What passes through may hold what only the upstream understands."""
        body = read_object(raw)
        whole, chat, problem, ignored = body, body, None, list[str]()
        user = _session_of(request, body)

        def lower() -> None:
            """Bring the body into the shape of a chat request, with the conversation that it continues."""
            nonlocal whole, chat, user
            if api.name == "responses":
                whole, earlier = self._conversations.resolve(body, session_name(user) if user else "")
                user = user or earlier
            chat = _as_chat(api, whole)

        try:
            await asyncio.to_thread(lower)  # megabytes of messages must not hold up the streams of others
        except ApiError as error:
            problem = error  # it matters only to a request that is answered here
        key = request.headers.get("authorization", "")  # callers of one machine may be told apart by their keys
        client = request.client.host if request.client else "", hashlib.sha256(key.encode()).hexdigest()
        session = self._sessions.name(user, client)
        asked, route = ChatRequest.unchecked(chat), self._route(chat, session)
        if not route.upstream:
            if len(raw) > self.limits.body_bytes:  # it was let in because it might have been the upstream's
                text = f"The body is larger than {self.limits.body_bytes} bytes."
                raise ApiError(413, text, code="request_too_large")
            if problem:
                raise problem
            ignored = ignored_members(api.name, body) + [f"tools.{kind}" for kind in optional_tools(body)]
            body = without_unread(body)
            asked = ChatRequest.parse(without_unread(chat), OWN_NAMES.get(api.name))
            refuse_by_length(asked, self.champions.engine.context_length if self.champions.engine else 0)
            if api.name == "messages" and asked.messages[-1].role == "assistant":  # to count such tokens is right
                text = (
                    "The last message is the assistant's: no answer can be begun for the model here. End with a user's."
                )
                raise ApiError(400, text, param="messages", code="unsupported_content")
            if any(map(is_media, part_kinds(whole))) and (route.agent is None or route.agent.images == "refuse"):
                text = (
                    "The base model reads text only, and a message holds a picture, a sound or a file; leave it out, "
                    "or set `images: placeholder` for the agent in agents.yaml, if its logs hold such messages."
                )
                raise ApiError(400, text, param="messages", code="unsupported_content")
        else:
            with suppress(ApiError):  # the upstream may know more; then its answer is judged by less
                asked = ChatRequest.parse(chat)
        keys = [request.headers.get(name, "").rpartition(" ")[2] for name in _KEY_HEADERS]
        keys = [key for key in keys if key]
        receipt, forwarded = new_receipt(session), for_upstream(body, whole)
        return Exchange(session, route, api, body, asked, receipt, forwarded, keys=keys, ignored=ignored)

    def _route(self, chat: Json, session: str) -> Route:
        """The route of a chat request that nobody has checked yet."""
        messages = [one for one in _list(chat.get("messages")) if isinstance(one, dict)]
        tools = [one for one in _list(chat.get("tools")) if isinstance(one, dict)]
        tools = [one for one in tools if isinstance(one.get("function"), dict)]
        return self.router.route(ChatRequest.unchecked(chat).model, messages, session, tools)

    def _send(
        self, path: str, body: Json, request: Request, keys: Mapping[str, str]
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """The upstream's response to a body, whose model is the upstream's where only we know its name."""
        assert self.upstream is not None
        if self.upstream.model and not self.router.is_unknown(ChatRequest.unchecked(body).model):
            body = {**body, "model": self.upstream.model}
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers} | dict(keys)
        return self.upstream.send(path, orjson.dumps(body), headers)

    @asynccontextmanager
    async def _accounted(self, exchange: Exchange) -> AsyncIterator[None]:
        """Sees to it that an exchange is counted and recorded however it ends, but for a caller's mistake."""
        try:
            yield
        except ClientDisconnect:
            raise  # `finally` records that the answer was broken off, so that nobody learns from it
        except ApiError as error:
            if error.status >= 500:
                await self._finish(exchange, exchange.api.error(error), status=error.status)
            exchange.recorded = True
            raise
        except Exception as error:
            failed = ApiError(500, f"The answer failed: {type(error).__name__}.", code="internal_error")
            await self._finish(exchange, exchange.api.error(failed), status=500)
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
            agent = route.agent if asked.model != BASE else None
            # adapters were trained on redacted logs: what they never saw would lead them astray
            messages, originals = await asyncio.to_thread(self._redacted, exchange.session, asked)
            prompt = await self.champions.prompt(name, route.version)
            room = engine.context_length
            ask = await prepare(asked, agent, adapter, base.chat, room, messages=messages, prompt=prompt)
            if ask.grammar:
                exchange.ignored += await asyncio.to_thread(unenforced, ask.grammar, asked.offered_tools)
            answer = LocalAnswer(asked, ask, base.chat, engine, route.served_by, exchange.receipt, originals)

            async def drain() -> None:
                """Read the answer to its end, so that it is recorded whole."""
                async with aclosing(answer.deltas()) as deltas:
                    async for _ in deltas:
                        pass

            if asked.stream:
                async with aclosing(self._events(exchange, answer)) as events:
                    yield StreamingResponse(events, headers=exchange.headers, media_type="text/event-stream")
                return
            await _unless_gone(request, drain())
            reply = exchange.api.reply(exchange.body, answer.reply)
            await self._finish(exchange, reply, repaired=answer.repaired, cut=answer.finish == "length")
            yield Response(orjson.dumps(reply), headers=exchange.headers, media_type="application/json")

    def _redacted(self, session: str | None, asked: ChatRequest) -> tuple[list[Json], dict[str, str]]:
        """The prompt as adapters know prompts, and the caller's own values, to be put back into the answer.

        Without a session nothing is remembered of it.
        """
        try:
            redactor = self.recorder.redactor(session) if session else Redactor()
        except (GrokoraError, OSError):  # the recordings cannot be read; the recorder complains about it
            redactor = Redactor()
        messages, _, originals = redactor.redact_reversibly(asked.body["messages"])
        return messages, originals

    async def _events(self, exchange: Exchange, answer: LocalAnswer) -> AsyncGenerator[bytes, None]:
        writer = exchange.api.writer(exchange.body, answer.head, len(answer.ask.prompt))
        for raw in writer.start():
            yield raw
        try:
            async with aclosing(answer.deltas()) as deltas:
                async for delta in deltas:
                    for raw in writer.delta(delta):
                        yield raw
        except ApiError as error:
            await self._finish(exchange, exchange.api.error(error), status=error.status)
            for raw in writer.error(error):
                yield raw
            return
        reply = exchange.api.reply(exchange.body, answer.reply)
        # recorded before the last event: a caller that has the end of an answer may count on its recording
        await self._finish(exchange, reply, repaired=answer.repaired, cut=answer.finish == "length")
        for raw in writer.end(answer.reply):
            yield raw

    @asynccontextmanager
    async def _forward(self, exchange: Exchange, request: Request, keys: Mapping[str, str]) -> AsyncIterator[Response]:
        async with self._send(exchange.api.path, exchange.forwarded, request, keys) as response:
            headers = exchange.headers | passed_back(response)
            if response.status_code == 200 and "event-stream" in response.headers.get("content-type", ""):
                async with aclosing(self._pass_on(exchange, response)) as events:
                    yield StreamingResponse(events, headers=headers)
                return
            raw = b""

            async def receive() -> None:
                """Read the upstream's whole body."""
                nonlocal raw
                raw = await response.aread()

            try:
                await _unless_gone(request, receive())  # a caller that left must not hold its place for minutes
            except httpx.HTTPError as error:
                raise unreachable(error) from error
            await self._finish(exchange, _reply_of(raw), status=response.status_code)
            yield Response(raw, response.status_code, headers)

    async def _pass_on(self, exchange: Exchange, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The upstream's events as they come, each one whole; the last one only once the exchange is recorded."""
        streamed, last = StreamedReply(), b""
        try:
            async for one in EventSource(response).aiter_sse():
                streamed.feed(one.data)
                if streamed.ended:
                    last = _raw_event(one)
                    break
                yield _raw_event(one)
        except (httpx.HTTPError, SSEError) as error:
            failure = unreachable(error)
            last = b"".join(exchange.api.writer(exchange.body, _NO_HEAD, 0).error(failure))
        await self._finish(exchange, streamed.reply() or streamed.error or _BROKEN_STREAM)
        yield last

    async def _finish(
        self,
        exchange: Exchange,
        reply: Json,
        *,
        status: int = 200,
        repaired: bool = False,
        cut: bool = False,
    ) -> None:
        """Count, judge and record an exchange; returns when the recording is on the disk.

        `cut`: the answer ended at the caller's own limit, so it says nothing about the version that answers.
        """
        seconds = time.perf_counter() - exchange.started
        route = exchange.route
        who = (route.agent.name if route.agent else "", route.served_by)
        message, usage = answer_of(exchange.api, reply), reply.get("usage")
        wrong = fault(message, exchange.asked, route.agent) if message else "error"
        self.metrics.requests.labels(*who, str(status)).inc()
        self.metrics.seconds.labels(*who).observe(seconds)
        if wrong:
            self.metrics.faults.labels(*who, wrong).inc()
        if repaired:
            self.metrics.repaired.labels(*who).inc()
        for kind, others in (("prompt", "input"), ("completion", "output")):
            count = (usage.get(f"{kind}_tokens", usage.get(f"{others}_tokens"))) if isinstance(usage, dict) else None
            self.metrics.tokens.labels(*who, kind).inc(count if isinstance(count, int) and count > 0 else 0)
        if not cut and not exchange.asked.stops:
            self.router.observe(route, exchange.session, not wrong, seconds)
        if message and exchange.api.name == "responses":
            self._conversations.remember(exchange.session, exchange.body, reply)
        await asyncio.gather(asyncio.wrap_future(self._record(exchange, reply)), return_exceptions=True)

    def _record(self, exchange: Exchange, reply: Json) -> Future[None]:
        exchange.recorded = True
        return self.recorder.call(
            exchange.session,
            exchange.route.agent.name if exchange.route.agent else None,
            exchange.started_at,
            without_unread(exchange.body),
            {"error": {"message": "the reply is nested too deep to be recorded"}} if is_too_deep(reply) else reply,
            receipt=exchange.receipt,
            api=exchange.api.name,
            secrets=exchange.keys,
        )


def _as_chat(api: Api, body: Json) -> Json:
    """The body as a chat request; ApiError 400 for what no chat message can say."""
    try:
        return chat_request(api.name, body)
    except GrokoraError as error:
        raise ApiError(400, str(error), code="invalid_value") from error


async def _unless_gone(request: Request, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, but stop where the caller goes away first: then nobody wants the answer."""
    task, heard = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        while not task.done():
            await asyncio.wait({task, heard}, return_when=asyncio.FIRST_COMPLETED)
            if heard.done() and not task.done():
                if heard.result()["type"] == "http.disconnect":
                    raise ClientDisconnect
                heard = asyncio.ensure_future(request.receive())  # the rest of a body, such as its empty last part
        task.result()
    finally:
        for one in (task, heard):
            one.cancel()
        await asyncio.gather(task, heard, return_exceptions=True)


def content_type(request: Request) -> str:
    """The type of a request's body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _unzipped(raw: bytes, limit: int) -> bytes:
    """Unpacked, but never more than the limit: a small body may hold gigabytes."""
    try:
        with gzip.GzipFile(fileobj=BytesIO(raw)) as stream:
            unpacked = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ApiError(400, "The body is no gzip, as content-encoding says it is.", code="invalid_value") from error
    if len(unpacked) > limit:
        raise ApiError(413, f"The body is larger than {limit} bytes.", code="request_too_large")
    return unpacked


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _session_of(request: Request, body: Json) -> str | None:
    """The session that a request names: by a header, in its metadata, or by its user (Anthropic's is in metadata)."""
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    named = [request.headers.get(name) for name in _SESSION_HEADERS]
    named += [metadata.get("session_id"), body.get("user"), metadata.get("user_id")]
    return next((name for name in named if isinstance(name, str) and name), None)


def _raw_event(one: ServerSentEvent) -> bytes:
    """An upstream's event as it came."""
    lines = [f"event: {one.event}"] if one.event != "message" else []
    lines += [f"data: {line}" for line in one.data.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


def _reply_of(raw: bytes) -> Json:
    """An upstream's reply as an object."""
    try:
        reply = orjson.loads(raw)
    except orjson.JSONDecodeError:
        reply = None
    return reply if isinstance(reply, dict) else {"error": {"message": "the upstream sent no JSON object"}}
