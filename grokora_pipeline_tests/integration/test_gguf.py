"""GGUF files: a real llama.cpp answers with an exported base and adapter as transformers and PEFT do."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models import gguf
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.loading import load_adapter, load_base
from grokora_pipeline_tests.llamacpp import complete, llama_server
from grokora_pipeline_tests.tiny import greedy, tiny_base, tiny_tokenizer

COMMON: dict[str, Any] = {
    **{"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "bos_token_id": 1},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "eos_token_id": 2},
    **{"initializer_range": 0.1, "tie_word_embeddings": False, "pad_token_id": 2},
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GRANITE = {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22}
BASES: dict[str, dict[str, Any]] = {
    "Llama": {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 128}, "attention_bias": True},
    "Mistral": {"sliding_window": 512, "head_dim": 32},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Olmo2": {},
    "SmolLM3": {"no_rope_layer_interval": 4},
    "Granite": {**GRANITE, "attention_multiplier": 0.1},
    "Gemma": {"head_dim": 16, "tie_word_embeddings": True},
}
CONVERSATION = [{"role": "user", "content": "Click the Save button at (120, 45), then answer 97 & 'ok'."}]


def random_base(folder: Path, name: str, **settings: Any) -> Path:
    """A tiny model with norms and biases away from their trivial values, and a head that decides."""
    tiny_tokenizer(folder)
    config = getattr(transformers, f"{name}Config")(**{**COMMON, **BASES.get(name, {}), **settings})
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def random_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """A LoRA adapter of all linear layers that changes answers."""
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": "all-linear", **settings})
    model = get_peft_model(load_base(base, dtype=torch.float32, device=torch.device("cpu")), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def answers(base: Path, adapter: Path | None, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    model = load_base(base, dtype=torch.float32, device=torch.device("cpu"))
    adapted = load_adapter(model, adapter) if adapter else model
    return [greedy(adapted, ids, new_tokens) for ids in prompts]


QUICK = ("Llama", "Qwen3")  # one whose projections are permuted, and one whose are not
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in BASES]


@pytest.mark.parametrize("name", ALL)
def test_llamacpp_answers_as_transformers_with_and_without_the_adapter(name: str, tmp_path: Path) -> None:
    base = random_base(tmp_path / "base", name)
    adapter = random_adapter(base, tmp_path / "adapter", use_rslora=True, rank_pattern={"q_proj": 4, "o_proj": 2})
    gguf.write_base(base, tmp_path / "base.gguf", "f32")
    gguf.write_adapter(base, adapter, tmp_path / "adapter.gguf")
    chat = ChatFormat.load(base)
    numbers = random.Random(1)
    prompts = [chat.encode_prompt(CONVERSATION), [numbers.randrange(3, 500) for _ in range(40)]]
    plain, adapted = answers(base, None, prompts, 12), answers(base, adapter, prompts, 12)
    assert plain != adapted
    with llama_server(tmp_path / "base.gguf", [tmp_path / "adapter.gguf"]) as client:
        assert [complete(client, ids, 12, scale=0.0) for ids in prompts] == plain
        assert [complete(client, ids, 12, scale=1.0) for ids in prompts] == adapted
        rendered = client.post("/apply-template", json={"messages": CONVERSATION}).json()["prompt"]
        assert rendered == chat.render_prompt(CONVERSATION)
        body = {"content": rendered, "parse_special": True, "add_special": True}
        assert client.post("/tokenize", json=body).json()["tokens"] == prompts[0]


LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
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
        "unknown": [pre_tokenizers.Split(Regex("a+"), "isolated"), byte_level],
    }
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits[kind])
    tokenizer.save(str(folder / "tokenizer.json"))


def sentencepiece(folder: Path, prefix: bool) -> None:
    """A tokenizer as that of Llama 2: pieces with byte fallback."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.ByteFallback()
    special = ["<unk>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["Click the button at 120, then open the vault: 12345 x = 6"], trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special[:3]])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("kind", ["smollm", "smaug-bpe", "qwen2", "sentencepiece", "sentencepiece without prefix"])
def test_llamacpp_splits_text_as_the_tokenizer_that_training_used(kind: str, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    sentencepiece(base, " " not in kind) if kind.startswith("sentence") else split_otherwise(base, kind)
    gguf.write_base(base, tmp_path / "base.gguf", "q8_0")
    with llama_server(tmp_path / "base.gguf") as client:
        body = {"content": TEXT, "parse_special": True, "add_special": True}
        assert client.post("/tokenize", json=body).json()["tokens"] == ChatFormat.load(base).encode(TEXT)


def test_what_llamacpp_cannot_do_is_refused_in_one_sentence(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    with pytest.raises(GrokoraError, match="llama-quantize"):
        gguf.write_base(base, tmp_path / "x.gguf", "q4_k_m")
    split_otherwise(base, "unknown")
    with pytest.raises(GrokoraError, match="no pre-tokenizer like this model's"):
        gguf.write_base(base, tmp_path / "x.gguf")
    with pytest.raises(GrokoraError, match=r"does not know OPTForCausalLM models .* export --to vllm or peft"):
        gguf.write_base(random_base(tmp_path / "opt", "OPT", ffn_dim=64, word_embed_proj_dim=64), tmp_path / "x.gguf")
    adapter = random_adapter(tiny_base(tmp_path / "other"), tmp_path / "adapter", use_dora=True)
    with pytest.raises(GrokoraError, match="use_dora"):
        gguf.write_adapter(tmp_path / "other", adapter, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
