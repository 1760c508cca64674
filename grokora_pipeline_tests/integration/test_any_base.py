"""Any base model: each architecture is trained, merged and served exactly on a small copy, or refused in a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.base import prepare, try_out
from grokora_pipeline.models.base import tensor_facts
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.loading import load_base
from grokora_pipeline.models.merge import write_merged
from grokora_pipeline.models.miniature import write_miniature
from grokora_pipeline.training.adapter import add_adapter, save_adapter, trainable_parameters
from grokora_pipeline.training.plan import TrainingKnobs
from grokora_pipeline.workers.frame import Reporter
from grokora_pipeline_tests.tiny import STOP, greedy, tiny_base, tiny_tokenizer

ATTENTION = (
    *("llama", "qwen2", "qwen3", "mistral", "ministral3", "gemma", "gemma2", "gemma3_text", "gemma3"),
    *("gemma4_text", "lfm2"),
    *("phi", "phi3", "mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "gpt2", "gptj", "gpt_neox", "gpt_bigcode", "mpt"),
    *("falcon", "opt", "stablelm", "granite", "olmo2", "olmo3", "smollm3", "cohere", "cohere2", "glm4", "deepseek_v3"),
    *("starcoder2", "codegen", "bloom", "mistral3", "qwen3_vl"),
    *("laguna", "modernbert-decoder", "mllama", "hrm_text", "voxtral", "qwen2_audio", "minimax_m2", "mistral4"),
    *("seed_oss", "apertus", "exaone4", "ernie4_5", "arcee", "olmoe", "phimoe", "internvl", "kimi_k25", "muse_spark"),
    *("aria", "afmoe", "mimo_v2_flash", "minicpm3", "glm4_moe", "qwen2_5_vl", "cohere2_moe", "gpt_neo", "git"),
    *("molmo2", "kosmos-2.5", "vibevoice_asr"),
)
PADDED = (
    *("qwen3_5_text", "qwen3_next", "falcon_h1", "jamba", "mamba", "mamba2", "recurrent_gemma", "nemotron_h"),
    *("rwkv", "zamba2", "granitemoehybrid", "gemma3n_text", "kimi_linear", "inkling2_text", "longcat_flash"),
    *("mistral_large4", "deepseek_v32", "deepseek_v4", "minicpmv4_6", "nemotron_h_omni", "olmo_hybrid", "lfm3"),
    *("xlstm", "bailing_hybrid", "paligemma", "dots3_note"),
)


def config_of(kind: str, folder: Path, **changes: Any) -> Path:
    """A model folder without weights: the default config of an architecture, in its real widths, and a tokenizer."""
    from transformers import AutoConfig

    tiny_tokenizer(folder)
    if kind == "granitemoehybrid":  # the default config has no attention layer, and then transformers cannot generate
        changes["layer_types"] = (["linear_attention"] * 3 + ["full_attention"]) * 8
    config = AutoConfig.for_model(kind)
    for part in (config, config.get_text_config(decoder=True)):
        part.update({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, **changes})
    config.get_text_config(decoder=True).vocab_size = 512
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": kind}, default=str))
    return folder


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ATTENTION)
def test_a_model_of_attention_layers_shares_prefixes_and_is_exact(kind: str, tmp_path: Path) -> None:
    record = try_out(config_of(kind, tmp_path), kind)
    # Gemma 4's gradient moves by 2e-5 with a shared prefix, twice the tolerance: padded rows where it is seen.
    shared = "Trained here" if kind == "gemma4_text" else "Trained here; a prefix that rows share is run once."
    assert record["trained"].startswith(shared)
    assert record["merged"] == "Merged here."
    assert record["served"].startswith("Served here")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", PADDED)
def test_a_model_whose_prefixes_cannot_be_shared_is_trained_by_padded_rows_and_served(
    kind: str, tmp_path: Path
) -> None:
    record = try_out(config_of(kind, tmp_path), kind)
    assert record["trained"].startswith("Trained here by padded rows: ")
    assert record["merged"] == "Merged here."
    assert record["served"].startswith("Served here")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_layers_that_share_their_weights_are_trained_and_not_merged(tmp_path: Path) -> None:
    record = try_out(config_of("zamba", tmp_path), "zamba")
    assert record["trained"].startswith("Trained here by padded rows: ")
    assert "answers differently" in record["merged"]  # an adapter of each layer cannot be added to what all share
    assert record["served"].startswith("Served here")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["glm4v", "glm4v_moe"])
def test_a_small_copy_keeps_how_much_of_a_head_is_rotated(kind: str, tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [8, 12, 12]}
    record = try_out(config_of(kind, tmp_path, rope_parameters=rope, head_dim=128), kind)
    assert record["trained"].startswith("Trained here")
    assert record["served"].startswith("Served here")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_small_copy_keeps_the_rotation_of_each_kind_of_layers(tmp_path: Path) -> None:
    windowed = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [24, 20, 20]}
    rope = {"sliding_attention": windowed, "full_attention": None}
    kinds = (["sliding_attention"] * 3 + ["full_attention"]) * 10
    folder = config_of("cohere_compass_text", tmp_path, rope_parameters=rope, layer_types=kinds)
    record = try_out(folder, "cohere_compass_text")
    assert record["trained"].startswith("Trained here")


@pytest.mark.slow
def test_a_merge_that_leaves_out_a_layer_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grokora_pipeline.models import loading

    load, shares = loading.load_adapter, [0.0]

    def first_without_a_layer(base: Any, adapter: Path, **more: Any) -> Any:
        """The merge loads first; what it is compared with, and the adapters that are served, are whole."""
        model = load(base, adapter, **more)
        layer = [module for module in model.modules() if hasattr(module, "lora_B")][-1]
        for weights in layer.lora_B.parameters():
            weights.data *= shares.pop() if shares else 1.0
        return model

    monkeypatch.setattr(loading, "load_adapter", first_without_a_layer)
    assert "answers differently" in try_out(tiny_base(tmp_path), "tiny")["merged"]


def test_a_merged_model_generates_what_its_adapter_was_judged_by_whatever_its_base_samples(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base, adapter, merged = tiny_base(tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged"
    own = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 9.0, "num_beams": 3, "eos_token_id": 0}
    (base / "generation_config.json").write_text(json.dumps(own))
    model = add_adapter(
        load_base(base, dtype=torch.float32, device=torch.device("cpu")), TrainingKnobs.model_validate({})
    )
    for parameter in trainable_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    adapter.mkdir()
    save_adapter(model, adapter, str(base))
    write_merged(base, adapter, merged, dtype=torch.float32)
    alone, prompt = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), [60, 70, 80]
    answer = alone.generate(torch.tensor([prompt]), max_new_tokens=8)[0, 3:].tolist()
    model.generation_config = GenerationConfig()
    assert answer[: answer.index(STOP) if STOP in answer else None] == greedy(model.eval(), prompt, 8)
    assert set(json.loads((merged / "generation_config.json").read_text())["eos_token_id"]) == {0, STOP}


@pytest.mark.slow
def test_what_was_tried_is_recorded_with_the_base_and_its_effective_template(tmp_path: Path) -> None:
    base, output = tiny_base(tmp_path / "base"), tmp_path / "output"
    record = prepare({"model_id": str(base), "output": str(output)}, Reporter())
    assert record["trained"] == "Trained here; a prefix that rows share is run once."
    assert record["served"] == "Served here; answers of different adapters share a batch."
    assert record["templates"].startswith("Tools and calls are written as text")
    assert (output / "effective_template.jinja").read_text() == ChatFormat.load(base).template


@pytest.mark.slow
@pytest.mark.exhaustive
def test_dropout_in_a_bases_config_is_no_obstacle(tmp_path: Path) -> None:
    folder = config_of("gpt2", tmp_path, attn_pdrop=0.3, resid_pdrop=0.3, embd_pdrop=0.3)
    assert try_out(folder, "gpt2")["trained"].startswith("Trained here")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("bert", "changes with what follows"),  # an encoder
        ("t5", "write no text"),  # to transformers no causal language model
        ("shieldgemma2", "cannot read the weights that it writes"),
        ("blt", "no single stack of layers"),
        ("gemma4_unified_assistant", "read the keys of another model"),
        ("chameleon", "cannot run it on text alone: AttributeError"),  # without its vocabulary of pictures
        ("kosmos-2", "cannot run it on text alone: .*pixel_values"),
        ("udop", "cannot run it on text alone: .*Bbox"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_true_sentence(kind: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(GrokoraError, match=f"GROKORA_BASE_MODEL=x cannot be trained here: .*{reason}") as caught:
        try_out(config_of(kind, tmp_path), "x")
    assert "\n" not in str(caught.value)
    assert "Not possible" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("config.json", "model_type", "nonesuch"), ("generation_config.json", "cache_implementation", "cache_impl")],
)
def test_configs_that_transformers_cannot_read_are_refused(
    name: str, content: str, reason: str, tmp_path: Path
) -> None:
    config_of("llama", tmp_path)
    (tmp_path / name).write_text(json.dumps({content: "nonesuch"}))
    with pytest.raises(GrokoraError, match=rf"cannot be trained here: .* cannot read its configs: .*{reason}"):
        try_out(tmp_path, "x")


@pytest.mark.parametrize("kind", ["kimi_linear", "bailing_hybrid", "longcat_flash"])
def test_a_small_copy_is_small(kind: str, tmp_path: Path) -> None:
    config_of(kind, tmp_path / "model")
    write_miniature(tmp_path / "model", tmp_path / "copy")
    assert tensor_facts(tmp_path / "copy")[0] < 2e6  # in the widths of its experts and mixers it has 20 to 150 million


def test_layers_of_an_image_encoder_inside_the_decoder_are_none_of_its_own(tmp_path: Path) -> None:
    assert try_out(config_of("git", tmp_path), "git")["trained"].startswith("Trained here;")
