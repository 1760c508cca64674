"""The vLLM command that the registry amounts to."""

import shlex
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.gateway.server import Options, serve_vllm
from grokora_pipeline.serving.gateway.vllm import run_vllm, vllm_command
from grokora_pipeline.settings import Settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.gateway import add_adapter, make_store

AGENTS = [AgentSpec(name=name, description="") for name in ("actor", "observer")]


def test_the_command_serves_the_base_and_every_champion_under_its_agents_name(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    add_adapter(store, "actor", "v1")
    Registry(store).promote("actor", "v1", "better", {})
    words = vllm_command(store, AGENTS, "127.0.0.1", 8000)
    assert words[:3] == ["vllm", "serve", str(tmp_path / "base_model" / "base1")]
    assert words[words.index("--served-model-name") + 1] == "base"
    assert words[words.index("--max-loras") + 1] == "1"
    assert words[words.index("--max-lora-rank") + 1] == "32"  # the adapter's rank is 20 in one layer
    module = orjson.loads(words[words.index("--lora-modules") + 1])
    assert module == {
        "name": "actor",
        "path": str(tmp_path / "actor" / "lora_adapter" / "v1"),
        "base_model_name": "base",
    }


def test_the_effective_template_is_passed_on_with_the_parser_of_its_calls(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    template = tmp_path / "base_model" / "base1" / "effective_template.jinja"
    template.write_text("{{ messages }}")
    words = vllm_command(store, AGENTS, "127.0.0.1", 8000)
    assert words[words.index("--chat-template") + 1] == str(template)
    assert words[words.index("--tool-call-parser") + 1] == "hermes"


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
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GrokoraError, match="pip install vllm"):
        run_vllm(["vllm", "serve"], None)
