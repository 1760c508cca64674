"""Champions for other engines: what is exported acts there, and what does not act, or is prompted otherwise, is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.acts import Server, own_answers, probe
from grokora_pipeline.models import gguf
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.handover import go_template, hand_over, write_card
from grokora_pipeline_tests.integration.test_gguf import random_adapter, random_base
from grokora_pipeline_tests.llamacpp import llama_server

TOOL = {"name": "click", "description": "Click on it", "parameters": {"properties": {"x": {"type": "integer"}}}}
TOOLS = [{"type": "function", "function": TOOL}]
SYSTEM = {"role": "system", "content": "You are the actor."}
CALL = {"id": "c1", "type": "function", "function": {"name": "click", "arguments": '{"x": 1}'}}
PROMPTS: list[dict[str, Any]] = [
    {"prompt": [SYSTEM, {"role": "user", "content": "Open the vault."}], "tools": TOOLS},
    {
        "prompt": [
            SYSTEM,
            {"role": "user", "content": "Click 12."},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "done"},
        ],
        "tools": TOOLS,
    },
    {"prompt": [{"role": "user", "content": "Find the newest PDF."}], "tools": None},
]


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base without tools in its template, and an adapter that changes its answers."""
    folder = tmp_path_factory.mktemp("champion")
    base = random_base(folder / "base", "Llama")
    return base, random_adapter(base, folder / "adapter", use_rslora=True, rank_pattern={"q_proj": 4})


def export(champion: tuple[Path, Path], target: str, output: Path, **more: Any) -> dict[str, Any]:
    base, adapter = champion
    plan = {"agent": "actor", "base": str(base), "adapter": str(adapter), "target": target, "output": str(output)}
    facts = {"model_id": "tiny", "revision": "local", "licence": "mit", "evidence": "better", "metrics": "f1 0.9"}
    return write_card(output, hand_over({**plan, **facts, "kind": "f32", **more}, PROMPTS[2:]))


def test_an_exported_champion_acts_and_agrees_and_a_dead_one_or_a_wrong_template_is_seen(
    champion: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = champion
    export(champion, "gguf", tmp_path / "gguf")
    chat, answers = ChatFormat.load(base), own_answers(base, adapter, PROMPTS, 8, torch.float32)  # as the file's
    files = tmp_path / "gguf"
    with llama_server(files / "base-f32.gguf", [files / "adapter.gguf"]) as client:
        verdict = probe(Server(str(client.base_url), "actor"), chat, answers, 8)
        assert verdict.sentence.startswith("The adapter acts and agrees: 3 of 3 answers are the same")
        assert verdict.sentence.endswith("the prompts are the same token for token.")
        assert verdict.agrees

    dead = tmp_path / "dead"
    dead.mkdir()
    state = load_file(str(adapter / "adapter_model.safetensors"))
    save_file(
        {key: value * 0 if "lora_B" in key else value for key, value in state.items()},
        str(dead / "adapter_model.safetensors"),
    )
    (dead / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    gguf.write_adapter(base, dead, tmp_path / "dead.gguf")
    with llama_server(files / "base-f32.gguf", [tmp_path / "dead.gguf"]) as client:
        verdict = probe(Server(str(client.base_url), "actor"), chat, answers, 8)
        assert "does not act" in verdict.sentence
        assert not verdict.acts

    template = base / "chat_template.jinja"
    own = template.read_text()
    try:
        template.write_text("{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}")
        gguf.write_base(base, tmp_path / "wrong.gguf", "f32")
    finally:
        template.write_text(own)
    with llama_server(tmp_path / "wrong.gguf", [files / "adapter.gguf"]) as client:
        verdict = probe(Server(str(client.base_url), "actor"), chat, answers, 8)
        assert re.search(
            r"acts but the template differs \(first difference at token \d+ of prompt 1: ", verdict.sentence
        )
        assert verdict.acts
        assert not verdict.agrees


def test_a_server_that_is_not_there_or_has_no_adapter_is_one_sentence(
    champion: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(GrokoraError, match=r"No server answers at http://127.0.0.1:9 "):
        Server("http://127.0.0.1:9/v1", "actor")
    gguf.write_base(champion[0], tmp_path / "base.gguf", "f32")
    with llama_server(tmp_path / "base.gguf") as client, pytest.raises(GrokoraError, match="no adapter loaded"):
        Server(str(client.base_url), "actor")


def test_the_folders_hold_what_their_engines_read(champion: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = champion
    for target in ("vllm", "mlx", "ollama"):
        card = export(champion, target, tmp_path / target)
        assert card["command"] in (tmp_path / target / "README.md").read_text()
        assert ChatFormat.load(base).template_sha256 in (tmp_path / target / "README.md").read_text()
    serve = (tmp_path / "vllm" / "serve.sh").read_text()
    assert "vllm serve ./base --served-model-name base --chat-template ./chat_template.jinja" in serve
    assert '--max-lora-rank 8 --lora-modules \'{"name": "actor", "path": "./adapter"' in serve
    assert "--tool-call-parser hermes" in serve
    # mlx-lm computes x A B scale: the same change of a weight as PEFT's
    document = json.loads((tmp_path / "mlx" / "adapter_config.json").read_text())
    mlx, peft = (
        load_file(str(tmp_path / "mlx" / "adapters.safetensors")),
        load_file(str(adapter / "adapter_model.safetensors")),
    )
    for module, rank in (("model.layers.1.self_attn.q_proj", 4), ("model.layers.3.mlp.down_proj", 8)):
        a, b = (peft[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
        change = (mlx[f"{module}.lora_a"] @ mlx[f"{module}.lora_b"]).T * document["lora_parameters"]["scale"]
        torch.testing.assert_close(change, b @ a * (16 / rank**0.5))
    assert document["num_layers"] == 4
    modelfile = (tmp_path / "ollama" / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./base-f32.gguf\nADAPTER ./adapter.gguf\nTEMPLATE")
    assert 'PARAMETER stop "<|im_end|>"' in modelfile


def test_a_go_template_is_refused_if_a_held_out_prompt_would_read_otherwise(champion: tuple[Path, Path]) -> None:
    chat = ChatFormat.load(champion[0])
    template, tools = go_template(chat, PROMPTS[:1])
    assert tools
    assert "click(x?: integer)" in template  # the tools as training wrote them
    with pytest.raises(GrokoraError, match="held-out prompt 2 differs from character"):
        go_template(chat, PROMPTS[:2])  # a call and its result are no text of a role
