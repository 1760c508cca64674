"""A call from request to recorded reply: admitted, routed, answered here or upstream, judged, recorded."""

import asyncio
import gzip
import hashlib
import logging
import re
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, TypeVar

import httpx
import orjson
from httpx_sse import EventSource, SSEError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.engine.constrain import unenforced
from grokora_pipeline.serving.gateway.answers import LocalAnswer, encode_prompt, fault, prepare, refuse_by_length
from grokora_pipeline.serving.gateway.apis import Api
from grokora_pipeline.serving.gateway.bodies import OWN_NAMES, is_media_type, lower_request, optional_tools, part_kinds
from grokora_pipeline.serving.gateway.champions import Champions
from grokora_pipeline.serving.gateway.conversations import Conversations, for_upstream
from grokora_pipeline.serving.gateway.metrics import Metrics
from grokora_pipeline.serving.gateway.protocol import (
    ApiError,
    ChatRequest,
    Json,
    ignored_members,
    measure,
    new_reply,
    objects,
    read_object,
    too_large,
    without_unread,
)
from grokora_pipeline.serving.gateway.recorder import Recorder, new_receipt
from grokora_pipeline.serving.gateway.routing import Route, Router
from grokora_pipeline.serving.gateway.sessions import Sessions, session_name
from grokora_pipeline.serving.gateway.upstream import Upstream, passed_back, unreachable
from grokora_pipeline.sessions.readers import bodies
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
_UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # nginx holds a stream back until it ends
_NO_HEAD = {"id": "", "created": 0, "model": ""}
UPSTREAM_TIMES = 4
# JSON values in one request: the longest conversations hold some ten thousands. Each costs microseconds wherever the
# body is looked at, so that 15 MiB of tiny messages would hold up everybody for many seconds.
MOST_VALUES = 250_000
_Result = TypeVar("_Result")
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
    send_seconds: float = 60.0  # for a caller to take the next piece of its answer


@dataclass(slots=True)
class Exchange:
    """A request under way: `body` is as it was sent, `request` is `whole` as a chat request."""

    session: str
    route: Route
    api: Api
    body: Json
    request: ChatRequest
    receipt: str
    whole: Json  # the body with the conversation that it continues
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.perf_counter)
    recorded: bool = False
    keys: list[str] = field(default_factory=list)  # the caller's and the upstream's: secret in request and reply
    ignored: list[str] = field(default_factory=list)  # members, tools and a schema's keywords without effect here

    @property
    def headers(self) -> dict[str, str]:
        """What the caller may want to know: the session and the call, for feedback, and who answered."""
        headers = {"x-session-id": self.session, "x-served-by": self.route.served_by, "x-grokora-call": self.receipt}
        # where OpenAI's and Anthropic's SDKs look
        headers |= {"x-request-id": self.receipt, "request-id": self.receipt}
        # an upstream says itself what it thinks of a name
        headers |= {"x-grokora-unknown-model": "1"} if self.route.unknown_model and not self.route.upstream else {}
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
        """The response to a call, to be sent inside the context; ApiError if there is none.

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
        exchange = await self._exchange(request, api, await self.read_body(request, self.limits.body_bytes))
        route, chat_request, engine, base = exchange.route, exchange.request, self.champions.engine, self.champions.base
        if route.upstream:
            try:
                with self._admitted():
                    async with self._send(
                        f"{api.path}/count_tokens", exchange.body, exchange, request, keys
                    ) as response:
                        return Response(await response.aread(), response.status_code, passed_back(response))
            except httpx.HTTPError as error:
                raise unreachable(error) from error
        assert engine is not None and base is not None  # the router saw to it
        messages, _ = await asyncio.to_thread(self._redacted, exchange.session, chat_request)
        fixed = await self.champions.prompt(route.agent.name if route.agent else None, route.version)
        agent = route.agent if chat_request.model != BASE else None
        room = engine.context_length
        tokens = await asyncio.to_thread(
            encode_prompt, chat_request, agent, base.chat, messages, fixed=fixed, room=room
        )
        return JSONResponse({"input_tokens": len(tokens)})

    async def read_body(self, request: Request, limit: int, kinds: Sequence[str] = ("application/json",)) -> bytes:
        """The body of a request whose content type is one of `kinds`.

        Raises ApiError 415 for another content type, 413 beyond the limit, 408 if it does not arrive in time, 429 if
        unfinished bodies fill the memory that they may have. A body that is being read takes no other's turn.
        """
        kind, coding = content_type(request), (request.headers.get("content-encoding") or "identity").lower()
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
                        raise too_large(limit)
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
        body = await asyncio.to_thread(read_object, raw, MOST_VALUES)
        whole, chat, problem, ignored = body, body, None, list[str]()
        user = _session_of(request, body)

        def lower() -> None:
            """Bring the body into the shape of a chat request, with the conversation that it continues."""
            nonlocal whole, chat, user
            if api.name == "responses":
                whole, earlier = self._conversations.resolve(body, session_name(user) if user else "")
                user = user or earlier
            try:
                chat = lower_request(api.name, whole)
            except GrokoraError as error:  # no chat message can say that
                named = re.match(r"(\w+): ", str(error))
                raise ApiError(400, str(error), param=named and named[1], code="invalid_value") from error

        try:
            await asyncio.to_thread(lower)  # megabytes of messages must not hold up the streams of others
        except ApiError as error:
            problem = error  # it matters only to a request that is answered here
        key = request.headers.get("authorization", "")  # callers of one machine may be told apart by their keys
        client = request.client.host if request.client else "", hashlib.sha256(key.encode()).hexdigest()
        session = self._sessions.name(user, client)
        chat_request = ChatRequest.unchecked(chat)
        tools = [one for one in objects(chat.get("tools")) if isinstance(one.get("function"), dict)]
        route = self.router.route(chat_request.model, objects(chat.get("messages")), session, tools)
        if not route.upstream:
            if len(raw) > self.limits.body_bytes:  # it was let in because it might have been the upstream's
                raise too_large(self.limits.body_bytes)
            if problem:
                raise problem
            room = self.champions.engine.context_length if self.champions.engine else 0
            chat_request = await asyncio.to_thread(ChatRequest.parse, without_unread(chat), OWN_NAMES.get(api.name))
            ignored = await asyncio.to_thread(ignored_members, api.name, body)
            ignored += [f"tools.{kind}" for kind in optional_tools(body)]
            body = without_unread(body)
            await asyncio.to_thread(refuse_by_length, chat_request, room)
        else:
            with suppress(ApiError):  # the upstream may know more; then its answer is judged by less
                chat_request = await asyncio.to_thread(ChatRequest.parse, chat)
        keys = [key for name in _KEY_HEADERS if (key := request.headers.get(name, "").rpartition(" ")[2])]
        return Exchange(
            session, route, api, body, chat_request, new_receipt(session), whole, keys=keys, ignored=ignored
        )

    def _send(
        self, path: str, body: Json, exchange: Exchange, request: Request, keys: Mapping[str, str]
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """The upstream's response to a body, whose model is the upstream's if only we know its name."""
        assert self.upstream is not None
        if self.upstream.model and not exchange.route.unknown_model:
            body = {**body, "model": self.upstream.model}
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers} | dict(keys)
        return self.upstream.send(path, orjson.dumps(body), headers)

    @asynccontextmanager
    async def _accounted(self, exchange: Exchange) -> AsyncIterator[None]:
        """Count and record an exchange however it ends; what was refused for a caller's mistake is not recorded."""
        try:
            yield
        except ClientDisconnect:
            raise  # `finally` records that the answer was broken off, so that nobody learns from it
        except ApiError as error:
            if error.status >= 500 and not exchange.recorded:
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
        route, chat_request, engine, base = exchange.route, exchange.request, self.champions.engine, self.champions.base
        assert engine is not None and base is not None  # the router saw to it
        if exchange.api.name == "messages" and chat_request.messages[-1].role == "assistant":
            text = "The last message is the assistant's: no answer can be begun for the model here. End with a user's."
            raise ApiError(400, text, param="messages", code="unsupported_content")
        refuses_media = route.agent is None or route.agent.images == "refuse"
        if refuses_media and any(map(is_media_type, part_kinds(exchange.whole))):
            text = (
                "The base model reads text only, and a message holds a picture, a sound or a file; leave it out, "
                "or set `images: placeholder` for the agent in agents.yaml, if its logs hold such messages."
            )
            param = "input" if exchange.api.name == "responses" else "messages"
            raise ApiError(400, text, param=param, code="unsupported_content")
        name = route.agent.name if route.agent else None
        async with self.champions.using(name, route.version) as adapter:
            agent = route.agent if chat_request.model != BASE else None
            # adapters were trained on redacted logs: what they never saw would lead them astray
            messages, originals = await asyncio.to_thread(self._redacted, exchange.session, chat_request)
            prompt = await self.champions.prompt(name, route.version)
            room = engine.context_length
            generation = await prepare(chat_request, agent, adapter, base.chat, room, messages=messages, prompt=prompt)
            choice, form = chat_request.body.get("tool_choice"), chat_request.body.get("response_format")
            exchange.ignored += await asyncio.to_thread(
                unenforced, generation.grammar, chat_request.offered_tools, choice, form
            )
            head = new_reply(route.served_by, exchange.receipt)
            answer = LocalAnswer(chat_request, generation, base.chat, engine, head, originals)
            async with aclosing(self._recorded(exchange, answer)) as deltas:
                if chat_request.stream:
                    async with aclosing(self._events(exchange, answer, deltas)) as events:
                        headers = exchange.headers | _UNBUFFERED
                        yield StreamingResponse(events, headers=headers, media_type="text/event-stream")
                    return

                async def drain() -> None:
                    """Read the answer to its end, where it is recorded."""
                    async for _ in deltas:
                        pass

                await _unless_gone(request, drain())
            reply = exchange.api.reply(exchange.body, answer.reply)
            yield Response(orjson.dumps(reply), headers=exchange.headers, media_type="application/json")

    def _redacted(self, session: str, chat_request: ChatRequest) -> tuple[list[Json], dict[str, str]]:
        """The prompt as adapters know prompts, and the caller's own values, to be put back into the answer."""
        try:
            redactor = self.recorder.redactor(session)
        except (GrokoraError, OSError):  # the recordings cannot be read; the recorder complains about it
            redactor = Redactor()
        messages, _, originals = redactor.redact_reversibly(chat_request.body["messages"])
        return messages, originals

    async def _recorded(self, exchange: Exchange, answer: LocalAnswer) -> AsyncGenerator[Json, None]:
        """The answer's deltas; they end once it is recorded, so that whoever has the end may count on the recording."""
        try:
            async with aclosing(answer.deltas()) as deltas:
                async for delta in deltas:
                    yield delta
        except ApiError as error:
            await self._finish(exchange, exchange.api.error(error), status=error.status)
            raise
        reply = exchange.api.reply(exchange.body, answer.reply)
        await self._finish(exchange, reply, repaired=answer.repaired, cut=answer.finish == "length")

    async def _events(
        self, exchange: Exchange, answer: LocalAnswer, deltas: AsyncIterator[Json]
    ) -> AsyncGenerator[bytes, None]:
        api, body, sent = exchange.api, exchange.body, 0
        try:
            async with aclosing(api.events(body, answer, deltas)) as events:
                async for raw in events:
                    yield raw
                    sent += 1
        except ApiError as error:
            yield api.failed(body, answer.head, error, sent)

    @asynccontextmanager
    async def _forward(self, exchange: Exchange, request: Request, keys: Mapping[str, str]) -> AsyncIterator[Response]:
        forwarded = for_upstream(exchange.body, exchange.whole)
        async with self._send(exchange.api.path, forwarded, exchange, request, keys) as response:
            headers = exchange.headers | passed_back(response)
            if response.status_code == 200 and "event-stream" in response.headers.get("content-type", ""):
                async with aclosing(self._pass_on(exchange, response)) as events:
                    yield StreamingResponse(events, headers=headers | _UNBUFFERED)
                return
            try:
                # a caller that left must not hold its place for minutes
                raw = await _unless_gone(request, response.aread())
            except httpx.HTTPError as error:
                raise unreachable(error) from error
            reply: Any = None
            with suppress(orjson.JSONDecodeError):
                reply = orjson.loads(raw)
            reply = reply if isinstance(reply, dict) else {"error": {"message": "the upstream sent no JSON object"}}
            await self._finish(exchange, reply, status=response.status_code)
            yield Response(raw, response.status_code, headers)

    async def _pass_on(self, exchange: Exchange, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The upstream's events as they come, each one whole; the last one only once the exchange is recorded."""
        streamed, last, sent = StreamedReply(), b"", 0
        try:
            async for one in EventSource(response).aiter_sse():
                streamed.feed(one.data)
                lines = [f"event: {one.event}"] if one.event != "message" else []
                lines += [f"data: {line}" for line in one.data.split("\n")]
                raw = ("\n".join(lines) + "\n\n").encode()
                if streamed.ended:
                    last = raw
                    break
                yield raw
                sent += 1
        except (httpx.HTTPError, SSEError) as failure:
            last = exchange.api.failed(exchange.body, _NO_HEAD, unreachable(failure), sent)
        reply = streamed.reply() or streamed.error
        if not reply and not last:  # to the caller a stream that just stops would look like a whole answer
            error = ApiError(502, "The upstream's stream stopped before its end.", code="upstream_unreachable")
            last = exchange.api.failed(exchange.body, _NO_HEAD, error, sent)
        await self._finish(exchange, reply or _BROKEN_STREAM)
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
        message, usage = bodies.exchange({}, reply, exchange.api.name).answer, reply.get("usage")
        wrong = fault(message, exchange.request, route.agent) if message else "error"
        self.metrics.requests.labels(*who, str(status)).inc()
        self.metrics.seconds.labels(*who).observe(seconds)
        if wrong:
            self.metrics.faults.labels(*who, wrong).inc()
        if repaired:
            self.metrics.repaired.labels(*who).inc()
        for kind, others in (("prompt", "input"), ("completion", "output")):
            count = (usage.get(f"{kind}_tokens", usage.get(f"{others}_tokens"))) if isinstance(usage, dict) else None
            self.metrics.tokens.labels(*who, kind).inc(count if isinstance(count, int) and count > 0 else 0)
        if not cut and not exchange.request.stops:
            self.router.observe(route, exchange.session, not wrong, seconds)
        if message and exchange.api.name == "responses":
            self._conversations.remember(exchange.session, exchange.body, reply)
        # shielded: a caller who leaves now must not take back what the recorder is about to write
        written = asyncio.wrap_future(self._record(exchange, reply))
        await asyncio.shield(asyncio.gather(written, return_exceptions=True))

    def _record(self, exchange: Exchange, reply: Json) -> Future[None]:
        exchange.recorded = True
        return self.recorder.call(
            exchange.session,
            exchange.route.agent.name if exchange.route.agent else None,
            exchange.started_at,
            without_unread(exchange.body),
            {"error": {"message": "the reply is nested too deep to be recorded"}} if measure(reply)[0] else reply,
            receipt=exchange.receipt,
            api=exchange.api.name,
            secrets=exchange.keys,
        )


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The work's result; ClientDisconnect if the caller goes away first: then nobody wants it, and the work stops."""
    task, heard = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        while not task.done():
            await asyncio.wait({task, heard}, return_when=asyncio.FIRST_COMPLETED)
            if heard.done() and not task.done():
                if heard.result()["type"] == "http.disconnect":
                    raise ClientDisconnect
                heard = asyncio.ensure_future(request.receive())  # the rest of a body, such as its empty last part
        return task.result()
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
        raise too_large(limit)
    return unpacked


def _session_of(request: Request, body: Json) -> str | None:
    """The session that a request names: by a header, in its metadata, or by its user (Anthropic's is in metadata)."""
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    named = [request.headers.get(name) for name in _SESSION_HEADERS]
    named += [metadata.get("session_id"), body.get("user"), metadata.get("user_id")]
    return next((name for name in named if isinstance(name, str) and name), None)
