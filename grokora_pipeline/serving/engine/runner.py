"""Model runner: one forward pass over the slots, and the proof that it computes what the model alone computes (torch).

Which models it can run is not a list of names: the cache that transformers makes for the model says what its layers
remember (`build_runner`), and at the start a probe compares a batch of rows, in parts, with plain passes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import (
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from grokora_pipeline.errors import one_line
from grokora_pipeline.models.loading import reads_prompt_both_ways
from grokora_pipeline.serving.engine.kv import Slots

# What a model's code may raise in a pass; it is written by many hands.
PASS_ERRORS = (
    *(RuntimeError, ValueError, TypeError, LookupError, ArithmeticError),
    *(MemoryError, AssertionError, AttributeError),
)
_PROBE_WINDOW = 6  # tokens; for the probe, so that a few tokens show whether windows are kept
# The most that two ways to compute the same logits may differ, in shares of their spread. Masks, positions or windows
# that are not kept change them by tenths; rounding of bf16 through some tens of layers by hundredths.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_ROUNDED_TOLERANCE = 0.12


class ModelRunner:
    """Runs tokens of several rows through the model, behind what their slots hold."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.slots = model, Slots(model)
        self._config = model.config.get_text_config(decoder=True)

    def run(self, start: int, tokens: Sequence[Sequence[int]], keep: Sequence[int] | None = None) -> Tensor:
        """Append tokens to the rows from slot `start` on; gives the logits [sum of keep, vocabulary] at the last `keep`
        tokens of each row (one, if None), row after row."""
        counts = [len(part) for part in tokens]
        columns, width = self.slots.prepare(start, counts)
        most = columns.shape[1]
        if not torch.cuda.is_available():
            # "1" hands grouped queries to PyTorch as they are; else transformers copies keys and values for every query
            # head. But of one token a row it then packs a group's heads into one matrix, which a CPU runs 4 to 8 times
            # faster than as many vectors: a step of 32 rows of SmolLM2 took 185 ms instead of 291.
            os.environ["TRANSFORMERS_SDPA_FORCE_GQA"] = "1" if most > 1 else "0"
        ids = torch.zeros(len(tokens), most, dtype=torch.long)
        wanted = torch.zeros(len(tokens), most, dtype=torch.bool)
        for index, part in enumerate(tokens):
            ids[index, : len(part)] = torch.tensor(part)
            wanted[index, len(part) - (1 if keep is None else keep[index]) : len(part)] = True
        out = self.model(
            input_ids=ids.to(columns.device),
            attention_mask=self._masks(columns, width),
            # padding takes its row's last position: a model may know no later one
            position_ids=torch.minimum(columns, (columns[:, :1] + torch.tensor(counts)[:, None].to(columns) - 1)),
            past_key_values=self.slots.cache,
            use_cache=True,
            # A boolean mask makes the head's input 2-D: bit-equal logits, and a CPU does not copy the whole lm_head in
            # bf16, as it does for a slice that is not contiguous.
            logits_to_keep=wanted.to(columns.device),
        )
        logits: Tensor = out.logits
        return logits

    def commit(self, start: int, counts: Sequence[int]) -> None:
        """Keep the last pass's first `counts` tokens of each row; without it the next pass overwrites them."""
        for index, count in enumerate(counts, start):
            self.slots.lengths[index] += count

    def _masks(self, columns: Tensor, width: int) -> Tensor | dict[str, Tensor | None] | None:
        """[rows, 1, tokens, width]: every token sees its row's columns up to its own, within its layer's window. None
        for a model without attention layers: its states need no mask, because rows are not padded."""
        if not self.slots.layers:
            return None
        position, column = columns[:, None, :, None], torch.arange(width, device=columns.device)
        full = column <= position
        masks = {"full_attention": full}
        if window := getattr(self._config, "sliding_window", None):
            masks["sliding_attention"] = full & (column > position - window)
        if chunk := getattr(self._config, "attention_chunk_size", None):
            masks["chunked_attention"] = full & (column // chunk == position // chunk)
        if self._config._attn_implementation != "sdpa":  # eager attention adds its mask
            low = torch.finfo(self.model.dtype).min
            masks = {
                kind: torch.zeros_like(mask, dtype=self.model.dtype).masked_fill_(~mask, low)
                for kind, mask in masks.items()
            }
        kinds = set(getattr(self._config, "layer_types", None) or ())
        if not kinds:  # every layer is alike: windowed if the model has a window
            return list(masks.values())[-1]
        if len(kinds) == 1 and (kind := kinds.pop()) in masks:
            return masks[kind]
        return {**dict.fromkeys((*kinds, "linear_attention")), **masks}  # layers with a state need none: no padding

    def probe(self) -> str:
        """Why the slots do not give this model's own logits, "" if they do.

        Three rows of different lengths, their prompts in two parts and one token more, against plain passes of each row
        alone without any cache. Windows are cut to a few tokens meanwhile: transformers reads them from the config at
        every pass, on both sides.
        """
        vocabulary = self._config.vocab_size
        rows = [
            [(7 * row + 11 * position) % vocabulary for position in range(length)]
            for row, length in enumerate((9, 14, 5))
        ]
        with _small_windows(self._config):
            try:
                plain = []
                for row in rows:
                    ids = torch.tensor([row], device=self.model.device)
                    out = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
                    plain.append(out.logits[0, -2:])
                    self.slots.open()
                alone = torch.cat(plain)
                for parts in ([row[:3] for row in rows], [row[3:-1] for row in rows]):
                    # padded in one pass, or one by one for layers with states
                    passes = (
                        [(0, parts)] if not self.slots.states else [(slot, [part]) for slot, part in enumerate(parts)]
                    )
                    each = []
                    for slot, padded in passes:
                        each.append(self.run(slot, padded))
                        self.commit(slot, [len(part) for part in padded])
                    before = torch.cat(each)
                together = torch.stack([before, self.run(0, [row[-1:] for row in rows])], 1).flatten(0, 1)
            except PASS_ERRORS as error:
                return f"a pass over slots fails ({type(error).__name__}: {one_line(error)})"
            finally:
                self.slots.clear()
        alone, together = alone.float(), together.float()
        if alone.shape != together.shape:
            return f"a pass over slots gives logits of the shape {list(together.shape)}"
        difference = float((alone - together).norm() / (alone - alone.mean(-1, keepdim=True)).norm())
        if not difference <= _TOLERANCE.get(self.model.dtype, _ROUNDED_TOLERANCE):  # not: a nan is refused, too
            return f"a pass over slots differs from the model's own by {difference:.2g}"
        return ""


@contextmanager
def _small_windows(config: Any) -> Iterator[None]:
    names = [name for name in ("sliding_window", "attention_chunk_size") if getattr(config, name, None)]
    kept = {name: getattr(config, name) for name in names}
    try:
        for name in names:
            setattr(config, name, _PROBE_WINDOW)
        yield
    finally:
        for name, value in kept.items():
            setattr(config, name, value)


def exact_tokens(config: Any) -> float:
    """How long a row may be for its keys not to depend on its own length or its neighbours'; inf for most models.

    With dynamic and long RoPE (Phi-3) the longest row of a pass sets the frequencies of all (transformers'
    `dynamic_rope_update`), and keys computed before the switch stay as they were.
    """
    text = config.get_text_config(decoder=True)
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    limits = [
        part.get("original_max_position_embeddings") or text.max_position_embeddings
        for part in (parameters, *nested)
        if part.get("rope_type") in ("dynamic", "longrope")
    ]
    return float(min(limits)) if limits else float("inf")


@torch.inference_mode()
def build_runner(model: PreTrainedModel) -> tuple[ModelRunner | None, str]:
    """(the runner, ""), or (None, why the model must be run by its own `generate`)."""
    if model.config.is_encoder_decoder:
        return None, "it is an encoder-decoder"
    if reads_prompt_both_ways(model):
        return None, "its prompts are read in both directions"
    # read off the cache that transformers itself would make, not off a list of architectures
    kept = {DynamicLayer, DynamicSlidingWindowLayer, DummyLayer, LinearAttentionLayer}
    layers = DynamicCache(config=model.config).layers
    if other := sorted({type(layer).__name__ for layer in layers if type(layer) not in kept}):
        return None, f"its cache has layers of {', '.join(other)}"
    runner = ModelRunner(model)
    reason = runner.probe()
    return (None, reason) if reason else (runner, "")
