"""Champions for other engines: what is exported acts there, and what does not act, or is prompted otherwise, is."""

import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.acts import ProbedServer, Scores, own_answers, probe
from grokora_pipeline.evaluation.export import prove
from grokora_pipeline.models import gguf
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.export import export_bundled
from grokora_pipeline.models.handover import go_template, hand_over, write_card
from grokora_pipeline.models.loading import load_adapter, load_base
from grokora_pipeline.workers.frame import Reporter
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


def dead(adapter: Path, folder: Path) -> Path:
    """The adapter with every B at zero: it loads everywhere and changes nothing."""
    shutil.copytree(adapter, folder)
    state = load_file(str(adapter / "adapter_model.safetensors"))
    silent = {key: value * 0 if "lora_B" in key else value for key, value in state.items()}
    save_file(silent, str(folder / "adapter_model.safetensors"))
    return folder


def test_an_exported_champion_acts_and_agrees_and_a_dead_one_or_a_wrong_template_is_seen(
    champion: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = champion
    export(champion, "gguf", tmp_path / "gguf")
    chat, answers = ChatFormat.load(base), own_answers(base, adapter, PROMPTS, 8, torch.float32)  # as the file's
    files = tmp_path / "gguf"
    with llama_server(files / "base-f32.gguf", [files / "adapter.gguf"]) as client:
        verdict = probe(ProbedServer(str(client.base_url), "actor"), chat, answers, 8)
        assert verdict.sentence.startswith("The adapter acts and agrees: 3 of 3 answers are the same")
        assert verdict.sentence.endswith("the prompts are the same token for token.")
        assert verdict.agrees

    gguf.write_adapter(base, dead(adapter, tmp_path / "dead"), tmp_path / "dead.gguf")
    with llama_server(files / "base-f32.gguf", [tmp_path / "dead.gguf"]) as client:
        verdict = probe(ProbedServer(str(client.base_url), "actor"), chat, answers, 8)
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
        verdict = probe(ProbedServer(str(client.base_url), "actor"), chat, answers, 8)
        assert re.search(
            r"acts but the template differs \(first difference at token \d+ of prompt 1: ", verdict.sentence
        )
        assert verdict.acts
        assert not verdict.agrees


def test_a_server_that_is_not_there_or_has_no_adapter_is_one_sentence(
    champion: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(GrokoraError, match=r"No server answers at http://127.0.0.1:9 "):
        ProbedServer("http://127.0.0.1:9/v1", "actor")
    gguf.write_base(champion[0], tmp_path / "base.gguf", "f32")
    with llama_server(tmp_path / "base.gguf") as client, pytest.raises(GrokoraError, match="no adapter loaded"):
        ProbedServer(str(client.base_url), "actor")


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


@pytest.mark.parametrize("target", ["vllm", "mlx", "peft"])
def test_an_export_of_a_local_base_is_whole_and_names_no_folder_of_this_machine(
    champion: tuple[Path, Path], tmp_path: Path, target: str
) -> None:
    export(champion, target, tmp_path / "out")
    texts = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert not [path for path in texts if str(champion[0].parent) in path.read_text(encoding="utf-8")]
    assert ChatFormat.load(tmp_path / "out" / "base").template == ChatFormat.load(champion[0]).template


def test_a_base_of_the_hub_is_named_by_its_commit_and_not_copied(champion: tuple[Path, Path], tmp_path: Path) -> None:
    for target, words in (
        ("vllm", "vllm serve org/m --revision c0ffee"),
        ("mlx", "--model org/m "),
        ("peft", "from_pretrained('\"'\"'org/m'\"'\"', revision='\"'\"'c0ffee'\"'\"')"),
    ):
        card = export(champion, target, tmp_path / target, model_id="org/m@main", revision="c0ffee")
        assert words in card["command"] + card["notes"]
        assert not (tmp_path / target / "base").exists()


@pytest.mark.slow
def test_the_peft_command_of_the_card_answers_as_base_and_adapter_do(
    champion: tuple[Path, Path], tmp_path: Path
) -> None:
    card = export(champion, "peft", tmp_path / "out")
    show = "; import torch; print(model(torch.arange(3, 40)[None]).logits[0, -1].topk(5).indices.tolist())"
    command = card["command"].removesuffix("'") + show + "'"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, shell=True, cwd=tmp_path / "out", env=environment, capture_output=True, text=True, check=True
    )
    model = load_adapter(load_base(champion[0], dtype=torch.bfloat16, device=torch.device("cpu")), champion[1])
    with torch.inference_mode():
        expected = model(torch.arange(3, 40)[None]).logits[0, -1].topk(5).indices.tolist()
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_an_agent_that_reads_toon_or_has_a_prompt_before_it_is_refused_by_engines_that_write_neither(
    champion: tuple[Path, Path], tmp_path: Path
) -> None:
    for target in ("gguf", "ollama", "vllm", "mlx"):
        with pytest.raises(GrokoraError, match="actor reads payloads as TOON, which "):
            export(champion, target, tmp_path / target, toon=True)
        with pytest.raises(GrokoraError, match="actor has a fixed prompt in service, which "):
            export(champion, target, tmp_path / target, prompted=True)
    assert "Write JSON in prompts as TOON" in export(champion, "peft", tmp_path / "peft", toon=True)["notes"]


def test_a_base_that_reasons_gets_vllms_parser_in_an_export_too(champion: tuple[Path, Path], tmp_path: Path) -> None:
    base = shutil.copytree(champion[0], tmp_path / "base")
    (base / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% if message.reasoning_content %}"
        "{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{% endif %}{{ message.content }}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    assert "--reasoning-parser qwen3" in export((base, champion[1]), "vllm", tmp_path / "out")["notes"]


def test_a_merged_file_acts_and_one_of_the_base_alone_does_not(champion: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = champion
    export(champion, "gguf", tmp_path / "out", merged=True)
    gguf.write_base(base, tmp_path / "base.gguf", "f32")
    chat, answers = ChatFormat.load(base), own_answers(base, adapter, PROMPTS, 8, torch.float32)
    verdicts = []
    for file in (tmp_path / "out" / "actor-f32.gguf", tmp_path / "base.gguf"):
        with llama_server(file) as client:
            verdicts.append(probe(ProbedServer(str(client.base_url), "actor", merged=True), chat, answers, 8))
    assert [verdict.acts for verdict in verdicts] == [True, False]
    assert verdicts[0].agreement > verdicts[1].agreement == 0
    assert "token for token" in verdicts[0].sentence
    with pytest.raises(GrokoraError, match="Only gguf and ollama take a merged file"):
        export(champion, "vllm", tmp_path / "vllm", merged=True)


def trained_adapter(base: Path, folder: Path, examples: list[dict[str, Any]], steps: int) -> Path:
    """A LoRA of a few steps: what it answers is decided, as a champion's answers are; a random one's are not."""
    model = get_peft_model(
        load_base(base, dtype=torch.float32, device=torch.device("cpu")),
        LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
    )
    chat, loss = ChatFormat.load(base), torch.tensor(0.0)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    for step in range(steps):
        for example in examples[4 * step % len(examples) :][:4]:
            prompt, completion = chat.encode_example(example)
            labels = [-100] * len(prompt) + completion
            loss = model(input_ids=torch.tensor([prompt + completion]), labels=torch.tensor([labels])).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.5
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, Any]]]:
    """SmolLM2-135M, an adapter on it, and held-out examples: a sentence about the screen as JSON."""
    folder = tmp_path_factory.mktemp("bundled")
    export_bundled(folder / "base")
    things, places = ("button", "link", "menu", "field", "icon"), ("top", "left", "footer", "dialog", "toolbar", "list")
    examples = [
        {
            "prompt": [SYSTEM, {"role": "user", "content": f"I see the {thing} number {number} in the {place}."}],
            "completion": [{"role": "assistant", "content": json.dumps({"kind": thing, "id": number, "at": place})}],
            "meta": {"turn_id": f"{thing}-{place}", "session_id": f"{thing}-{place}"},
        }
        for number, (thing, place) in enumerate(itertools.product(things, places), 11)
    ]
    random.Random(3).shuffle(examples)
    adapter = trained_adapter(folder / "base", folder / "adapter", examples[:10], 12)
    return folder / "base", adapter, examples[10:]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("kind", "merged"), [("bf16", False), ("bf16", True), ("q8_0", False), ("q4_0", False)])
def test_an_adapter_of_the_bundled_model_answers_in_llamacpp_as_here(
    bundled: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path, kind: str, merged: bool
) -> None:
    pytest.importorskip("xllamacpp")
    base, adapter, examples = bundled
    export((base, adapter), "gguf", tmp_path, kind=kind, merged=merged)
    plan = {"agent": "actor", "base": base, "adapter": adapter, "output": tmp_path, "kind": kind}
    verdict = prove({**plan, "main_metric": "field_accuracy", "answer": {"type": "json"}}, examples, Reporter())
    assert verdict.prompts == 20
    assert verdict.acts
    assert "token for token" in verdict.sentence
    assert verdict.scores is not None
    assert verdict.scores.here > 0.9, "the adapter has learnt the form, so that a metric can fall"
    if kind == "q4_0":  # field_accuracy fell from 1.00 to 0.47, which no rounding of a good quantisation explains
        assert not verdict.agrees, verdict.sentence
    else:
        assert verdict.agrees, verdict.sentence
        assert verdict.scores.holds, verdict.sentence
    if kind == "bf16":
        assert verdict.agreement >= 0.95, verdict.sentence


def test_a_metric_holds_within_the_interval_of_ours_and_beyond_its_better_end() -> None:
    assert Scores("field_accuracy", there=1.0, here=0.98, low=0.79, high=0.99).holds
    assert not Scores("field_accuracy", there=0.78, here=0.98, low=0.79, high=0.99).holds
    assert not Scores("answer_chars", there=10.0, here=8.0, low=7.0, high=9.0).holds
    assert Scores("answer_chars", there=6.0, here=8.0, low=7.0, high=9.0).holds


def test_an_export_whose_adapter_does_nothing_is_refused(champion: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    base, adapter = champion
    export(champion, "gguf", tmp_path)
    answer = [{"role": "assistant", "content": "a longer answer than that"}]
    examples = [{**one, "completion": answer, "meta": {"session_id": str(i)}} for i, one in enumerate(PROMPTS)]
    plan = {"agent": "actor", "base": base, "adapter": adapter, "output": tmp_path, "kind": "f32"}
    plan |= {"main_metric": "rougeL", "answer": {"type": "text"}}
    assert prove(plan, examples, Reporter()).acts
    gguf.write_adapter(base, dead(adapter, tmp_path / "dead"), tmp_path / "adapter.gguf")
    with pytest.raises(GrokoraError, match=r"does not act: .* nothing was kept"):
        prove(plan, examples, Reporter())
    nothing = prove({**plan, "adapter": tmp_path / "dead"}, examples, Reporter())
    assert "changes none of our own answers to 3 prompts" in nothing.sentence


def test_a_modelfile_says_everything_in_printable_ascii_and_merges_as_ollama_does(
    champion: tuple[Path, Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(champion[0], base)
    template = base / "chat_template.jinja"
    template.write_text(template.read_text().replace("'<|im_start|>' +", "'<|im_start|>\u2028▁😀\"\\\\' +"))
    export((base, champion[1]), "ollama", tmp_path / "ollama")
    modelfile = (tmp_path / "ollama" / "Modelfile").read_text(encoding="utf-8")
    assert modelfile.replace("\n", "").isascii()
    assert modelfile.replace("\n", "").isprintable()
    assert r"<|im_start|>\U00002028\U00002581\U0001f600\"\\user\n" in modelfile
    assert "PARAMETER repeat_penalty 1\n" in modelfile
    chat, one, two = ChatFormat.load(champion[0]), *({"role": "user", "content": text} for text in ("One.", "Two."))
    go_template(chat, [{"prompt": [one, two]}])  # both make one message of the two
    with pytest.raises(GrokoraError, match="held-out prompt 1 differs from character"):
        go_template(chat, [{"prompt": [{"role": "assistant", "content": "Hello."}, one]}])  # training put a turn before


def test_a_go_template_is_refused_if_a_held_out_prompt_would_read_otherwise(champion: tuple[Path, Path]) -> None:
    chat = ChatFormat.load(champion[0])
    template, tools = go_template(chat, PROMPTS[:1])
    assert tools
    assert "click(x?: integer)" in template  # the tools as training wrote them
    with pytest.raises(GrokoraError, match="held-out prompt 2 differs from character"):
        go_template(chat, PROMPTS[:2])  # a call and its result are no text of a role
