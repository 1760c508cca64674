"""The decoder on tiny models of many architectures, against transformers' generate and PEFT, one row at a time in fp32.

Rows are shorter and longer than the windows, begin alike, and belong to the base and to an adapter in turn.
"""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.serving.engine import decoder as decoder_module
from grokora_pipeline.serving.engine.decoder import Decoder
from grokora_pipeline.serving.engine.request import GenerationRequest
from grokora_pipeline_tests.tiny import greedy, tiny_tokenizer

COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
}
WINDOW = 24
MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 70, "factor": 4.0}
LONG |= {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8}
LATENT = {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT |= {"first_k_dense_replace": 4, "q_lora_rank": 32, "kv_lora_rank": 16, "n_group": 1, "topk_group": 1}
LATENT |= {"qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}
LINEAR = {"layer_types": ["linear_attention"] * 3 + ["full_attention"], "head_dim": 16}
LINEAR |= {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
LINEAR |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
HYBRID = {"layer_types": ["mamba", "mamba", "mamba", "attention"], "num_local_experts": 0, "num_experts_per_tok": 0}
HYBRID |= {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 32}
HYBRID |= {"shared_intermediate_size": 96}
PARALLEL = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
PARALLEL |= {"mamba_chunk_size": 32, "head_dim": 16}
NO_EXPERTS = ["q_proj", "v_proj", "o_proj"]

# name → (config class, what is special about it, the adapter's layers, why every row is answered alone)
MODELS: dict[str, tuple[str, dict[str, Any], Any, str]] = {
    "windows": ("MistralConfig", {"sliding_window": WINDOW}, "all-linear", ""),
    "mixed windows": ("Gemma3TextConfig", {**MIXED, "head_dim": 16, "query_pre_attn_scalar": 16}, "all-linear", ""),
    "flattened rows": ("OPTConfig", {"ffn_dim": 96, "word_embed_proj_dim": 64}, "all-linear", ""),
    "convolutions": ("Lfm2Config", {"layer_types": ["conv", "full_attention"] * 2}, NO_EXPERTS[:2], ""),
    "long rope": ("Phi3Config", {"rope_parameters": LONG, "sliding_window": None}, "all-linear", ""),
}
MODELS |= {
    "linear attention": ("Qwen3_5TextConfig", LINEAR, NO_EXPERTS, ""),
    "linear biases": ("BloomConfig", {"n_layer": 3, "n_head": 4}, ["query_key_value"], "a pass over slots"),
}
MORE: dict[str, tuple[str, dict[str, Any], Any, str]] = {
    "full attention": ("Qwen3Config", {"head_dim": 16}, "all-linear", ""),
    "attention sinks": ("GptOssConfig", {**MIXED, "head_dim": 16, **EXPERTS, "num_local_experts": 4}, NO_EXPERTS, ""),
    "soft caps": (
        "Gemma2Config",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW},
        NO_EXPERTS,
        "",
    ),
    "shared expert": ("Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 32}, None, ""),
    "latent attention": ("DeepseekV3Config", LATENT, ["q_a_proj", "kv_b_proj", "o_proj"], ""),
    "state space beside attention": ("GraniteMoeHybridConfig", HYBRID, ["q_proj", "in_proj"], ""),
    "state space alone": ("MambaConfig", {"state_size": 8}, ["x_proj"], "a pass over slots"),
    "both in one layer": ("FalconH1Config", PARALLEL, NO_EXPERTS, "its cache has layers"),
    "Conv1D": ("GPT2Config", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}, ["c_attn", "c_fc"], ""),
}
SHARED_EXPERT = ["q_proj", "v_proj", "shared_expert.gate_proj", "shared_expert.down_proj"]


def _model(folder: Path, name: str) -> Any:
    import transformers

    kind, special, _, _ = (MODELS | MORE)[name]
    config = getattr(transformers, kind)(**{**COMMON, **special})
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for weights in model.parameters():
                if weights.dim() == 1:  # norms, biases and sinks away from their trivial values
                    weights.add_(0.1 * torch.randn_like(weights))
            model.get_output_embeddings().weight.mul_(3)
    tiny_tokenizer(folder)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in MORE)])
def test_answers_and_likelihoods_are_those_of_the_model_alone(name: str, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.set_num_threads(1)
    model, (_, _, layers, slow) = _model(tmp_path, name), (MODELS | MORE)[name]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        knobs = LoraConfig(r=4, target_modules=layers or SHARED_EXPERT, init_lora_weights=False)
        get_peft_model(_model(tmp_path, name), knobs).save_pretrained(tmp_path / "adapter")
    draw = random.Random(3)
    shared = [draw.randrange(3, 500) for _ in range(20)]
    lengths = (1, 5, 12, 30, 40, 60) * 2
    prompts = [(*shared, *(draw.randrange(3, 500) for _ in range(length))) for length in lengths]
    adapters = [("adapter", None)[index % 5 in (1, 3)] for index in range(len(prompts))]
    decoder = Decoder(_model(tmp_path, name), ChatFormat.load(tmp_path), prefill_tokens=48)
    decoder.add_adapter("adapter", tmp_path / "adapter")
    assert slow in decoder.slow_reason
    assert bool(slow) == bool(decoder.slow_reason)
    requests = [GenerationRequest(prompt, adapter, 8) for prompt, adapter in zip(prompts, adapters, strict=True)]
    answers = [one.tokens for one in decoder.generate(requests)]
    completions = [[draw.randrange(3, 500) for _ in range(9)] for _ in prompts]
    nlls = decoder.score("adapter", prompts, completions)

    alone: Any = PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    expected = []
    for prompt, adapter in zip(prompts, adapters, strict=True):
        if adapter:
            expected.append(greedy(alone, prompt, 8))
        else:
            with alone.disable_adapter():
                expected.append(greedy(alone, prompt, 8))
    assert answers == expected
    assert [one.tokens for one in decoder.generate(requests)] == expected  # the first answers are the drafts of these
    assert len({token for tokens in expected for token in tokens}) > 12
    for nll, prompt, completion in zip(nlls, prompts, completions, strict=True):
        with torch.no_grad():
            logits = alone(torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(completion), reduction="sum")
        assert nll == pytest.approx(float(loss), rel=1e-4)


def test_padding_beside_a_row_at_the_end_of_the_context_has_no_position_that_the_model_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(
        MODELS,
        "short",
        ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "max_position_embeddings": 64}, None, ""),
    )
    model = _model(tmp_path, "short")
    draw = random.Random(3)
    prompts = [tuple(draw.randrange(3, 500) for _ in range(length)) for length in (60, 8)]
    expected = [greedy(model, prompt, new_tokens) for prompt, new_tokens in zip(prompts, (4, 20), strict=True)]
    monkeypatch.setattr(decoder_module, "draft_length", lambda drafts, *_: max(tokens for tokens, _ in drafts))
    decoder = Decoder(model, ChatFormat.load(tmp_path))
    requests = [GenerationRequest(prompt, None, 20) for prompt in prompts]
    for _ in range(2):  # the second time the short row's drafts are longer than what is left of the long one
        assert [one.tokens for one in decoder.generate(requests)] == expected
