"""`grokora serve` with a real engine, as a person starts it, driven by the official openai package (spec, 4)."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from grokora_pipeline.sandbox.roles import SYSTEM
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.benchmarks.soak import make_store, server
from grokora_pipeline_tests.chain import script
from grokora_pipeline_tests.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("serving")]
ACTOR = {"role": "system", "content": SYSTEM["actor"]}
TASK = {"role": "user", "content": "Task: open the vault"}
CALL = {"id": "c1", "type": "function", "function": {"name": "computer", "arguments": '{"action":"screenshot"}'}}
COMPUTER = {
    "type": "function",
    "function": {
        "name": "computer",
        "description": "Control mouse and keyboard",
        "parameters": {
            "type": "object",
            "properties": {"action": {"enum": ["left_click", "screenshot"]}, "sure": {"type": "boolean"}},
            "required": ["action", "sure"],
        },
    },
}
VERDICT = {
    "type": "object",
    "properties": {"valid": {"type": "boolean"}, "risk": {"enum": ["LOW", "HIGH"]}},
    "required": ["valid", "risk"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    """A gateway whose four agents have random adapters on a tiny random model."""
    store = make_store(home / "store", None)
    with server(home, store) as (found, _):
        yield found


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def ask(client: openai.OpenAI, messages: list[Any], **more: Any) -> Any:
    """The call as GrokClient makes it; shorter, since a random model seldom ends by itself."""
    call = {"model": "grok-4-fast-reasoning", "messages": messages, "temperature": 0.7, "max_tokens": 12, **more}
    return client.chat.completions.create(**call)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([ACTOR, TASK], id="create"),
        pytest.param([ACTOR, {"role": "tool", "tool_call_id": "x", "content": "{}"}], id="orphan tool message"),
        pytest.param(
            [ACTOR, {"role": "assistant", "content": None}, {"role": "tool", "tool_call_id": "x", "content": "ok"}],
            id="continue: no user turn, null content",
        ),
        pytest.param(
            [
                ACTOR,
                TASK,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": '{"status": "success"}'},
                {"role": "assistant", "content": "one"},
                {"role": "assistant", "content": "two"},
            ],
            id="tool results, consecutive assistant turns",
        ),
    ],
)
def test_grokputers_calls_are_answered_by_the_champion(client: openai.OpenAI, messages: list[Any]) -> None:
    reply = ask(client, messages, tools=[COMPUTER])
    message, usage = reply.choices[0].message, reply.usage
    assert reply.model == "actor@first"
    assert message.content is not None
    assert 0 < usage.completion_tokens <= 12
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_more_tokens_than_there_is_room_for_are_no_mistake(client: openai.OpenAI) -> None:
    assert ask(client, [ACTOR, TASK], max_tokens=4096, stop=["e", "a"]).choices[0].finish_reason in ("stop", "length")
    with pytest.raises(openai.BadRequestError, match=r"has \d+ tokens, but the model's context holds 2048"):
        ask(client, [{"role": "user", "content": "x1" * 3000}])


def test_a_required_call_follows_the_tools_schema_even_from_a_random_model(client: openai.OpenAI) -> None:
    wanted = {"tools": [COMPUTER], "tool_choice": "required", "max_tokens": 400, "seed": 3}
    whole = ask(client, [ACTOR, TASK], **wanted)
    chunks = list(ask(client, [ACTOR, TASK], **wanted, stream=True, stream_options={"include_usage": True}))
    streamed = [call for one in chunks if one.choices for call in one.choices[0].delta.tool_calls or ()]
    for calls in (whole.choices[0].message.tool_calls, streamed):
        assert {call.function.name for call in calls} == {"computer"}
        for call in calls:
            arguments = orjson.loads(call.function.arguments)
            assert arguments.keys() == {"action", "sure"}
            assert arguments["action"] in ("left_click", "screenshot")
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.content == ""
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_json_schema_is_followed(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT, "strict": True}}
    value = orjson.loads(ask(client, [TASK], response_format=form, max_tokens=400).choices[0].message.content)
    assert isinstance(value["valid"], bool)
    assert value["risk"] in ("LOW", "HIGH")


def test_agents_asked_at_once_share_passes(client: openai.OpenAI, url: str) -> None:
    def answered_by(agent: str) -> str:
        model: str = ask(client, [TASK], model=agent, temperature=0, max_tokens=24).model
        return model

    def counted(name: str) -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"grokora_engine_{name}_total")).split()[1])

    agents = ["coordinator", "observer", "actor", "validator", "base"]
    passes, tokens = counted("steps"), counted("generated_tokens")
    with ThreadPoolExecutor(20) as pool:
        models = list(pool.map(answered_by, agents * 4))
    assert models == [*(f"{agent}@first" for agent in agents[:4]), "base"] * 4
    assert counted("steps") - passes < (counted("generated_tokens") - tokens) / 2


def test_the_whole_is_recorded_and_rated_from_the_command_line(client: openai.OpenAI, url: str, home: Path) -> None:
    secret = "AKIA" + "Q3EGRIY2DKZL7W5T"
    call = {**CALL, "function": {"name": "bash", "arguments": orjson.dumps({"command": f"echo {secret}"}).decode()}}
    messages = [ACTOR, {"role": "assistant", "content": None, "tool_calls": [call]}, TASK]
    ask(client, messages, user="night 7", extra_headers={"X-Secret": "hidden-header-value"})
    command = [script("grokora"), "feedback", "last", "--rating", "4", "--gateway", url]
    environment = {**os.environ, "GROKORA_LOGS": str(home / "logs"), "GROKORA_STORE": str(home / "store")}
    told = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=True).stdout
    files = list((home / "logs" / "recordings").glob("*/night-7-*.jsonl"))
    raw = files[0].read_bytes()
    exchange, verdict = [orjson.loads(line) for line in raw.splitlines()]
    assert "told to the gateway" in told
    assert verdict == {"session_id": exchange["session_id"], "outcome": {"rating": 4}}
    assert exchange["agent"] == "actor"
    assert exchange["response"]["model"] == "actor@first"
    assert secret.encode() not in raw
    assert b"hidden-header-value" not in raw
    log = (home / "serve.log").read_text()
    assert "open the vault" not in log
    assert secret not in log


def test_a_promotion_and_a_rollback_are_followed_without_a_restart(client: openai.OpenAI, home: Path, url: str) -> None:
    from grokora_pipeline.store import Store

    registry = Registry(Store(str(home / "store")))
    registry.promote("actor", "challenger", "better", {})
    until(lambda: httpx.get(f"{url}/health").json()["champions"]["actor"] == "challenger", "the promotion", 15)
    assert ask(client, [ACTOR, TASK]).model == "actor@challenger"
    registry.rollback("actor")
    until(lambda: httpx.get(f"{url}/health").json()["champions"]["actor"] == "first", "the rollback", 15)
    assert ask(client, [ACTOR, TASK]).model == "actor@first"
