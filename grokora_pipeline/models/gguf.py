"""A base model and its LoRA adapters as GGUF files, as llama.cpp reads them (numpy and safetensors; torch reads bf16).

Names, permutation and metadata follow llama.cpp's own converters. The tokenizer is read from tokenizer.json, which is
what training tokenized with, and the chat template is the effective one. `llama.cpp` never adds a BOS token of its own:
the template writes it where one belongs.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat, read_json

VERSION = 2  # raise when `write_base` writes another file: what was converted before is converted anew
KINDS = {"f32": "F32", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one transformers class differ from each other's files."""

    arch: str  # a name of gguf.MODEL_ARCH
    permuted: bool = False  # llama.cpp rotates neighbouring pairs of q and k, transformers the two halves
    norm_offset: float = 0.0  # transformers multiplies by offset + weight


FAMILIES = {
    "LlamaForCausalLM": Family("LLAMA", permuted=True),
    "MistralForCausalLM": Family("LLAMA", permuted=True),
    "GraniteForCausalLM": Family("GRANITE", permuted=True),
    "SmolLM3ForCausalLM": Family("SMOLLM3", permuted=True),
    "Qwen2ForCausalLM": Family("QWEN2"),
    "Qwen3ForCausalLM": Family("QWEN3"),
    "Olmo2ForCausalLM": Family("OLMO2"),
    "GemmaForCausalLM": Family("GEMMA", norm_offset=1.0),
}
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
_SHORT_FORMS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The pre-tokenizers that llama.cpp has code for, by the pattern in tokenizer.json.
_PATTERNS = {
    rf"{_SHORT_FORMS}|{_WORD}|\p{{N}}{{1,3}}{_REST}": "llama-bpe",
    rf"{_SHORT_FORMS}|{_WORD}|\p{{N}}{_REST}": "qwen2",
    rf"{_CASED % ('', '')}|\p{{N}}{_SLASHED}": "tekken",
    rf"{_CASED % (_SHORT_FORMS + '?', _SHORT_FORMS + '?')}|\p{{N}}{{1,3}}{_SLASHED}": "gpt-4o",
}


def check_base(folder: Path) -> None:
    """GrokoraError if llama.cpp, or this converter, does not know the model in `folder`."""
    _Model(folder)


def write_base(folder: Path, output: Path, kind: str = "bf16", name: str = "") -> None:
    """Write the model in `folder` as one GGUF file; `kind` is a key of KINDS and holds for matrices.

    One tensor is in memory at a time. GrokoraError if llama.cpp, or this converter, does not know the model.
    """
    if kind not in KINDS:
        raise GrokoraError(
            f"The gguf package writes {', '.join(KINDS)}, not {kind}; write bf16 and run llama.cpp's "
            f"`llama-quantize model.gguf model-{kind}.gguf {kind.upper()}` for others."
        )
    model = _Model(folder)
    writer = gguf.GGUFWriter(str(output), model.arch_name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name or folder.name)
    writer.add_file_type(gguf.LlamaFileType[{"f32": "ALL_F32"}.get(kind, f"MOSTLY_{KINDS[kind]}")])
    model.add_hyperparameters(writer)
    add_tokenizer(writer, folder, int(model.config["vocab_size"]))
    kinds = [(name, shape, _kind_of(shape, kind), load) for name, shape, load in model.tensors()]
    _write(writer, kinds)


def write_adapter(base: Path, adapter: Path, output: Path) -> None:
    """Write a PEFT LoRA adapter of the model in `base` as a GGUF file of fp32 tensors.

    llama.cpp scales each pair by alpha / rank with one alpha for all: other scales (rsLoRA, ranks and alphas of single
    modules) are written into alpha where all agree, else into B. GrokoraError for what it cannot apply.
    """
    from safetensors import safe_open

    model, config = _Model(base), read_json(adapter / "adapter_config.json")
    refuse_adapter(config, adapter)
    pairs: dict[str, dict[str, Array]] = {}
    with safe_open(str(adapter / "adapter_model.safetensors"), framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not iterable itself
            module, found, side = key.removeprefix("base_model.model.").rpartition(".lora_")
            if not found or side not in ("A.weight", "B.weight"):
                raise GrokoraError(f"{adapter} holds {key}, which llama.cpp cannot apply; merge it and export that.")
            pairs.setdefault(module, {})[side[0]] = file.get_tensor(key).float().numpy()
    alpha = float(config["lora_alpha"]) * (math.sqrt(config["r"]) if config.get("use_rslora") else 1.0)
    writer = gguf.GGUFWriter(str(output), model.arch_name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    tied = bool(model.config.get("tie_word_embeddings"))
    for module, pair in pairs.items():
        name = model.names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None or name.startswith("token_embd") or (tied and name.startswith("output.")):
            raise GrokoraError(f"llama.cpp cannot apply an adapter of {module} in {model.arch_name}; merge it first.")
        a, b = pair["A"], pair["B"]
        factor = lora_scale(config, module, len(a)) / (alpha / len(a))
        b = model.arrange(name.removesuffix(".weight"), b) * np.float32(factor)
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def refuse_adapter(config: dict[str, Any], adapter: Path) -> None:
    """GrokoraError for an adapter that is more than pairs of A and B."""
    if config.get("peft_type") != "LORA":
        raise GrokoraError(f"{adapter} is no LoRA adapter; materialize lora_adapter first.")
    unknown = ("use_dora", "modules_to_save", "lora_bias", "fan_in_fan_out", "trainable_token_indices")
    for name in (*unknown, "target_parameters"):
        if config.get(name):
            raise GrokoraError(f"{adapter} was trained with {name}, which llama.cpp cannot apply; merge it first.")


def lora_scale(config: dict[str, Any], module: str, rank: int) -> float:
    """PEFT's scale of a module: alpha / r, or alpha / sqrt(r) with rsLoRA; patterns match the end of its name."""
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    own = (alpha for key, alpha in patterns.items() if module == key or module.endswith(f".{key}"))
    alpha = float(next(own, config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


class _Model:
    """A model folder: its config with transformers' defaults filled in, and its tensors under llama.cpp's names."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig

        raw = read_json(folder / "config.json")
        architecture = next(iter(raw.get("architectures") or []), raw.get("model_type", "unknown"))
        if architecture not in FAMILIES:
            raise GrokoraError(
                f"This converter to GGUF does not know {architecture} models (it knows {', '.join(sorted(FAMILIES))}); "
                "export --to vllm or peft, or run llama.cpp's convert_hf_to_gguf.py on merged_model."
            )
        self.folder, self.family, self.architecture = folder, FAMILIES[architecture], architecture
        self.config: dict[str, Any] = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
        self.layers = int(self.config["num_hidden_layers"])
        arch = gguf.MODEL_ARCH[self.family.arch]
        self.arch_name = gguf.MODEL_ARCH_NAMES[arch]
        self.names = gguf.get_tensor_name_map(arch, self.layers)
        self.heads = int(self.config["num_attention_heads"])
        self.kv_heads = int(self.config.get("num_key_value_heads") or self.heads)
        self.head_dim = int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)
        self._refuse_unsaid()

    def _refuse_unsaid(self) -> None:
        """GrokoraError for settings that llama.cpp's code for this architecture does not read."""
        config = self.config
        if config.get("use_sliding_window") or "sliding_attention" in set(config.get("layer_types") or ()) - (
            {"sliding_attention"} if config.get("model_type") == "mistral" else set()
        ):
            raise GrokoraError(f"{self.architecture} with layers of sliding attention is not known to this converter.")
        if self.architecture == "SmolLM3ForCausalLM":
            every_fourth = [int((layer + 1) % 4 != 0) for layer in range(self.layers)]
            if list(config["no_rope_layers"]) != every_fourth:
                raise GrokoraError("llama.cpp knows SmolLM3 only with every fourth layer without rotary embedding.")
        if float(self._rope().get("partial_rotary_factor") or 1.0) != 1.0:
            raise GrokoraError(f"llama.cpp does not know {self.architecture} with a partial rotary embedding.")
        activation = config.get("hidden_activation") or config.get("hidden_act")
        expected = ("gelu_pytorch_tanh", "gelu") if self.family.arch == "GEMMA" else ("silu",)
        if activation not in expected:
            raise GrokoraError(f"llama.cpp does not know {self.architecture} with the activation {activation}.")

    def _rope(self) -> dict[str, Any]:
        rope: dict[str, Any] = self.config.get("rope_parameters") or {}
        return rope

    def add_hyperparameters(self, writer: gguf.GGUFWriter) -> None:
        """The numbers that llama.cpp builds the graph from."""
        config, rope = self.config, self._rope()
        context = ChatFormat.load(self.folder).context_length
        if window := config.get("sliding_window"):
            context = min(context, int(window))  # llama.cpp has no window here: up to its length it makes no difference
        writer.add_vocab_size(int(config["vocab_size"]))
        writer.add_context_length(context)
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(int(config["intermediate_size"]))
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_rope_freq_base(float(rope.get("rope_theta") or 10000.0))
        if self.family.arch == "GRANITE":
            writer.add_logit_scale(float(config["logits_scaling"]))
            writer.add_attention_scale(float(config["attention_multiplier"]))
            writer.add_embedding_scale(float(config["embedding_multiplier"]))
            writer.add_residual_scale(float(config["residual_multiplier"]))
        kind = rope.get("rope_type", "default")
        if kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        elif kind == "yarn" and not {"mscale", "mscale_all_dim", "attention_factor"} & rope.keys():
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(float(rope["factor"]))
            writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
        elif kind not in ("default", "llama3"):
            raise GrokoraError(f"Rotary embedding of type {kind} is not known to this converter.")

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Array]]]:
        """(name, shape, function that reads it as fp32) of every tensor; tied weights are left out."""
        from safetensors import safe_open

        if self._rope().get("rope_type") == "llama3":
            factors = _llama3_factors(self._rope(), self.head_dim)
            yield "rope_freqs.weight", factors.shape, lambda: factors
        for path in sorted(self.folder.glob("*.safetensors")):
            with safe_open(str(path), framework="pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            for key, shape in shapes.items():
                if key == "lm_head.weight" and self.config.get("tie_word_embeddings"):
                    continue
                if key.endswith("rotary_emb.inv_freq"):  # computed, in files of old versions
                    continue
                name = self.names.get_name(key, try_suffixes=(".weight", ".bias"))
                if name is None:
                    raise GrokoraError(f"llama.cpp has no place for the tensor {key} in {self.arch_name}.")
                yield name, shape, partial(self._read, path, key, name)

    def _read(self, path: Path, key: str, name: str) -> Array:
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            array: Array = file.get_tensor(key).float().numpy()
        if array.ndim == 1 and name.endswith("norm.weight"):
            array = array + np.float32(self.family.norm_offset)
        return self.arrange(name.rpartition(".")[0], array)

    def arrange(self, name: str, rows: Array) -> Array:
        """The rows of a q or k projection in llama.cpp's order; of any other tensor as they are."""
        part = name.rpartition(".")[2]
        if not self.family.permuted or part not in ("attn_q", "attn_k"):
            return rows
        heads = self.heads if part == "attn_q" else self.kv_heads
        halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
        return halves.swapaxes(1, 2).reshape(rows.shape)


def _llama3_factors(rope: dict[str, Any], head_dim: int) -> Array:
    """What each rotary frequency is divided by in Llama 3.1's scaling; [head_dim / 2]."""
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    frequencies = 1.0 / float(rope["rope_theta"]) ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = float(rope["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)  # 0: all of the factor, 1: none of it
    return (1.0 / ((1 - smooth) / float(rope["factor"]) + smooth)).astype(np.float32)


def _kind_of(shape: tuple[int, ...], kind: str) -> gguf.GGMLQuantizationType:
    """Vectors stay fp32; rows that a block type cannot hold become fp16, as in llama.cpp's converter."""
    wanted = gguf.GGMLQuantizationType[KINDS[kind]]
    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    block = gguf.GGML_QUANT_SIZES[wanted][0]
    return wanted if shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _write(
    writer: gguf.GGUFWriter,
    tensors: list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, Callable[[], Array]]],
) -> None:
    for name, shape, kind, _ in tensors:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor_info(name, shape, np.dtype(np.float32), math.prod(shape) // block * size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, _, kind, load in tensors:
        writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(load()), kind))
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    """The tokenizer with `size` rows of vocabulary, its control tokens and the effective chat template.

    GrokoraError if llama.cpp would split text otherwise than tokenizer.json says.
    """
    chat = ChatFormat.load(folder)
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, vocabulary = document["model"], chat.tokenizer.get_vocab(with_added_tokens=True)
    added = chat.tokenizer.get_added_tokens_decoder()
    tokens = [f"[PAD{index}]" for index in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    for token, index in vocabulary.items():
        if index < size:
            tokens[index], kinds[index] = token, gguf.TokenType.NORMAL
    for index, control in added.items():
        if index < size:
            kinds[index] = gguf.TokenType.CONTROL if control.special else gguf.TokenType.USER_DEFINED
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or ()]
    if model.get("type") != "BPE":
        raise GrokoraError(f"llama.cpp cannot split text as a {model.get('type')} tokenizer does; no GGUF was written.")
    if model.get("byte_fallback"):
        _add_pieces(writer, document, tokens, kinds, merges)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(document))
        writer.add_token_list(tokens)
        writer.add_token_merges(merges)
    writer.add_token_types(kinds)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    ids = {name: vocabulary.get(token) for name, token in chat.special.items()}
    if (bos := ids.get("bos_token")) is not None:
        writer.add_bos_token_id(bos)
    stop = vocabulary[chat.stop_token]
    writer.add_eos_token_id(stop)  # what ends an answer here, which may be another than the config's own eos
    # The end of a turn is the only one that llama.cpp allows in a grammar; left out, it is guessed by its text.
    writer.add_eot_token_id(stop)
    if others := [token for token in chat.stop_ids if token != stop]:
        writer.add_eom_token_id(others[0])
    # llama.cpp's own Jinja knows `select` only with a test (version b11549); the text that is rendered is the same.
    writer.add_chat_template(chat.template.replace("| select |", "| select('ne', '') |"))


def _pre_tokenizer(document: dict[str, Any]) -> str:
    """llama.cpp's name of how tokenizer.json splits text before it merges; GrokoraError if it has none."""
    normaliser = document.get("normalizer") or {}
    if normaliser.get("type") not in (None, "NFC"):  # NFC: llama.cpp leaves text as it comes, as its own converter
        raise GrokoraError(f"llama.cpp cannot normalise text by {normaliser.get('type')}; no GGUF was written.")
    pre = document.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers") or [pre]
    kinds = [step.get("type") for step in steps]
    known = not any(step.get("add_prefix_space") for step in steps)
    if known and kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if known and kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1].get("use_regex", True):
        return "smollm"
    if known and kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        name = _PATTERNS.get((steps[0].get("pattern") or {}).get("Regex", ""), "")
        whole_words = bool(document["model"].get("ignore_merges"))
        if name == "llama-bpe" and not whole_words:
            name = "smaug-bpe"  # the same pattern, without a look-up of whole words first
        if name and whole_words == (name in ("llama-bpe", "tekken")):
            return name
    raise GrokoraError(f"llama.cpp has no pre-tokenizer like this model's ({', '.join(map(str, kinds))}).")


def _add_pieces(
    writer: gguf.GGUFWriter,
    document: dict[str, Any],
    tokens: list[str],
    kinds: list[gguf.TokenType],
    merges: list[str],
) -> None:
    """A SentencePiece vocabulary. A piece's score is the negative rank of its first merge: llama.cpp then merges in
    the order in which the tokenizers library does.
    """
    normaliser, pre = document.get("normalizer") or {}, document.get("pre_tokenizer")
    steps = normaliser.get("normalizers") or [normaliser]
    forms = [(step.get("type"), step.get("prepend") or step.get("content")) for step in steps]
    if pre is not None or forms not in ([("Prepend", "▁"), ("Replace", "▁")], [("Replace", "▁")]):
        raise GrokoraError("llama.cpp cannot normalise text as this SentencePiece tokenizer does; no GGUF was written.")
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    for index, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kinds[index] = gguf.TokenType.BYTE
        elif token == document["model"].get("unk_token"):
            kinds[index] = gguf.TokenType.UNKNOWN
            writer.add_unk_token_id(index)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(-ranks.get(token, len(merges))) for token in tokens])
    writer.add_add_space_prefix(len(forms) == 2)
