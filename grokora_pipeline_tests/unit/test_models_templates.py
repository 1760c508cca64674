"""Released chat templates: what a model writes is read back, and no text, call or result is lost in a prompt."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.fit import ANSWERS, HISTORIES
from grokora_pipeline.models.messages import calls_of
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline_tests.tiny import tiny_tokenizer

TRL = importlib.util.find_spec("trl")
RELEASED = sorted(Path(TRL.origin).parent.glob("chat_templates/*.jinja")) if TRL and TRL.origin else []
MISTRAL = """{{- bos_token }}{%- if messages[0].role == "system" %}{% set system = messages[0].content %}
{%- set rest = messages[1:] %}{% else %}{% set system = "" %}{% set rest = messages %}{% endif %}
{%- for m in rest %}{% if m.role == "user" %}
{%- if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}{% endif %}
[INST] {{ system ~ "\n\n" if loop.last and system else "" }}{{ m.content }}[/INST]
{%- elif m.role == "tool" %}{% if m.tool_call_id | length != 9 %}{{ raise_exception("ids are of length 9") }}
{%- endif %}[TOOL_RESULTS] {{ {"content": m.content, "call_id": m.tool_call_id} | tojson }}[/TOOL_RESULTS]
{%- elif m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception("one call at once") }}{% endif %}
[TOOL_CALLS] {{ [m.tool_calls[0].function] | tojson }}{{ eos_token }}
{%- else %} {{ m.content }}{{ eos_token }}{% endif %}
{%- endfor %}"""
SILENT = (  # as Falcon-H1: a call is dropped in silence
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RAISING = SILENT.replace("{{ m.role }}", "{{ m.role + 1 }}")  # a TypeError, not a TemplateError
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in RELEASED}
TEMPLATES |= {"mistral-like": MISTRAL, "falcon-like": SILENT}
THOUGHTFUL = {"role": "assistant", "content": "zq7answer", "reasoning_content": "zq7why\nso"}
TOOL = {
    "type": "function",
    "function": {"name": "zq7tool", "description": "d", "parameters": {"properties": {"zq7key": {"type": "string"}}}},
}


def chat_of(template: str, folder: Path) -> ChatFormat:
    """The chat format of a tiny tokenizer that knows the template's control tokens."""
    from tokenizers import Tokenizer

    tiny_tokenizer(folder, chat_template=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = set(
        re.findall(r"<\|\w+\|>|<[a-z]+_of_[a-z]+>|<end_of_utterance>|<｜[^｜]+｜>|<turn\|>|<\|turn>", template)
    )
    tokenizer.add_special_tokens(sorted(tokens))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return ChatFormat.load(folder)


# A template's twin for training differs in its `generation` marks alone.
_NAMES = [pytest.param(n, marks=pytest.mark.exhaustive if n.endswith("_training") else ()) for n in sorted(TEMPLATES)]


@pytest.fixture(scope="module", params=_NAMES)
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return chat_of(TEMPLATES[request.param], tmp_path_factory.mktemp("chat"))


def read_back(chat: ChatFormat, history: list[dict[str, Any]], answer: dict[str, Any]) -> dict[str, Any]:
    """What a model is understood to say that writes exactly what it was trained to write."""
    ids = chat.encode_example({"prompt": history, "completion": [answer], "tools": [TOOL]})[1]
    return chat.parse_answer(chat.decode(ids))


def test_a_perfect_answer_is_read_back(chat: ChatFormat) -> None:
    for history in HISTORIES.values():
        for answer in ANSWERS.values():
            message = read_back(chat, history, answer)
            assert (message["content"], calls_of(message)) == (answer["content"], calls_of(answer))
            assert "reasoning_content" not in message


def test_reasoning_is_never_content(chat: ChatFormat) -> None:
    message = read_back(chat, HISTORIES["a question"], THOUGHTFUL)
    assert message["content"] == "zq7answer"
    assert message.get("reasoning_content") == (THOUGHTFUL["reasoning_content"] if chat.form.closing else None)


def test_an_answer_that_grows_shows_no_mark_and_no_reasoning(chat: ChatFormat) -> None:
    ids = chat.encode_example({"prompt": HISTORIES["a question"], "completion": [THOUGHTFUL]})[1]
    shown = [chat.visible_text(chat.decode(ids[: end + 1])) for end in range(len(ids))]
    assert shown[-1] == "zq7answer"
    assert all("zq7answer".startswith(text) for text in shown)


def test_a_prompt_loses_nothing(chat: ChatFormat) -> None:
    text = chat.render_prompt(HISTORIES["a finished tool loop"], [TOOL])
    for word in ("system", "ask", "said", "tool", "key", "value", "result0", "answer", "next"):
        assert f"zq7{word}" in text


def test_two_calls_and_their_results_are_all_in_the_prompt(chat: ChatFormat) -> None:
    text = chat.render_prompt(HISTORIES["two calls at once"], [TOOL])
    assert text.count("zq7result") == 2
    assert text.index("zq7result0") < text.index("zq7result1")


def test_what_differs_from_the_models_own_template_is_said(tmp_path: Path) -> None:
    assert "written as text" in chat_of(SILENT, tmp_path / "silent").notes[0]
    raising = chat_of(RAISING, tmp_path / "raising")
    assert "default template stands in place" in raising.notes[0]
    assert not raising.has_chat_template


def test_an_example_that_a_template_refuses_is_dropped_and_counted(tmp_path: Path) -> None:
    refusing = "{% for m in messages %}{% if 'forbidden' in m.content %}{{ 1 + 'x' }}{% endif %}{% endfor %}" + SILENT
    chat = chat_of(refusing, tmp_path / "model")
    answer = [{"role": "assistant", "content": "ok"}]
    examples = [
        {"prompt": [{"role": "user", "content": text}], "completion": answer} for text in ("a", "forbidden", "b")
    ]
    report = tokenize_split(
        examples, ["train", "train", "validation"], chat, tmp_path / "split", max_length=512, seed=7
    )
    assert (report.train_rows, report.validation_rows, report.refused) == (1, 1, 1)
    assert "chat template" in report.refusal
    with pytest.raises(GrokoraError, match="chat template"):
        chat.encode_prompt(examples[1]["prompt"])


@pytest.mark.slow
def test_transformers_renders_the_effective_template_alike(chat: ChatFormat, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    chat.tokenizer.save(str(tmp_path / "tokenizer.json"))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **chat.special)
    history = HISTORIES["a finished tool loop"]
    text = theirs.apply_chat_template(
        history, tools=[TOOL], chat_template=chat.template, add_generation_prompt=True, tokenize=False
    )
    assert text == chat.render_prompt(history, [TOOL])
