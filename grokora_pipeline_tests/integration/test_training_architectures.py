"""Every architecture trains as its own forward pass would: a tree where each layer is attention, else padded rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.loading import load_adapter
from grokora_pipeline.serving.engine.plain import score_row
from grokora_pipeline.training.adapter import adapted_modules, add_adapter, save_adapter, trainable_parameters
from grokora_pipeline.training.attention import short_attention_is_exact, use_attention, why_not_tree
from grokora_pipeline.training.gradients import TreeLoss
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import resolve_knobs
from grokora_pipeline_tests.row_by_row import gradient, row_by_row

WINDOW = 16  # rows are longer
COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "initializer_range": 0.2,
}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
LINEAR = {
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MAMBA = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 8,
    "num_heads": 4,
    "head_dim": 16,
    "n_groups": 1,
    "initializer_range": 0.2,
}
TREES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"sliding_window": WINDOW},
    "Phi3": {"sliding_window": WINDOW},
    "Olmo3": SLIDING,
    "Gemma3Text": {"head_dim": 8, "query_pre_attn_scalar": 8, **SLIDING},
    "Gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW, "final_logit_softcapping": 3.0},
    "Llama4Text": {"head_dim": 8, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 48, "num_local_experts": 2},
    "GptOss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    "Granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.1},
    "Cohere": {"logit_scale": 0.25},
    "Qwen3Moe": {"head_dim": 8, **MIXTURE},
    "Qwen2Moe": {"shared_expert_intermediate_size": 32, **MIXTURE},
    "Bloom": {"n_layer": 2, "n_head": 4},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "GPT2": GPT2,  # its config asks for dropout
}
PADDED: dict[str, dict[str, Any]] = {
    "Qwen3_5Text": {"head_dim": 8, **LINEAR},
    "Lfm2": {"layer_types": ["conv", "full_attention"] * 2, "block_ff_dim": 48, "block_auto_adjust_ff_dim": False},
    "Mamba2": MAMBA,
    "FalconH1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
    "Jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False},
}


def adapted(name: str, settings: dict[str, Any]) -> Any:
    """A random model with an adapter that acts; norms, biases and sinks are away from their trivial values."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    config = getattr(transformers, f"{name}Config")(**(settings if "vocab_size" in settings else COMMON | settings))
    base = transformers.AutoModelForCausalLM.from_config(config).float().requires_grad_(False)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model = add_adapter(base, resolve_knobs("best", {"rank": 4}))
    for parameter_name, parameter in trainable_parameters(model).items():
        if "lora_B" in parameter_name:
            parameter.data = 0.1 * torch.randn(parameter.shape)
    return model.train()


def rows() -> list[Row]:
    """Branches early, late and beyond the window, a chain, and short rows that share nothing."""
    generator = torch.Generator().manual_seed(1)

    def some(count: int) -> list[int]:
        return torch.randint(3, 96, (count,), generator=generator).tolist()

    def row(ids: list[int], labelled: int, weight: float = 1.0) -> Row:
        return Row(tuple(ids), (0.0,) * (len(ids) - labelled) + (weight,) * labelled, "s")

    system, first, second = some(70), some(30), some(20)
    chain = row(system + some(40), 12)
    made = [row(system + first + some(9), 5), row(system + first + some(30), 12), row(system + second[:6] + some(9), 4)]
    return [*made, row(system + second, 3, 2.0), chain, row([*chain.ids, *some(30)], 10, 0.5), row(some(8), 6)]


@pytest.mark.parametrize("name", [*TREES, *PADDED])
def test_loss_and_gradient_are_the_models_own(name: str) -> None:
    model = adapted(name, {**TREES, **PADDED}[name])
    base, loaded_with = model.get_base_model(), model.get_base_model().config._attn_implementation
    expected, expected_gradient = row_by_row(model.eval(), rows())  # dropout off, as training has it
    model.train()
    assert bool(why_not_tree(base)) is (name in PADDED)
    kinds: list[Literal["tree", "padded"]] = ["padded"] if name in PADDED else ["tree", "padded"]
    for attention in [loaded_with, "short"] if short_attention_is_exact(base) else [loaded_with]:
        use_attention(base, attention)
        for kind in kinds:
            layout = Layout(kind, 200, attention, 16)
            loss = float(TreeLoss(base, layout).run(layout.of(rows()), backward=True))
            assert loss == pytest.approx(expected, rel=1e-5)
            assert float((gradient(model) - expected_gradient).norm() / expected_gradient.norm()) < 1e-5


def test_a_prompt_that_is_read_in_both_directions_is_trained_and_scored_as_transformers_does_it() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings: dict[str, Any] = {
        "text_config": {"model_type": "gemma", "head_dim": 8, **COMMON},
        "vision_config": {**vision, "image_size": 28, "patch_size": 14},
        "projection_dim": 32,
        "image_token_index": 0,
    }
    torch.manual_seed(7)
    base = transformers.PaliGemmaForConditionalGeneration(transformers.PaliGemmaConfig(**settings))
    model = add_adapter(base.requires_grad_(False), resolve_knobs("best", {"rank": 4}))
    for name, parameter in trainable_parameters(model).items():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape)
    # of the second row's answer the first three tokens carry no loss: the prompt ends before them
    every = [rows()[0], replace(rows()[1], answer_at=len(rows()[1].ids) - 15), rows()[-1]]
    total = torch.zeros(())
    for row in every:
        ids, learnt = torch.tensor([row.ids]), torch.tensor([row.weights]) > 0
        marks = (torch.arange(len(row.ids)) >= row.prompt).long()[None]
        labels = ids.masked_fill(~learnt, -100)
        total = total + base(input_ids=ids, token_type_ids=marks, labels=labels).loss * learnt.sum()
    torch.autograd.backward([total])
    expected = gradient(model)
    assert why_not_tree(base)
    for attention in ("eager", "sdpa", "short"):
        use_attention(base, attention)
        layout = Layout("padded", 200, attention, 16)
        loss = float(TreeLoss(base, layout).run(layout.of(every), backward=True))
        assert loss == pytest.approx(total.item(), rel=1e-5)
        assert float((gradient(model) - expected).norm() / expected.norm()) < 1e-5
    row = every[0]
    logits = score_row(base, row.ids[:-1], len(row.ids) - row.prompt)
    answer = torch.tensor(row.ids[row.prompt :])
    with torch.no_grad():
        whole = TreeLoss(base, layout).run(layout.of([row]))
    assert float(cross_entropy(logits, answer, reduction="sum")) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("name", ["Qwen3Moe", "Qwen2Moe", "GptOss", "Llama4Text"])
def test_a_mixture_of_experts_is_adapted_on_attention_and_shared_layers(name: str) -> None:
    names = {part.rpartition(".lora_")[0] for part in trainable_parameters(adapted(name, TREES[name]))}
    assert any(part.endswith("q_proj") for part in names)
    assert any("shared_expert" in part for part in names) is (name in {"Qwen2Moe", "Llama4Text"})
    assert not [part for part in names if ".experts" in part or part.endswith(("gate", "router"))]


@pytest.mark.parametrize("kind", ["kimi_linear", "zaya", "deepseek_v4"])
def test_neither_a_router_nor_a_layer_of_other_shapes_is_adapted_and_a_class_name_makes_none_linear(kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind)
    config.num_hidden_layers = 4
    for kinds in ("layer_types", "mlp_layer_types"):
        if isinstance(every := getattr(config, kinds, None), list):
            setattr(config, kinds, every[:2] + every[-2:])
    with torch.device("meta"):
        base = transformers.AutoModelForCausalLM.from_config(config)
    targets = tuple(adapted_modules(base))
    chosen = {name: module for name, module in base.named_modules() if name.endswith(targets)}
    assert any("attn" in name for name in chosen)
    assert not [name for name in chosen if ".gate." in name or ".experts." in name or "router" in name]
    assert {type(module) for module in chosen.values()} == {torch.nn.Linear}


def test_an_adapter_is_loaded_by_the_models_own_names_where_peft_renames_them(tmp_path: Path) -> None:
    settings = COMMON | MIXTURE | {"head_dim": 8, "num_hidden_layers": 2, "shared_expert_intermediate_size": 32}
    model = adapted("Laguna", settings)
    assert any("shared_experts" in name for name in trainable_parameters(model))
    save_adapter(model, tmp_path, "base")
    base = transformers.AutoModelForCausalLM.from_config(transformers.LagunaConfig(**settings))
    loaded = dict(load_adapter(base, tmp_path).named_parameters())
    assert all(torch.equal(loaded[name], weights) for name, weights in trainable_parameters(model).items())


def test_an_adapter_that_lacks_weights_is_not_used(tmp_path: Path) -> None:
    model = adapted("Llama", {})
    save_adapter(model, tmp_path, "base")
    weights = load_file(tmp_path / "adapter_model.safetensors")
    lacking = weights.popitem()[0].removesuffix(".weight")
    save_file(weights, tmp_path / "adapter_model.safetensors")
    base = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**COMMON))
    with pytest.raises(GrokoraError, match=f"lacks 1 weights, such as {lacking}"):
        load_adapter(base, tmp_path)


def test_an_image_encoder_is_not_adapted() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = COMMON | TREES["Gemma3Text"]
    settings = {"text_config": text, "vision_config": {**vision, "image_size": 28, "patch_size": 14}}
    base = transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(**settings, mm_tokens_per_image=4))
    model = add_adapter(base.requires_grad_(False), resolve_knobs("best", {"rank": 4}))
    assert not [name for name in trainable_parameters(model) if "vision" in name]
    assert not why_not_tree(model.get_base_model())
