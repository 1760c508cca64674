"""Batched decoding and scoring in which the prefix that rows share is computed once.

Rows are grouped by their common beginning (system prompt, tools, few-shot examples). The prefix goes through the model
once and is kept from call to call (`Prefixes`); its keys and values are copied into every row of a batch. Rows are
padded on the left, between prefix and suffix, so that all rows of a batch end in the same column. Finished rows leave.
"""

import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from grokora_pipeline.models.kv import empty_cache, token_bytes

Tokens = Sequence[int]
Progress = Callable[[int, int], None]
SHARED_PREFIX = 16  # tokens; a shorter common beginning is not worth a pass of its own
BATCH_BYTES = 1 << 30  # of a batch's keys, values and logits, at most
BATCH_ROWS = 64
KEPT_PREFIXES = 8  # of one system
LEAVE_SHARE = 0.8  # finished rows leave together, when so few are left: leaving copies the others' keys and values
if not torch.cuda.is_available():  # else transformers copies keys and values for every query head that shares them
    os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are decoded: greedy at temperature 0, else sampled with a seed of each row's own."""

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer: its token ids without the stop token, and its share of the batch's seconds."""

    tokens: list[int]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A beginning in tokens, with its keys and values; any shorter beginning of it is in there, too."""

    tokens: list[int]
    cache: Cache

    def widened(self, rows: int, room: int) -> Cache:
        """Its keys and values for a batch of `rows`, with room for `room` tokens."""
        return Cache(layers=[layer.widened(rows, room, len(self.tokens)) for layer in self.cache.layers])


class Prefixes:
    """The beginnings that one system (a base, or a base with one adapter) has computed, the latest ones."""

    def __init__(self) -> None:
        self._known: list[_Prefix] = []

    def of(self, model: PreTrainedModel, texts: Sequence[Tokens], limit: int) -> _Prefix | None:
        """What the texts begin with, at most `limit` tokens; computed where it was not yet. None where it is short."""
        shared = _common(texts, limit) if len(texts) > 1 else 0
        known, usable = None, 0
        for prefix in self._known:
            length = _common([prefix.tokens, *texts], min(limit, len(prefix.tokens)))
            known, usable = (prefix, length) if length > usable else (known, usable)
        if max(shared, usable) < SHARED_PREFIX:
            return None
        if known is None or shared - usable >= SHARED_PREFIX:
            return self._longer(model, texts[0][:shared], known, usable)
        return _Prefix(known.tokens[:usable], known.cache)

    def _longer(self, model: PreTrainedModel, tokens: Tokens, known: _Prefix | None, usable: int) -> _Prefix:
        """A prefix that goes on from the first `usable` tokens of a known one."""
        start = _Prefix(known.tokens[:usable], known.cache) if known else None
        cache = start.widened(1, len(tokens)) if start else empty_cache(model, len(tokens))
        rest = torch.tensor([list(tokens[usable:])], device=model.device)
        positions = torch.arange(usable, len(tokens), device=model.device)[None]
        none = torch.arange(0, device=model.device)  # no logits are needed
        model(input_ids=rest, position_ids=positions, past_key_values=cache, logits_to_keep=none)
        made = _Prefix(list(tokens), cache)
        covered = known if known and usable == len(known.tokens) else None
        kept = [prefix for prefix in self._known if prefix is not covered]
        self._known = [*kept[1 - KEPT_PREFIXES :], made]
        return made


@dataclass(slots=True)
class _Batch:
    """Rows in flight: `mask` [rows, room] marks the real tokens, `position` [rows] is each row's next position."""

    cache: Cache
    mask: Tensor
    position: Tensor
    rows: list[int]


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    decoding: Decoding,
    progress: Progress | None = None,
    *,
    seeds: Sequence[int] | None = None,
    prefixes: Prefixes | None = None,
) -> list[Generated]:
    """Answers to prompts (token ids), in their order; the model answers with whatever adapter is active in it.

    `seeds` gives each row a seed of its own in place of the decoding's; `prefixes` is what this system computed before.
    """
    done: dict[int, Generated] = {}
    row_bytes = decoding.max_new_tokens * token_bytes(model)
    for rows, prefix in _batches(model, prompts, row_bytes, prefixes or Prefixes()):
        started = time.perf_counter()
        texts = {row: prompts[row] for row in rows}
        batch, logits = _start(model, texts, prefix, new_tokens=decoding.max_new_tokens, keep=1)
        row_seeds = {row: seeds[row] if seeds else decoding.seed for row in rows}
        noise = _noise(texts, decoding.temperature, row_seeds, model.device)
        answers = _decode(model, batch, logits[:, -1], decoding, noise)
        share = (time.perf_counter() - started) / len(rows)
        done.update({row: Generated(tokens, share) for row, tokens in answers.items()})
        if progress:
            progress(len(done), len(prompts))
    return [done[row] for row in range(len(prompts))]


@torch.inference_mode()
def completion_nll(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    progress: Progress | None = None,
    *,
    prefixes: Prefixes | None = None,
) -> list[float]:
    """Each completion's summed negative log-likelihood in nats; logits are made only where they count."""
    texts = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    prompt_lengths = [len(prompt) for prompt in prompts]
    done: dict[int, float] = {}
    most = 1 + max(map(len, completions), default=0)
    logit_bytes = most * model.config.get_text_config().vocab_size * model.dtype.itemsize
    for rows, prefix in _batches(model, texts, logit_bytes, prefixes or Prefixes(), prompt_lengths):
        longest = max(len(completions[row]) for row in rows)
        _, logits = _start(model, {row: texts[row] for row in rows}, prefix, new_tokens=0, keep=longest + 1)
        for place, row in enumerate(rows):
            length = len(completions[row])
            target = torch.tensor(completions[row], device=logits.device)
            window = logits[place, -1 - length : -1].float()
            done[row] = float(torch.nn.functional.cross_entropy(window, target, reduction="sum")) if length else 0.0
        if progress:
            progress(len(done), len(texts))
    return [done[row] for row in range(len(texts))]


def _batches(
    model: PreTrainedModel,
    texts: Sequence[Tokens],
    row_bytes: int,
    prefixes: Prefixes,
    limits: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], _Prefix | None]]:
    """(rows, the prefix they share) of every batch, longest rows first."""
    limits = limits or [len(text) for text in texts]
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault(tuple(text[:SHARED_PREFIX]), []).append(row)
    for rows in groups.values():
        # a row keeps its last prompt token, so that it has something to run that yields its first logits
        prefix = prefixes.of(model, [texts[row] for row in rows], min(limits[row] for row in rows) - 1)
        rows.sort(key=lambda row: -len(texts[row]))
        start = 0
        while start < len(rows):
            fit = BATCH_BYTES // (len(texts[rows[start]]) * token_bytes(model) + row_bytes)
            stop = start + max(1, min(BATCH_ROWS, fit))
            yield rows[start:stop], prefix
            start = stop


def _common(texts: Sequence[Tokens], limit: int) -> int:
    """The length of the common beginning, at most `limit`."""
    low, high = min(texts, key=list), max(texts, key=list)
    return next((place for place in range(limit) if low[place] != high[place]), max(0, limit))


def _start(
    model: PreTrainedModel, texts: dict[int, Tokens], shared: _Prefix | None, *, new_tokens: int, keep: int
) -> tuple[_Batch, Tensor]:
    """Run the rows' suffixes behind the shared prefix; gives the batch and the logits [rows, keep, vocabulary]."""
    prefix = len(shared.tokens) if shared else 0
    width = max(map(len, texts.values())) - prefix
    room = prefix + width + new_tokens
    mask = torch.ones(len(texts), room, dtype=torch.long)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    for place, text in enumerate(texts.values()):
        length = len(text) - prefix
        mask[place, prefix : prefix + width - length] = 0
        ids[place, width - length :] = torch.tensor(text[prefix:])
    mask, ids = mask.to(model.device), ids.to(model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, prefix : prefix + width]
    wide = shared.widened(len(texts), room) if shared else empty_cache(model, room)
    out = model(
        input_ids=ids,
        attention_mask=mask[:, : prefix + width],
        position_ids=positions,
        past_key_values=wide,
        # indices and not a number: a slice is not contiguous, and `lm_head` would copy its weights for every row
        logits_to_keep=torch.arange(max(0, width - keep), width, device=model.device),
    )
    return _Batch(wide, mask, positions[:, -1] + 1, list(texts)), out.logits


def _decode(
    model: PreTrainedModel, batch: _Batch, logits: Tensor, decoding: Decoding, noise: dict[int, torch.Generator]
) -> dict[int, list[int]]:
    """Token by token until every row has stopped; gives the rows' answers."""
    answers: dict[int, list[int]] = {row: [] for row in batch.rows}
    stopped: set[int] = set()
    for step in range(decoding.max_new_tokens):
        chosen = _choose(logits, batch.rows, decoding, noise)
        for row, token in zip(batch.rows, chosen.tolist(), strict=True):
            if row not in stopped and token not in decoding.stop_ids:
                answers[row].append(token)
            else:
                stopped.add(row)
        running = [place for place, row in enumerate(batch.rows) if row not in stopped]
        if not running or step + 1 == decoding.max_new_tokens:
            break
        if len(running) <= LEAVE_SHARE * len(batch.rows):
            chosen = _keep(batch, running, chosen)
        logits = _step(model, batch, chosen)
    return answers


def _step(model: PreTrainedModel, batch: _Batch, chosen: Tensor) -> Tensor:
    """Append one token to every row; gives the logits [rows, vocabulary] of the next one."""
    seen = batch.cache.get_seq_length() + 1
    out = model(
        input_ids=chosen[:, None],
        attention_mask=batch.mask[:, :seen],
        position_ids=batch.position[:, None],
        past_key_values=batch.cache,
        logits_to_keep=1,
    )
    batch.position = batch.position + 1
    logits: Tensor = out.logits[:, -1]
    return logits


def _keep(batch: _Batch, running: list[int], chosen: Tensor) -> Tensor:
    """Let finished rows leave the batch."""
    index = torch.tensor(running, device=chosen.device)
    batch.cache.batch_select_indices(index)
    batch.mask, batch.position = batch.mask[index], batch.position[index]
    batch.rows = [batch.rows[place] for place in running]
    return chosen[index]


def _noise(
    prompts: dict[int, Tokens], temperature: float, seeds: dict[int, int], device: torch.device
) -> dict[int, torch.Generator]:
    """Every row's own random stream, from its seed and its prompt: who shares its batch changes nothing."""
    if temperature <= 0:
        return {}
    mixed = {row: zlib.crc32(repr(list(text)).encode(), seeds[row]) for row, text in prompts.items()}
    return {row: torch.Generator(device).manual_seed(seed) for row, seed in mixed.items()}


def _choose(logits: Tensor, rows: list[int], decoding: Decoding, noise: dict[int, torch.Generator]) -> Tensor:
    """[rows, vocabulary] → [rows]: the likeliest token, or a sample by the Gumbel-max trick."""
    if decoding.temperature <= 0:
        return logits.max(-1).indices  # as argmax, ties too, in a quarter of its time on a CPU
    scaled = torch.log_softmax(logits.float() / decoding.temperature, -1)
    drawn = torch.stack([torch.empty_like(scaled[0]).exponential_(generator=noise[row]) for row in rows])
    return (scaled - drawn.log()).max(-1).indices
