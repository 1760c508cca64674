"""Callers that no SDK is: odd bodies over all APIs, raw sockets, and coding agents with what they send by default."""

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from grokora_pipeline.serving.engine.request import GenerationRequest
from grokora_pipeline.serving.gateway.bodies import lower_request
from grokora_pipeline.serving.gateway.server import without_message
from grokora_pipeline.sessions.readers.bodies import exchange
from grokora_pipeline_tests.gateway import Running, Setup, serving
from grokora_pipeline_tests.integration.test_serving_gateway import AGENTS, BASH, TASK
from grokora_pipeline_tests.processes import until

pytestmark = pytest.mark.xdist_group("serving")
CALL = '<tool_call>{"name": "apply_patch", "arguments": {"input": "*** Begin Patch"}}</tool_call>'
FUNCTION: dict[str, Any] = {"name": "bash", "parameters": {"type": "object", "properties": {"command": {}}}}
SCHEMA = FUNCTION["parameters"]
CLIENT = httpx.Client(verify=False)
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"model": "auto", "messages": [TASK]},
    "messages": {"model": "auto", "max_tokens": 64, "messages": [TASK]},
    "responses": {"model": "auto", "input": [TASK]},
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Setup(tmp_path_factory.mktemp("hostile"), AGENTS, lambda ask: "fine").running() as found:
        yield found


def send(running: Running, path: str, body: Any, **headers: str) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()  # orjson writes no integer over 64 bits
    sent = {"content-type": "application/json", **headers}
    return CLIENT.post(f"{running.url}/v1/{path}", content=raw, headers=sent, timeout=20)


def error_of(path: str, reply: httpx.Response) -> str:
    """The sentence of an error, after a look at its shape, which is the API's own."""
    body = reply.json()
    assert set(body["error"]) >= ({"type", "message"} if path == "messages" else {"type", "message", "param", "code"})
    assert (body.get("type") == "error") == (path == "messages")
    assert body["error"]["message"].endswith(".")
    return str(body["error"]["message"])


ODD: list[Any] = [None, True, -1, 1e300, 2**70, "", "x", "\u0000\ud7ff", [], [None], [[]], ["x", 5], {}, {"type": None},
                  {"type": "x"}, {"type": "function"}, [{"type": "function", "function": None}], [{"role": "user"}],
                  [{"role": None, "content": 5}], [{"type": "tool_result"}], {"name": {"a": []}}]  # fmt: skip
MEMBERS = {
    "chat/completions": "model messages tools tool_choice response_format temperature top_p max_tokens stop stream "
    "seed stream_options n logprobs parallel_tool_calls user metadata reasoning_effort functions modalities logit_bias",
    "messages": "model messages system tools tool_choice output_config output_format temperature top_p max_tokens "
    "stop_sequences stream metadata thinking context_management mcp_servers top_k",
    "responses": "model input instructions tools tool_choice text temperature top_p max_output_tokens stream include "
    "metadata reasoning previous_response_id store background truncation user conversation",
}


@pytest.mark.parametrize(("path", "member"), [(path, one) for path, names in MEMBERS.items() for one in names.split()])
def test_whatever_a_member_holds_it_is_answered_or_refused_in_the_apis_own_shape(
    running: Running, path: str, member: str
) -> None:
    for value in ODD:
        reply = send(running, path, BODIES[path] | {member: value})
        assert reply.status_code in (200, 400), (value, reply.text)
        if reply.status_code == 400:
            error_of(path, reply)


@pytest.mark.parametrize("path", ["chat/completions", "messages", "responses"])
def test_whatever_stands_inside_of_a_message_it_is_answered_or_refused(running: Running, path: str) -> None:
    kinds = ("text", "tool_use", "tool_result", "thinking", "image", "function_call", "function_call_output", "message",
             "reasoning", "custom_tool_call", "item_reference", "document", "zzz")  # fmt: skip
    names = ("content", "text", "id", "tool_use_id", "call_id", "name", "input", "arguments", "output", "summary",
             "tool_calls", "tool_call_id", "source", "thinking", "is_error")  # fmt: skip
    name = "input" if path == "responses" else "messages"
    for kind in kinds:
        for value in (None, 5, "x", [], [None], [{"type": "text"}], {"type": "x"}, [{"type": "image", "source": 5}]):
            part = {"type": kind, **dict.fromkeys(names, value)}
            for one in (part, {"role": "user", "content": [part]}, {"role": "assistant", **part}):
                reply = send(running, path, BODIES[path] | {name: [one, TASK]})
                assert reply.status_code in (200, 400), (one, reply.text)


@pytest.mark.parametrize(
    ("path", "members", "word"),
    [
        ("chat/completions", {"stream": "true"}, "stream"),
        ("chat/completions", {"max_tokens": 0}, "max_tokens"),
        ("chat/completions", {"max_tokens": "64"}, "max_tokens"),
        ("chat/completions", {"temperature": -0.1}, "temperature"),
        ("chat/completions", {"stop": ["x"] * 100}, "stop"),
        ("chat/completions", {"tools": [BASH], "tool_choice": {"function": {"name": "rm"}}}, "tool_choice"),
        ("chat/completions", {"modalities": ["text", "audio"]}, "modalities"),
        ("chat/completions", {"guided_json": {"type": "object"}}, "guided_json"),
        ("chat/completions", {"functions": [FUNCTION]}, "functions"),
        ("chat/completions", {"messages": [TASK, {"role": "assistant", "content": "I", "prefix": True}]}, "prefix"),
        ("chat/completions", {"messages": [TASK, {"role": "assistant", "content": "I", "partial": True}]}, "partial"),
        ("chat/completions", {"messages": [TASK | {"images": ["iVBORw0KGgo="]}]}, "images"),
        *(("chat/completions", {name: value}, name) for name, value in (
            ("system", "You are terse."), ("instructions", "Be terse."), ("max_output_tokens", 5), ("input", "x"),
            ("stop_sequences", ["x"]), ("text", {"format": {"type": "json_object"}}), ("num_predict", 5),
            ("options", {"num_predict": 5}), ("format", "json"), ("regex", "a+"), ("xtc_probability", 0.5))),
        *(("chat/completions", {"tools": [BASH], "tool_choice": choice}, "tool_choice: give") for choice in (
            "any", {"type": "auto"}, {"type": "function", "name": "bash"}, {"type": "custom", "custom": {}})),
        ("chat/completions", {"web_search_options": {}}, "web_search_options"),
        ("chat/completions", {"tool_choice": 5}, "tool_choice: "),
        ("chat/completions", {"stop": {}}, "stop: "),
        ("chat/completions", {"tools": [BASH], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": [{"type": "function", "function": {"name": "rm"}}]}}}, "allows"),
        ("chat/completions", {"messages": [TASK, {"role": "assistant", "tool_calls": [
            {"id": "c", "type": "custom", "custom": {"name": "a", "input": "x"}}]}]}, "custom"),
        ("messages", {"messages": [TASK, {"role": "assistant", "content": "{"}]}, "begun"),
        ("messages", {"messages": [{"role": "critic", "content": "x"}]}, "role"),
        ("messages", {"max_tokens": 0}, "max_tokens"),
        ("messages", {"tool_choice": "any", "tools": [{"name": "a", "input_schema": {}}]}, "tool_choice"),
        ("messages", {"tool_choice": {"type": "tool", "name": "rm"}}, "tool_choice"),
        ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
        ("messages", {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "clear_tool_uses"),
        ("messages", {"presence_penalty": 1.5}, "presence_penalty"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "unknown"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "reads text"),
        ("messages", {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}]}]}, "reads text"),
        ("messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "its models know"),
        *(("messages", {"messages": [{"role": role, "content": [{"type": "compaction", "content": "so far"}]}, TASK]},
           "unknown") for role in ("user", "assistant")),
        ("responses", {"input": []}, "input: "),
        ("responses", {"truncation": "middle"}, "'truncation'"),
        ("responses", {"max_output_tokens": 0}, "max_output_tokens: "),
        ("messages", {"stop_sequences": [5]}, "stop_sequences: "),
        ("responses", {"background": True}, "background"),
        ("responses", {"include": ["message.output_text.logprobs"]}, "include"),
        ("responses", {"tools": [{"type": "web_search"}]}, "web_search"),
        ("responses", {"tools": [{"type": "file_search"}, {"type": "function", "name": "a"}]}, "file_search"),
        ("responses", {"text": "json"}, "text"),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "reads text"),
        ("responses", {"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ("responses", {"context_management": [{"type": "compaction"}]}, "context_management"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused_by_name(
    running: Running, path: str, members: dict[str, Any], word: str
) -> None:
    reply = send(running, path, BODIES[path] | members)
    assert reply.status_code == 400, reply.text
    assert word in error_of(path, reply)


@pytest.mark.parametrize(
    "raw", [b'{"temperature": 1e999}', b'{"temperature": NaN}', b"\xef\xbb\xbf{}", b'{"a": "\\ud800"}', b"\xff", b""]
)
@pytest.mark.parametrize("path", BODIES)
def test_what_is_no_json_is_refused_in_the_apis_own_shape(running: Running, path: str, raw: bytes) -> None:
    reply = send(running, path, raw)
    assert reply.status_code == 400
    assert "JSON" in error_of(path, reply)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.org/schema.json"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"enum": []}}},
        {"type": ["object", "null"], "$defs": {"x": {"$ref": "#/$defs/x"}}, "properties": {"a": {"$ref": "#/$defs/x"}}},
    ],
)
@pytest.mark.parametrize("name", ["files.read", "größe", 'quo"te', "a" * 128])
def test_tools_with_odd_schemas_and_names_are_offered_or_refused(running: Running, schema: Any, name: str) -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}}]
    for choice in ("auto", "required", {"type": "function", "function": {"name": name}}):
        body = BODIES["chat/completions"] | {"tools": tools, "tool_choice": choice}
        reply = send(running, "chat/completions", body)
        assert reply.status_code in (200, 400), reply.text
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert send(running, "chat/completions", BODIES["chat/completions"] | {"response_format": wanted}).status_code < 500


CALLED: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "a"}}
REFUSED_BY_ALL: list[tuple[str, dict[str, Any], str]] = [
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "blob"}]}]}, "messages"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages"),
    ("chat/completions", {"messages": [TASK, {"role": "assistant", "function_call": "x"}]}, "messages"),
    ("chat/completions", {"messages": [TASK, {"role": "assistant", "audio": {"id": "a"}}, TASK]}, "audio"),
    (
        "chat/completions",
        {"messages": [TASK, {"role": "assistant", "tool_calls": [CALLED | {"function": {"name": 5}}]}]},
        "messages",
    ),
    ("chat/completions", {"response_format": SCHEMA_FORMAT}, "response_format.json_schema.schema"),
    *(("responses", {name: 2}, name) for name in ("n", "logprobs", "stop", "seed", "max_tokens")),
    ("responses", {"response_format": {"type": "json_object"}}, "response_format"),
    ("responses", {"instructions": 5}, "instructions"),
    ("responses", {"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ("responses", {"input": [TASK, {"role": "user", "content": None}]}, "input"),
    ("responses", {"input": [TASK, {"type": "function_call", "call_id": "c", "name": 5, "arguments": "{}"}]}, "input"),
    ("responses", {"input": [TASK, {"type": "function_call_output", "call_id": "c", "output": None}]}, "input"),
    ("responses", {"tools": [{"type": "function", "name": "bash", "parameters": "s"}]}, "tools"),
    *(("messages", {name: 2}, name) for name in ("n", "stop", "seed", "max_completion_tokens", "system")),
    ("messages", {"temperature": 1.5}, "temperature"),
    ("messages", {"stop_sequences": "x"}, "stop_sequences"),
    ("messages", {"output_config": 5}, "output_config"),
    ("messages", {"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
    ("messages", {"tools": [{"name": "bash", "input_schema": 5}]}, "tools"),
    ("messages", {"messages": [TASK, {"role": "assistant", "content": ""}, TASK]}, "messages"),
    ("messages", {"messages": [{"role": "user", "content": ""}]}, "messages"),
    ("messages", {"messages": [TASK, {"role": "assistant", "content": [{"type": "tool_use"}]}, TASK]}, "messages"),
]


@pytest.mark.parametrize(("path", "more", "name"), REFUSED_BY_ALL)
def test_what_the_provider_refuses_is_not_passed_over_in_silence(
    running: Running, path: str, more: dict[str, Any], name: str
) -> None:
    reply = send(running, path, BODIES[path] | more)
    assert reply.status_code == 400
    sentence = error_of(path, reply)
    assert name in sentence
    assert "instance of" not in sentence  # of a class of ours
    assert path == "messages" or reply.json()["error"]["param"] == name


def test_what_changes_nothing_is_taken_from_another_api(running: Running) -> None:
    for path in ("responses", "messages"):
        reply = send(running, path, BODIES[path] | {"n": 1, "logprobs": False, "stop": None})
        assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("path", BODIES)
def test_a_body_of_very_many_values_is_refused_before_anything_is_done_with_them(running: Running, path: str) -> None:
    member = "input" if path == "responses" else "messages"
    many = BODIES[path] | {member: [{"role": "user", "content": [{"type": "text", "text": "a"}] * 90_000}]}
    reply = send(running, path, many)
    assert reply.status_code == 400
    assert "JSON values, more than 250000" in error_of(path, reply)


@pytest.mark.parametrize("words", [700, 40_000])  # counted in tokens, and refused by its characters
def test_a_prompt_that_is_too_long_is_told_in_the_words_that_callers_look_for(running: Running, words: int) -> None:
    for path, member in (("messages", "messages"), ("messages/count_tokens", "messages"), ("responses", "input")):
        long = {"model": "auto", "max_tokens": 5, member: [{"role": "user", "content": "word " * words}]}
        if path == "responses":
            del long["max_tokens"]
        reply = send(running, path, long)
        if path == "messages/count_tokens" and words == 700:  # to count is right
            assert reply.status_code == 200
        elif path == "responses":
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
        else:
            assert error_of("messages", reply).startswith("prompt is too long: The prompt has")


def test_a_streamed_response_ends_with_what_the_whole_one_says(tmp_path: Path) -> None:
    """Whatever the model writes: nothing, thoughts alone, half a call, text around a call."""
    said = ["", " \n", "<think>why", "<think>why</think> ok", f"Sure. {CALL} done", CALL + CALL, CALL[:-20], "a\0 ü😀"]
    tools = {"tools": [{"type": "function", **FUNCTION, "name": "apply_patch"}]}
    answers = iter([text for text in said for _ in range(2)])
    with Setup(tmp_path, AGENTS, lambda ask: next(answers)).running() as running:
        for text in said:
            whole = send(running, "responses", BODIES["responses"] | tools).json()
            stream = send(running, "responses", BODIES["responses"] | tools | {"stream": True}).text
            events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
            last = events[-1]["response"]
            assert last["output"] == items, text
            for reply in (whole, last):
                for item in reply["output"]:
                    item.pop("id")
                    item.pop("call_id", None)
            assert last["output"] == whole["output"], text


@pytest.mark.parametrize("path", BODIES)
def test_a_nucleus_of_nothing_is_the_likeliest_token(running: Running, path: str) -> None:
    assert send(running, path, BODIES[path] | {"top_p": 0, "temperature": 1}).status_code == 200
    assert 0 < running.engine.asks[-1].top_p <= 1e-6


def test_a_format_stands_beside_an_effort(running: Running) -> None:
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    send(running, "messages", BODIES["messages"] | {"output_config": {"effort": "low"}, "output_format": form})
    assert running.engine.asks[-1].grammar


def test_a_schema_beside_a_json_object_is_followed(running: Running) -> None:
    form = {"type": "json_object", "schema": {"type": "object", "properties": {"answer": {"type": "integer"}}}}
    send(running, "chat/completions", BODIES["chat/completions"] | {"response_format": form})
    assert '"answer"' in (running.engine.asks[-1].grammar or "")


def test_of_tools_that_are_allowed_by_name_only_those_are_offered(running: Running) -> None:
    other = {"type": "function", "name": "rm"}
    function = {"type": "function", "name": "bash", "parameters": SCHEMA}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "bash"}]}
    for members in ({"tools": [function, other], "tool_choice": choice}, {"tools": [function]}):
        assert send(running, "responses", BODIES["responses"] | members).status_code == 200
    asks = running.engine.asks[-2:]
    assert asks[0].prompt == asks[1].prompt


def test_a_dated_tool_of_the_provider_is_left_out_beside_the_callers_own(running: Running) -> None:
    for path, kind, own in (
        ("messages", "web_search_20260209", {"name": "bash", "input_schema": SCHEMA}),
        ("responses", "web_search_preview_2025_03_11", {"type": "function", "name": "bash", "parameters": SCHEMA}),
    ):
        reply = send(running, path, BODIES[path] | {"tools": [own, {"type": kind, "name": "web_search"}]})
        assert (reply.status_code, reply.headers["x-grokora-ignored"]) == (200, f"tools.{kind}")
        line = next(one for one in running.lines() if one["call"] == reply.headers["x-grokora-call"])
        tools = exchange(line["request"], line["response"], path).tools  # what is learnt is what was answered
        base = running.gateway.champions.base
        assert base
        assert tuple(base.chat.encode_prompt([TASK], tools)) == running.engine.asks[-1].prompt


def test_reasoning_that_a_caller_sends_back_is_in_the_prompt_as_a_message_has_it(running: Running) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
    thoughtful = {"role": "assistant", "content": "", "reasoning_content": "It may be there.", "tool_calls": [call]}
    items = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
            {"type": "reasoning_text", "text": "It may be there."}]},
        {"type": "function_call", "call_id": "c", "name": "bash", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "a.txt"},
    ]  # fmt: skip
    expected = [TASK, thoughtful, {"role": "tool", "tool_call_id": "c", "content": "a.txt"}]
    assert lower_request("responses", {"input": [TASK, *items]})["messages"] == expected
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "There."}]}
    answer = {"role": "assistant", "content": "There.", "reasoning_content": "It may be there."}
    assert lower_request("responses", {"input": [TASK, items[0], said]})["messages"] == [TASK, answer]
    assert send(running, "responses", BODIES["responses"] | {"input": [TASK, *items]}).status_code == 200


def test_members_without_effect_are_named_in_a_header(running: Running) -> None:
    hints = {"service_tier": "auto", "prompt_cache_key": "k", "safety_identifier": "s", "verbosity": "low",
             "reasoning_effort": "high", "metadata": {"a": "b"}, "über\nname": 1, "absent": None,
             "prediction": {"type": "content", "content": "fine"}}  # fmt: skip
    reply = send(running, "chat/completions", BODIES["chat/completions"] | hints)
    assert reply.status_code == 200
    ignored = reply.headers["x-grokora-ignored"].split(", ")
    assert ignored == ["service_tier", "prompt_cache_key", "safety_identifier", "verbosity", "reasoning_effort",
                       "metadata", "prediction"]  # fmt: skip
    assert "x-grokora-ignored" not in send(running, "chat/completions", BODIES["chat/completions"]).headers


NAMED_USER = TASK | {"name": "alice"}
REFUSAL: dict[str, Any] = {"role": "assistant", "content": None, "refusal": "No.", "annotations": [], "audio": None}
PATCHER = {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "regex", "definition": "a"}}


@pytest.mark.parametrize(
    ("path", "members", "ignored"),
    [
        ("chat/completions", {"messages": [NAMED_USER, REFUSAL, NAMED_USER]}, "messages.name, messages.refusal"),
        ("chat/completions", {"messages": [TASK, {"role": "function", "name": "f", "content": "x"}]}, None),
        ("chat/completions", {"messages": [TASK | {"x" * 9000: 1, "a\nb": 1, "mood": "calm"}]}, "messages.mood"),
        ("responses", {"text": {"verbosity": "low"}, "tools": [PATCHER]}, "text.verbosity, tools.patch.format"),
        ("messages", {"output_config": {"effort": "low"}}, "output_config.effort"),
        ("messages", {"output_config": {"task_budget": {"total": 9}, "effort": None}}, "output_config.task_budget"),
    ],
)
def test_what_has_no_effect_inside_of_a_member_is_named_too(
    running: Running, path: str, members: dict[str, Any], ignored: str | None
) -> None:
    reply = send(running, path, BODIES[path] | members)
    assert reply.status_code == 200, reply.text
    assert reply.headers.get("x-grokora-ignored") == ignored


def test_a_stop_sequence_is_told_as_anthropic_tells_it(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, lambda ask: "one END two STOP").running() as running:
        body = BODIES["messages"] | {"stop_sequences": ["STOP", "END"]}
        whole = send(running, "messages", body).json()
        assert [whole["content"][0]["text"], whole["stop_reason"], whole["stop_sequence"]] == [
            "one",
            "stop_sequence",
            "END",
        ]
        streamed = send(running, "messages", body | {"stream": True}).text
        assert '"stop_reason":"stop_sequence","stop_sequence":"END"' in streamed
        assert send(running, "messages", BODIES["messages"]).json()["stop_reason"] == "end_turn"


@pytest.mark.parametrize("member", MEMBERS["messages"].split())
def test_tokens_of_whatever_a_member_holds_are_counted_or_refused(running: Running, member: str) -> None:
    for value in ODD:
        reply = send(running, "messages/count_tokens", BODIES["messages"] | {member: value})
        assert reply.status_code in (200, 400), (value, reply.text)
    begun = {"messages": [TASK, {"role": "assistant", "content": "begun"}]}
    assert send(running, "messages/count_tokens", BODIES["messages"] | begun).json()["input_tokens"] > 0


# --- coding agents --------------------------------------------------------------------------------------------------

CACHED = {"cache_control": {"type": "ephemeral"}}
CLAUDE_CODE: dict[str, Any] = {
    "model": "claude-opus-4-6",
    "max_tokens": 32000,
    "stream": False,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1"},
        {"type": "text", "text": "You are Claude Code.", **CACHED},
    ],
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "medium"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "metadata": {"user_id": "user_1_account__session_2"},
    "tools": [{"name": "Bash", "description": "runs", "input_schema": SCHEMA, "eager_input_streaming": True, **CACHED}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "list it", **CACHED}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}},
            {"type": "tool_use", "id": "t2", "name": "Bash", "input": {"command": "cat x"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "a.txt"},
            {"type": "tool_result", "tool_use_id": "t2", "is_error": True, "content": [
                {"type": "text", "text": "no such file"}], **CACHED},
            {"type": "text", "text": "<system-reminder>go on</system-reminder>"},
        ]},
    ],
}  # fmt: skip
CODEX: dict[str, Any] = {
    "model": "gpt-5.3-codex",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be careful."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "patch it"}]},
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "x"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "name": "exec_command", "arguments": '{"cmd": "ls"}', "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "a.txt"}]},
        {"type": "custom_tool_call", "status": "completed", "call_id": "c2", "name": "apply_patch", "input": "***"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "Done"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
    ],
    "tools": [
        {"type": "function", "name": "exec_command", "description": "runs", "strict": False, "parameters": SCHEMA},
        {"type": "custom", "name": "apply_patch", "description": "edits",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}},
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199",
    "text": {"verbosity": "low"},
}  # fmt: skip


def test_claude_code_is_answered_with_what_it_sends_by_default(running: Running) -> None:
    beta = {"anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14", "anthropic-version": "2023-06-01"}
    reply = send(running, "messages?beta=true", CLAUDE_CODE, **beta)
    assert reply.status_code == 200, reply.text
    assert reply.json()["content"][0]["text"] == "fine"
    assert reply.headers["x-grokora-ignored"] == "thinking, context_management, output_config.effort"
    prompt = running.engine.chat.tokenizer.decode(running.engine.asks[-1].prompt)
    for text in ("You are Claude Code.", "list it", "cat x", "a.txt", "no such file", "system-reminder"):
        assert text in prompt


def test_what_an_answer_says_after_its_call_stays_in_it_whether_its_result_came_or_not(running: Running) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]}
    result = {"type": "function_call_output", "call_id": "c1", "output": "a.txt"}
    for after in (result, {"role": "user", "content": "go on"}):
        body = {"model": "actor", "input": [{"role": "user", "content": "hi"}, call, said, after]}
        messages = lower_request("responses", body)["messages"]
        assert [one["role"] for one in messages] == ["user", "assistant", after.get("role", "tool")]
        assert (messages[1]["content"], messages[1]["tool_calls"][0]["id"]) == ("Looking.", "c1")
        assert send(running, "responses", body).status_code == 200


def test_codex_is_answered_and_gets_its_patches_as_a_custom_call(tmp_path: Path) -> None:
    with Setup(tmp_path, AGENTS, lambda ask: CALL).running() as running:
        reply = send(running, "responses", CODEX)
        assert reply.status_code == 200, reply.text
        assert "tools.web_search" in reply.headers["x-grokora-ignored"]
        item = reply.json()["output"][-1]
        assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", "*** Begin Patch")
        streamed = send(running, "responses", CODEX | {"stream": True})
        events = [orjson.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
        assert [one["delta"] for one in events if one["type"] == "response.custom_tool_call_input.delta"]
        assert events[-1]["response"]["output"][-1]["input"] == "*** Begin Patch"
        prompt = running.engine.chat.tokenizer.decode(running.engine.asks[-1].prompt)
        for text in ("You are a coding agent.", "Be careful.", "a.txt", "Done", "apply_patch", "Looking."):
            assert text in prompt


@pytest.mark.parametrize(("path", "body"), [("messages", CLAUDE_CODE), ("responses", CODEX)])
def test_what_an_agent_sends_passes_upstream_as_it_is(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    seen: list[Any] = []

    async def answer(request: Request) -> JSONResponse:
        seen.append((await request.json(), request.headers.get("anthropic-beta"), request.headers.get("x-api-key")))
        return JSONResponse({"id": "x"})

    routes = [Route(f"/v1/{path}", answer, methods=["POST"])]
    with serving(Starlette(routes=routes)) as url, Setup(tmp_path, AGENTS, upstream=f"{url}/v1").running() as running:
        reply = send(running, path, body, **{"anthropic-beta": "b-1", "x-api-key": "sk-ant-0123456789"})
        assert reply.status_code == 200
    assert seen == [(body, "b-1", "sk-ant-0123456789")]


# --- HTTP -----------------------------------------------------------------------------------------------------------


def exchange_raw(running: Running, raw: bytes, *, half_close: bool = False) -> bytes:
    """All that the server says to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(raw)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def raw_request(body: bytes, *more: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


ONE = orjson.dumps(BODIES["chat/completions"])


def test_requests_that_are_sent_ahead_on_one_connection_are_all_answered(running: Running) -> None:
    whole = raw_request(ONE, f"content-length: {len(ONE)}")
    last = raw_request(b"[]", "content-length: 2", "connection: close")
    refused = raw_request(ONE, f"content-length: {len(ONE)}").replace(b"application/json", b"text/plain")
    answer = exchange_raw(running, whole + refused + whole + last)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.count(b"HTTP/1.1 415") == 1
    assert answer.count(b"HTTP/1.1 400") == 1


def test_a_body_in_chunks_is_read(running: Running) -> None:
    pieces = [b'{"model": "auto", "messages": ', orjson.dumps([TASK]), b"}"]
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    answer = exchange_raw(running, raw_request(chunked, "transfer-encoding: chunked", "connection: close"))
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_request_that_offers_an_upgrade_to_http2_keeps_its_body(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """As Java's HttpClient sends the first request of a connection."""
    caplog.handler.addFilter(without_message)
    upgrade = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA")
    last = raw_request(ONE, f"content-length: {len(ONE)}", "connection: close")
    answer = exchange_raw(running, raw_request(ONE, f"content-length: {len(ONE)}", *upgrade) + last)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.count(b'"content":"fine"') == 2
    assert "grade" not in caplog.text  # nobody can do anything about it
    assert "WebSocket" not in caplog.text


def test_a_stream_over_http_1_0_comes_without_chunks_and_ends_with_its_connection(running: Running) -> None:
    body = orjson.dumps(BODIES["chat/completions"] | {"stream": True})
    old = f"POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    head, _, stream = exchange_raw(running, old.encode() + body).partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert b"transfer-encoding" not in head.lower()
    assert b"x-accel-buffering: no" in head  # or a proxy would hold it back
    assert all(line.startswith(b"data: ") for line in stream.split(b"\n\n")[:-1])
    assert stream.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", BODIES)
def test_a_name_that_is_not_this_machines_is_refused_in_the_apis_own_shape(running: Running, path: str) -> None:
    reply = send(running, path, BODIES[path], host="host.docker.internal:8080")
    assert reply.status_code == 400
    assert "Host" in error_of(path, reply)
    assert send(running, path, BODIES[path], host="[::1]:8080").status_code == 200


def test_a_caller_that_closes_its_half_or_sends_nonsense_holds_no_place(running: Running) -> None:
    for raw in (raw_request(ONE, f"content-length: {len(ONE)}"), b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x00", b""):
        exchange_raw(running, raw, half_close=True)
    until(lambda: running.gateway._running == 0, "every place is free again")
    assert send(running, "chat/completions", BODIES["chat/completions"]).status_code == 200


@pytest.mark.parametrize("raw", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: "])
def test_a_connection_whose_head_never_ends_is_closed_however_slowly_it_goes_on(
    running: Running, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grokora_pipeline.serving.gateway.server.HEAD_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=0.05) as connection:
        connection.sendall(raw)

        def is_closed() -> bool:
            try:
                connection.sendall(b"a" if raw else b"")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(is_closed, "the connection is closed")
    assert send(running, "chat/completions", BODIES["chat/completions"]).status_code == 200


def test_methods_and_paths_that_are_not_there_are_said_in_the_apis_own_shape(running: Running) -> None:
    for method, path, status, allowed in (
        ("GET", "messages", 405, "POST"),
        ("OPTIONS", "responses", 405, "POST"),
        ("HEAD", "chat/completions", 405, "POST"),
        ("POST", "messages/batches", 404, None),
        ("GET", "responses/resp_1", 404, None),
        ("POST", "embeddings", 404, None),
    ):
        reply = httpx.request(method, f"{running.url}/v1/{path}", json={})
        assert (reply.status_code, reply.headers.get("allow")) == (status, allowed), path
        if method != "HEAD":
            error_of(path.partition("/")[0], reply)
    assert "/v1/responses" in httpx.post(f"{running.url}/v1/embeddings", json={}).json()["error"]["message"]


def test_a_slash_at_the_end_of_a_path_changes_nothing(running: Running) -> None:
    for path, body in BODIES.items():
        assert send(running, f"{path}/", body).status_code == 200
    assert httpx.get(f"{running.url}/v1/models/").json()["data"]


def test_models_are_listed_for_both_providers_packages(running: Running) -> None:
    listed = httpx.get(f"{running.url}/v1/models").json()
    assert listed["first_id"] == listed["data"][0]["id"] == "base"
    one = httpx.get(f"{running.url}/v1/models/actor").json()
    assert (one["object"], one["type"], one["display_name"]) == ("model", "model", "actor")


@pytest.mark.parametrize("name", ["actor", "ACTOR", "openai/actor", "actor/"])
def test_a_model_is_found_by_every_name_that_a_request_may_give_it(running: Running, name: str) -> None:
    assert CLIENT.get(f"{running.url}/v1/models/{name}").json()["id"] == "actor"


def test_the_key_may_come_in_either_header(tmp_path: Path) -> None:
    key = "k" * 24
    with Setup(tmp_path, AGENTS, key=key).running() as running:
        for headers, status in (
            ({"authorization": "Bearer wrong", "x-api-key": key}, 200),
            ({"authorization": f"Bearer {key}", "x-api-key": "wrong"}, 200),
            ({"authorization": f"Basic {key}"}, 401),
            ({"x-api-key": "wrong"}, 401),
            ({}, 401),
        ):
            reply = send(running, "messages", BODIES["messages"], **headers)
            assert reply.status_code == status
        assert reply.json()["type"] == "error"


@pytest.mark.parametrize(
    ("headers", "raw", "status"),
    [
        ({"content-type": "text/plain"}, ONE, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, ONE, 415),
        ({"content-type": ""}, ONE, 415),
        ({"content-type": "APPLICATION/JSON; charset=utf-8"}, ONE, 200),
        ({"content-encoding": "gzip"}, gzip.compress(ONE, mtime=0), 200),
        ({"content-encoding": "gzip"}, ONE, 400),
        ({"content-encoding": "gzip"}, gzip.compress(bytes(1 << 25), mtime=0), 413),
        ({"content-encoding": "zstd"}, ONE, 415),
    ],
)
def test_bodies_of_other_kinds_and_codings_are_read_or_refused(
    running: Running, headers: dict[str, str], raw: bytes, status: int
) -> None:
    assert send(running, "chat/completions", raw, **headers).status_code == status


def test_a_caller_that_leaves_in_mid_stream_frees_its_place(tmp_path: Path) -> None:
    def many(ask: GenerationRequest) -> str:
        return "word " * 60

    with Setup(tmp_path, AGENTS, many, seconds_per_token=0.05).running() as running:
        for path, body in BODIES.items():
            raw = orjson.dumps(body | {"stream": True})
            with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20) as connection:
                connection.sendall(raw_request(raw, f"content-length: {len(raw)}", path=f"/v1/{path}"))
                assert connection.recv(15).startswith(b"HTTP/1.1 200")
        until(lambda: running.engine.closed_early == len(BODIES), "all answers end early")
        until(lambda: len(running.lines()) == len(BODIES), "all exchanges are recorded")
        assert all("error" in line["response"] for line in running.lines())


# --- spans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [*ODD, {"resource": 5}, [{"scopeSpans": 5}], [{"scopeSpans": [{"spans": [5]}]}]])
def test_whatever_stands_in_an_export_of_spans_it_is_taken_or_refused(running: Running, value: Any) -> None:
    spans = [{"traceId": value, "attributes": value, "events": value}]
    for body in (value, {"resourceSpans": value}, {"resourceSpans": [{"resource": value, "scopeSpans": [
            {"scope": value, "spans": spans}]}]}):  # fmt: skip
        assert send(running, "traces", body).status_code in (200, 400), body
    message = ExportTraceServiceRequest().SerializeToString() + repr(value).encode()
    assert send(running, "traces", message, **{"content-type": "application/x-protobuf"}).status_code in (200, 400)


def test_nothing_of_all_this_was_kept_open_or_recorded_bare(running: Running) -> None:
    key = "sk-proj-" + "Zx81" * 8
    body = BODIES["messages"] | {"system": [{"type": "text", "text": f"password is hunter2-horse, key {key}"}]}
    for path, asked in (("messages", body), ("messages", body | {"metadata": {"user_id": key}})):
        assert send(running, path, asked, **{"x-api-key": key}).status_code == 200
    raw = b"".join(file.read_bytes() for file in running.recordings.rglob("*.json*") if ".redaction" not in str(file))
    assert key.encode() not in raw
    assert b"hunter2" not in raw
    assert not any(key in str(file) for file in running.recordings.rglob("*"))
    assert asyncio.run(_idle(running))


async def _idle(running: Running) -> bool:
    return running.gateway._running == 0 and running.engine.running == 0
