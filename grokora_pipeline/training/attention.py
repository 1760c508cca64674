"""Which models share prefixes exactly, and attention for short rows (torch).

A shared prefix may be computed once if each layer's state is keys and values, one a token: then any row below it
finds what it would have computed itself. A recurrent or convolutional state is one for the whole prefix and is advanced
in place, so such models take padded rows. The choice follows from config and modules, never from a measured error:
state that leaks between rows changes a loss by as much as bf16 rounds it.

`short` keeps the bf16 shares of every pair of tokens and nothing else: on a CPU that is faster than SDPA, whose
backward pass is slow there, and the key heads need no copies. Its memory grows with the square of the length.
"""

import copy
import inspect
import re
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.masking_utils import sdpa_mask

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.loading import reads_prompt_both_ways

_SHORT = "grokora_short"
_ALWAYS_A_MASK = {"allow_is_causal_skip": False}  # SDPA itself does without one if attention is just causal
_WITH_KEYS_AND_VALUES = {"full_attention", "sliding_attention", "chunked_attention"}
_SENSES = re.compile(r"image|vision|visual|audio")  # the names of encoders
_OTHER_STATE = (nn.Conv1d, nn.RNNBase)  # transformers' Conv1D of GPT-2 is a linear layer and none of these


def why_not_tree(model: PreTrainedModel) -> str:
    """Why rows of this model cannot share a prefix; empty if every layer provably keeps one key and value a token."""
    config, decoder = model.config.get_text_config(decoder=True), text_decoder(model)
    kinds, _ = get_layer_types_and_kwargs(config)  # what transformers' own KV cache is made from
    others = sorted(set(kinds) - _WITH_KEYS_AND_VALUES)
    if others:
        return f"it has layers of the kind {others[0]}"
    if reads_prompt_both_ways(model):
        return "its prompts are read in both directions"
    if getattr(model, "_is_stateful", False):
        return "its layers keep a recurrent state"
    if getattr(config, "num_kv_shared_layers", 0):
        return "some of its layers use the keys of others"
    if any(isinstance(module, _OTHER_STATE) for module in decoder.modules()):
        return "it has convolutional or recurrent layers"
    names = ([type(module).__name__ for module in layer.modules()] for layer in decoder_layers(model))
    if not all(any("Attention" in name for name in layer) for layer in names):
        return "it has layers without attention"
    if "past_key_values" not in inspect.signature(decoder.forward).parameters:
        return "its decoder takes no KV cache"
    return ""


def language_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, or the causal language model that one for pictures hands its text to (Nemotron-Omni)."""
    inner = model.get_decoder()
    whole = isinstance(inner, PreTrainedModel) and inner is not model and inner.get_output_embeddings() is not None
    return language_model(inner) if whole else model


def text_decoder(model: PreTrainedModel) -> nn.Module:
    """The part of a causal language model that turns token ids into hidden states; GrokoraError if it has none."""
    model = language_model(model)
    decoder: nn.Module = model.get_decoder()
    if decoder is not model and not isinstance(decoder, nn.Linear):
        return decoder
    # Llama4ForCausalLM names its body `language_model` and keeps it as `model`, so that it returns itself;
    # ModernBertDecoderForCausalLM calls its output layer `decoder`
    for child in model.children():
        if isinstance(child, PreTrainedModel):
            return cast(nn.Module, child)
    raise GrokoraError(f"{type(model).__name__} has no output layer of its own; give a causal language model.")


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of a model's text decoder, whatever the architecture calls them (layers, h, blocks).

    The longest list of modules if none has as many as the config says: HRM runs its layers several times. GIT's decoder
    holds its image encoder, whose layers are none of these.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    parts = text_decoder(model).named_modules()
    lists = [module for name, module in parts if isinstance(module, nn.ModuleList) and not _SENSES.search(name)]
    if not lists:
        raise GrokoraError(f"{type(model).__name__} has no list of decoder layers; give another model.")
    return next((layers for layers in lists if len(layers) == count), max(lists, key=len))


def with_layers(config: PreTrainedConfig, count: int) -> PreTrainedConfig:
    """The config of the model's first `count` layers."""
    shorter = copy.deepcopy(config)
    text = shorter.get_text_config(decoder=True)
    total = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list | tuple) and len(value) == total:
            setattr(text, name, value[:count])
    text.num_hidden_layers = count
    if getattr(text, "num_kv_shared_layers", 0):
        text.num_kv_shared_layers = 0  # all of these have keys of their own
    return shorter


def short_attention_is_exact(model: PreTrainedModel) -> bool:
    """Whether `short` computes what the model's own attention does: softmax(scale q k^T + mask) v, nothing else."""
    config = model.config.get_text_config(decoder=True)
    special = any(name.endswith("sinks") for name, _ in model.named_parameters())  # gpt-oss: a share nobody gets
    capped = getattr(config, "attn_logit_softcapping", None) is not None  # Gemma-2
    return bool(model._supports_attention_backend and model._supports_sdpa and not special and not capped)


def use_attention(model: PreTrainedModel, kind: str) -> None:
    """Let a model's text attend by `short`, or by an implementation of transformers (sdpa, eager, flash_attention_2).

    Its encoders keep what they were loaded with, which may be all that they have (VibeVoice's).
    """
    text, kind = model.config.get_text_config(decoder=True), _SHORT if kind == "short" else kind

    def of_text(config: PreTrainedConfig) -> dict[str, Any]:
        """`kind` for that part of a config, or of a part of it, which is the text's."""
        parts = {name: part for name in config.sub_configs if (part := getattr(config, name, None)) is not None}
        kinds = {name: kind if part is text else of_text(part) for name, part in parts.items()}
        return {name: named for name, named in kinds.items() if named}

    model.set_attn_implementation({"": kind, **of_text(model.config)})


class _Short(torch.autograd.Function):
    """softmax(scale q k^T where the mask allows) v, for G query heads on each of H key heads.

    q [B, H, G, T, d], k [B, H, K, d], v [B, H, K, e]; `look` is the mask [B or 1, 1, T, K] (True: looked at) and
    the scale.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, look: tuple[Tensor, float]) -> Tensor:
        """Outputs of shape (batch, KV heads, queries of a head, width of a value)."""
        mask, scale = look
        flat = q.flatten(2, 3) * scale
        scores = (flat @ k.transpose(-1, -2)).view(*q.shape[:-1], -1)
        shares = scores.masked_fill_(~mask[:, :, None], float("-inf")).softmax(-1).flatten(2, 3)
        ctx.save_for_backward(flat, k, v, shares)
        ctx.scale, ctx.shape = scale, q.shape
        return (shares @ v).view(*q.shape[:-1], v.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of queries, keys and values, from the shares of the forward pass."""
        q, k, v, shares = ctx.saved_tensors
        outer = gradients[0].reshape(*q.shape[:-1], v.shape[-1])  # MLA: a value is narrower than a key
        inner = torch._softmax_backward_data(outer @ v.transpose(-1, -2), shares, -1, shares.dtype)
        to_k, to_v = inner.transpose(-1, -2) @ q, shares.transpose(-1, -2) @ outer
        return (inner @ k).mul_(ctx.scale).view(ctx.shape), to_k, to_v, None


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float | None = None,
    **special: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface; query [B, heads, T, d] → [B, T, heads, d]."""
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if special.get(name) is not None]
    if unknown:  # an architecture that `short_attention_is_exact` should have refused
        raise NotImplementedError(f"The attention `short` knows no {unknown[0]}; use attention: sdpa.")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    batch, _heads, tokens, width = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, tokens, width)
    result: Tensor = _Short.apply(grouped, key, value, (attention_mask, scaling))  # type: ignore[no-untyped-call]
    return result.flatten(1, 2).transpose(1, 2), None


AttentionInterface.register(_SHORT, _attend)
AttentionMaskInterface.register(_SHORT, lambda *args, **kwargs: sdpa_mask(*args, **{**kwargs, **_ALWAYS_A_MASK}))
