"""The gateway as its callers see it: the official openai package, raw HTTP, Grokputer's habits (spec, section 4)."""

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from pydantic import SecretStr

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.serving.engine.request import GenerationRequest
from grokora_pipeline.serving.gateway.gateway import Limits
from grokora_pipeline.serving.gateway.rollout import Rule
from grokora_pipeline.serving.gateway.server import Options, api_key, serve, without_message
from grokora_pipeline.settings import Settings
from grokora_pipeline.store.champions import BASE, Registry
from grokora_pipeline_tests.gateway import Running, Setup, add_adapter, make_store
from grokora_pipeline_tests.processes import until
from grokora_pipeline_tests.stores import publish_files

pytestmark = pytest.mark.xdist_group("serving")
AGENTS = [
    AgentSpec.model_validate({"name": "actor", "description": "acts", "match": {"system": ["^You are the actor"]}}),
    AgentSpec.model_validate(
        {"name": "observer", "description": "sees", "match": {"system": ["observer"], "names": ["seer"]}}
    ),
]
ACTOR = {"role": "system", "content": "You are the actor of a desktop swarm."}
TASK = {"role": "user", "content": "Task: open the vault"}
BASH = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Run a command",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}


def by_adapter(ask: GenerationRequest) -> str:
    """Every version answers with its own name."""
    return f"I am {ask.adapter or 'base'}"


def client_of(running: Running, key: str = "anything") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Setup(tmp_path, AGENTS, by_adapter).running() as found:
        yield found


def post(running: Running, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers, timeout=20)


# --- Grokputer's client ---------------------------------------------------------------------------------------------


def grokputer(running: Running, messages: list[Any], **more: Any) -> Any:
    """The call as GrokClient makes it."""
    call = {"model": "grok-4-fast-reasoning", "messages": messages, "temperature": 0.7, "max_tokens": 4096, **more}
    return client_of(running).chat.completions.create(**call)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([ACTOR, TASK, {"role": "tool", "tool_call_id": "x", "content": "{}"}], id="orphan tool message"),
        pytest.param(
            [ACTOR, {"role": "assistant", "content": "on it"}, {"role": "tool", "tool_call_id": "x", "content": "ok"}],
            id="continue without a user turn",
        ),
        pytest.param(
            [ACTOR, {"role": "assistant", "content": "one"}, {"role": "assistant", "content": "two"}, TASK],
            id="consecutive assistant turns",
        ),
        pytest.param([ACTOR, {"role": "assistant", "content": None}, TASK], id="null assistant content"),
        pytest.param([ACTOR, TASK, TASK], id="consecutive user turns"),
        pytest.param([{"role": "user", "content": "Hello, Grok. This is a connection test."}], id="connection test"),
    ],
)
def test_whatever_grokputers_client_sends_is_answered(running: Running, messages: list[Any]) -> None:
    reply = grokputer(running, messages, tools=[BASH])
    assert reply.choices[0].message.content == "I am base"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.prompt_tokens > 0
    assert reply.usage.completion_tokens > 0
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_tool_call_comes_with_json_arguments_and_content_that_is_empty_but_never_null(tmp_path: Path) -> None:
    def call(ask: GenerationRequest) -> str:
        return '<tool_call>{"name": "bash", "arguments": {"command": "ls -la"}}</tool_call>'

    with Setup(tmp_path, AGENTS, call).running() as running:
        reply = grokputer(running, [ACTOR, TASK], tools=[BASH])
        again = grokputer(running, [ACTOR, TASK], tools=[BASH])
    message = reply.choices[0].message
    assert message.content == ""
    assert reply.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls[0].function.name == "bash"
    assert orjson.loads(message.tool_calls[0].function.arguments) == {"command": "ls -la"}
    assert message.tool_calls[0].id != again.choices[0].message.tool_calls[0].id


def test_a_broken_tool_call_is_repaired_and_counted(tmp_path: Path) -> None:
    def call(ask: GenerationRequest) -> str:
        return "<tool_call>{'name': 'bash', 'arguments': {'command': 'ls',}}</tool_call>"

    with Setup(tmp_path, AGENTS, call).running() as running:
        reply = grokputer(running, [ACTOR, TASK], tools=[BASH])
        metrics = httpx.get(f"{running.url}/metrics").text
    assert orjson.loads(reply.choices[0].message.tool_calls[0].function.arguments) == {"command": "ls"}
    assert 'grokora_repaired_tool_calls_total{agent="actor",served_by="base"} 1.0' in metrics


def test_more_tokens_than_the_context_has_room_for_are_not_asked_of_the_engine(running: Running) -> None:
    grokputer(running, [ACTOR, TASK])
    ask = running.engine.asks[0]
    assert len(ask.prompt) + ask.max_new_tokens == running.engine.context_length


# --- streaming ------------------------------------------------------------------------------------------------------


def test_a_streamed_answer_says_the_same_as_a_whole_one(tmp_path: Path) -> None:
    def call(ask: GenerationRequest) -> str:
        return 'First I look. <tool_call>{"name": "bash", "arguments": {"command": "ls"}}</tool_call>'

    with Setup(tmp_path, AGENTS, call).running() as running:
        whole = grokputer(running, [ACTOR, TASK], tools=[BASH])
        chunks = list(
            grokputer(running, [ACTOR, TASK], tools=[BASH], stream=True, stream_options={"include_usage": True})
        )
        recorded: list[Any] = [line["response"] for line in running.lines()]
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    calls = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]
    assert content == whole.choices[0].message.content == "First I look."
    assert calls[0].function.arguments == whole.choices[0].message.tool_calls[0].function.arguments
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert recorded[0]["choices"][0]["message"]["content"] == recorded[1]["choices"][0]["message"]["content"]


def test_the_model_sees_placeholders_and_each_caller_gets_its_own_values_back(tmp_path: Path) -> None:
    def type_it(ask: GenerationRequest) -> str:
        arguments = {"command": "type <SECRET:password:1> as <PII:email:1> not <SECRET:password:2>"}
        call = orjson.dumps({"name": "bash", "arguments": arguments}).decode()
        return f"I type <SECRET:password:1>. <tool_call>{call}</tool_call>"

    prompt = {"role": "user", "content": "log in with password=zebra!42x, mail ana@example.org"}
    headers = {"x-session-id": "one"}
    with Setup(tmp_path, AGENTS, type_it).running() as running:
        whole = grokputer(running, [ACTOR, prompt], tools=[BASH], extra_headers=headers)
        chunks = list(grokputer(running, [ACTOR, prompt], tools=[BASH], stream=True, extra_headers=headers))
        other = grokputer(running, [ACTOR, TASK], tools=[BASH], extra_headers=headers)
        asked = [running.engine.chat.tokenizer.decode(list(ask.prompt)) for ask in running.engine.asks]
        recorded = [orjson.dumps(line).decode() for line in running.lines()]
    assert "password=<SECRET:password:1>, mail <PII:email:1>" in asked[0]
    assert not any("zebra!42x" in prompt for prompt in asked)
    message = whole.choices[0].message
    assert message.content == "I type zebra!42x."
    command = orjson.loads(message.tool_calls[0].function.arguments)["command"]
    assert command == "type zebra!42x as ana@example.org not <SECRET:password:2>"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == message.content
    assert other.choices[0].message.content == "I type <SECRET:password:1>."  # not in this call's own prompt
    assert not any("zebra!42x" in line for line in recorded)


def test_text_streams_as_it_comes_and_stops_before_a_stop_sequence(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, lambda ask: "one two three END four five").running() as running:
        chunks = list(grokputer(running, [TASK], stream=True, stop=["END"]))
        whole = grokputer(running, [TASK], stop="END")
        until(lambda: running.engine.running == 0, "the rows leave the batch")
        assert running.engine.closed_early == 2
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert "".join(texts) == whole.choices[0].message.content == "one two three"
    assert len(texts) > 2


def test_a_stop_sequence_inside_a_call_completes_nothing(tmp_path: Path) -> None:
    def call(ask: GenerationRequest) -> str:
        return '<tool_call>{"name": "bash", "arguments": {"command": "rm -rf /tmp/x"}}</tool_call>'

    with Setup(tmp_path, AGENTS, call).running() as running:
        message = grokputer(running, [ACTOR, TASK], tools=[BASH], stop="/x").choices[0].message
    assert message.tool_calls is None
    assert message.content == ""  # half a call is no content either: ingest would learn the markup


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_goes_away_frees_its_row_and_is_no_example(tmp_path: Path, stream: bool) -> None:
    with Setup(tmp_path, AGENTS, lambda ask: "word " * 200, seconds_per_token=0.02).running() as running:
        body = {"model": "auto", "messages": [TASK], "stream": stream}
        with (
            suppress(httpx.ReadTimeout),
            httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, timeout=0.5) as response,
        ):
            next(response.iter_bytes())
        until(lambda: running.engine.closed_early == 1, "the row leaves the batch", 3)
        until(lambda: len(running.lines()) == 1, "the call is recorded", 3)
        assert "choices" not in running.lines()[0]["response"]


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "auto"}, "messages"),
        ({"model": "auto", "messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [TASK], "temperature": "hot"}, "temperature"),
        ({"messages": [TASK], "temperature": 3}, "temperature"),
        ({"messages": [TASK], "max_tokens": 0}, "max_tokens"),
        ({"messages": [TASK], "n": 2}, "n"),
        ({"messages": [TASK], "logprobs": True}, "logprobs"),
        ({"messages": [TASK], "tools": [{"type": "function"}]}, "tools[0].function"),
        ({"messages": [TASK], "tools": [{"function": {"name": "x", "parameters": {"required": 5}}}]}, "tools[0]"),
        ({"messages": [TASK], "tools": [{"function": {"name": "x", "parameters": {"properties": 5}}}]}, "tools[0]"),
        ({"messages": [TASK], "tool_choice": "required"}, None),
        ({"messages": [TASK], "response_format": {"type": "yaml"}}, "response_format.type"),
        ({"messages": [TASK], "response_format": {"type": "json_schema"}}, "response_format"),
        ([1], None),
    ],
)
def test_a_malformed_request_gets_an_openai_error_that_names_the_parameter(
    running: Running, body: Any, param: str | None
) -> None:
    response = post(running, body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert param is None or error["param"].startswith(param)
    assert "Traceback" not in response.text


@pytest.mark.parametrize("raw", [b"{", b'{"messages": "\xff"}', b"[" * 100_000, b'{"a":' * 500 + b"1" + b"}" * 500])
def test_a_body_that_is_no_sane_json_is_refused(running: Running, raw: bytes) -> None:
    response = httpx.post(
        f"{running.url}/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


def test_a_prompt_over_the_context_is_refused_with_the_numbers(running: Running) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        grokputer(running, [{"role": "user", "content": "word " * 5000}])
    assert caught.value.code == "context_length_exceeded"
    assert "context holds 512" in str(caught.value)
    assert running.lines() == []


def test_bodies_beyond_the_limit_and_callers_beyond_the_queue_are_refused(tmp_path: Path) -> None:
    limits = Limits(body_bytes=2000, requests=2)
    setup = Setup(tmp_path, AGENTS, lambda ask: "word " * 100, limits=limits, seconds_per_token=0.02)

    async def crowd(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=30) as client:
            body = {"messages": [TASK], "max_tokens": 50}
            return list(await asyncio.gather(*[client.post(f"{url}/v1/chat/completions", json=body) for _ in range(4)]))

    with setup.running() as running:
        large = post(running, {"messages": [{"role": "user", "content": "x" * 3000}]})
        statuses = [response.status_code for response in asyncio.run(crowd(running.url))]
        after = post(running, {"messages": [TASK], "max_tokens": 5})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
    assert sorted(statuses) == [200, 200, 429, 429]
    assert after.status_code == 200


def test_a_prompt_far_beyond_the_context_is_refused_before_it_is_tokenized(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[int] = []

    def encode(chat: ChatFormat, text: str) -> list[int]:
        tokenized.append(len(text))
        return [1]

    monkeypatch.setattr(ChatFormat, "encode", encode)
    for messages in ([{"role": "user", "content": "word " * 100_000}], [TASK] * 40_000):
        refused = post(running, {"messages": messages})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "512 tokens" in refused.json()["error"]["message"]
    assert tokenized == []
    assert post(running, {"messages": [TASK]}).status_code == 200
    assert len(tokenized) > 0


def test_a_picture_is_no_text_however_large_it_is(tmp_path: Path) -> None:
    agents = [AgentSpec(name="actor", description="acts", images="placeholder")]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}}
    with Setup(tmp_path, agents).running() as running:
        body = {"model": "actor", "messages": [{"role": "user", "content": [picture]}]}
        assert post(running, body).status_code == 200
        assert len(running.engine.asks[0].prompt) < 100


def test_large_members_that_nobody_reads_are_neither_kept_nor_recorded(running: Running) -> None:
    large = "x" * 100_000
    body = {"messages": [TASK | {"annotations": [large], "small": "y"}], "metadata": {"note": large}, "store": "y"}
    assert post(running, body).status_code == 200
    request = running.lines()[0]["request"]
    assert request["metadata"] == "<100011 bytes that are not read here>"
    assert request["messages"] == [TASK | {"annotations": "<100004 bytes that are not read here>", "small": "y"}]
    assert request["store"] == "y"


def test_bodies_that_never_arrive_hold_up_nobody_and_are_given_up(tmp_path: Path) -> None:
    limits = Limits(requests=2, body_seconds=0.4)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with Setup(tmp_path, AGENTS, by_adapter, limits=limits).running() as running:
        address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
        callers = [socket.create_connection(address, timeout=10) for _ in range(6)]
        for caller in callers:
            caller.sendall(head + b'content-length: 100\r\n\r\n{"messages"')
        assert post(running, {"messages": [TASK]}).status_code == 200
        replies = [caller.recv(4096) for caller in callers]
        for caller in callers:
            caller.close()
    assert all(reply.startswith(b"HTTP/1.1 408") for reply in replies)


def test_the_end_of_the_server_is_told_to_those_who_still_listen(tmp_path: Path) -> None:
    setup = Setup(tmp_path, AGENTS, lambda ask: "word " * 400, seconds_per_token=0.05)
    with setup.running() as running:
        body = {"messages": [TASK], "stream": True, "max_tokens": 400}
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, timeout=20) as response:
            lines = response.iter_lines()
            assert "assistant" in next(lines)
            running.server.should_exit = True
            events = [orjson.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        until(lambda: bool(running.lines()), "the exchange is recorded")
    assert "ask again" in events[-1]["error"]["message"]
    assert "ask again" in running.lines()[0]["response"]["error"]["message"]


def test_what_is_not_there_is_a_404_in_the_same_shape(running: Running) -> None:
    assert httpx.get(f"{running.url}/v1/nothing").json()["error"]["code"] == "not_found"
    assert httpx.get(f"{running.url}/v1/chat/completions").status_code == 405
    missing = post(running, {"model": "actor@nope", "messages": [TASK]})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    traversal = post(running, {"model": "actor@../../base_model/base1", "messages": [TASK]})
    assert traversal.status_code == 404


def test_a_web_page_cannot_talk_to_the_gateway(running: Running) -> None:
    simple = httpx.post(f"{running.url}/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    rebound = httpx.get(f"{running.url}/v1/models", headers={"host": "evil.example"})
    assert (simple.status_code, rebound.status_code) == (415, 400)


# --- keys -----------------------------------------------------------------------------------------------------------


def test_with_a_key_only_its_bearer_is_served(tmp_path: Path) -> None:
    key = "k" * 24
    with Setup(tmp_path, AGENTS, by_adapter, key=key).running() as running:
        with pytest.raises(openai.AuthenticationError) as caught:
            client_of(running, "wrong").models.list()
        assert caught.value.code == "invalid_api_key"
        assert httpx.get(f"{running.url}/metrics").status_code == 401
        assert client_of(running, key).models.list().data
        assert httpx.get(f"{running.url}/metrics", headers={"authorization": f"bearer {key}"}).status_code == 200
        assert httpx.get(f"{running.url}/health").status_code == 200


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings without what this machine's environment or .env may say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROKORA_API_KEY", raising=False)
    (tmp_path / "agents.yaml").write_text("agents: {actor: {description: acts}}")
    return Settings(store=str(tmp_path))


def test_the_gateway_does_not_start_open_on_a_public_address(settings: Settings) -> None:
    with pytest.raises(GrokoraError, match="set GROKORA_API_KEY"):
        serve(settings, Options(host="0.0.0.0"))
    with pytest.raises(GrokoraError, match="fewer than 16"):
        api_key(Settings(api_key=SecretStr("short")), "127.0.0.1")
    assert api_key(Settings(api_key=SecretStr("k" * 16)), "0.0.0.0") == "k" * 16


def test_a_taken_port_and_an_empty_store_are_told_in_a_sentence(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GrokoraError, match="choose another --port"):
            serve(settings, Options(port=port))
    with pytest.raises(GrokoraError, match="materialize it first"):
        serve(settings, Options(port=port))


def test_recordings_that_cannot_be_written_are_told_at_the_start(settings: Settings, tmp_path: Path) -> None:
    make_store(tmp_path)
    (tmp_path / "a file").touch()  # a folder without the right to write does not stop root, who may run this test
    there = settings.model_copy(update={"logs": tmp_path / "a file"})
    with pytest.raises(GrokoraError, match="make it writable"):
        serve(there, Options(port=0))


def test_logs_hold_neither_prompts_nor_keys(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client_of(running, "sk-caller-key-1234567890").chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "the launch code is swordfish"}]
        )
        httpx.get(f"{running.url}/v1/models?key=querysecret")
        until(lambda: "/v1/models" in caplog.text, "the call is logged")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("grokora"))
    assert "POST '/v1/chat/completions' 200" in ours
    assert not any(word in ours for word in ("swordfish", "sk-caller", "querysecret"))


def test_a_failure_is_logged_with_its_place_but_without_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(ask: GenerationRequest) -> str:
        raise ZeroDivisionError("-".join(("sword", "fish")))

    caplog.handler.addFilter(without_message)
    with Setup(tmp_path, AGENTS, fail).running() as running:
        response = post(running, {"messages": [TASK]})
        assert running.lines()[0]["response"]["error"]["code"] == "internal_error"
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "ZeroDivisionError" in caplog.text
    assert "sword-fish" not in caplog.text + response.text


def test_the_http_side_loads_without_torch() -> None:
    code = "import sys, grokora_pipeline.serving.gateway.server as _; "
    code += "print('torch' in sys.modules, 'dagster' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# --- who answers ----------------------------------------------------------------------------------------------------


def test_models_route_to_champions_versions_and_the_base(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    for version in ("v1", "v2"):
        add_adapter(store, "actor", version)
    Registry(store).promote("actor", "v2", "better", {})
    with Setup(tmp_path, AGENTS, by_adapter, store=store).running() as running:

        def answer(model: str, *messages: dict[str, str]) -> tuple[str, str]:
            reply = post(running, {"model": model, "messages": [*messages, TASK]}).json()
            return reply["choices"][0]["message"]["content"], reply["model"]

        assert answer("actor") == ("I am actor@v2", "actor@v2")
        assert answer("actor@v1") == ("I am actor@v1", "actor@v1")
        assert answer("actor@base") == ("I am base", "base")
        assert answer("auto", ACTOR) == ("I am actor@v2", "actor@v2")
        assert answer("grok-beta", ACTOR) == ("I am actor@v2", "actor@v2")
        assert answer("grok-beta") == ("I am base", "base")
        assert answer("base", ACTOR) == ("I am base", "base")
        assert answer("seer") == ("I am base", "base")  # an agent without a champion
        cards = {card.id: card for card in client_of(running).models.list().data}
        one = client_of(running).models.retrieve("actor@v1")
    assert {"base", "actor", "observer", "actor@v1", "actor@v2"} == cards.keys()
    assert cards["actor"].root == "actor@v2"  # type: ignore[attr-defined]
    assert cards["actor@v1"].parent == "base"  # type: ignore[attr-defined]
    assert cards["base"].parent is None  # type: ignore[attr-defined]
    assert one == cards["actor@v1"]
    assert [line["agent"] for line in running.lines()][-1:] == ["observer"]


def test_prompts_of_a_toon_agent_are_encoded_as_its_dataset_was(tmp_path: Path) -> None:
    rows = orjson.dumps([{"id": number, "kind": "button", "x": 10 * number} for number in range(8)]).decode()
    agents = [AgentSpec.model_validate({"name": "actor", "description": "acts", "payload_format": "toon"})]
    with Setup(tmp_path, agents, by_adapter).running() as running:
        post(running, {"model": "actor", "messages": [{"role": "user", "content": rows}]})
        prompt = running.engine.chat.tokenizer.decode(list(running.engine.asks[0].prompt))
        recorded = running.lines()[0]["request"]
    assert "[8]{id,kind,x}:" in prompt
    assert recorded["messages"][0]["content"] == rows


def test_promotion_and_rollback_under_load_fail_no_request(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    for version in ("v1", "v2"):
        add_adapter(store, "actor", version)
    registry = Registry(store)
    registry.promote("actor", "v1", "better", {})
    setup = Setup(tmp_path, AGENTS, by_adapter, store=store, seconds_per_token=0.005, kept_seconds=0.0)
    seen: list[tuple[int, str]] = []

    async def ask(client: httpx.AsyncClient, url: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            response = await client.post(url, json={"model": "actor", "messages": [TASK]})
            seen.append((response.status_code, response.json().get("model", "")))

    async def answered_by(model: str) -> None:
        async with asyncio.timeout(60):
            while seen[-1:] != [(200, model)]:
                await asyncio.sleep(0.01)

    async def load(url: str) -> None:
        stop = asyncio.Event()
        async with httpx.AsyncClient(timeout=60) as client, asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(ask(client, f"{url}/v1/chat/completions", stop))
            await answered_by("actor@v1")
            registry.promote("actor", "v2", "better still", {})
            await answered_by("actor@v2")
            registry.rollback("actor")
            await answered_by("actor@v1")
            stop.set()

    with setup.running() as running:
        asyncio.run(load(running.url))
        until(lambda: "actor@v2" in running.engine.removed, "the old champion's memory is freed")
        recorded = len(running.lines())
    assert {status for status, _ in seen} == {200}
    assert recorded == len(seen)


@pytest.mark.parametrize(("answer", "winner"), [('{"valid": true}', "v2"), ("no JSON", "v1")])
def test_a_trial_ends_by_the_answers_that_callers_get(tmp_path: Path, answer: str, winner: str) -> None:
    store = make_store(tmp_path / "store")
    for version in ("v1", "v2"):
        add_adapter(store, "judge", version)
        Registry(store).promote("judge", version, "better", {})
    fields = {"name": "judge", "description": "", "answer": "json", "rollout": 0.5}
    rule = Rule(
        window_seconds=2.0, min_requests=5, slower=1e9
    )  # scripted answers take no time: a pause of this machine is no verdict
    setup = Setup(tmp_path, [AgentSpec.model_validate(fields)], store=store, rule=rule)
    setup.script = lambda ask: answer if ask.adapter == "judge@v2" else '{"valid": false}'
    with setup.running() as running:
        served, url = Counter[str](), f"{running.url}/v1/chat/completions"
        with httpx.Client(timeout=20) as client:
            for number in range(2000):  # a busy machine needs more of them until a window holds enough calls
                body = {"model": "judge", "messages": [TASK], "user": f"session-{number}"}
                served[client.post(url, json=body).json()["model"]] += 1
                if number >= 60 and running.gateway.champions.table["judge"].rollout is None:
                    break
        until(lambda: running.gateway.champions.table["judge"].rollout is None, "the rollout ends")
        after = {
            post(running, {"model": "judge", "messages": [TASK], "user": f"session-{number}"}).json()["model"]
            for number in range(10)
        }
    assert served["judge@v1"] > 5
    assert served["judge@v2"] >= rule.min_requests  # of which the last may end the trial at once
    assert after == {f"judge@{winner}"}
    champion = Registry(store).in_service("judge")
    assert champion
    assert champion.version == winner


def test_an_unreadable_adapter_is_refused_alone_and_the_others_are_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path / "store")
    for agent, version in (("actor", "v1"), ("observer", "v1"), ("observer", "v2")):
        add_adapter(store, agent, version)
    (store.find("actor/lora_adapter", "v1").path / "unreadable").touch()  # type: ignore[union-attr]
    Registry(store).promote("actor", "v1", "better", {})
    Registry(store).promote("observer", "v1", "better", {})
    with Setup(tmp_path, AGENTS, by_adapter, store=store).running() as running:
        health = httpx.get(f"{running.url}/health").json()
        assert (health["status"], health["refused"]) == ("degraded", {"actor": "v1"})
        assert health["champions"] == {"actor": BASE, "observer": "v1"}
        assert "ALERT actor@v1" in caplog.text
        Registry(store).promote("observer", "v2", "better still", {})
        observer = {"model": "observer", "messages": [TASK]}
        until(lambda: post(running, observer).json()["model"] == "observer@v2", "the other agent is followed")
        assert post(running, {"model": "actor", "messages": [TASK]}).json()["model"] == BASE


def test_a_fixed_prompt_in_service_stands_before_every_request_and_leaves_where_there_is_no_room(
    tmp_path: Path,
) -> None:
    store = make_store(tmp_path / "store")
    prompt = {"instruction": "Say it backwards.", "messages": [TASK, {"role": "assistant", "content": "tluav eht"}]}
    publish_files(store, "actor/prompt", "prompt-1", {"prompt.json": prompt})
    Registry(store).promote("actor", "prompt-1", "two examples are as good", {})
    with Setup(tmp_path, AGENTS, by_adapter, store=store).running() as running:
        reply = post(running, {"model": "auto", "messages": [ACTOR, {"role": "user", "content": "open the door"}]})
        assert (reply.json()["model"], reply.headers["x-served-by"]) == ("actor@prompt-1", "actor@prompt-1")
        asked = running.engine.chat.tokenizer.decode(list(running.engine.asks[-1].prompt), skip_special_tokens=False)
        parts = ["You are the actor", "Say it backwards.", "open the vault", "tluav eht", "open the door"]
        places = [asked.find(part) for part in parts]
        assert -1 not in places
        assert places == sorted(places)
        assert running.engine.asks[-1].adapter is None
        body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "open the door"}]}
        body |= {"system": ACTOR["content"], "max_tokens": 5}
        counted = httpx.post(f"{running.url}/v1/messages/count_tokens", json=body).json()
        assert counted == {"input_tokens": len(running.engine.asks[-1].prompt)}
        assert running.lines()[-1]["request"]["messages"][1:] == [{"role": "user", "content": "open the door"}]
        long = {"model": "actor", "messages": [ACTOR, {"role": "user", "content": "open the vault " * 60}]}
        assert post(running, long).status_code == 200
        assert len(running.engine.asks[-1].prompt) < running.engine.context_length
        named = post(running, {"model": "actor@prompt-1", "messages": [TASK]})
        assert named.json()["model"] == "actor@prompt-1"
        assert post(running, {"model": "actor@prompt-2", "messages": [TASK]}).status_code == 404
        Registry(store).rollback("actor")
        until(lambda: post(running, {"model": "actor", "messages": [TASK]}).json()["model"] == BASE, "the rollback")


def test_a_champion_can_be_an_adapter_with_a_prompt_before_the_question(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    add_adapter(store, "actor", "v1")
    publish_files(
        store,
        "actor/prompt",
        "prompt-2",
        {"prompt.json": {"instruction": "Say it backwards.", "messages": []}, "adapter.json": {"version": "v1"}},
    )
    Registry(store).promote("actor", "prompt-2", "better than either alone", {})
    with Setup(tmp_path, AGENTS, by_adapter, store=store).running() as running:
        reply = post(running, {"model": "actor", "messages": [TASK]})
        assert reply.json()["model"] == "actor@prompt-2"
        asked = running.engine.asks[-1]
        assert asked.adapter == "actor@v1"
        assert "Say it backwards." in running.engine.chat.tokenizer.decode(list(asked.prompt))
        Registry(store).promote("actor", "v1", "the prompt is not needed", {})
        until(lambda: post(running, {"model": "actor", "messages": [TASK]}).json()["model"] == "actor@v1", "the change")
        assert "Say it backwards." not in running.engine.chat.tokenizer.decode(list(running.engine.asks[-1].prompt))


def test_an_adapter_that_does_not_fit_leaves_the_champion_before_in_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path / "store")
    add_adapter(store, "actor", "v1")
    add_adapter(store, "actor", "v2", broken=True)
    Registry(store).promote("actor", "v1", "better", {})
    with Setup(tmp_path, AGENTS, by_adapter, store=store).running() as running:
        Registry(store).promote("actor", "v2", "better still", {})
        until(lambda: "ALERT actor@v2" in caplog.text, "the alert")
        assert post(running, {"model": "actor", "messages": [TASK]}).json()["model"] == "actor@v1"
        assert httpx.get(f"{running.url}/health").json()["champions"]["actor"] == "v1"


def test_feedback_is_recorded_for_the_session_that_the_reply_named(running: Running) -> None:
    reply = post(running, {"messages": [TASK]}, **{"x-session-id": "night run/7"})
    session = reply.headers["x-session-id"]
    url = f"{running.url}/v1/feedback"
    told = httpx.post(url, json={"session_id": "night run/7", "rating": 2, "blame": {"agent": "actor", "step": 0}})
    assert (told.status_code, told.json()["session_id"]) == (200, session)
    assert running.lines()[-1] == {
        "session_id": session,
        "outcome": {"rating": 2, "blame": {"agent": "actor", "step": 0}},
    }
    assert httpx.post(url, json={"session_id": "nobody", "rating": 2}).status_code == 404
    for wrong in ({"session_id": "x"}, {"session_id": "x", "rating": 6}, {"rating": 3}, {"session_id": 1, "rating": 1}):
        assert httpx.post(url, json=wrong).status_code == 400


def test_sessions_are_told_apart_by_header_user_field_or_a_quiet_gap(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, by_adapter, limits=Limits(session_gap=0.3)).running() as running:

        def session(body: dict[str, Any], **headers: str) -> str:
            return str(post(running, {"messages": [TASK], **body}, **headers).headers["x-session-id"])

        assert session({}, **{"x-session-id": "one"}) == "one"
        assert session({"user": "two"}) == "two"
        first, second = session({}), session({})
        other = session({}, authorization="Bearer another-client")
        time.sleep(0.4)
        third = session({})
    assert first == second
    assert len({first, third, other}) == 3
    assert [line["step"] for line in running.lines() if line["session_id"] == first] == [0, 1]


def test_metrics_and_health_tell_what_happens(running: Running) -> None:
    post(running, {"model": "actor", "messages": [TASK]})
    post(running, {"model": "actor"})
    text = httpx.get(f"{running.url}/metrics").text
    assert 'grokora_requests_total{agent="actor",served_by="base",status="200"} 1.0' in text
    assert 'grokora_refused_requests_total{status="400"} 1.0' in text
    assert "grokora_engine_running 0.0" in text
    assert "grokora_recorder_written_total 1.0" in text
    assert httpx.get(f"{running.url}/health").json() == {
        "status": "ok",
        "engine": "ready",
        "champions": {"actor": BASE, "observer": BASE},
    }
    running.engine.slow_reason = "the model is a hybrid"
    assert httpx.get(f"{running.url}/health").json()["slow"] == "the model is a hybrid"
