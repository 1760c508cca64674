"""Slots: what the layers remember of all rows in the batch, side by side (torch).

Attention layers hold keys and values; a row's column is its token's position, so rows of different lengths share a
batch without padding between their tokens, and a sliding window counts tokens and nothing else. Recurrent and
convolutional layers hold a state a row, which every token of a pass changes: prompts are run one at a time, unpadded.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    LinearAttentionLayer,
)

_ROOM = 64  # columns; buffers grow in multiples of this: a copy costs what one step reads, so once in 64 steps is cheap


class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [slots, heads, room, size]; heads, sizes and dtype are those of the first pass.

    `start`, `columns` [rows, tokens] and `width` say where the next pass writes, and how many columns it reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_initialized = True  # transformers' own lazy initialisation has nothing to do
        self.like: tuple[Tensor, Tensor] | None = None  # empty tensors of the right shape
        self.start, self.columns, self.width = 0, torch.empty(0, 0, dtype=torch.long), 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write a pass's keys and values [rows, heads, tokens, size]; gives all that its rows hold by now."""
        if self.like is None:
            self.like = key_states[:0, :, :0], value_states[:0, :, :0]
            self.resize(self.slots, self.room)
        rows = slice(self.start, self.start + len(self.columns))
        index = torch.arange(rows.start, rows.stop, device=self.columns.device)[:, None]
        # an index on both sides of a slice puts the indexed dimensions first: [rows, tokens, heads, size]
        self.keys[index, :, self.columns] = key_states.transpose(1, 2)
        self.values[index, :, self.columns] = value_states.transpose(1, 2)
        return self.keys[rows, :, : self.width], self.values[rows, :, : self.width]

    def get_seq_length(self) -> int:
        """Columns that were written before this pass: transformers makes position ids of it if none are given."""
        return self.width - self.columns.shape[1]

    def buffers(self, length: int) -> list[Tensor]:
        """Views [slots, …] of what rows of so many tokens hold."""
        return [part[:, :, :length] for part in (self.keys, self.values) if part is not None]

    def resize(self, slots: int, room: int) -> None:
        """Hold so many slots and columns, with what is there; 0 slots hold no memory."""
        self.slots, self.room = slots, room
        if self.like is None:
            return
        for name, like in zip(("keys", "values"), self.like, strict=True):
            # zeros, because attention multiplies what it masks by 0, and 0 * nan is nan
            new, old = like.new_zeros(slots, like.shape[1], room, like.shape[3]), getattr(self, name)
            if old is not None and slots:
                new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)


class StateSlotLayer(LinearAttentionLayer):  # type: ignore[misc]
    """One layer's running states [slots, …]: transformers' layer, whose tensors are views of the rows of a pass.

    It relies on transformers changing states in place (`copy_`), as it does for CUDA graphs.
    """

    def __init__(self, number_of_states: int) -> None:
        super().__init__(number_of_states)
        self.start, self.rows, self.slots = 0, 0, 0
        self.held: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}  # convolutions' and recurrent states, by index

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Hold states for all slots as soon as the first pass shows their shape."""
        super().lazy_initialization(*args, **kwargs)
        for states, held in zip((self.conv_states, self.recurrent_states), self.held, strict=True):
            for index, state in states.items():
                if state is not None and index not in held:
                    held[index] = state.new_zeros(self.slots, *state.shape[1:])
                    states[index] = held[index][self.start : self.start + self.rows]

    def begin(self, start: int, rows: int, *, continues: bool) -> None:
        """Set whose states the pass that comes changes, and whether they have any yet."""
        self.start, self.rows = start, rows
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), continues)
        for states, held in zip((self.conv_states, self.recurrent_states), self.held, strict=True):
            states.update({index: buffer[start : start + rows] for index, buffer in held.items()})

    def buffers(self, length: int) -> list[Tensor]:
        """Views [slots, …] of what rows hold, whatever their length."""
        return [buffer for held in self.held for buffer in held.values()]

    def resize(self, slots: int, room: int) -> None:
        """Hold so many slots, with what is there; 0 slots hold no memory."""
        self.slots = slots
        for held in self.held:
            for index, old in held.items():
                held[index] = old.new_zeros(slots, *old.shape[1:])
                held[index][: min(slots, len(old))] = old[:slots]


class Slots:
    """What the layers remember of the rows. Rows join at the end, and the last one moves to where one has left."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._device = model.device
        # layers that reuse another layer's keys and values (Gemma-3n) hold none: transformers' dummies stay
        layers = [
            layer
            if isinstance(layer, DummyLayer)
            else StateSlotLayer(layer.number_of_states)
            if isinstance(layer, LinearAttentionLayer)
            else SlotLayer()
            for layer in DynamicCache(config=model.config).layers
        ]
        self.layers = [layer for layer in layers if isinstance(layer, SlotLayer)]
        self.states = [layer for layer in layers if isinstance(layer, StateSlotLayer)]
        self.all: list[SlotLayer | StateSlotLayer] = [*self.layers, *self.states]
        self.cache = Cache(layers=layers)
        self.clear()

    def clear(self) -> None:
        """Remove all rows and free the buffers."""
        self.lengths: list[int] = []
        self._slots, self._room = 0, 0
        for layer in self.all:
            layer.resize(0, 0)

    def open(self, blocks: Sequence[Tensor] = ()) -> None:
        """Add a row behind the others; it begins with cached keys and values, as `read` gave them."""
        self.lengths.append(0)
        if not blocks:
            return
        values = torch.cat(list(blocks))
        self.reserve(len(self.lengths), len(values))
        offset = 0
        for layer in self.layers:
            for part in (layer.keys, layer.values):
                heads, size = part.shape[1], part.shape[3]
                cut = values[:, offset : offset + heads * size]
                part[len(self.lengths) - 1, :, : len(values)] = cut.view(-1, heads, size).transpose(0, 1)
                offset += heads * size
        self.lengths[-1] = len(values)

    def prepare(self, start: int, counts: Sequence[int]) -> tuple[Tensor, int]:
        """Prepare a pass that appends `counts` tokens to the rows from `start` on, padded on the right to the most.

        Gives the columns [rows, most] and how many columns are read. What padding writes lies beyond its row's length,
        where the mask hides it until a token takes its place.
        """
        most = max(counts)
        width = max(self.lengths[start : start + len(counts)]) + most
        self.reserve(len(self.lengths), width)
        first = torch.tensor(self.lengths[start : start + len(counts)])[:, None]
        columns = (first + torch.arange(most)).to(self._device)
        continues = self.lengths[start] > 0
        if self.states and (
            min(counts) < most or any((n > 0) != continues for n in self.lengths[start:][: len(counts)])
        ):
            raise RuntimeError("rows of a model with running states are padded or begin at different times")
        for layer in self.layers:
            layer.start, layer.columns, layer.width = start, columns, width
        for state in self.states:
            state.begin(start, len(counts), continues=continues)
        return columns, width

    @contextmanager
    def unchanged(self, rows: Sequence[int]) -> Iterator[None]:
        """A pass inside leaves these rows' running states as they were; keys and values are overwritten anyway."""
        buffers = [part for layer in self.states for part in layer.buffers(0)] if rows else []
        kept = [part[rows].clone() for part in buffers]
        yield
        for part, values in zip(buffers, kept, strict=True):
            part[rows] = values

    def close(self, slot: int, *, clean: bool) -> None:
        """Release a slot; the last row moves into it. `clean` wipes what the row wrote: a mask does not hide nan."""
        last = len(self.lengths) - 1
        if last == 0:
            return self.clear()
        self.lengths[slot] = self.lengths[last]
        length = self.lengths.pop()
        for layer in self.all if clean or slot != last else ():
            if clean:
                for part in layer.buffers(self._room):
                    part[slot].zero_()
            if slot != last:
                for part in layer.buffers(length):
                    part[slot] = part[last]
        return None

    def read(self, slot: int, start: int, stop: int) -> Tensor:
        """A row's keys and values of some columns: [columns, elements of all layers]."""
        parts = [part[slot, :, start:stop] for layer in self.layers for part in (layer.keys, layer.values)]
        return torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)

    def token_bytes(self) -> int:
        """The bytes of one token's keys and values over all layers; 0 before the first pass."""
        parts = [part for layer in self.layers for part in layer.like or ()]
        return sum(part.shape[1] * part.shape[3] * part.dtype.itemsize for part in parts)

    def reserve(self, slots: int, room: int) -> None:
        """Grow the buffers to hold so many rows and columns."""
        if slots <= self._slots and room <= self._room:
            return
        self._slots = max(self._slots, -(-slots // 8) * 8 if slots > 4 else 1 << (slots - 1).bit_length())
        self._room = max(self._room, -(-room // _ROOM) * _ROOM)
        for layer in self.all:
            layer.resize(self._slots, self._room)


def release_memory() -> None:
    """Give freed memory back to the system; glibc's allocator keeps it otherwise, on other systems there is no need."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
