"""What the gateway reads out of requests, generated text and streams."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from httpx_sse import EventSource
from hypothesis import given
from hypothesis import strategies as st

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.serving.engine.request import Finish, GenerationRequest, TokenChunk
from grokora_pipeline.serving.gateway.answers import LocalAnswer, fault, read_answer
from grokora_pipeline.serving.gateway.protocol import (
    ApiError,
    ChatRequest,
    Json,
    chunk,
    event,
    new_reply,
    read_object,
)
from grokora_pipeline.sessions.readers.streams import StreamedReply
from grokora_pipeline_tests.tiny import tiny_tokenizer

USER = {"role": "user", "content": "hi"}
BASH = {
    "type": "function",
    "function": {"name": "bash", "parameters": {"type": "object", "required": ["command"], "properties": {}}},
}


def _stream(raw: bytes, cuts: list[int]) -> httpx.Response:
    """A streamed reply whose bytes arrive in pieces."""
    pieces, place = [], 0
    for size in [*cuts, len(raw)]:
        pieces.append(raw[place : place + size])
        place += size
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=iter(pieces))


def asked(**more: object) -> ChatRequest:
    return ChatRequest.parse({"messages": [USER], **more})


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_tokenizer(folder)
    return ChatFormat.load(folder)


def test_members_nobody_knows_are_accepted_and_kept_for_the_recording() -> None:
    request = asked(store=True, metadata={"a": 1}, parallel_tool_calls=False, max_completion_tokens=5)
    assert request.body["metadata"] == {"a": 1}
    assert request.max_completion_tokens == 5


def test_tool_choice_none_offers_no_tools_and_a_named_one_must_be_among_them() -> None:
    assert asked(tools=[BASH], tool_choice="none").offered_tools is None
    assert asked(tools=[BASH]).offered_tools == [BASH]
    named = {"type": "function", "function": {"name": "bash"}}
    assert asked(tools=[BASH], tool_choice=named).offered_tools == [BASH]
    with pytest.raises(ApiError, match="does not hold"):
        asked(tools=[BASH], tool_choice={"type": "function", "function": {"name": "rm"}})


@given(st.recursive(st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=5), st.lists))
def test_whatever_stands_in_a_request_it_is_read_or_refused(value: object) -> None:
    for raw in (orjson.dumps(value), orjson.dumps({"messages": value}), orjson.dumps({"messages": [USER], "n": value})):
        try:
            ChatRequest.parse(read_object(raw))
        except ApiError as error:
            assert error.status == 400


def test_a_call_cut_short_is_never_completed_and_is_no_content(chat: ChatFormat) -> None:
    text = '<tool_call>{"name": "bash", "arguments": {"command": "rm -rf /tmp/x'
    message, repaired = read_answer(text, chat, [BASH], whole=False)
    assert (message, repaired) == ({"role": "assistant", "content": ""}, False)


PIECES = [
    *(
        "hello",
        " ",
        "\n",
        "\n\n",
        "é",
        "😀",
        "<",
        "<tool",
        "<tool_call>",
        "</tool_call>",
        "<think>",
        "</think>",
        "END",
        "EN",
    ),
    *('{"name": "bash", "arguments": {"command": "ls"}}', '{"a": 1}', "<SECRET:password:1>", "<SEC"),
]
ORIGINALS = {"<SECRET:password:1>": 'hun"ter\\2\nx'}


@pytest.mark.parametrize("seed", range(4))
def test_what_streams_is_what_the_whole_answer_says_wherever_it_ends(seed: int, chat: ChatFormat) -> None:
    rng = random.Random(seed)

    class Scripted:
        """An engine whose answers come in one to three tokens a chunk."""

        def __init__(self, text: str, finish: Finish) -> None:
            self.tokens, self.finish = chat.encode(text), finish

        async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
            while self.tokens:
                count = rng.randint(1, 3)
                yield TokenChunk(tuple(self.tokens[:count]))
                self.tokens = self.tokens[count:]
            yield TokenChunk((), self.finish)

    async def collect(answer: LocalAnswer) -> dict[str, Any]:
        told: dict[str, Any] = {"reasoning_content": "", "content": "", "tool_calls": []}
        async for delta in answer.deltas():
            for name, value in delta.items():
                told[name] += value
        return told

    for _ in range(300):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 8)))
        stops = rng.sample(["END", "EN", "END\n", "ND", "\n", "x", "<", "}", "ll"], rng.randint(0, 3))
        members = {"stop": stops, "tools": [BASH] if rng.random() < 0.5 else None}
        engine: Any = Scripted(text, rng.choice(["stop", "length"]))
        originals = ORIGINALS if rng.random() < 0.5 else {}
        answer = LocalAnswer(asked(**members), GenerationRequest((1,)), chat, engine, new_reply("m"), originals)
        told = asyncio.run(collect(answer))
        message = answer.reply["choices"][0]["message"]
        whole = [message.get(name, empty) for name, empty in (("reasoning_content", ""), ("content", ""))]
        assert [told["reasoning_content"], told["content"]] == whole, (text, members)
        said = [call["function"] for call in message.get("tool_calls", [])]
        assert [call["function"] for call in told["tool_calls"]] == said
        assert all(json.loads(function["arguments"]) for function in said)
        assert originals or not any(stop in message["content"] for stop in stops), (text, members)


def test_without_tools_the_text_is_content_whatever_it_says(chat: ChatFormat) -> None:
    text = ' <tool_call>{"name": "bash", "arguments": {}}</tool_call> '
    assert read_answer(text, chat, None, whole=True)[0] == {"role": "assistant", "content": text.strip()}


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "bash", "arguments": "not json at all"}</tool_call>',
        "<tool_call>nothing of the kind</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>[[[[</tool_call>",
    ],
)
def test_what_cannot_be_repaired_stays_text(chat: ChatFormat, text: str) -> None:
    assert read_answer(text, chat, [BASH], whole=True)[0] == {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("message", "request_members", "word"),
    [
        ({"content": ""}, {}, "empty"),
        ({"content": "fine"}, {}, None),
        ({"content": "I say <tool_call>{"}, {"tools": [BASH]}, "no_call"),
        ({"content": "fine"}, {"tools": [BASH]}, None),
        ({"content": "fine"}, {"tools": [BASH], "tool_choice": "required"}, "no_call"),
        ({"content": "[1"}, {"response_format": {"type": "json_object"}}, "bad_json"),
        ({"content": "{}"}, {"response_format": {"type": "json_object"}}, None),
        ({"tool_calls": [{"function": {"name": "bash", "arguments": "{}"}}]}, {"tools": [BASH]}, "bad_call"),
        ({"tool_calls": [{"function": {"name": "rm", "arguments": "{}"}}]}, {"tools": [BASH]}, "bad_call"),
        ({"tool_calls": [{"function": {"name": "bash", "arguments": '{"command": 1}'}}]}, {"tools": [BASH]}, None),
    ],
)
def test_useless_answers_are_told_from_good_ones(message: Json, request_members: Json, word: str | None) -> None:
    assert fault(message, asked(**request_members), None) == word


@pytest.mark.parametrize("calls", ["x", [5], [{}], [{"function": None}], {"function": {}}])
def test_calls_of_a_shape_that_no_api_should_send_are_a_fault_and_no_crash(calls: object) -> None:
    assert fault({"content": None, "tool_calls": calls}, asked(tools=[BASH]), None) == "bad_call"


def test_an_agents_own_schema_judges_its_answers() -> None:
    schema = {"type": "object", "required": ["valid"]}
    agent = AgentSpec.model_validate({"name": "v", "description": "", "answer": {"type": "json", "schema": schema}})
    texts = ["[", "{}", '{"valid": true}']
    assert [fault({"content": text}, asked(), agent) for text in texts] == ["bad_json", "bad_schema", None]


@given(st.lists(st.integers(1, 40), max_size=60))
def test_a_stream_is_put_together_wherever_its_bytes_are_cut(cuts: list[int]) -> None:
    head = new_reply("grok")
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "bash", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"command": "ls"}'}}
    raw = b": ping\n\ndata: [1]\n\ndata: broken\n\n" + chunk(head, {"role": "assistant", "content": None})
    raw += chunk(head, {"content": "Grüß "}) + chunk(head, {"content": "Gott"}) + chunk(head, {"tool_calls": [call]})
    raw += chunk(head, {"tool_calls": [rest]}) + chunk(head, {}, "tool_calls")
    raw += event({**head, "choices": [], "usage": {"total_tokens": 9}}) + b"data: [DONE]\n\n"
    streamed = StreamedReply()
    for one in EventSource(_stream(raw, cuts)).iter_sse():
        streamed.feed(one.data)
    reply = streamed.reply()
    message = reply["choices"][0]["message"]
    assert (reply["id"], reply["usage"]) == (head["id"], {"total_tokens": 9})
    assert message["content"] == "Grüß Gott"
    assert message["tool_calls"][0]["function"] == {"name": "bash", "arguments": '{"command": "ls"}'}


@pytest.mark.parametrize("names", [("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")])
def test_a_streams_thought_is_kept_once_whatever_the_server_calls_it(names: tuple[str, ...]) -> None:
    streamed = StreamedReply()
    for thought in ("Is it 4? ", "It is."):
        streamed.feed({"choices": [{"index": 0, "delta": dict.fromkeys(names, thought)}]})
    streamed.feed({"choices": [{"index": 0, "delta": {"content": "4"}, "finish_reason": "stop"}]})
    message = streamed.reply()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Is it 4? It is.", "4")


def test_a_stream_that_broke_off_is_no_answer() -> None:
    streamed = StreamedReply()
    for one in EventSource(_stream(chunk(new_reply("grok"), {"content": "half an ans"}), [])).iter_sse():
        streamed.feed(one.data)
    assert streamed.reply() == {}


@given(
    st.lists(st.sampled_from(["type", "index", "delta", "message", "choices", "usage", "content_block"]), max_size=4),
    st.sampled_from(
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "message_delta",
            "message_stop",
            "response.completed",
            "response.failed",
            "error",
            "",
        ]
    ),
    st.sampled_from(
        [None, 5, "x", [], [None], [{"delta": 5}], {"usage": []}, [{"delta": {"tool_calls": [{"index": []}]}}]]
    ),
)
def test_events_of_any_shape_are_passed_over(names: list[str], kind: str, value: object) -> None:
    streamed = StreamedReply()
    for name in names:
        streamed.feed({"type": kind, name: value} if kind else {"choices": value, name: value})
        streamed.feed(value)
    streamed.feed({"type": "message_stop"})
    assert isinstance(streamed.reply(), dict)
