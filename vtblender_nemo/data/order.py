"""The order in which rows are read, as pure functions of a seed and a position.

Nothing here holds state: a position is one integer, and where it leads follows from the seed. A data state is therefore
a few integers, and going on from it costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_MASK64 = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """Hashes integers to 64 well-mixed bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state + number * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state


def unit(*numbers: int) -> float:
    """Hashes integers to a number in [0, 1) with 53 random bits."""
    return (mix(*numbers) >> 11) * 2.0**-53


def key_of(text: str) -> int:
    """A 64-bit key of a name, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Permutation:
    """A permutation of `range(size)` that is computed, not stored.

    A Feistel network permutes the smallest power of four that holds `size`; results outside are permuted again until
    they fall inside (cycle walking), which keeps it one to one and takes at most four steps on average.
    """

    _ROUNDS = 6

    def __init__(self, size: int, key: int) -> None:
        self.size = size
        self._half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self._half_mask = (1 << self._half_bits) - 1
        self._keys = [mix(key, number) for number in range(self._ROUNDS)]

    def __call__(self, position: int) -> int:
        """Where `position`, 0 <= position < size, is sent."""
        bits, mask = self._half_bits, self._half_mask
        while True:
            left, right = position >> bits, position & mask
            for key in self._keys:
                # 2654435761 is Knuth's multiplicative constant; the key's and the product's high bits are the mixed
                # ones.
                left, right = right, left ^ ((((right * 2654435761) ^ key) * 0x9E3779B97F4A7C15 >> 40) & mask)
            position = (left << bits) | right
            if position < self.size:
                return position


class Order:
    """An endless sequence over the rows of one source: every pass reads each row once, in an order of its own.

    A sharded source is read a few shards at a time: shards are permuted, then rows within windows of `window`
    neighbouring shards, so that reads stay within few files.

    Args:
        shard_sizes: rows of each shard; one number for a source without shards.
        key: seed of this source's order.
        shuffle: False reads rows as they stand, pass after pass.
        window: shards that are read together.
    """

    def __init__(self, shard_sizes: Sequence[int], *, key: int, shuffle: bool = True, window: int = 16) -> None:
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self.rows = int(self._starts[-1])
        self._key, self._shuffle, self._window = key, shuffle, window
        self._pass: _Pass | None = None

    def __call__(self, position: int) -> int:
        """The row at a position >= 0; position // rows is the number of the pass."""
        number, place = divmod(position, self.rows)
        if not self._shuffle:
            return place
        if self._pass is None or self._pass.number != number:
            self._pass = _Pass(number, self._sizes, mix(self._key, number), self._window)
        shard, row = self._pass.locate(place)
        return int(self._starts[shard]) + row


class _Pass:
    """One pass over a source: its shards in order, and the permutation of each window of them."""

    def __init__(self, number: int, sizes: np.ndarray, key: int, window: int) -> None:
        self.number = number
        shuffled = Permutation(len(sizes), key)
        self._shards = np.array([shuffled(place) for place in range(len(sizes))], dtype=np.int64)
        self._ends = np.cumsum(sizes[self._shards])
        self._windows = np.concatenate([[0], self._ends[window - 1 : -1 : window], self._ends[-1:]])
        self._key = key
        self._rows: tuple[int, Permutation] | None = None

    def locate(self, place: int) -> tuple[int, int]:
        window = int(np.searchsorted(self._windows, place, side="right")) - 1
        start, end = int(self._windows[window]), int(self._windows[window + 1])
        if self._rows is None or self._rows[0] != window:
            self._rows = window, Permutation(end - start, mix(self._key, window, 1))
        place = start + self._rows[1](place - start)
        shard = int(np.searchsorted(self._ends, place, side="right"))
        before = int(self._ends[shard - 1]) if shard else 0
        return int(self._shards[shard]), place - before
