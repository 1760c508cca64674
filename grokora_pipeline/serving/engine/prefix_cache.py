"""Prefix cache: keys and values of prompt beginnings that are worth keeping (torch)."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK = 16  # tokens of an entry; a beginning is found again in whole blocks
_Key = tuple[Hashable, int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Block:
    serial: int
    values: Tensor


@dataclass(slots=True)
class PrefixCache:
    """LRU of keys and values, a block of tokens an entry, of at most `max_bytes`.

    An entry's key is what it continues (`owner`: the adapter; the serial of the block before) and its own tokens, so a
    hit is exact, and beginnings that many prompts share are kept once.
    """

    max_bytes: int
    used_bytes: int = 0
    _blocks: OrderedDict[_Key, _Block] = field(default_factory=OrderedDict)
    _serial: int = 0

    def find(self, owner: Hashable, tokens: Sequence[int]) -> list[Tensor]:
        """The blocks that a text begins with, each [BLOCK, elements], as `Slots.read` flattens a row."""
        return [self._blocks[key].values for key in self._walk(owner, tokens)]

    def add(self, owner: Hashable, tokens: Sequence[int], read: Callable[[int, int], Tensor]) -> None:
        """Keep the whole blocks of a text; `read(start, stop)` gives its keys and values
        [stop - start, elements]."""
        if not self.max_bytes:
            return
        known = self._walk(owner, tokens)
        start, stop = len(known) * BLOCK, len(tokens) // BLOCK * BLOCK
        parent = self._blocks[known[-1]].serial if known else 0
        fresh = torch.split(read(start, stop), BLOCK) if stop > start else ()
        keys = []
        for begin, values in zip(range(start, stop, BLOCK), fresh, strict=True):
            keys.append((owner, parent, tuple(tokens[begin : begin + BLOCK])))
            self._serial = parent = self._serial + 1
            self._blocks[keys[-1]] = _Block(parent, values.clone())  # a clone: a view would keep the whole row alive
            self.used_bytes += values.nbytes
        self._touch([*known, *keys])
        while self.used_bytes > self.max_bytes:
            self.used_bytes -= self._blocks.popitem(last=False)[1].values.nbytes

    def forget(self, owner: Hashable) -> None:
        """Drop what belongs to an adapter."""
        for key in [key for key in self._blocks if key[0] is owner]:
            self.used_bytes -= self._blocks.pop(key).values.nbytes

    def _walk(self, owner: Hashable, tokens: Sequence[int]) -> list[_Key]:
        keys, parent = list[_Key](), 0
        for begin in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = (owner, parent, tuple(tokens[begin : begin + BLOCK]))
            if key not in self._blocks:
                break
            keys.append(key)
            parent = self._blocks[key].serial
        self._touch(keys)
        return keys

    def _touch(self, keys: Sequence[_Key]) -> None:
        """Mark as used, the beginning last: a block never outlives the one it continues."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)
