"""A small random copy of a model's architecture: the same classes and kinds of layers, few weights (torch)."""

import json
import re
import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from grokora_pipeline.errors import GrokoraError, one_line
from grokora_pipeline.models.chat import read_json
from grokora_pipeline.models.loading import auto_class, shown_layers

WINDOW = 24  # tokens; a probe's rows are shorter and longer than that
LARGEST = 400e6  # parameters of a copy that keeps the model's own widths
_OTHER_INPUT = re.compile("pixel_values|image_embeds|input_features|input_values|Bbox")
_OWN_HEADS = "own heads"  # a limit that keeps the width of a head, and makes the model as wide as so many heads
_HIDDEN = ("hidden_size", "n_embd", "d_model")
# A state-space mixer is `expand` times as wide as the model, in heads of a width.
_MIXERS = (("expand", "num_heads", "head_dim"), ("mamba_expand", "mamba_n_heads", "mamba_d_head"))
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "layers")
# What the code of an architecture may raise, which is written by many hands.
MODEL_ERRORS = (
    *(RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, AssertionError),
    *(ZeroDivisionError, OSError, GrokoraError, StrictDataclassError),
)
# Upper bounds of what a config may ask for, by the names that architectures use; what is smaller stays.
_HEADS = {"num_attention_heads": 4, "n_head": 4, "num_heads": 4, "n_heads": 4, "num_key_value_heads": 2}
_HEADS |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "linear_num_heads": 4, "attention_heads": 4}
_HEAD_WIDTHS = {"head_dim": 16, "query_pre_attn_scalar": 16, "global_head_dim": 16, "v_head_dim": 16} | {
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_head_dim": 16,
}
_WIDTHS = (
    dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "out_hidden_size", "projection_dim"), 64)
    | dict.fromkeys(("text_hidden_size", "audio_hidden_size", "embedding_dim", "embed_dim"), 64)
    | dict.fromkeys(("adapter_in_dim", "adapter_input_size", "adapter_out_dim"), 64)
    | {"num_filters": 4}  # of VibeVoice's encoders of sound, doubled at each of their stages
    | dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "block_ff_dim", "shared_intermediate_size"), 128)
    | dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "dense_intermediate_size"), 64)
    | {"ffn_hidden_size": 128, "expert_ffn_hidden_size": 64, "zero_expert_num": 4}
    | {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    | dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4)
    | dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k"), 2)
    | {"n_group": 1, "num_expert_group": 1, "topk_group": 1, "q_lora_rank": 32, "kv_lora_rank": 16}
    | {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "mamba_n_heads": 8, "mamba_d_head": 16}
    | {"mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 32, "state_size": 8}
    | {"hidden_size_per_layer_input": 16}
    | dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size"), WINDOW)
    | {"index_topk": 32}  # tokens that sparse attention looks at; GLM-5-Next wants a multiple of 16
    | {"depth": 1, "image_size": 28, "patch_size": 14}
)


class UnprovenError(ValueError):
    """A copy says nothing about its model: it would be too large, or its random weights give no finite logits."""


def named_line(error: Exception) -> str:
    """What an error says, in one line, with the name of its class if it is not this project's own."""
    own = isinstance(error, GrokoraError | UnprovenError)
    return f"{'' if own else type(error).__name__ + ': '}{one_line(error, 240)}"


def write_miniature(folder: Path, output: Path) -> None:
    """Write a random copy of the model in `folder`, in fp32 with the model's tokenizer.

    It is as narrow as it still builds and runs, else as wide as the model. GrokoraError if transformers cannot build
    the model at all, or run it on text alone; another of MODEL_ERRORS if only small copies fail, which proves nothing.
    """
    config = read_json(folder / "config.json")
    try:
        parsed = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        auto_class(parsed)
        if (folder / "generation_config.json").is_file():
            GenerationConfig.from_pretrained(str(folder))
    except GrokoraError:
        raise
    except MODEL_ERRORS as error:
        version = transformers.__version__
        raise GrokoraError(f"transformers {version} cannot read its configs: {named_line(error)}.") from error
    text = parsed.get_text_config(decoder=True)
    # Left out is what a config class computes from other settings and still writes (Zamba2's widths of attention).
    if is_dataclass(kind := type(parsed)):
        own = {field.name for field in fields(kind)} | set(parsed.attribute_map.values())  # Kimi-Linear's num_experts
        computed = vars(kind()).keys() - vars(PreTrainedConfig()).keys() - own
        config = {name: value for name, value in config.items() if name not in computed}
    shown = shown_layers(text)
    shared = shown if getattr(text, "num_kv_shared_layers", 0) else 0  # as many layers that use the keys of these
    failures = list[Exception]()
    # Rotary factors and the like are lists of the head's width: if they do not fit, the model's own head width is kept.
    # A base that is small already is tried as it is, if nothing narrower runs.
    narrower = (_WIDTHS | _HEADS | _HEAD_WIDTHS, _WIDTHS | _HEADS | {_OWN_HEADS: 1}, {"sliding_window": WINDOW}, None)
    for limits in narrower:
        try:
            _build(config if limits is None else _narrow(config, limits, shown, shared), output)
        except MODEL_ERRORS as error:  # the widths of an architecture that nobody has seen may not fit each other
            failures.append(error)
            continue
        for pattern in ("tokenizer*", "*.jinja", "*.model", "special_tokens_map.json", "vocab.json", "merges.txt"):
            for path in folder.glob(pattern):
                shutil.copyfile(path, output / path.name)
        return
    if refusals := [error for error in failures if isinstance(error, GrokoraError)]:
        raise refusals[0]
    # what asks for a picture or a sound does so at any width; else only the failure of the model as it is counts
    decisive = next((error for error in failures if _OTHER_INPUT.search(str(error))), failures[-1])
    if isinstance(decisive, UnprovenError):
        raise failures[0]
    raise GrokoraError(f"transformers cannot run it on text alone: {named_line(decisive)}.") from decisive


def _narrow(config: dict[str, Any], limits: dict[str, int], shown: int, shared: int) -> dict[str, Any]:
    """The config with fewer layers and with numbers no larger than `limits`."""
    total = next((config[name] for name in _LAYERS if name in config), 0)
    copy: dict[str, Any] = {}
    for name, value in config.items():
        if name in ("dtype", "torch_dtype", "num_layers_per_stack"):  # HRM computes both of its numbers from one
            continue
        if isinstance(value, dict) and name.endswith("_config") and name != "per_layer_config":
            copy[name] = _narrow(value, limits, shown, shared)
        elif isinstance(value, dict) and value and all(key.isdigit() and int(key) < total for key in value):
            # Settings of single layers; Aria's numbers of patches are none.
            kept = {key: setting for key, setting in value.items() if int(key) < shown + shared}
            copy[name] = {
                key: _narrow(setting, limits, shown, shared) if isinstance(setting, dict) else setting
                for key, setting in kept.items()
            }
        elif name in _LAYERS and isinstance(value, int):
            copy[name] = min(value, shown + shared)
        elif name == "num_kv_shared_layers":
            copy[name] = shared
        elif name == "vision_feature_layer" and isinstance(value, list):  # Molmo-2
            copy[name] = [min(layer, 1) for layer in value]
        elif name == "attention_types":  # GPT-Neo: [[kinds of layers, how often they follow each other], …]
            kinds = [kind for pattern, times in value for kind in pattern * times]
            copy[name] = [[kinds[: shown + shared], 1]]
        elif isinstance(value, list) and total and len(value) == total:
            copy[name] = (value[:shown] * 2)[: shown + shared]
        elif limits.get(name) and isinstance(value, int) and not isinstance(value, bool):
            copy[name] = min(value, limits[name])
        else:
            copy[name] = value
    _fit_widths(copy, config, own_heads=_OWN_HEADS in limits)
    return copy


def _fit_widths(copy: dict[str, Any], config: dict[str, Any], *, own_heads: bool) -> None:
    """Correct those numbers of the narrower copy that follow from others."""
    width, heads = (next((name for name in names if config.get(name)), "") for names in (_HIDDEN, _HEADS))
    if width and heads and own_heads:
        copy[width] = copy[heads] * (config.get("head_dim") or config[width] // config[heads])
    if heads and config.get("num_key_value_heads") == config[heads]:  # DeepSeek's heads of keys are made from latents
        copy["num_key_value_heads"] = copy[heads]
    if isinstance(wide := config.get("attention_hidden_size"), int) and width:  # RWKV
        copy["attention_hidden_size"] = wide * copy[width] // config[width]
    if copy.get("qk_head_dim"):  # LongCat writes the sum into its config, and what is rotated as the head's width
        copy["qk_head_dim"] = copy["qk_nope_head_dim"] + copy["qk_rope_head_dim"]
        copy["head_dim"] = copy["qk_rope_head_dim"]
    layers = [config, *filter(None, (config.get("per_layer_config") or {}).values())]
    parts = [layer.get("qk_nope_head_dim", 0) + config.get("qk_rope_head_dim", 0) for layer in layers]
    if copy.get("head_dim") != config.get("head_dim") in parts:  # Dots-3's, of its windowed layers
        copy["head_dim"] = copy["qk_nope_head_dim"] + copy["qk_rope_head_dim"]
    if "qk_dim_factor" in config:  # xLSTM's states are as wide as multiples of 64, its layers are not
        copy["hidden_size"] = copy["embedding_dim"] = min(128, config["hidden_size"])
    for expand, mixer_heads, mixer_width in _MIXERS:
        if width and all(isinstance(copy.get(name), int) for name in (expand, mixer_heads, mixer_width)):
            copy[mixer_heads] = copy[expand] * copy[width] // copy[mixer_width]
            copy |= {"mamba_d_ssm": copy[expand] * copy[width]} if copy.get("mamba_d_ssm") else {}
    rope = copy.get("rope_parameters")
    if isinstance(rope, dict) and width and heads:
        before, after = (part.get("head_dim") or part[width] // part[heads] for part in (config, copy))

        def fitted(rope: dict[str, Any]) -> dict[str, Any]:
            """The settings of all layers, or of each kind of layers (Cohere-Compass), with sections of the copy's."""
            parts = {name: fitted(part) if isinstance(part, dict) else part for name, part in rope.items()}
            if sections := rope.get("mrope_section"):
                # They make up half of what is rotated, which may be a part of a head (GLM-4V).
                rest = [part * after // before for part in sections[1:]]
                parts["mrope_section"] = [sum(sections) * after // before - sum(rest), *rest]
            return parts

        copy["rope_parameters"] = fitted(rope)


def _build(config: dict[str, Any], output: Path) -> None:
    """Build the model, run it once, and write it."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / "config.json").write_text(json.dumps(config), encoding="utf-8")
    parsed = AutoConfig.from_pretrained(str(output), trust_remote_code=False)
    kind = auto_class(parsed)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in kind.from_config(parsed).parameters())
    if size > LARGEST:
        raise UnprovenError(f"the smallest copy that can be built has {size / 1e6:.0f} M parameters")
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = kind.from_config(parsed, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms, biases and sinks away from 0 and 1, which hide mistakes
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        head = model.get_output_embeddings()
        if head is not None:  # answers that differ, instead of one token for ever
            head.weight.mul_(3.0)
        ids = torch.arange(3, 3 + 2 * WINDOW)[None]
        logits = model(input_ids=ids, use_cache=False).logits
        if logits.shape[:2] != ids.shape:  # ShieldGemma2 answers yes or no about a picture
            raise GrokoraError(f"Models of type {parsed.model_type!r} write no text; give a causal language model.")
        if not torch.isfinite(logits).all():
            raise UnprovenError("the copy's logits are not finite")
    model.save_pretrained(output)
