"""The vLLM command that the registry amounts to."""

import shlex
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr
from transformers import PreTrainedTokenizerFast

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.serving.gateway.server import Options, serve_vllm
from grokora_pipeline.serving.gateway.vllm import vllm_command
from grokora_pipeline.settings import Settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.gateway import add_adapter, make_store
from grokora_pipeline_tests.stores import publish_files

AGENTS = [AgentSpec(name=name, description="") for name in ("actor", "observer")]


def older_store(folder: Path) -> None:
    """As stores were before files' sizes were kept: a version whose files were changed still counts as published."""
    (folder / "base_model" / "base1.sizes.json").unlink()


def test_the_command_serves_the_base_and_every_champion_under_its_agents_name(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    add_adapter(store, "actor", "v1")
    Registry(store).promote("actor", "v1", "better", {})
    words = vllm_command(store, AGENTS, "127.0.0.1", 8000)
    assert words[:3] == ["vllm", "serve", str(tmp_path / "base_model" / "base1")]
    assert words[words.index("--served-model-name") + 1] == "base"
    assert words[words.index("--generation-config") + 1] == "vllm"  # a base's own settings may sample
    assert words[words.index("--max-loras") + 1] == "1"
    assert words[words.index("--max-lora-rank") + 1] == "32"  # the adapter's rank is 20 in one layer
    module = orjson.loads(words[words.index("--lora-modules") + 1])
    assert module == {
        "name": "actor",
        "path": str(tmp_path / "actor" / "lora_adapter" / "v1"),
        "base_model_name": "base",
    }


def test_a_champion_of_another_base_model_is_refused_and_not_left_out(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    facts = {"adapter_config.json": {"r": 12}, "training.json": {"versions": {"base_model": "an earlier one"}}}
    publish_files(store, "actor/lora_adapter", "v1", facts)
    Registry(store).promote("actor", "v1", "better", {})
    with pytest.raises(GrokoraError, match=r"actor's champion v1 was trained on another base model than .*rollback"):
        vllm_command(store, AGENTS, "127.0.0.1", 8000)
    Registry(store).rollback("actor")
    assert "--lora-modules" not in vllm_command(store, AGENTS, "127.0.0.1", 8000)


def test_the_effective_template_is_passed_on_with_the_parser_of_its_calls(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    words = vllm_command(store, AGENTS, "127.0.0.1", 8000)
    template = Path(words[words.index("--chat-template") + 1])
    assert words[words.index("--tool-call-parser") + 1] == "hermes"
    assert "--reasoning-parser" not in words
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "base_model" / "base1")
    call = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": {"command": "ls"}}}
    tool = {"type": "function", "function": {"name": "bash", "parameters": {"properties": {"command": {}}}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "List the files."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "bash", "content": "a.txt"},
    ]
    prompt = tokenizer.apply_chat_template(
        messages, tools=[tool], chat_template=template.read_text(), add_generation_prompt=True, tokenize=False
    )
    assert prompt == ChatFormat.load(tmp_path / "base_model" / "base1").render_prompt(messages, [tool])
    template.unlink()
    older_store(tmp_path)
    with pytest.raises(GrokoraError, match="materialize base_model again"):
        vllm_command(store, AGENTS, "127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("answer", "parser"),
    [
        ("<think>\n' + message.reasoning_content + '\n</think>\n\n' + message.content", "qwen3"),
        ("[THINK]' + message.reasoning_content + '[/THINK]' + message.content", None),
    ],
)
def test_reasoning_gets_the_parser_of_its_marks_or_a_refusal(tmp_path: Path, answer: str, parser: str | None) -> None:
    store = make_store(tmp_path)
    older_store(tmp_path)
    said = "{{ '" + answer + " }}"
    (tmp_path / "base_model" / "base1" / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
        "{% if message.reasoning_content %}" + said + "{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    if parser:
        words = vllm_command(store, AGENTS, "127.0.0.1", 8000)
        assert words[words.index("--reasoning-parser") + 1] == parser
    else:
        with pytest.raises(GrokoraError, match="no parser is known"):
            vllm_command(store, AGENTS, "127.0.0.1", 8000)


def test_a_champion_that_reads_toon_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    add_adapter(store, "actor", "v1")
    Registry(store).promote("actor", "v1", "better", {})
    agents = [AgentSpec(name="actor", description="", payload_format="toon")]
    with pytest.raises(GrokoraError, match="actor reads payloads as TOON"):
        vllm_command(store, agents, "127.0.0.1", 8000)


def test_a_fixed_prompt_in_service_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    publish_files(
        store, "actor/prompt", "prompt-1", {"prompt.json": b'{"instruction": "Say it backwards.", "messages": []}'}
    )
    Registry(store).promote("actor", "prompt-1", "as good", {})
    with pytest.raises(GrokoraError, match="actor has a fixed prompt"):
        vllm_command(store, AGENTS, "127.0.0.1", 8000)


def test_without_champions_the_base_is_served_alone(tmp_path: Path) -> None:
    assert "--enable-lora" not in vllm_command(make_store(tmp_path), AGENTS, "127.0.0.1", 8000)


def test_the_printed_line_can_be_pasted_into_a_shell_and_holds_no_key(tmp_path: Path) -> None:
    make_store(tmp_path / "a b")
    agents = tmp_path / "agents.yaml"
    agents.write_text("agents: {actor: {description: acts}}")
    settings = Settings(store=str(tmp_path / "a b"), agents=agents, api_key=SecretStr("k" * 20))
    line = serve_vllm(settings, Options(), only_print=True)
    assert shlex.split(line)[2] == str(tmp_path / "a b" / "base_model" / "base1")
    assert "kkkk" not in line


def test_what_is_missing_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GrokoraError, match="materialize it first"):
        vllm_command(Store(str(tmp_path)), AGENTS, "127.0.0.1", 8000)
    agents = tmp_path / "agents.yaml"
    agents.write_text("agents: {actor: {description: acts}}")
    settings = Settings(store=make_store(tmp_path / "store").url, agents=agents)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GrokoraError, match="pip install vllm"):
        serve_vllm(settings, Options(), only_print=False)
