"""KV caches that are allocated in advance (torch)."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer in a buffer made in advance, so that a step writes one column and copies nothing."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.length = room, 0
        self.is_initialized: bool = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            shape = [*key_states.shape[:2], self.room, key_states.shape[3]]
            self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def widened(self, rows: int, room: int, length: int) -> "PreallocatedLayer":
        """A copy of a one-row layer's first `length` tokens for a batch of `rows`, with room for `room` tokens."""
        layer = PreallocatedLayer(room)
        shape = [rows, self.keys.shape[1], length, self.keys.shape[3]]
        layer.update(self.keys[:, :, :length].expand(shape), self.values[:, :, :length].expand(shape))
        return layer


def empty_cache(model: PreTrainedModel, room: int) -> Cache:
    """A KV cache of one or more rows with room for `room` tokens, allocated at its first use."""
    return Cache(layers=[PreallocatedLayer(room) for _ in range(model.config.get_text_config().num_hidden_layers)])


def token_bytes(model: PreTrainedModel) -> int:
    """The bytes of one token's keys and values over all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)
