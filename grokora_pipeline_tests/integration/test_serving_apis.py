"""The APIs that agents speak, as their packages see them: anthropic's Messages, openai's Responses, receipts."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import orjson
import pytest
from anthropic.types import Message, ModelInfo, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.serving.engine.request import GenerationRequest
from grokora_pipeline.serving.gateway.bodies import lower_request
from grokora_pipeline.serving.gateway.recorder import new_receipt
from grokora_pipeline.sessions.readers.bodies import api_of, exchange
from grokora_pipeline.store import Store
from grokora_pipeline_tests.gateway import Running, Setup, serving
from grokora_pipeline_tests.integration.test_serving_gateway import ACTOR, AGENTS, BASH, TASK, by_adapter
from grokora_pipeline_tests.unit.session_logs import run, turns

pytestmark = pytest.mark.xdist_group("serving")
CALL = '<tool_call>{"name": "bash", "arguments": {"command": "ls -la"}}</tool_call>'
TOOL = {
    "name": "bash",
    "description": "Run a command",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}
FUNCTION = {"type": "function", "name": "bash", "parameters": TOOL["input_schema"], "strict": False}


def script(request: GenerationRequest) -> str:
    """Calls the tool if a grammar lets it, else says who answers."""
    return CALL if request.grammar else f"I am {request.adapter or 'base'}"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Setup(tmp_path, AGENTS, script).running() as found:
        yield found


def claude(running: Running) -> Any:  # Any: bodies are plain dictionaries here, as they come over the wire
    return anthropic.Anthropic(base_url=running.url, api_key="anything", max_retries=0)


def gpt(running: Running) -> Any:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="anything", max_retries=0)


MESSAGES: dict[str, Any] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 64,
    "system": "You are the actor of a desktop swarm.",
    "messages": [{"role": "user", "content": "Task: open the vault"}],
}


def test_the_anthropic_package_gets_a_message_with_usage_and_a_stop_reason(running: Running) -> None:
    reply = claude(running).messages.create(**MESSAGES)
    assert [block.type for block in reply.content] == ["text"]
    assert reply.content[0].text == "I am base"
    assert (reply.stop_reason, reply.role, reply.id[:4]) == ("end_turn", "assistant", "msg_")
    assert reply.usage.output_tokens > 0
    assert reply.usage.input_tokens > 0


def test_the_anthropic_package_streams_text_and_tool_use(running: Running) -> None:
    with claude(running).messages.stream(**MESSAGES) as stream:
        assert "".join(stream.text_stream) == "I am base"
        assert stream.get_final_message().stop_reason == "end_turn"
    wanted = {"tools": [TOOL], "tool_choice": {"type": "any"}}
    with claude(running).messages.stream(**MESSAGES, **wanted) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert (final.content[0].name, final.content[0].input) == ("bash", {"command": "ls -la"})


def test_a_tool_loop_of_anthropic_blocks_reads_like_the_chat_messages_that_it_means(running: Running) -> None:
    loop = [
        *MESSAGES["messages"],
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a.txt"}]},
            {"type": "text", "text": "Go on."},
        ]},
    ]  # fmt: skip
    claude(running).messages.create(**{**MESSAGES, "messages": loop}, tools=[TOOL])
    chat = [
        ACTOR, TASK,
        {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "a.txt"},
        {"role": "user", "content": "Go on."},
    ]  # fmt: skip
    gpt(running).chat.completions.create(model="auto", messages=chat, tools=[BASH])
    assert running.engine.asks[0].prompt == running.engine.asks[1].prompt


def test_count_tokens_counts_the_prompt_that_is_answered(running: Running) -> None:
    counted = claude(running).messages.count_tokens(**{k: v for k, v in MESSAGES.items() if k != "max_tokens"})
    claude(running).messages.create(**MESSAGES)
    assert counted.input_tokens == len(running.engine.asks[0].prompt)


def test_count_tokens_counts_what_the_model_sees_of_a_secret(running: Running) -> None:
    text = "my password is hunter2-correct-horse, log in to " + "https://user:pa55w0rd@example.org"
    body = MESSAGES | {"messages": [{"role": "user", "content": text}]}
    counted = claude(running).messages.count_tokens(**{k: v for k, v in body.items() if k != "max_tokens"})
    claude(running).messages.create(**body)
    prompt = running.engine.asks[0].prompt
    assert "SECRET" in running.engine.chat.tokenizer.decode(prompt)
    assert counted.input_tokens == len(prompt)


def test_anthropics_errors_have_anthropics_shape(running: Running) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude(running).messages.create(**MESSAGES, extra_body={"top_k": 3})
    assert caught.value.response.json()["error"]["type"] == "invalid_request_error"
    assert "top_k" in str(caught.value)


def test_the_openai_package_gets_a_response_with_items_and_usage(running: Running) -> None:
    reply = gpt(running).responses.create(model="gpt-5", instructions=ACTOR["content"], input="Task: open the vault")
    assert reply.output_text == "I am base"
    assert (reply.status, reply.object, reply.id[:5]) == ("completed", "response", "resp_")
    assert reply.usage
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    called = gpt(running).responses.create(
        model="gpt-5",
        input="list",
        tools=[FUNCTION],
        tool_choice="required",
    )
    assert [(item.type, item.name) for item in called.output] == [("function_call", "bash")]


def test_the_openai_package_streams_a_response(running: Running) -> None:
    with gpt(running).responses.stream(model="auto", input="hello") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == "I am base"
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    with gpt(running).responses.stream(
        model="auto",
        input="hello",
        tools=[FUNCTION],
        tool_choice="required",
    ) as stream:
        final = stream.get_final_response()
    assert orjson.loads(final.output[0].arguments) == {"command": "ls -la"}


def test_a_response_goes_on_from_the_one_before_and_an_unknown_one_is_refused(running: Running) -> None:
    first = gpt(running).responses.create(model="auto", instructions="Be brief.", input="hello")
    gpt(running).responses.create(model="auto", input="and now?", previous_response_id=first.id)
    same = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "I am base"},
        {"role": "user", "content": "and now?"},
    ]
    gpt(running).chat.completions.create(model="auto", messages=same)
    assert running.engine.asks[1].prompt == running.engine.asks[2].prompt
    with pytest.raises(openai.BadRequestError, match="not known here"):
        gpt(running).responses.create(model="auto", input="x", previous_response_id="resp_nope")


def test_after_a_restart_a_conversation_goes_on_from_its_recordings(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, script).running() as running:
        client = gpt(running)
        first = client.responses.create(
            model="auto", instructions="Be brief.", input="hello, password is hunter2-horse"
        )
        second = client.responses.create(model="auto", input="and now?", previous_response_id=first.id)
        not_kept = client.responses.create(model="auto", input="forget it", store=False)
    with Setup(tmp_path, AGENTS, script, store=Store(str(tmp_path / "store"))).running() as running:
        client = gpt(running)
        third = client.responses.create(model="auto", input="go on", previous_response_id=second.id)
        items = [{"role": "user", "content": "hello, password is <SECRET:password:1>"},
                 {"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "and now?"},
                 {"id": second.output[0].id}, {"role": "user", "content": "go on"}]  # fmt: skip
        client.responses.create(model="auto", input=items)
        asks = running.engine.asks
        assert asks[0].prompt == asks[1].prompt
        text = running.engine.chat.tokenizer.decode(asks[0].prompt)
        assert [text.count(said) for said in ("hunter2", "Be brief", "I am base", "and now?")] == [0, 0, 2, 1]
        for wrong in (not_kept.id, "resp_0123456789abcdef", "resp_"):
            with pytest.raises(openai.BadRequestError, match="not known here"):
                client.responses.create(model="auto", input="x", previous_response_id=wrong)
        with pytest.raises(openai.BadRequestError, match="not known here"):
            client.responses.create(model="auto", input=[{"type": "item_reference", "id": third.id}])
    sessions = {line["session_id"] for line in running.lines() if line["request"].get("previous_response_id")}
    assert len(sessions) == 1


def test_structured_output_of_a_response_follows_its_schema(tmp_path: Path) -> None:
    class Point(BaseModel):
        x: int
        y: int

    with Setup(tmp_path, AGENTS, lambda request: '{"x": 1, "y": 2}').running() as running:
        parsed = gpt(running).responses.parse(model="auto", input="where?", text_format=Point)
        assert parsed.output_parsed == Point(x=1, y=2)
        assert running.engine.asks[0].grammar


def test_structured_output_of_a_message_follows_its_schema(running: Running) -> None:
    class Place(BaseModel):
        x: int

    running.engine.script = lambda request: '{"x": 4}' if request.grammar else "prose"
    assert claude(running).messages.parse(**MESSAGES, output_format=Place).parsed_output == Place(x=4)


@pytest.mark.parametrize(("said", "tokens"), [("<think>why</think>Sure. " + CALL * 2, 500), (" ", 500), ("one two", 3)])
def test_replies_and_events_have_every_member_that_the_packages_types_require(
    tmp_path: Path, said: str, tokens: int
) -> None:
    """The packages do not check them; clients in typed languages do."""
    tool = {"type": "function", "function": {"name": "bash", "parameters": TOOL["input_schema"]}}
    bodies: list[tuple[str, dict[str, Any], Any, Any]] = [
        ("chat/completions", {"messages": [TASK], "max_tokens": tokens, "tools": [tool],
                              "stream_options": {"include_usage": True}}, ChatCompletion, ChatCompletionChunk),
        ("responses", {"input": [TASK], "max_output_tokens": tokens, "tools": [FUNCTION], "tool_choice": None},
         OpenAIResponse, ResponseStreamEvent),
        ("messages", {"messages": [TASK], "max_tokens": tokens, "tools": [TOOL]}, Message, RawMessageStreamEvent),
    ]  # fmt: skip
    with Setup(tmp_path, AGENTS, lambda request: said).running() as running:
        for path, body, whole, part in bodies:
            url = f"{running.url}/v1/{path}"
            TypeAdapter(whole).validate_json(httpx.post(url, json={"model": "auto", **body}).content)
            lines = httpx.post(url, json={"model": "auto", "stream": True, **body}).text.splitlines()
            events = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
            assert len(events) > 2
            for event in events:
                TypeAdapter(part).validate_json(event)
        for model in httpx.get(f"{running.url}/v1/models").json()["data"]:
            TypeAdapter(ModelInfo).validate_python(model)


def test_a_response_that_was_cut_says_so_of_its_last_item_too(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, lambda request: "one two three four").running() as running:
        client = gpt(running)
        assert client.responses.create(model="auto", input="go", max_output_tokens=3).output[0].status == "incomplete"
        assert client.responses.create(model="auto", input="go").output[0].status == "completed"


def test_every_exchange_is_recorded_in_its_own_body_with_its_receipt(running: Running) -> None:
    claude(running).messages.create(**MESSAGES)
    gpt(running).responses.create(model="auto", input="hello")
    lines = running.lines()
    assert {line.get("api", "chat") for line in lines} == {"messages", "responses"}
    for line in lines:
        assert api_of(line["request"], line["response"]) == line["api"]
        assert lower_request(line["api"], line["request"])["messages"][-1]["role"] == "user"
        lowered = exchange(line["request"], line["response"], line["api"])
        assert lowered.answer is not None
        assert (lowered.answer["content"], lowered.cut) == ("I am base", False)


def test_a_recording_of_any_api_is_read_into_the_prompt_that_was_answered(running: Running) -> None:
    loop = [
        *MESSAGES["messages"],
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a.txt"}]},
    ]
    claude(running).messages.create(**{**MESSAGES, "messages": loop}, tools=[TOOL])
    items = [
        {"role": "user", "content": "Task: open the vault"},
        {"type": "function_call", "call_id": "t1", "name": "bash", "arguments": '{"command": "ls"}'},
        {"type": "function_call_output", "call_id": "t1", "output": "a.txt"},
    ]
    gpt(running).responses.create(model="auto", instructions=ACTOR["content"], input=items, tools=[FUNCTION])
    base = running.gateway.champions.base
    assert base
    folder = running.recordings.parent.parent / "turns"
    report = run(running.recordings.parent, folder, agents=AGENTS)
    read = turns(folder)
    assert len(read) == 2, report
    by_time = sorted(read, key=lambda one: str(one["started_at"]))
    for turn, asked in zip(by_time, running.engine.asks, strict=True):
        prompt, tools = orjson.loads(turn["prompt"]), orjson.loads(turn["tools"] or "null")
        assert tuple(base.chat.encode_prompt(prompt, tools)) == asked.prompt


THOUGHT = "<think>Is it 4?\nIt is.</think>\n\nIt is 4."


def test_reasoning_streams_before_the_text_as_an_item_or_a_block_of_its_own(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, lambda request: THOUGHT).running() as running:
        with gpt(running).responses.stream(model="auto", input="2 + 2?") as stream:
            events = [event.type for event in stream]
            response = stream.get_final_response()  # the package raises if two items have one index
        assert [item.type for item in response.output] == ["reasoning", "message"]
        assert (response.output[0].content[0].text, response.output_text) == ("Is it 4?\nIt is.", "It is 4.")
        assert events.index("response.reasoning_text.done") < events.index("response.output_text.delta")
        assert events.count("response.reasoning_text.delta") > 3
        assert response.usage.output_tokens > response.usage.output_tokens_details.reasoning_tokens > 3
        with claude(running).messages.stream(**MESSAGES) as stream:
            started = [event.message.usage for event in stream if event.type == "message_start"]
            message = stream.get_final_message()
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert (message.content[0].thinking, message.content[1].text) == ("Is it 4?\nIt is.", "It is 4.")
        assert started[0].input_tokens == message.usage.input_tokens + message.usage.cache_read_input_tokens > 10
        stream = gpt(running).chat.completions.create(model="auto", messages=[TASK], stream=True)
        deltas = [chunk.choices[0].delta.model_dump(exclude_none=True) for chunk in stream]
        kinds = [name for delta in deltas for name in ("reasoning_content", "content") if delta.get(name)]
        assert kinds == sorted(kinds, key=["reasoning_content", "content"].index)
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Is it 4?\nIt is."


def test_a_loop_of_responses_is_recorded_whole_however_it_refers_to_itself(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, lambda request: THOUGHT).running() as running:
        create = gpt(running).with_options(default_headers={"x-session-id": "loop"}).responses.create
        first = create(model="auto", instructions="Be brief.", input="2 + 2?")
        create(model="auto", instructions="Be brief.", input="Sure?", previous_response_id=first.id)
        named = [{"type": "item_reference", "id": item.id} for item in first.output]
        create(model="auto", instructions="Be brief.", input=[{"role": "user", "content": "2 + 2?"}, *named,
                                                              {"role": "user", "content": "Sure?"}])  # fmt: skip
        stranger = {"api": "responses", "session_id": "loop", "step": 3, "response": first.model_dump(),
                    "request": {"model": "auto", "input": [{"type": "item_reference", "id": "msg_lost"}]}}  # fmt: skip
        base = running.gateway.champions.base
        assert base
    *read, lost = turns_of(running, stranger)
    assert lost["completeness"] == "delta"
    answer = {"role": "assistant", "content": "It is 4.", "reasoning_content": "Is it 4?\nIt is."}
    before = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    assert [orjson.loads(turn["completion"]) for turn in read] == [answer] * 3
    assert [orjson.loads(turn["prompt"]) for turn in read] == [
        before,
        [*before, answer, {"role": "user", "content": "Sure?"}],
        [*before, answer, {"role": "user", "content": "Sure?"}],
    ]
    assert {(turn["completeness"], turn["model"]) for turn in read} == {("whole", "base")}  # who answered, not `auto`
    for turn, request in zip(read, running.engine.asks, strict=True):
        assert tuple(base.chat.encode_prompt(orjson.loads(turn["prompt"]), None)) == request.prompt


def turns_of(running: Running, *more: dict[str, Any]) -> list[Any]:
    """The turns of all recordings, and of further lines of the same session, by their steps."""
    file = next(running.recordings.glob("*/*.jsonl"))
    file.write_bytes(file.read_bytes() + b"".join(orjson.dumps(line) + b"\n" for line in more))
    folder = running.recordings.parent.parent / "turns"
    run(running.recordings.parent, folder, agents=AGENTS)
    return sorted(turns(folder), key=lambda turn: int(turn["step"]))


def test_a_recording_that_cannot_be_read_refuses_what_needs_it_in_a_sentence(running: Running) -> None:
    broken = running.recordings / "2020-01-01" / "broken.jsonl"
    broken.mkdir(parents=True)  # root may read whatever is a file
    receipt = new_receipt("broken")
    body = {"model": "auto", "input": "hello", "previous_response_id": f"resp_{receipt}"}
    reply = httpx.post(f"{running.url}/v1/responses", json=body, headers={"x-session-id": "broken"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "previous_response_not_found")
    assert httpx.post(f"{running.url}/v1/feedback", json={"call": receipt, "rating": 2}).status_code == 404
    said = {"session_id": "broken", "rating": 2}
    assert httpx.post(f"{running.url}/v1/feedback", json=said).status_code == 503
    health = httpx.get(f"{running.url}/health").json()
    assert (health["status"], health["not_recorded"]) == ("degraded", "Is a directory")
    assert gpt(running).responses.create(model="auto", input="hello").output_text == "I am base"
    assert httpx.get(f"{running.url}/health").json()["status"] == "ok"


def test_keywords_of_a_schema_that_no_grammar_holds_are_named(running: Running) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    odd = {"type": "object", "properties": {"command": {"type": "string", "pattern": "^(?!rm)"}}}
    tool = {"type": "function", "function": {"name": "bash", "parameters": odd}}
    for members, ignored in (
        ({"response_format": asked}, "schema.uniqueItems"),
        ({"tools": [tool], "tool_choice": "required"}, "tools.bash"),
        ({"tools": [BASH]}, None),
    ):
        body = {"model": "auto", "messages": [TASK], **members}
        reply = httpx.post(f"{running.url}/v1/chat/completions", json=body)
        assert (reply.status_code, reply.headers.get("x-grokora-ignored")) == (200, ignored)


def test_a_receipt_names_the_call_to_blame(running: Running) -> None:
    raw = gpt(running).chat.completions.with_raw_response.create(
        model="auto",
        messages=[ACTOR, TASK],
    )
    receipt = raw.headers["x-grokora-call"]
    assert raw.parse().id == f"chatcmpl-{receipt}"
    told = httpx.post(f"{running.url}/v1/feedback", json={"call": receipt, "rating": 2})
    assert told.status_code == 200
    outcome = next(line["outcome"] for line in running.lines() if "outcome" in line)
    assert outcome == {"rating": 2, "blame": {"call": receipt}}
    running.gateway.recorder._receipts.clear()  # as after a restart
    assert running.gateway.recorder.session_of(receipt) == told.json()["session_id"]
    stranger = receipt[:8] + "00000000"
    assert running.gateway.recorder.session_of(stranger) == ""
    assert httpx.post(f"{running.url}/v1/feedback", json={"call": "nope", "rating": 2}).status_code == 404
    assert httpx.post(f"{running.url}/v1/feedback", json={"rating": 2}).status_code == 400


@pytest.mark.parametrize(
    ("member", "value"),
    [("presence_penalty", 0.5), ("frequency_penalty", 1), ("logit_bias", {"5": 1}), ("n", 2), ("logprobs", True)],
)
def test_what_changes_an_answer_and_cannot_be_honoured_is_refused_by_name(
    running: Running, member: str, value: object
) -> None:
    body = {"model": "auto", "messages": [TASK], member: value}
    reply = httpx.post(f"{running.url}/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert member in reply.json()["error"]["message"]
    assert httpx.post(f"{running.url}/v1/chat/completions", json={**body, member: None}).status_code == 200


@pytest.mark.parametrize(
    ("path", "member", "value"),
    [
        ("responses", "conversation", "conv_1"),
        ("responses", "prompt", {"id": "pmpt_1"}),
        ("responses", "background", True),
        ("responses", "max_tool_calls", 1),
        ("messages", "mcp_servers", [{"type": "url", "url": "https://example.org", "name": "x"}]),
        ("messages", "output_config", {"format": {"type": "grammar"}}),
    ],
)
def test_what_only_a_provider_can_honour_is_refused_by_name(
    running: Running, path: str, member: str, value: object
) -> None:
    body = {"model": "auto", "max_tokens": 9, "messages": [TASK]} if path == "messages" else {"input": "Task: go"}
    reply = httpx.post(f"{running.url}/v1/{path}", json={**body, member: value})
    assert reply.status_code == 400
    assert member in reply.json()["error"]["message"]
    assert httpx.post(f"{running.url}/v1/{path}", json=body).status_code == 200


def test_a_picture_is_refused_unless_the_agents_logs_hold_such_messages(tmp_path: Path) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    body = {"model": "actor", "messages": [{"role": "user", "content": [{"type": "text", "text": "where?"}, part]}]}
    seeing = AGENTS[0].model_copy(update={"images": "placeholder"})
    for agents, status in ((AGENTS, 400), ([seeing], 200)):
        with Setup(tmp_path, agents, by_adapter).running() as running:
            assert httpx.post(f"{running.url}/v1/chat/completions", json=body).status_code == status


def test_parallel_calls_are_one_call_where_the_caller_wants_one(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, lambda request: CALL * 3).running() as running:
        call: Any = {"model": "auto", "messages": [TASK], "tools": [BASH]}
        several = gpt(running).chat.completions.create(**call)
        single = gpt(running).chat.completions.create(**call, parallel_tool_calls=False)
        blocks = claude(running).messages.create(
            **MESSAGES, tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}
        )
    assert len(several.choices[0].message.tool_calls) == 3
    assert len(single.choices[0].message.tool_calls) == 1
    assert [block.type for block in blocks.content] == ["tool_use"]


def test_an_answer_that_is_cut_within_a_call_says_length_and_shows_no_markup(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, lambda request: CALL * 2).running() as running:
        call: Any = {"model": "auto", "messages": [TASK], "tools": [BASH]}
        base = running.gateway.champions.base
        assert base
        size = len(base.chat.encode(CALL))
        second = gpt(running).chat.completions.create(**call, max_tokens=size + 5).choices[0]
        first = gpt(running).chat.completions.create(**call, max_tokens=size - 5).choices[0]
    assert (second.finish_reason, first.finish_reason) == ("length", "length")
    assert (len(second.message.tool_calls), second.message.content) == (1, "")
    assert (first.message.tool_calls, first.message.content) == (None, "")


def test_names_are_found_in_any_case_and_with_a_providers_prefix_and_strangers_are_told(running: Running) -> None:
    for model, unknown in (("Actor", None), ("openai/actor", None), ("gpt-4o", "1"), ("auto", None)):
        body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
        reply = httpx.post(f"{running.url}/v1/chat/completions", json=body)
        assert reply.headers.get("x-grokora-unknown-model") == unknown, model
    assert [line["agent"] for line in running.lines()].count("actor") == 2


def test_a_call_finds_its_agent_whatever_stands_around_its_prompt(tmp_path: Path) -> None:
    match = {"actor": {"system": ["^You are the actor"]}, "observer": {"tools": ["look"]}}
    agents = [AgentSpec.model_validate({"name": name, "description": "x", "match": match[name]}) for name in match]
    own, tool = "You are the actor of a swarm.", {"type": "function", "function": {"name": "look"}}
    with Setup(tmp_path, agents, script).running() as running:
        for bodies in (
            {"messages": [{"role": "developer", "content": f"\n {own}"}, TASK]},
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "system", "content": own}, TASK]},
            {"messages": [{"role": "system", "content": [{"type": "text", "text": own}]}, TASK]},
            {"messages": [TASK], "tools": [tool]},
            {"messages": [TASK], "tools": ["look", {"function": 5}]},
            {"messages": [TASK]},
        ):
            httpx.post(f"{running.url}/v1/chat/completions", json=bodies)
        assert [line["agent"] for line in running.lines()] == ["actor"] * 3 + ["observer", None]


def test_a_key_is_accepted_as_anthropics_packages_send_it(tmp_path: Path) -> None:
    key = "k" * 24
    with Setup(tmp_path, AGENTS, script, key=key).running() as running:
        given: Any = anthropic.Anthropic(base_url=running.url, api_key=key, max_retries=0)
        assert given.messages.create(**MESSAGES).content


class Elsewhere:
    """An upstream that speaks Anthropic's API, and streams a tool call that writes server-sent events itself."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body: dict[str, Any] = {}

    async def messages(self, request: Request) -> Response:
        self.headers = dict(request.headers)
        body = await request.json()
        if body.get("stream"):
            return StreamingResponse(self.events(), media_type="text/event-stream")
        quoted = f"your key is {request.headers['authorization'].removeprefix('Bearer ')}"
        return JSONResponse({"type": "message", "id": "msg_1", "role": "assistant", "model": "claude", "stop_reason":
                             "end_turn", "content": [{"type": "text", "text": quoted}],
                             "usage": {"input_tokens": 1, "output_tokens": 2}})  # fmt: skip

    async def count(self, request: Request) -> Response:
        self.headers, self.body = dict(request.headers), await request.json()
        return JSONResponse({"input_tokens": 4711}, headers={"request-id": "req_1"})

    async def responses(self, request: Request) -> Response:
        self.body = await request.json()
        said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "elsewhere"}]}
        return JSONResponse({"id": f"resp_{'0a' * 24}", "object": "response", "output": [said], "status": "completed"})

    async def chat(self, request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            code = 'yield "data: [DONE]\\n\\n"'
            for piece in (code[:10], code[10:20], code[20:]):
                delta = {"choices": [{"index": 0, "delta": {"content": piece}}]}
                yield b"data: " + orjson.dumps(delta) + b"\n\n"
            yield b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")

    async def events(self) -> AsyncIterator[bytes]:
        pieces: list[tuple[str, dict[str, Any]]] = [
            ("message_start", {"message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
                                           "content": [], "stop_reason": None, "stop_sequence": None,
                                           "usage": {"input_tokens": 1, "output_tokens": 1}}}),
            ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
            ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "hi"}}),
            ("content_block_stop", {"index": 0}),
            ("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None},
                               "usage": {"output_tokens": 2}}),
            ("message_stop", {}),
        ]  # fmt: skip
        for kind, data in pieces:
            yield f"event: {kind}\n".encode() + b"data: " + orjson.dumps({"type": kind, **data}) + b"\n\n"
            await asyncio.sleep(0.01)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tuple[Elsewhere, Running]]:
    elsewhere = Elsewhere()
    routes = [
        Route("/v1/messages", elsewhere.messages, methods=["POST"]),
        Route("/v1/chat/completions", elsewhere.chat, methods=["POST"]),
        Route("/v1/responses", elsewhere.responses, methods=["POST"]),
        Route("/v1/messages/count_tokens", elsewhere.count, methods=["POST"]),
    ]
    with (
        serving(Starlette(routes=routes)) as url,
        Setup(tmp_path, AGENTS, script, upstream=f"{url}/v1").running() as it,
    ):
        yield elsewhere, it


def test_an_upstream_of_the_same_kind_answers_with_the_callers_own_key_which_is_stored_nowhere(
    upstream: tuple[Elsewhere, Running],
) -> None:
    elsewhere, running = upstream
    key = "sk-ant-callers-own-key-123456"
    client: Any = anthropic.Anthropic(base_url=running.url, api_key=key, max_retries=0)
    reply = client.messages.create(**MESSAGES)
    assert key in reply.content[0].text
    assert elsewhere.headers["authorization"] == f"Bearer {key}"
    assert "anthropic-version" in elsewhere.headers
    with client.messages.stream(**MESSAGES) as stream:
        assert "".join(stream.text_stream) == "hi"
    lines = running.lines()
    assert [line["response"]["content"][0]["text"] for line in lines][1] == "hi"
    assert key not in orjson.dumps(lines).decode()


def test_an_upstream_counts_the_tokens_of_what_it_would_answer(upstream: tuple[Elsewhere, Running]) -> None:
    elsewhere, running = upstream
    body = {name: value for name, value in MESSAGES.items() if name != "max_tokens"}
    odd = {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}  # the upstream may know more
    for asked in (body, body | odd):
        assert claude(running).messages.count_tokens(**asked).input_tokens == 4711
        assert (elsewhere.body, elsewhere.headers["authorization"]) == (asked, "Bearer anything")
    assert claude(running).messages.count_tokens(**body | {"model": "base"}).input_tokens < 100


def test_a_conversation_that_began_here_goes_on_upstream_with_all_that_was_said(
    upstream: tuple[Elsewhere, Running],
) -> None:
    elsewhere, running = upstream
    running.engine.script = lambda request: THOUGHT
    create = gpt(running).responses.create
    first = create(model="base", input="2 + 2?")
    second = create(model="gpt-5", input="Sure?", previous_response_id=first.id, instructions="Be brief.")
    [asked, answer, again] = elsewhere.body["input"]
    assert (asked["content"], answer["content"][0]["text"], again["content"]) == ("2 + 2?", "It is 4.", "Sure?")
    assert (elsewhere.body["instructions"], "id" in answer) == ("Be brief.", False)
    assert "previous_response_id" not in elsewhere.body
    create(model="gpt-5", input="And?", previous_response_id=second.id)  # that one the upstream knows itself
    assert (elsewhere.body["input"], elsewhere.body["previous_response_id"]) == ("And?", second.id)
    assert len({line["session_id"] for line in running.lines()}) == 1


def test_a_session_is_named_by_what_coding_agents_and_sdks_send(running: Running) -> None:
    body = {"model": "auto", "input": "hello"}
    for headers, members, name in (
        ({"session_id": "0199-codex"}, {}, "0199-codex"),
        ({"x-session-id": "ours", "session_id": "0199-codex"}, {}, "ours"),
        ({"x-claude-code-session-id": "claude-1"}, {"metadata": {"user_id": "me"}}, "claude-1"),
        ({}, {"metadata": {"session_id": "s1", "user_id": "me"}, "user": "u"}, "s1"),
        ({}, {"user": "u"}, "u"),
    ):
        reply = httpx.post(f"{running.url}/v1/responses", json=body | members, headers=headers)
        assert reply.headers["x-session-id"] == name
        assert reply.headers["x-request-id"] == reply.headers["request-id"] == reply.headers["x-grokora-call"]


def test_a_stream_is_not_cut_at_the_text_of_its_own_end_mark(upstream: tuple[Elsewhere, Running]) -> None:
    _, running = upstream
    pieces = gpt(running).chat.completions.create(model="x", messages=[TASK], stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == 'yield "data: [DONE]\\n\\n"'
    assert running.lines()[0]["response"]["choices"][0]["message"]["content"] == text
