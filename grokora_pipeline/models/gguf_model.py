"""A model folder as llama.cpp sees it: its architecture, hyperparameters and tensors under llama.cpp's names.

Names, permutation and hyperparameters follow llama.cpp's own converters. What its code takes for granted and the
model's config says otherwise is refused: llama.cpp would load the file and answer wrongly.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat, read_json

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one transformers class differ from each other's files."""

    arch: str  # a name of gguf.MODEL_ARCH
    permuted: bool = False  # llama.cpp rotates neighbouring pairs of q and k, transformers the two halves
    norm_offset: float = 0.0  # transformers multiplies by offset + weight
    activation: Sequence[str | None] = ("silu", "swish")
    full_every: int = 0  # each n-th layer attends to everything, the others to a window; 0: no windows in llama.cpp
    partial_rotary: bool = False  # whether only a part of a head may be rotated
    width: str = "intermediate_size"  # the setting that holds the width of the feed-forward layers
    # Settings that llama.cpp's code does not read, with the values that it computes with.
    taken_for_granted: Mapping[str, Sequence[Any]] = field(default_factory=dict)


_GELU = ("gelu_pytorch_tanh", "gelu")
_CAUSAL: dict[str, Sequence[Any]] = {"use_bidirectional_attention": (None, False)}
_NO_CAPS: dict[str, Sequence[Any]] = {"attn_logit_softcapping": (None,), "final_logit_softcapping": (None,)}
_GEMMA3 = Family("GEMMA3", norm_offset=1.0, activation=_GELU, full_every=6, taken_for_granted=_CAUSAL | _NO_CAPS)
_MINISTRAL = Family("MISTRAL3", permuted=True)
_DENSE: dict[str, Sequence[Any]] = {"num_local_experts": (0, None)}
_ALL_SPARSE: dict[str, Sequence[Any]] = {"decoder_sparse_step": (1,), "mlp_only_layers": ((), [])}
FAMILIES = {
    "LlamaForCausalLM": Family("LLAMA", permuted=True),
    "MistralForCausalLM": Family("LLAMA", permuted=True),
    "Ministral3ForCausalLM": _MINISTRAL,
    "MixtralForCausalLM": Family("LLAMA", permuted=True),
    "ArceeForCausalLM": Family("ARCEE", permuted=True, activation=("relu2",)),
    "GraniteForCausalLM": Family("GRANITE", permuted=True),
    "GraniteMoeForCausalLM": Family("GRANITE_MOE", permuted=True),
    "GraniteMoeSharedForCausalLM": Family("GRANITE_MOE", permuted=True),
    "GraniteMoeHybridForCausalLM": Family(
        *("GRANITE", True),
        width="shared_intermediate_size",
        taken_for_granted=_DENSE | {"position_embedding_type": ("rope",)},
    ),
    "SmolLM3ForCausalLM": Family("SMOLLM3", permuted=True),
    "Ernie4_5ForCausalLM": Family("ERNIE4_5"),
    "Qwen2ForCausalLM": Family("QWEN2"),
    "Qwen2MoeForCausalLM": Family("QWEN2MOE", taken_for_granted=_ALL_SPARSE | {"norm_topk_prob": (False,)}),
    "Qwen3ForCausalLM": Family("QWEN3"),
    "Qwen3MoeForCausalLM": Family("QWEN3MOE", taken_for_granted=_ALL_SPARSE | {"norm_topk_prob": (True,)}),
    "Olmo2ForCausalLM": Family("OLMO2"),
    "Olmo3ForCausalLM": Family("OLMO2", full_every=4),
    "OlmoeForCausalLM": Family("OLMOE", taken_for_granted={"norm_topk_prob": (False,), "clip_qkv": (None,)}),
    "SeedOssForCausalLM": Family("SEED_OSS"),
    "HunYuanDenseV1ForCausalLM": Family("HUNYUAN_DENSE"),
    "Exaone4ForCausalLM": Family("EXAONE4", taken_for_granted={"sliding_window": (None,)}),
    "Lfm2ForCausalLM": Family("LFM2", activation=(None,)),
    "Phi3ForCausalLM": Family("PHI3", partial_rotary=True),
    "GlmForCausalLM": Family("CHATGLM", partial_rotary=True),
    "Glm4ForCausalLM": Family("GLM4", partial_rotary=True),
    "CohereForCausalLM": Family("COMMAND_R", taken_for_granted={"use_qk_norm": (False,)}),
    "Cohere2ForCausalLM": Family("COHERE2", full_every=4),
    "Starcoder2ForCausalLM": Family("STARCODER2", activation=_GELU),
    "GemmaForCausalLM": Family("GEMMA", norm_offset=1.0, activation=_GELU),
    "Gemma2ForCausalLM": Family("GEMMA2", norm_offset=1.0, activation=_GELU, full_every=2, taken_for_granted=_CAUSAL),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3,
    "Mistral3ForConditionalGeneration": Family("LLAMA", permuted=True),
}
# Settings that llama.cpp reads, by the writer's method; the widths and heads stand in `add_hyperparameters`.
_NUMBERS: dict[str, Callable[[gguf.GGUFWriter, Any], None]] = {
    "rms_norm_eps": gguf.GGUFWriter.add_layer_norm_rms_eps,
    "layer_norm_eps": gguf.GGUFWriter.add_layer_norm_eps,
    "norm_eps": gguf.GGUFWriter.add_layer_norm_rms_eps,
    "norm_epsilon": gguf.GGUFWriter.add_layer_norm_eps,
    "logits_scaling": gguf.GGUFWriter.add_logit_scale,
    "logit_scale": gguf.GGUFWriter.add_logit_scale,
    "attention_multiplier": gguf.GGUFWriter.add_attention_scale,
    "embedding_multiplier": gguf.GGUFWriter.add_embedding_scale,
    "residual_multiplier": gguf.GGUFWriter.add_residual_scale,
    "attn_logit_softcapping": gguf.GGUFWriter.add_attn_logit_softcapping,
    "final_logit_softcapping": gguf.GGUFWriter.add_final_logit_softcapping,
    "num_experts": gguf.GGUFWriter.add_expert_count,
    "num_local_experts": gguf.GGUFWriter.add_expert_count,
    "num_experts_per_tok": gguf.GGUFWriter.add_expert_used_count,
    "moe_intermediate_size": gguf.GGUFWriter.add_expert_feed_forward_length,
    "shared_expert_intermediate_size": gguf.GGUFWriter.add_expert_shared_feed_forward_length,
    "shared_intermediate_size": gguf.GGUFWriter.add_expert_shared_feed_forward_length,
    "conv_L_cache": gguf.GGUFWriter.add_shortconv_l_cache,
}
# What the gguf package's table of names lacks: Granite's gates and ups are the halves of one tensor's rows.
_NAMES = {
    "block_sparse_moe.input_linear": ("ffn_gate_exps", "ffn_up_exps"),
    "shared_mlp.input_linear": ("ffn_gate_shexp", "ffn_up_shexp"),
    "shared_mlp.output_linear": ("ffn_down_shexp",),
}
_EXPERT = re.compile(r"(.+\.experts)\.(\d+)(\..+)")
_LANGUAGE_MODEL = re.compile(r"(model\.)?language_model\.(model\.)?")  # of a model that reads pictures, too


class Model:
    """A model folder: its config with transformers' defaults filled in, and its tensors under llama.cpp's names.

    GrokoraError if llama.cpp, or this converter, does not know the model.
    """

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
        parsed = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        text = parsed.get_text_config(decoder=True)
        self.reads_pictures = text is not parsed
        self.config: dict[str, Any] = text.to_dict()
        if self.config["model_type"] == "ministral3":  # the same class reads pictures for Mistral and Ministral
            self.family = _MINISTRAL
        self.tied = bool(self.config.get("tie_word_embeddings", raw.get("tie_word_embeddings")))
        self.layers = int(self.config["num_hidden_layers"])
        arch = gguf.MODEL_ARCH[self.family.arch]
        self.arch_name = gguf.MODEL_ARCH_NAMES[arch]
        self.heads = int(self.config["num_attention_heads"])
        self.kv_heads = int(self.config.get("num_key_value_heads") or self.heads)
        self.head_dim = int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)
        self.kinds = list(self.config.get("layer_types") or ["full_attention"] * self.layers)
        rope = self.config.get("rope_parameters") or {}
        # Newer configs have settings for each kind of layer.
        self.rope: dict[str, Any] = rope.get("full_attention", rope)
        self.local_rope: dict[str, Any] = rope.get("sliding_attention", self.rope)
        self.rotated = int(self.head_dim * float(self.rope.get("partial_rotary_factor") or 1.0))  # numbers of a head
        self._names = gguf.get_tensor_name_map(arch, self.layers)
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        """GrokoraError for settings that llama.cpp's code for this architecture does not read."""
        config, family, arch = self.config, self.family, self.family.arch
        every, layers = family.full_every, range(1, self.layers + 1)
        windows = ["sliding_attention" if every and layer % every else "full_attention" for layer in layers]
        kinds = set(self.kinds) - {"full_attention", "sliding_attention", *(["conv"] if arch == "LFM2" else [])}
        # llama.cpp knows the 27B models by their depth; they divide by another width than a head's.
        large = self.layers == {"GEMMA2": 46, "GEMMA3": 62}.get(arch)
        divisor = config["hidden_size"] // self.heads if large else self.head_dim
        rotary_layers = [int(layer % 4 != 0) for layer in layers]
        unread = {
            f"with {name} {config.get(name)!r}": config.get(name) not in values
            for name, values in family.taken_for_granted.items()
        }
        unread |= {
            "with this activation function": config.get("hidden_activation", config.get("hidden_act"))
            not in family.activation,
            f"with layers of {', '.join(sorted(kinds))}": bool(kinds),
            f"unless every layer but each {every}th has a window": bool(every) and self.kinds != windows,
            "unless every fourth layer has no rotary embedding": arch == "SMOLLM3"
            and list(config["no_rope_layers"]) != rotary_layers,
            f"unless query_pre_attn_scalar is {divisor}": arch in ("GEMMA2", "GEMMA3")
            and config["query_pre_attn_scalar"] != divisor,
            "without soft caps of its logits": arch == "GEMMA2"
            and not (config["attn_logit_softcapping"] and config["final_logit_softcapping"]),
            "with fewer heads of keys than of queries": arch == "OLMOE" and self.kv_heads != self.heads,
            "with a scaled rotary embedding in a window": self.local_rope != self.rope
            and self.local_rope.get("rope_type", "default") != "default",
            "with a partial rotary embedding": not family.partial_rotary and self.rotated != self.head_dim,
        }
        for setting, refused in unread.items():
            if refused:
                raise GrokoraError(f"llama.cpp does not know {self.architecture} {setting}; export --to vllm or peft.")

    def add_hyperparameters(self, writer: gguf.GGUFWriter) -> None:
        """The numbers that llama.cpp builds the graph from."""
        config = self.config
        context = ChatFormat.load(self.folder).context_length
        window = int(config.get("sliding_window") or 0) if "sliding_attention" in self.kinds else 0
        if self.family.full_every and window:
            writer.add_sliding_window(window)
            writer.add_rope_freq_base_swa(float(self.local_rope.get("rope_theta") or 10000.0))
        elif window := window or int(config.get("sliding_window") or 0):
            context = min(context, window)  # llama.cpp has no window here: up to its length it makes no difference
        if (
            self.rope.get("rope_type") == "longrope"
        ):  # up to here transformers takes the short factors, as llama.cpp does
            context = min(context, int(self.rope["original_max_position_embeddings"]))
        writer.add_vocab_size(int(config["vocab_size"]))
        writer.add_context_length(context)
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_block_count(self.layers)
        if self.family.arch == "LFM2":  # its config holds another width than its tensors have
            shapes = (shape for key, (_, shape) in self._stored().items() if key.endswith("feed_forward.w1.weight"))
            writer.add_feed_forward_length(next(shapes)[0])
        else:
            writer.add_feed_forward_length(int(config[self.family.width]))
        writer.add_head_count(self.heads)
        conv = [0 if kind == "conv" else self.kv_heads for kind in self.kinds]
        writer.add_head_count_kv(conv if 0 in conv else self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        dense = config.get("num_local_experts") == 0  # llama.cpp ends itself on experts to be used, but none to use
        for setting, add in _NUMBERS.items():
            if (value := config.get(setting)) is not None and not (dense and "expert" in setting):
                add(writer, value)
        writer.add_rope_dimension_count(self.rotated)
        writer.add_rope_freq_base(float(self.rope.get("rope_theta") or 10000.0))
        self._add_rope_scaling(writer)

    def _add_rope_scaling(self, writer: gguf.GGUFWriter) -> None:
        rope, kind = self.rope, self.rope.get("rope_type", "default")
        ministral = self.family is _MINISTRAL and rope.get("mscale") == rope.get("mscale_all_dim") == 1.0
        if kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        elif kind == "yarn" and (ministral or not {"mscale", "mscale_all_dim", "attention_factor"} & rope.keys()):
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(float(rope["factor"]))
            writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
            if ministral:
                writer.add_rope_scaling_yarn_beta_fast(float(rope["beta_fast"]))
                writer.add_rope_scaling_yarn_beta_slow(float(rope["beta_slow"]))
                writer.add_rope_scaling_yarn_log_mul(1.0)
                writer.add_attn_temperature_scale(float(rope["llama_4_scaling_beta"]))
        elif kind == "longrope" and self.family.arch == "PHI3":
            original = int(rope["original_max_position_embeddings"])
            factor = float(rope.get("factor") or self.config["max_position_embeddings"] / original)
            attention = rope.get("attention_factor") or math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(original))
            writer.add_rope_scaling_orig_ctx_len(original)
            writer.add_rope_scaling_attn_factors(float(attention))
        elif kind not in ("default", "llama3"):
            raise GrokoraError(f"Rotary embedding of type {kind} is not known to this converter.")

    def names_of(self, key: str) -> list[str]:
        """llama.cpp's names for a tensor, several if its rows are several of llama.cpp's; [] if it has none for it."""
        key = _LANGUAGE_MODEL.sub("model.", key, count=1) if self.reads_pictures else key
        layer = next(iter(re.findall(r"\.layers\.(\d+)\.", key)), "")
        for part, names in _NAMES.items():
            if part in key:
                # A dense Granite 4 calls its only feed-forward layers shared.
                unshared = (name.removesuffix("_shexp") if self.family.arch == "GRANITE" else name for name in names)
                return [f"blk.{layer}.{name}.weight" for name in unshared]
        name = self._names.get_name(key, try_suffixes=(".weight", ".bias"))
        return [name] if name else []

    def _stored(self) -> dict[str, tuple[Path, tuple[int, ...]]]:
        """(file, shape) of every tensor that belongs to the text model."""
        from safetensors import safe_open

        stored: dict[str, tuple[Path, tuple[int, ...]]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            with safe_open(str(path), framework="pt") as file:
                stored |= {key: (path, tuple(file.get_slice(key).get_shape())) for key in file.keys()}  # noqa: SIM118
        if self.reads_pictures:
            own = ("lm_head.", "language_model.", "model.language_model.")
            stored = {key: one for key, one in stored.items() if key.startswith(own)}
        unused = ("lm_head.weight",) if self.tied else ()
        return {key: one for key, one in stored.items() if not key.endswith((*unused, "rotary_emb.inv_freq"))}

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Array]]]:
        """(name, shape, function that reads it as fp32) of every tensor; tied weights are left out."""
        yield from self._rope_factors()
        stored, groups = self._stored(), defaultdict[str, list[tuple[int, str]]](list)
        for key in stored:
            expert = _EXPERT.fullmatch(key)  # llama.cpp has one tensor for all experts of a layer
            groups[expert[1] + expert[3] if expert else key].append((int(expert[2]) if expert else -1, key))
        for key, members in groups.items():
            if not (names := self.names_of(key)):
                raise GrokoraError(f"llama.cpp has no place for the tensor {key} in {self.arch_name}.")
            sources = [(stored[member][0], member) for _, member in sorted(members)]
            shape = stored[sources[0][1]][1]
            shape = tuple(size for size in shape if size > 1)  # a convolution's kernel has a size of 1 between
            if members[0][0] >= 0:
                shape = (len(sources), *shape)
            elif len(names) > 1:
                shape = (*shape[:-2], shape[-2] // len(names), shape[-1])
            for part, name in enumerate(names):
                yield name, shape, partial(self._read, sources, name, (part, len(names)), shape)

    def _rope_factors(self) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Array]]]:
        factors = dict[str, Array]()
        if self.rope.get("rope_type") == "llama3":
            factors["rope_freqs"] = _llama3_factors(self.rope, self.head_dim)
        elif self.rope.get("rope_type") == "longrope":
            for length in ("long", "short"):
                factors[f"rope_factors_{length}"] = np.array(self.rope[f"{length}_factor"], dtype=np.float32)
        for name, values in factors.items():
            yield f"{name}.weight", values.shape, partial(np.copy, values)

    def _read(
        self, sources: Sequence[tuple[Path, str]], name: str, part: tuple[int, int], shape: tuple[int, ...]
    ) -> Array:
        """A part (its number, of how many) of a tensor's rows; several sources are stacked."""
        from safetensors import safe_open

        arrays = list[Array]()
        for path, key in sources:
            with safe_open(str(path), framework="pt") as file:
                arrays.append(file.get_tensor(key).float().numpy())
        array = np.stack(arrays) if len(arrays) > 1 else arrays[0]
        if part[1] > 1:
            array = np.split(array, part[1], axis=-2)[part[0]]
        if array.ndim == 1 and name.endswith("norm.weight"):
            array = array + np.float32(self.family.norm_offset)
        return self.arrange(name, array).reshape(shape)

    def arrange(self, name: str, rows: Array) -> Array:
        """The rows of a q or k projection in llama.cpp's order; of any other tensor as they are."""
        part = name.split(".")[-2]
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
