"""Keys and values of positions that the LLM has seen, kept so that they can grow and be cut without being copied.

Shapes: B conversations, h heads of keys and values, T positions, P packed positions, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

_LEAST_GROWTH = 64
_ATTENTION = {"full_attention", "sliding_attention"}


class GrowingLayer(DynamicLayer):
    """A layer's keys and values in room that is larger than they are.

    Transformers' own layer copies all of them for every token. Layers with a sliding window are kept whole as well, as what has
    left the window returns when a conversation is cut back; their mask hides it.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._key_room = key_states[..., :0, :]
        self.values = self._value_room = value_states[..., :0, :]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends keys and values (B, h, T, d); returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if end > self._key_room.shape[-2]:
            self._key_room, self._value_room = (_room(part, end) for part in (self.keys, self.values))
        self._key_room[..., start:end, :] = key_states
        self._value_room[..., start:end, :] = value_states
        self.keys, self.values = self._key_room[..., :end, :], self._value_room[..., :end, :]
        return self.keys, self.values

    def crop_to(self, positions: int) -> None:
        """Forgets what stands behind the first `positions`."""
        if self.is_initialized:
            self.keys, self.values = self.keys[..., :positions, :], self.values[..., :positions, :]

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._hold(self.keys, self.values)

    def place_left_padded(self, lens: Sequence[int]) -> None:
        """One row (1, h, P, d) of conversations behind each other becomes (B, h, T, d), padded on the left."""
        self._hold(*(_left_padded(part, lens) for part in (self.keys, self.values)))

    def join(self, other: GrowingLayer) -> None:
        """Takes the rows of another layer behind its own; the shorter ones get padding on the left."""
        longest = max(self.keys.shape[-2], other.keys.shape[-2])
        pairs = ((self.keys, other.keys), (self.values, other.values))
        self._hold(*(torch.cat([_widened(part, longest) for part in pair]) for pair in pairs))

    def part(self, row: int, start: int, end: int) -> GrowingLayer:
        """A copy (1, h, end - start, d) of a row's positions."""
        layer = GrowingLayer()
        layer.lazy_initialization(self.keys, self.values)
        layer._hold(*(part[row : row + 1, :, start:end].clone() for part in (self.keys, self.values)))
        return layer

    def forget_first(self, positions: int) -> None:
        """Drops the first positions of all rows."""
        self._hold(*(part[..., positions:, :].contiguous() for part in (self.keys, self.values)))

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self.keys = self._key_room = keys
        self.values = self._value_room = values


class GrowingCache(Cache):
    """Keys and values of all layers."""

    layers: list[GrowingLayer]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=GrowingLayer)

    def crop_to(self, positions: int) -> None:
        """Forgets what stands behind the first `positions`, in every layer."""
        for layer in self.layers:
            layer.crop_to(positions)

    def place_left_padded(self, lens: Sequence[int]) -> None:
        """See `GrowingLayer.place_left_padded`."""
        for layer in self.layers:
            layer.place_left_padded(lens)

    def join(self, other: GrowingCache) -> None:
        """Takes the rows of another cache of the same LLM behind its own; shorter rows are padded on the left."""
        if not self.layers:
            self.layers = other.layers
            return
        for layer, more in zip(self.layers, other.layers, strict=True):
            layer.join(more)

    def part(self, row: int, start: int, end: int) -> GrowingCache:
        """A copy of the positions `start` to before `end` of one row."""
        cache = GrowingCache()
        cache.layers = [layer.part(row, start, end) for layer in self.layers]
        return cache

    def forget_first(self, positions: int) -> None:
        """Drops the first positions of all rows."""
        for layer in self.layers:
            layer.forget_first(positions)

    @property
    def bytes(self) -> int:
        """Memory that keys and values hold, spare room included."""
        rooms = [room for layer in self.layers for room in (layer._key_room, layer._value_room)]
        return sum(room.untyped_storage().nbytes() for room in rooms)


def can_grow(config: PretrainedConfig) -> bool:
    """Whether all that the LLM keeps of positions it has seen is keys and values of its own layers.

    Mamba's and other recurrent layers keep a state that cannot be cut back, and some Gemmas share layers' keys.
    """
    text = config.get_text_config()
    layer_types = getattr(text, "layer_types", None) or ["full_attention"]
    return set(layer_types) <= _ATTENTION and not getattr(text, "num_kv_shared_layers", 0)


def _room(held: Tensor, positions: int) -> Tensor:
    """Room for `positions` and a quarter more, with what is held at its head."""
    room = held.new_empty(*held.shape[:-2], positions + max(positions // 4, _LEAST_GROWTH), held.shape[-1])
    room[..., : held.shape[-2], :] = held
    return room


def _widened(rows: Tensor, positions: int) -> Tensor:
    """(B, h, T, d) -> (B, h, positions, d), with zeros on the left."""
    return torch.nn.functional.pad(rows, (0, 0, positions - rows.shape[-2], 0))


def _left_padded(row: Tensor, lens: Sequence[int]) -> Tensor:
    longest = max(lens)
    padded = row.new_zeros(len(lens), row.shape[1], longest, row.shape[3])
    for number, part in enumerate(row[0].split(list(lens), dim=1)):
        padded[number, :, longest - part.shape[1] :] = part
    return padded
