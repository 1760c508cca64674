"""GGUF files: a real llama.cpp answers with an exported base and adapter as transformers and PEFT do."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models import gguf
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.engines import beyond_pairs
from grokora_pipeline.models.loading import auto_class, load_adapter, load_base
from grokora_pipeline.training.adapter import adapted_modules
from grokora_pipeline_tests.llamacpp import complete, llama_server
from grokora_pipeline_tests.tiny import greedy, tiny_base, tiny_tokenizer

COMMON: dict[str, Any] = {
    **{"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "bos_token_id": 1},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "eos_token_id": 2},
    **{"initializer_range": 0.1, "tie_word_embeddings": False, "pad_token_id": 2},
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GRANITE = {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 64}
GEMMA3 = {"head_dim": 32, "tie_word_embeddings": True, "sliding_window": 16, "query_pre_attn_scalar": 32}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0, "original_max_position_embeddings": 32} | {
    **{"mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32.0, "beta_slow": 1.0, "llama_4_scaling_beta": 0.1}
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2} | {
    **{"image_size": 28, "patch_size": 14, "head_dim": 16}
}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 512, "factor": 2.0} | {
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.1 * i for i in range(8)],
}
GRANITE4 = {"attention_multiplier": 0.1, "num_local_experts": 0, "shared_intermediate_size": 96} | {
    "layer_types": ["full_attention"] * 4,
    "position_embedding_type": "rope",
}
BASES: dict[str, dict[str, Any]] = {
    "Llama": {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 128}, "attention_bias": True},
    "Mistral": {"sliding_window": 512, "head_dim": 32},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Olmo2": {},
    "SmolLM3": {"no_rope_layer_interval": 4},
    "Granite": {**GRANITE, "attention_multiplier": 0.1},
    "Gemma": {"head_dim": 16, "tie_word_embeddings": True},
    "Gemma2": {"head_dim": 32, "tie_word_embeddings": True, "sliding_window": 16, "query_pre_attn_scalar": 32},
    "Gemma3": GEMMA3 | {"num_hidden_layers": 7},
    "Gemma3 that sees": GEMMA3 | {"num_hidden_layers": 7},
    "Mistral3 that sees": {"model_type": "mistral", "head_dim": 16},
    "Ministral3": {"head_dim": 16, "rope_parameters": YARN},
    "Phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "Phi3 long": {"rope_parameters": LONGROPE, "tie_word_embeddings": True},
    "Mixtral": EXPERTS,
    "Qwen2Moe": EXPERTS | {"shared_expert_intermediate_size": 32},
    "Qwen3Moe": EXPERTS | {"norm_topk_prob": True, "head_dim": 32},
    "Olmoe": EXPERTS | {"num_key_value_heads": 4},
    "Olmo3": {"sliding_window": 16},
    "GraniteMoe": EXPERTS | GRANITE | {"attention_multiplier": 0.1},
    "GraniteMoeShared": EXPERTS | GRANITE | {"attention_multiplier": 0.1, "shared_intermediate_size": 96},
    "GraniteMoeHybrid": GRANITE | GRANITE4,
    "Cohere": {"tie_word_embeddings": True, "logit_scale": 0.5, "num_hidden_layers": 3},
    "Cohere2": {"tie_word_embeddings": True, "logit_scale": 0.5, "sliding_window": 16, "head_dim": 16},
    "Glm": {"head_dim": 16},
    "Glm4": {"head_dim": 16},
    "SeedOss": {"head_dim": 32},
    "Ernie4_5": {"head_dim": 16},
    "HunYuanDenseV1": {"head_dim": 16},
    "Exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 4},
    "Arcee": {},
    "Starcoder2": {"use_bias": True},
    "Lfm2": {"layer_types": ["conv", "full_attention"] * 2},
}
CONVERSATION = [{"role": "user", "content": "Click the Save button at (120, 45), then answer 97 & 'ok'."}]


def random_base(folder: Path, name: str, **settings: Any) -> Path:
    """A tiny model with norms and biases away from their trivial values, and a head that decides."""
    tiny_tokenizer(folder)
    kind, _, sees = {"Gemma3": "Gemma3Text"}.get(name, name).partition(" ")
    numbers: dict[str, Any] = {**COMMON, **BASES.get(name, {}), **settings}
    if sees == "that sees":
        numbers = {"text_config": numbers, "vision_config": VISION, "image_token_index": 5, "image_token_id": 5}
    config = getattr(transformers, f"{kind}Config")(**numbers)
    torch.manual_seed(7)
    model = auto_class(config).from_config(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def random_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """A LoRA adapter of the layers that training adapts by default, which changes answers."""
    loaded = load_base(base, dtype=torch.float32, device=torch.device("cpu"))
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": adapted_modules(loaded), **settings})
    model = get_peft_model(loaded, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def until_end(ids: list[int]) -> list[int]:
    """Without what follows <|endoftext|>, the tiny tokenizer's first token: by its text llama.cpp ends there."""
    return ids[: ids.index(0)] if 0 in ids else ids


def answers(base: Path, adapter: Path | None, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    model = load_base(base, dtype=torch.float32, device=torch.device("cpu"))
    adapted = load_adapter(model, adapter) if adapter else model
    return [until_end(greedy(adapted, ids, new_tokens)) for ids in prompts]


PATTERNS: dict[str, Any] = {
    "rank_pattern": {"q_proj": 4, "o_proj": 2},
    "alpha_pattern": {r"layers\.[02]\..*v_proj": 40},
}
QUICK = ("Llama", "Qwen3", "GraniteMoeShared")  # projections that are permuted, some that are not, and fused experts
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in BASES]


@pytest.mark.parametrize("name", ALL)
def test_llamacpp_answers_as_transformers_with_and_without_the_adapter(name: str, tmp_path: Path) -> None:
    base = random_base(tmp_path / "base", name)
    adapter = random_adapter(base, tmp_path / "adapter", use_rslora=True, **PATTERNS)
    gguf.write_base(base, tmp_path / "base.gguf", "f32")
    gguf.write_adapter(base, adapter, tmp_path / "adapter.gguf")
    chat = ChatFormat.load(base)
    numbers = random.Random(1)
    prompts = [chat.encode_prompt(CONVERSATION), [numbers.randrange(3, 500) for _ in range(40)]]
    plain, adapted = answers(base, None, prompts, 12), answers(base, adapter, prompts, 12)
    assert plain != adapted
    with llama_server(tmp_path / "base.gguf", [tmp_path / "adapter.gguf"]) as client:
        for scale, expected in ((0.0, plain), (1.0, adapted)):
            assert [until_end(complete(client, ids, 12, scale)) for ids in prompts] == expected
        rendered = client.post("/apply-template", json={"messages": CONVERSATION}).json()["prompt"]
        assert rendered == chat.render_prompt(CONVERSATION)
        body = {"content": rendered, "parse_special": True, "add_special": True}
        assert client.post("/tokenize", json=body).json()["tokens"] == prompts[0]


LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
TEXT = "I'LL do it: 12345 + 6,\t née  'quoted' ...!\n\n  x = {'a': [1.5]}  <|im_end|>\nзаголовок 你好 \n end"


def split_otherwise(folder: Path, kind: str) -> None:
    """Retrain nothing: the merges stay, and text is split another way before them."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits: dict[str, Any] = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "smaug-bpe": [pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"), byte_level],
        "qwen2": [pre_tokenizers.Split(Regex(LLAMA3_PATTERN.replace("{1,3}", "")), "isolated"), byte_level],
        "cl100k": [pre_tokenizers.Split(Regex(CL100K_PATTERN), "removed", invert=True), byte_level],
        "unknown": [pre_tokenizers.Split(Regex("a+"), "isolated"), byte_level],
    }
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits[kind])
    tokenizer.save(str(folder / "tokenizer.json"))


PIECES = ("llama", "gemma", "first", "always", "never")


def sentencepiece(folder: Path, kind: str) -> None:
    """A tokenizer as that of Llama 2, of Gemma, or of Llama 2 by transformers 5: pieces with byte fallback."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    space = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = space if kind == "gemma" else normalizers.Sequence([normalizers.Prepend("▁"), space])
    if kind == "gemma":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    elif kind != "llama":
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    tokenizer.decoder = decoders.ByteFallback()
    special = ["<unk>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["Click the button at 120, then open the vault: 12345 x = 6"], trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special[:3]])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    "kind", ["smollm", "smaug-bpe", "cl100k", "qwen2", "llama", "gemma", "first", "always", "never"]
)
def test_llamacpp_splits_text_as_the_tokenizer_that_training_used(kind: str, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    sentencepiece(base, kind) if kind in PIECES else split_otherwise(base, kind)
    gguf.write_base(base, tmp_path / "base.gguf", "q8_0")
    with llama_server(tmp_path / "base.gguf") as client:
        # `first` puts a space before a whole prompt only, and a prompt of this template begins with a control token
        for text in (f"<|im_start|>{TEXT}", *([TEXT] if kind != "first" else [])):
            body = {"content": text, "parse_special": True, "add_special": True}
            assert client.post("/tokenize", json=body).json()["tokens"] == ChatFormat.load(base).encode(text)


def test_what_llamacpp_cannot_do_is_refused_in_one_sentence(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    with pytest.raises(GrokoraError, match="llama-quantize"):
        gguf.write_base(base, tmp_path / "x.gguf", "q4_k_m")
    split_otherwise(base, "unknown")
    with pytest.raises(GrokoraError, match="no pre-tokenizer like this model's"):
        gguf.write_base(base, tmp_path / "x.gguf")
    with pytest.raises(GrokoraError, match=r"does not know OPTForCausalLM models .* export --to vllm or peft"):
        gguf.write_base(random_base(tmp_path / "opt", "OPT", ffn_dim=64, word_embed_proj_dim=64), tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("use_dora", True, "use_dora"),
        ("modules_to_save", ["lm_head"], "modules_to_save"),
        ("target_parameters", ["mlp.experts.down_proj"], "target_parameters"),
        ("alora_invocation_tokens", [1, 2], "alora_invocation_tokens"),
        ("init_lora_weights", "pissa", "init_lora_weights pissa"),
        ("bias", "lora_only", "bias lora_only"),
        ("peft_type", "IA3", "peft_type IA3"),
        ("a_setting_of_tomorrow", 3, "a_setting_of_tomorrow"),
    ],
)
def test_an_adapter_that_is_more_than_pairs_of_matrices_is_refused(
    setting: str, value: object, named: str, tmp_path: Path
) -> None:
    config = {**LoraConfig(r=4, lora_alpha=8, target_modules={"q_proj"}).to_dict(), "peft_type": "LORA"}
    assert not beyond_pairs(config)
    with pytest.raises(GrokoraError, match=rf"was trained with {named}, which only PEFT applies"):
        gguf.refuse_adapter({**config, setting: value}, tmp_path)


@pytest.mark.parametrize("name", ["model.embed_tokens", "lm_head", "model.layers.9.self_attn.q_proj", "visual.fc1"])
def test_an_adapter_on_what_llamacpp_does_not_read_is_refused(name: str, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")  # its head is the embedding's
    key = f"base_model.model.{name}.lora_%s.weight"
    save_file({key % "A": torch.ones(4, 64), key % "B": torch.ones(64, 4)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    with pytest.raises(GrokoraError, match=f"cannot apply an adapter of {name}"):
        gguf.write_adapter(base, tmp_path, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


GRANTED: list[tuple[str, dict[str, Any], str]] = [
    ("Qwen3Moe", {"norm_topk_prob": False}, "norm_topk_prob False"),
    ("Qwen2Moe", {"mlp_only_layers": [1]}, r"mlp_only_layers \[1\]"),
    ("Olmoe", {"clip_qkv": 8.0}, r"clip_qkv 8\.0"),
    ("Cohere", {"use_qk_norm": True}, "use_qk_norm True"),
    ("Gemma2", {"query_pre_attn_scalar": 64}, "unless query_pre_attn_scalar is 32"),
    ("Gemma2", {"final_logit_softcapping": None}, "without soft caps"),
    ("Gemma3", {"layer_types": ["full_attention"] * 7}, "but each 6th has a window"),
    ("Llama", {"hidden_act": "gelu"}, "this activation"),
    ("Qwen3", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial rotary"),
    ("Qwen3", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "type dynamic"),
    ("GraniteMoeHybrid", {"layer_types": ["mamba", *["full_attention"] * 3]}, "layers of linear_attention"),
]


@pytest.mark.parametrize(("name", "settings", "sentence"), GRANTED)
def test_a_setting_that_llamacpp_takes_for_granted_is_refused_if_it_is_another(
    name: str, settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    base = random_base(tmp_path, name, **settings)
    with pytest.raises(GrokoraError, match=sentence):
        gguf.check_base(base)
