"""Training and serving show a model the same prompt, whatever shape a message has."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.messages import (
    PICTURE,
    calls_of,
    first_text,
    message_reasoning,
    message_text,
    offered_tools,
    plain_message,
)
from grokora_pipeline.serving.gateway.answers import prepare
from grokora_pipeline.serving.gateway.protocol import ChatRequest
from grokora_pipeline.sessions.redaction.redactor import Redactor
from grokora_pipeline_tests.tiny import tiny_tokenizer
from grokora_pipeline_tests.unit.test_models_chat import CLICK, NATIVE_TEMPLATE

PNG = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUgAA" * 4
CALL = {"id": "call_1", "type": "function", "function": {"name": "computer", "arguments": '{"action": "key"}'}}
LEGACY = {"name": "computer", "arguments": '{"action": "key"}'}

words = st.text(alphabet="abc é\n", max_size=12)
part = st.one_of(
    words.map(lambda text: {"type": "text", "text": text}),
    words.map(lambda text: {"type": "input_text", "text": text}),
    st.sampled_from(
        [
            {"type": "image_url", "image_url": {"url": PNG}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG.split(",")[1]}},
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            {"type": "file", "file": {"file_id": "f1"}},
            {"type": "thinking", "thinking": "so be it"},
        ]
    ),
)
content = st.one_of(st.none(), words, st.lists(part, max_size=3), words.map(lambda text: f"{text} {PNG} {text}"))
extras: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"tool_calls": [CALL]}),
    st.just({"tool_calls": [CALL, {**CALL, "id": "call_2"}]}),
    st.just({"function_call": LEGACY}),
    words.map(lambda text: {"reasoning_content": text}),
)
message = st.one_of(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["system", "developer"]), content),
    st.builds(lambda text: {"role": "user", "content": text}, content),
    st.builds(lambda text, more: {"role": "assistant", "content": text, **more}, content, extras),
    st.builds(lambda text: {"role": "tool", "tool_call_id": "call_1", "content": text}, content),
    st.builds(lambda text: {"role": "function", "name": "computer", "content": text}, content),
)
choices = st.sampled_from([None, "auto", "none", "required"])


@pytest.fixture(scope="module", params=["own text form", "native tools"])
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    folder = tmp_path_factory.mktemp("chat")
    tiny_tokenizer(folder)
    if request.param == "native tools":
        (folder / "chat_template.jinja").write_text(NATIVE_TEMPLATE)
    return ChatFormat.load(folder)


def trained_ids(body: dict[str, Any], chat: ChatFormat) -> list[int]:
    """What a recording of this request becomes: redacted, made an example, tokenized."""
    redacted = [Redactor().redact(one)[0] for one in body["messages"]]
    example = {"prompt": [plain_message(one) for one in redacted], "tools": offered_tools(body)}
    return chat.encode_example({**example, "completion": [{"role": "assistant", "content": "done"}]})[0]


def served_ids(body: dict[str, Any], chat: ChatFormat, agent: AgentSpec | None = None) -> list[int]:
    return list(asyncio.run(prepare(ChatRequest.parse(body), agent, None, chat, 100_000)).prompt)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(messages=st.lists(message, min_size=1, max_size=5), choice=choices)
def test_the_trained_prompt_is_the_served_prompt(
    chat: ChatFormat, messages: list[dict[str, Any]], choice: str | None
) -> None:
    body = {"messages": messages, "tools": [CLICK], **({"tool_choice": choice} if choice else {})}
    assert trained_ids(body, chat) == served_ids(body, chat)


def test_a_picture_takes_a_few_tokens_wherever_it_stands(chat: ChatFormat) -> None:
    big = "data:image/png;base64," + "QUJD" * 20_000
    shapes: list[Any] = [
        f"look {big} here",
        [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": big}}],
        [{"type": "image", "source": {"type": "base64", "data": "QUJD" * 20_000}}],
        [{"type": "text", "text": big}],
    ]
    for shape in shapes:
        assert len(served_ids({"messages": [{"role": "user", "content": shape}]}, chat)) < 60


def test_words_after_a_picture_stay() -> None:
    text = message_text({"content": f"before {PNG} then click the button"})
    assert text == f"before {PICTURE} then click the button"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("plain", "plain"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
        ([{"type": "tool_result", "content": [{"type": "text", "text": "ok"}]}], "ok"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "a"),
        ({"status": "done", "file": "a.txt"}, '{"status": "done", "file": "a.txt"}'),
        ([{"type": "strange", "value": 0}], '{"type": "strange", "value": 0}'),
    ],
)
def test_every_content_has_one_text(content: object, text: str) -> None:
    assert message_text({"role": "tool", "content": content}) == text


def test_legacy_calls_and_roles_have_their_present_names() -> None:
    call = plain_message({"role": "assistant", "content": None, "function_call": LEGACY})
    assert call["tool_calls"] == [{"type": "function", "function": LEGACY}]
    assert "function_call" not in call
    assert plain_message({"role": "function", "name": "f", "content": "1"})["role"] == "tool"
    assert first_text([{"role": "developer", "content": [{"type": "text", "text": "rules"}]}], "system") == "rules"


def test_reasoning_is_told_apart_from_the_answer() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "42"}]
    plain = plain_message({"role": "assistant", "content": parts})
    assert (plain["content"], plain["reasoning_content"]) == ("42", "hm")
    assert message_reasoning({"reasoning": "because"}) == "because"


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{"x": 1}', {"x": 1}),
        (json.dumps('{"x": 1}'), {"x": 1}),
        ({"x": 0}, {"x": 0}),
        (None, {}),
        ("", {}),
        ('{"x": 1, ', None),
        ("{'x': 1}", None),
        ('{"x": 1}{"y": 2}', None),
        ("[1]", None),
    ],
)
def test_arguments_are_an_object_or_nothing(arguments: object, value: object) -> None:
    entry = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    assert calls_of({"tool_calls": [entry]})[0].arguments == value


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        ({"tools": [CLICK]}, ["computer"]),
        ({"tools": [CLICK], "tool_choice": "none"}, None),
        ({"tools": [CLICK], "tool_choice": {"type": "none"}}, None),
        ({"tools": []}, None),
        ({"functions": [CLICK["function"]]}, ["computer"]),
        ({"functions": [CLICK["function"]], "function_call": "none"}, None),
        (
            {
                "tools": [CLICK, {"type": "function", "function": {"name": "other"}}],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "other"}}]},
                },
            },
            ["other"],
        ),
    ],
)
def test_tools_are_those_that_may_be_called(request_: dict[str, Any], names: list[str] | None) -> None:
    tools = offered_tools(request_)
    assert (tools and [tool["function"]["name"] for tool in tools]) == names


def test_the_date_in_a_prompt_is_the_same_every_day_and_part_of_the_template(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    template = "{{ strftime_now('%Y-%m-%d') }} {{ strftime_now(\"%d %b %Y\") }}{% for m in messages %}{{ m.content }}"
    (tmp_path / "chat_template.jinja").write_text(template + "{{ eos_token }}{% endfor %}")
    chat = ChatFormat.load(tmp_path)
    assert chat.render_prompt([{"role": "user", "content": "x"}]).startswith("2024-07-26 26 Jul 2024x")
    assert "strftime_now" not in chat.template  # what is shipped needs no clock
