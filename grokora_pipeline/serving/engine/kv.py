"""Keys and values: those of the running rows, side by side, and those of prompt beginnings worth keeping (torch)."""

import ctypes
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.kv import PreallocatedLayer

BLOCK = 16  # tokens; the grain in which prompt beginnings are kept and found again
_ROOM = 256  # columns; buffers grow in multiples of this


class _SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [slots, heads, room, size]; a row's column is its token's position."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = torch.empty(0, dtype=torch.long)
        self.seen = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows = len(self.columns)
        index = torch.arange(rows, device=self.columns.device)
        self.keys[index, :, self.columns] = key_states[:, :, 0]
        self.values[index, :, self.columns] = value_states[:, :, 0]
        return self.keys[:rows, :, : self.seen], self.values[:rows, :, : self.seen]

    def fit(self, like: Tensor, slots: int, room: int) -> None:
        """Grow to so many slots and columns. Zeros, because attention multiplies what it masks by 0, and 0 * nan is
        nan."""
        heads, size = like.shape[1], like.shape[3]
        for name in ("keys", "values"):
            old, new = getattr(self, name, None), like.new_zeros(slots, heads, room, size)
            if old is not None:
                new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)


class Slots:
    """The running rows' keys and values: rows join at the end, and the last one moves to where one has left."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._config = model, model.config.get_text_config()
        kinds = set(getattr(self._config, "layer_types", None) or ())
        if not kinds <= {"full_attention", "sliding_attention"}:
            raise GrokoraError(
                f"Base models with layers of {', '.join(sorted(kinds))} cannot be served here; use vLLM."
            )
        self._window = getattr(self._config, "sliding_window", None) if "full_attention" not in kinds else None
        self._mixed_window = self._config.sliding_window if len(kinds) == 2 else None
        self.clear()

    def clear(self) -> None:
        """No rows, and no memory held."""
        self.lengths: list[int] = []
        self._slots, self._room = 0, 0
        self.cache = Cache(layers=[_SlotLayer() for _ in range(self._config.num_hidden_layers)])

    def join(self, alone: Cache) -> None:
        """Copy a row's keys and values in behind the others."""
        place, length = len(self.lengths), alone.get_seq_length()
        self._fit(alone.layers[0].keys, place + 1, length + 1)
        for mine, its in zip(self.cache.layers, alone.layers, strict=True):
            mine.keys[place, :, :length] = its.keys[0, :, :length]
            mine.values[place, :, :length] = its.values[0, :, :length]
        self.lengths.append(length)

    def leave(self, place: int) -> None:
        """The row's slot goes to the last row."""
        last = len(self.lengths) - 1
        if last == 0:
            return self.clear()
        self.lengths[place] = self.lengths[last]
        length = self.lengths.pop()
        for layer in self.cache.layers if place != last else ():
            layer.keys[place, :, :length] = layer.keys[last, :, :length]
            layer.values[place, :, :length] = layer.values[last, :, :length]
        return None

    def step(self, tokens: Sequence[int]) -> Tensor:
        """One more token for every row; gives the logits [rows, vocabulary] of the next one."""
        layers, device = self.cache.layers, self._model.device
        seen = max(self.lengths) + 1
        self._fit(layers[0].keys, len(tokens), seen)
        columns = torch.tensor(self.lengths, device=device)
        for layer in layers:
            layer.columns, layer.seen = columns, seen
        out = self._model(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=self._mask(columns, seen),
            position_ids=columns[:, None],
            past_key_values=self.cache,
            logits_to_keep=1,
        )
        self.lengths = [length + 1 for length in self.lengths]
        logits: Tensor = out.logits[:, -1]
        return logits

    def _mask(self, columns: Tensor, seen: int) -> Tensor | dict[str, Tensor]:
        """[rows, 1, 1, seen]: each row sees its own columns, within the window of layers that have one."""
        place = torch.arange(seen, device=columns.device)
        full = (place <= columns[:, None])[:, None, None]
        window = self._window or self._mixed_window
        if not window:
            return full
        near = full & (place > columns[:, None] - window)[:, None, None]
        return {"full_attention": full, "sliding_attention": near} if self._mixed_window else near

    def _fit(self, like: Tensor, slots: int, room: int) -> None:
        if slots <= self._slots and room <= self._room:
            return
        self._slots = max(self._slots, 1 << (slots - 1).bit_length())
        self._room = max(self._room, -(-room // _ROOM) * _ROOM)
        for layer in self.cache.layers:
            layer.fit(like, self._slots, self._room)


def release_memory() -> None:
    """Give freed memory back to the system; glibc's allocator keeps it otherwise, on other systems there is no need."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def stacked(cache: Cache, place: int, start: int, stop: int) -> Tensor:
    """A row's keys and values of some columns, all layers in one: [layers, 2, heads, columns, size]."""
    views = [part[place, :, start:stop] for layer in cache.layers for part in (layer.keys, layer.values)]
    return torch.stack(views).view(len(cache.layers), 2, *views[0].shape)


def fill(layers: Sequence[PreallocatedLayer], blocks: Sequence[Tensor]) -> None:
    """Put kept keys and values at the beginning of a row of its own."""
    for layer, (keys, values) in zip(layers, torch.cat(list(blocks), dim=3), strict=True):
        layer.update(keys[None], values[None])


@dataclass(frozen=True, slots=True)
class _Block:
    serial: int
    values: Tensor


@dataclass(slots=True)
class PrefixCache:
    """Keys and values of prompt beginnings, a block of tokens an entry, at most so many bytes; the longest unused goes.

    An entry's key is what it continues (`owner`: the adapter; the serial of the block before) and its own tokens, so a
    hit is exact, and beginnings that many prompts share are kept once.
    """

    max_bytes: int
    used_bytes: int = 0
    _blocks: OrderedDict[tuple[Hashable, int, tuple[int, ...]], _Block] = field(default_factory=OrderedDict)
    _serial: int = 0

    def find(self, owner: Hashable, tokens: Sequence[int]) -> list[Tensor]:
        """The blocks that a text begins with, each [layers, 2, heads, BLOCK, size]."""
        return [self._blocks[key].values for key in self._walk(owner, tokens)]

    def add(self, owner: Hashable, tokens: Sequence[int], cache: Cache, place: int = 0) -> None:
        """Keep the whole blocks of a text whose keys and values are in a row of the cache."""
        known = self._walk(owner, tokens)
        start, stop = len(known) * BLOCK, len(tokens) // BLOCK * BLOCK
        parent = self._blocks[known[-1]].serial if known else 0
        fresh = torch.split(stacked(cache, place, start, stop), BLOCK, dim=3) if stop > start else ()
        keys = []
        for begin, values in zip(range(start, stop, BLOCK), fresh, strict=True):
            keys.append((owner, parent, tuple(tokens[begin : begin + BLOCK])))
            self._serial = parent = self._serial + 1
            self._blocks[keys[-1]] = _Block(parent, values.clone())
            self.used_bytes += values.nbytes
        self._touch([*known, *keys])
        while self.used_bytes > self.max_bytes:
            self.used_bytes -= self._blocks.popitem(last=False)[1].values.nbytes

    def forget(self, owner: Hashable) -> None:
        """Drop what belongs to an adapter."""
        for key in [key for key in self._blocks if key[0] is owner]:
            self.used_bytes -= self._blocks.pop(key).values.nbytes

    def _walk(self, owner: Hashable, tokens: Sequence[int]) -> list[tuple[Hashable, int, tuple[int, ...]]]:
        found, parent = [], 0
        for begin in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = (owner, parent, tuple(tokens[begin : begin + BLOCK]))
            if key not in self._blocks:
                break
            found.append(key)
            parent = self._blocks[key].serial
        self._touch(found)
        return found

    def _touch(self, keys: Sequence[tuple[Hashable, int, tuple[int, ...]]]) -> None:
        """Mark as used, the beginning last: a block never outlives the one it continues."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)
