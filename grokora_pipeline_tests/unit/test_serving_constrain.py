"""Schemas that the grammar library refuses hurt nothing but themselves."""

from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.serving.engine.constrain import Grammars, _check, grammar_for, refused_schema, unenforced
from grokora_pipeline_tests.tiny import tiny_tokenizer

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "look-ahead": ({"type": "string", "pattern": "^(?!x).*"}, "look-ahead"),
    "remote reference": ({"$ref": "https://example.org/schema"}, "not present"),
    "unsatisfiable": ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength"),
    "a reference to itself": ({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}, "nothing satisfies it"),
    "a member that refers to itself": (
        {"type": "object", "properties": {"a": {"allOf": [{"$ref": "#/properties/a"}]}}},
        "leads back to itself",
    ),
    "as many states as memory holds": ({"type": "integer", "multipleOf": 999_983}, "remainders"),
    "many states together": ({"allOf": [{"multipleOf": 0.997}, {"type": "number", "multipleOf": 991}]}, "remainders"),
    "a book": ({"const": "x" * 300_000}, "characters"),
    "repeated repetitions": ({"type": "string", "pattern": "^((a{100}){100}){100}$"}, "repeats what is repeated"),
    "repeated text": ({"items": {"type": "string", "pattern": "(ab\\}{9}[(]){999,}{20}"}}, "repeats what is repeated"),
}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    """The tiny tokenizer, with the project's own template, which knows tools."""
    folder = tmp_path_factory.mktemp("base")
    tiny_tokenizer(folder, chat_template=False)
    (folder / "config.json").write_text("{}")
    return ChatFormat.load(folder)


def _tool(name: str, property_schema: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"value": property_schema}, "required": ["value"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def _accepts(grammar: str, text: str, chat: ChatFormat) -> bool:
    matcher = Grammars(chat, chat.tokenizer.get_vocab_size()).matcher(grammar)
    return all(matcher.consume_token(token) for token in chat.encode(text)) and matcher.is_accepting()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tool_with_a_refused_schema_takes_any_object_and_the_others_stay_enforced(
    kind: str, chat: ChatFormat
) -> None:
    tools = [_tool("odd", REFUSED[kind][0]), _tool("plain", {"type": "integer"})]
    grammar = grammar_for(tools, "required", None, chat)
    assert grammar is not None

    def call(name: str, value: Any) -> str:
        function = {"name": name, "arguments": {"value": value}}
        message = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
        text = chat.render_completion([{"role": "user", "content": "u"}], [message], tools)
        return text.removesuffix(chat.stop_token)

    assert _accepts(grammar, call("odd", "x"), chat)
    assert _accepts(grammar, call("plain", 5), chat)
    assert not _accepts(grammar, call("plain", "text"), chat)
    assert not _accepts(grammar, "prose", chat)


@pytest.mark.parametrize("kind", REFUSED)
def test_an_answers_own_schema_that_is_refused_is_an_error_that_says_why(kind: str, chat: ChatFormat) -> None:
    schema, reason = REFUSED[kind]
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(GrokoraError, match=rf"response_format cannot be enforced: .*{reason}"):
        grammar_for(None, None, asked, chat)
    assert reason in refused_schema(schema)
    assert refused_schema({"type": "object"}) == ""
    tree = {"type": "object", "properties": {"parts": {"type": "array", "items": {"$ref": "#"}}}}
    assert refused_schema(tree) == ""


# As families whose calls have an id: the call before it, or behind it and with its keys sorted.
WITH_IDS = """{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>CALL</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
ID, NAME, ARGUMENTS = (
    '"id": "{{ c.id }}"',
    '"name": "{{ c.function.name }}"',
    '"arguments": {{ c.function.arguments | tojson }}',
)


@pytest.mark.parametrize("members", [(ID, NAME, ARGUMENTS), (NAME, ARGUMENTS, ID), (ARGUMENTS, ID, NAME)])
def test_calls_that_carry_an_id_are_enforced_whatever_the_order_of_their_members(
    members: tuple[str, ...], tmp_path: Path
) -> None:
    tiny_tokenizer(tmp_path, chat_template=False)
    (tmp_path / "chat_template.jinja").write_text(WITH_IDS.replace("CALL", "{" + ", ".join(members) + "}"))
    chat = ChatFormat.load(tmp_path)
    assert chat.native_tools, chat.notes
    tools = [_tool("move", {"type": "integer"}), _tool("say", {"type": "string"})]
    required, named = (grammar_for(tools, choice, None, chat) for choice in ("required", {"function": {"name": "say"}}))
    assert required
    assert named

    def written(*calls: tuple[str, Any]) -> str:
        functions = [{"name": name, "arguments": {"value": value}} for name, value in calls]
        entries = [
            {"id": f"abc12345{index}", "type": "function", "function": one} for index, one in enumerate(functions)
        ]
        message = {"role": "assistant", "content": "", "tool_calls": entries}
        text = chat.render_completion([{"role": "user", "content": "u"}], [message], tools)
        return text.removesuffix(chat.stop_token)

    assert '"id": "abc123450"' in written(("move", 5))
    assert _accepts(required, written(("move", 5)), chat)
    assert _accepts(required, written(("move", 5), ("say", "x")), chat)
    assert _accepts(named, written(("say", "x")), chat)
    assert not _accepts(required, written(("move", "text")), chat)
    assert not _accepts(required, "prose", chat)
    assert not _accepts(named, written(("move", 5)), chat)


def test_a_form_of_calls_that_no_grammar_can_hold_is_named(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, chat_template=False)
    text = ARGUMENTS.replace("| tojson", "| tojson | tojson")
    (tmp_path / "chat_template.jinja").write_text(WITH_IDS.replace("CALL", "{" + f"{NAME}, {text}" + "}"))
    chat, tools = ChatFormat.load(tmp_path), [_tool("move", {"type": "integer"})]
    assert grammar_for(tools, "required", None, chat) is None
    assert unenforced(None, tools, "required", {"type": "json_object"}) == ["tool_choice", "response_format"]
    assert unenforced(None, tools, "auto", {"type": "text"}) == []


@pytest.mark.parametrize(
    ("parameters", "takes_more"),
    [
        (None, False),
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "properties": {"a": {}}}, False),
        ({"type": "object"}, True),
        ({"type": "object", "properties": {}, "additionalProperties": True}, True),
        ({"properties": {"a": {}}, "allOf": [{"properties": {"x": {"type": "integer"}}, "required": ["x"]}]}, True),
    ],
)
def test_a_function_takes_the_arguments_that_it_lists_and_no_others(
    parameters: dict[str, Any] | None, takes_more: bool, chat: ChatFormat
) -> None:
    """As OpenAI has it, one without parameters has an empty list of them."""
    function: dict[str, Any] = {"name": "go"} | ({"parameters": parameters} if parameters else {})
    grammar = grammar_for([{"type": "function", "function": function}], "required", None, chat)
    assert grammar
    assert _accepts(grammar, '<tool_call>{"name":"go","arguments":{"x":1}}</tool_call>', chat) == takes_more


def test_a_check_of_a_small_grammar_is_kept_and_one_of_megabytes_is_not(chat: ChatFormat) -> None:
    _check.cache_clear()  # full, it would not grow
    small, large = (
        {"enum": [number], "uniqueItems": True, "title": "t" * size} for number, size in ((7, 1), (8, 1 << 17))
    )
    for schema in (small, large):
        for _ in range(2):
            grammar = grammar_for(None, None, {"type": "json_schema", "json_schema": {"schema": schema}}, chat)
            assert grammar is not None
            assert unenforced(grammar, None, None, None) == ["schema.uniqueItems"]
    after = _check.cache_info()
    assert after.currsize == 2  # the schema by itself, and the answer's grammar
    assert after.hits > 0


@pytest.mark.parametrize(
    "pattern", ["^[a-z]{100000}$", "^([a-z0-9]{1,40} ){0,500}$", r"(?:[a-z]{1,63}\.){1,8}", "a)b{2}"]
)
def test_a_pattern_that_costs_little_is_enforced(pattern: str) -> None:
    assert "repeats" not in refused_schema({"type": "string", "pattern": pattern})
