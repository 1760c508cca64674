"""The gateway in front of another OpenAI-compatible API (here: a local one that notes what it is sent)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.serving.gateway.gateway import Limits
from grokora_pipeline.serving.gateway.protocol import DONE, chunk, completion, new_reply, usage_of
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.gateway import Running, Setup, add_adapter, make_store, serving
from grokora_pipeline_tests.processes import until

pytestmark = pytest.mark.xdist_group("serving")
AGENTS = [AgentSpec(name="actor", description="acts"), AgentSpec(name="observer", description="sees")]
KEY = "xai-CallersOwnKey0123456789abcdef"
TASK = {"role": "user", "content": "Task: open the vault"}


ODD: list[Any] = ["x", ["x"], [{}], [{"message": {"tool_calls": "x"}}], [{"message": {"tool_calls": [5]}}], None]


@dataclass
class Grok:
    """The other API."""

    seen: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    reply: Any = None

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append((dict(request.headers), body))
        if request.headers.get("authorization") != f"Bearer {KEY}":
            quoted = f"bad key: {request.headers.get('authorization')}"
            return JSONResponse({"error": {"message": quoted, "type": "auth", "code": "invalid"}}, 401)
        if self.reply is not None:
            return JSONResponse(self.reply)
        if body["model"] == "broken":
            return Response("<html>Bad gateway</html>", 502, media_type="text/html")
        if body["model"] == "moved":
            return RedirectResponse("https://grok.example/v1/chat/completions")
        if body["model"] == "odd":
            return JSONResponse({"choices": ODD[len(self.seen) % len(ODD)], "usage": {"prompt_tokens": "many"}})
        head = new_reply("grok-4")
        if body.get("stream"):
            return StreamingResponse(self._events(head, body["model"]), media_type="text/event-stream")
        message = {"role": "assistant", "content": "Grok says hi"}
        return JSONResponse(completion(head, message, "stop", usage_of(7, 3, 0)), headers={"x-request-id": "r1"})

    async def _events(self, head: dict[str, Any], model: str) -> AsyncIterator[bytes]:
        for word in ("Grok ", "streams"):
            yield chunk(head, {"content": word})
            await asyncio.sleep(20 if model == "slow" and word == "streams" else 0.05)
        if model == "cut":
            raise ConnectionError("the line breaks")
        if model == "unfinished":
            return
        while model == "endless":
            yield chunk(head, {"content": "x" * 65_536})
        yield chunk(head, {}, "stop")
        yield DONE


@pytest.fixture
def grok() -> Grok:
    return Grok()


@pytest.fixture
def url(grok: Grok) -> Iterator[str]:
    with serving(Starlette(routes=[Route("/v1/chat/completions", grok.answer, methods=["POST"])])) as found:
        yield f"{found}/v1"


@pytest.fixture
def running(tmp_path: Path, url: str) -> Iterator[Running]:
    store = make_store(tmp_path / "store")
    add_adapter(store, "actor", "v1")
    Registry(store).promote("actor", "v1", "better", {})
    setup = Setup(tmp_path, AGENTS, lambda ask: "local", store=store, upstream=url, upstream_model="grok-4")
    with setup.running() as found:
        yield found


def ask(running: Running, model: str, key: str = KEY, **more: Any) -> Any:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)
    call: dict[str, Any] = {"model": model, "messages": [TASK], **more}
    return client.chat.completions.create(**call)


def test_what_no_champion_answers_goes_upstream_with_the_callers_own_key_and_is_recorded(
    running: Running, grok: Grok, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    assert ask(running, "grok-4-fast-reasoning").choices[0].message.content == "Grok says hi"
    assert ask(running, "observer").choices[0].message.content == "Grok says hi"
    assert ask(running, "actor").choices[0].message.content == "local"
    assert ask(running, "base").choices[0].message.content == "local"
    assert [body["model"] for _, body in grok.seen] == ["grok-4-fast-reasoning", "grok-4"]
    assert {headers["authorization"] for headers, _ in grok.seen} == {f"Bearer {KEY}"}
    first = running.lines()[0]
    assert first["response"]["choices"][0]["message"]["content"] == "Grok says hi"
    assert first["request"]["model"] == "grok-4-fast-reasoning"
    raw = b"".join(file.read_bytes() for file in running.recordings.glob("*/*"))
    assert KEY.encode() not in raw
    assert KEY not in "\n".join(record.getMessage() for record in caplog.records if "grokora" in record.name)


def test_streams_pass_through_as_they_come_and_are_recorded_whole(running: Running) -> None:
    chunks = list(ask(running, "grok-4", stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Grok streams"
    response = running.lines()[0]["response"]
    assert response["choices"][0]["message"] == {"role": "assistant", "content": "Grok streams"}


def test_a_stream_that_breaks_off_is_no_example(running: Running) -> None:
    with pytest.raises(openai.APIError):
        list(ask(running, "cut", stream=True))
    until(lambda: len(running.lines()) == 1, "the recording")
    assert "choices" not in running.lines()[0]["response"]


def test_a_stream_that_just_stops_is_told_to_the_caller_and_is_no_example(running: Running) -> None:
    with pytest.raises(openai.APIError, match="stopped before its end"):
        list(ask(running, "unfinished", stream=True))
    assert "error" in running.lines()[-1]["response"]


def test_a_caller_that_stops_reading_loses_its_place(tmp_path: Path, url: str) -> None:
    setup = Setup(tmp_path, AGENTS, upstream=url, limits=Limits(send_seconds=0.3))
    body = orjson.dumps({"model": "endless", "messages": [TASK], "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    head += f"content-type: application/json\r\nauthorization: Bearer {KEY}\r\n\r\n"
    with setup.running() as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
            until(lambda: running.gateway._running == 1, "the call is being answered")
            until(lambda: running.gateway._running == 0, "its place is free again")
            until(lambda: bool(running.lines()), "it is recorded")
        assert running.lines()[-1]["response"]["error"]["type"] == "client_gone"


def test_a_redirect_is_not_followed_and_says_where_to(running: Running, grok: Grok) -> None:
    with pytest.raises(openai.InternalServerError, match=r"redirects to https://grok\.example") as caught:
        ask(running, "moved")
    assert (caught.value.status_code, len(grok.seen)) == (502, 1)


def test_the_upstreams_errors_reach_the_caller_as_they_are(running: Running) -> None:
    with pytest.raises(openai.AuthenticationError, match="bad key"):
        ask(running, "grok-4", key="wrong-key-of-no-known-shape")
    with pytest.raises(openai.InternalServerError) as caught:
        ask(running, "broken")
    assert (caught.value.status_code, caught.value.response.text) == (502, "<html>Bad gateway</html>")
    assert all("choices" not in line["response"] for line in running.lines())
    assert any("<SECRET:" in line["response"]["error"]["message"] for line in running.lines())  # a session a key
    assert not any(b"wrong-key" in file.read_bytes() for file in running.recordings.glob("*/*"))


def test_headers_of_any_bytes_pass_both_ways(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        head = {"content-type": "application/json", "x-request-id": request.headers["authorization"]}
        return Response(b"{}", 401, headers=head)

    routes = [Route("/v1/chat/completions", answer, methods=["POST"])]
    with serving(Starlette(routes=routes)) as url, Setup(tmp_path, AGENTS, upstream=f"{url}/v1").running() as running:
        for key in ("Bearer clé".encode("latin-1"), "Bearer ключ → 1".encode()):
            head = {b"authorization": key, b"content-type": b"application/json"}
            reply = httpx.post(f"{running.url}/v1/chat/completions", content=b'{"messages": []}', headers=head)
            assert reply.status_code == 401
            assert dict(reply.headers.raw)[b"x-request-id"] == key


def test_what_only_the_upstream_understands_passes_through_both_ways(running: Running, grok: Grok) -> None:
    client = httpx.Client(base_url=running.url, headers={"authorization": f"Bearer {KEY}"})
    for more in ({"n": 2}, {"logprobs": True}, {"tools": [{"type": "live_search"}]}, {"messages": "x"}):
        body = {"model": "grok-4", "messages": [TASK], **more}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert grok.seen[-1][1] == body
        assert client.post("/v1/chat/completions", json={**body, "model": "actor"}).status_code == 400
    for _ in ODD:
        assert client.post("/v1/chat/completions", json={"model": "odd", "messages": [TASK]}).status_code == 200
    assert len(running.lines()) == 4 + len(ODD)


def test_the_gateways_own_key_is_never_sent_upstream(tmp_path: Path, url: str, grok: Grok) -> None:
    own = "gateway-key-0123456789"
    with Setup(tmp_path, AGENTS, upstream=url, key=own).running() as running:
        body = orjson.dumps({"model": "grok-4", "messages": [TASK]})
        headers = {"authorization": f"Bearer {own}", "content-type": "application/json"}
        without = httpx.post(f"{running.url}/v1/chat/completions", content=body, headers=headers)
        headers["x-upstream-api-key"] = KEY
        with_key = httpx.post(f"{running.url}/v1/chat/completions", content=body, headers=headers)
    assert (without.status_code, with_key.status_code) == (401, 200)
    assert [headers.get("authorization") for headers, _ in grok.seen] == [None, f"Bearer {KEY}"]


def test_on_day_one_there_is_no_base_model_and_the_first_champion_comes_without_a_restart(
    tmp_path: Path, url: str
) -> None:
    store = Store(str(tmp_path / "store"))
    with Setup(tmp_path, AGENTS, lambda ask: "local", store=store, upstream=url).running() as running:
        assert ask(running, "actor-unknown").choices[0].message.content == "Grok says hi"
        with pytest.raises(openai.InternalServerError, match="base model is not in the store"):
            ask(running, "base")
        make_store(tmp_path / "store")
        add_adapter(store, "actor", "v1")
        Registry(store).promote("actor", "v1", "better", {})
        until(lambda: running.gateway.champions.table["actor"].version == "v1", "the champion is followed")
        assert ask(running, "actor").choices[0].message.content == "local"


def test_what_only_passes_upstream_may_be_larger_than_what_is_answered_here(
    tmp_path: Path, url: str, grok: Grok
) -> None:
    store = make_store(tmp_path / "store")
    add_adapter(store, "actor", "v1")
    Registry(store).promote("actor", "v1", "better", {})
    setup = Setup(tmp_path, AGENTS, lambda ask: "local", store=store, upstream=url, limits=Limits(body_bytes=100_000))
    with setup.running() as running:
        ask(running, "grok-4", extra_body={"prompt_cache_key": "x" * 250_000})
        assert len(grok.seen[0][1]["prompt_cache_key"]) == 250_000
        assert running.lines()[0]["request"]["prompt_cache_key"] == "<250002 bytes that are not read here>"
        for model, size in (("actor", 250_000), ("grok-4", 450_000)):
            with pytest.raises(openai.APIStatusError) as caught:
                ask(running, model, extra_body={"prompt_cache_key": "x" * size})
            assert caught.value.status_code == 413


def test_a_reply_that_is_nested_too_deep_is_passed_on_and_recorded_as_no_answer(running: Running, grok: Grok) -> None:
    deep: Any = "x"
    for _ in range(150):
        deep = [deep]
    grok.reply = {"choices": [], "deep": deep}
    body = {"model": "grok-4", "messages": [TASK]}
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers)
    assert answer.json() == grok.reply
    assert "nested too deep" in running.lines()[0]["response"]["error"]["message"]


def test_the_end_of_the_server_is_told_to_who_listens_to_the_upstream(running: Running) -> None:
    body = {"model": "slow", "messages": [TASK], "stream": True}
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, headers=headers) as response:
        lines = response.iter_lines()
        assert "Grok" in next(lines)
        running.server.should_exit = True
        rest = [line for line in lines if line]
    assert "did not answer" in rest[-1]


def test_nobody_upstream_is_a_502_in_the_same_shape(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, upstream="http://127.0.0.1:9/v1").running() as running:
        body = {"model": "grok-4", "messages": [TASK]}
        response = httpx.post(f"{running.url}/v1/chat/completions", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")
        assert running.lines()[0]["response"]["error"]["code"] == "upstream_unreachable"
