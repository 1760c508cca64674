"""Schemas that the grammar library refuses hurt nothing but themselves."""

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


def test_a_check_of_a_small_grammar_is_kept_and_one_of_megabytes_is_not(chat: ChatFormat) -> None:
    _check.cache_clear()  # full, it would not grow
    small, large = (
        {"enum": [number], "uniqueItems": True, "title": "t" * size} for number, size in ((7, 1), (8, 1 << 17))
    )
    for schema in (small, large):
        for _ in range(2):
            grammar = grammar_for(None, None, {"type": "json_schema", "json_schema": {"schema": schema}}, chat)
            assert grammar is not None
            assert unenforced(grammar, None) == ["schema.uniqueItems"]
    after = _check.cache_info()
    assert after.currsize == 2  # the schema by itself, and the answer's grammar
    assert after.hits > 0
