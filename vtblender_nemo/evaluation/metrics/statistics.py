"""From what is kept of every item to a score and its 95% bootstrap interval.

Shapes: I items, K numbers kept of an item, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vtblender_nemo.common.errors import DataError

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
"""Percentiles of the resampled scores that bound the interval."""

_DRAWN_AT_ONCE = 100
"""Resamples in memory at a time; of 20,000 items they take 16 MB."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A score over a set of items.

    Attributes:
        value: 0 to 100; a word error rate may exceed 100.
        low: lower bound of the 95% interval.
        high: upper bound of the 95% interval.
        items: how many items were scored.
        signature: what a reader needs to compute the same number again, as sacrebleu's signature.
    """

    value: float
    low: float
    high: float
    items: int
    signature: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass(frozen=True)
class Statistics:
    """What a metric keeps of every item.

    Attributes:
        rows: (I, K).
        reduce: sums of rows (R, K) -> scores (R,); NaN where a sum of items has no score, as no reference word.
        signature: see `Score`.
    """

    rows: Numbers
    reduce: Callable[[Numbers], Numbers]
    signature: str

    def take(self, positions: Sequence[int]) -> Statistics:
        """The same of some of the items."""
        return replace(self, rows=self.rows[list(positions)])

    @property
    def value(self) -> float:
        """The score of all items; NaN where they have none."""
        return float(self.reduce(self.rows.sum(axis=0, keepdims=True))[0])


def summarize(kept: Statistics, metric: str = "score", *, seed: int = 0) -> Score:
    """A score and its percentile bootstrap interval over items, the same at every call with the same seed.

    Raises:
        DataError: the items have no score, as a word error rate of empty references only.
    """
    return _summarize([kept], lambda scores: scores[0], metric, seed)


def difference(kept: Statistics, other: Statistics, metric: str = "score", *, seed: int = 0) -> Score:
    """The score of `kept` minus that of `other`, with the interval of the paired bootstrap (Koehn 2004).

    Every resample draws the same items for both, so that what makes an item hard for both does not widen the interval.

    Args:
        kept: of I items.
        other: of the same items in the same order, kept by the same metric.
        metric: its name, for errors.
        seed: of the resamples.

    Raises:
        DataError: not as many items in both, or items without a score.
    """
    return _summarize(_paired(kept, other, metric), lambda scores: scores[0] - scores[1], metric, seed)


def share(kept: Statistics, ceiling: Statistics, metric: str = "score", *, seed: int = 0) -> Score:
    """The score of `kept` in percent of that of `ceiling`, with the interval of the paired bootstrap, as `difference`.

    The scores of all resampled items are divided, not those of single items, many of which are 0. Resamples in which the
    ceiling is 0 do not count.

    Args:
        kept: of I items.
        ceiling: of the same items in the same order, kept by the same metric.
        metric: its name, for errors.
        seed: of the resamples.

    Raises:
        DataError: not as many items in both, or a ceiling of 0.
    """
    return _summarize(_paired(kept, ceiling, metric), lambda scores: ratio(scores[0], scores[1]), metric, seed)


def _paired(kept: Statistics, other: Statistics, metric: str) -> list[Statistics]:
    if len(kept.rows) != len(other.rows):
        raise DataError(
            f"a paired comparison of {metric} needs the same items on both sides",
            value=len(other.rows),
            expected=f"{len(kept.rows)} items",
        )
    return [kept, other]


def _summarize(
    sides: Sequence[Statistics], combine: Callable[[Sequence[Numbers]], Numbers], metric: str, seed: int
) -> Score:
    items = len(sides[0].rows)
    if not items:
        raise DataError("nothing to score", value=0, expected=f"at least one item for {metric}")
    value = float(combine([np.array([side.value]) for side in sides])[0])
    if not math.isfinite(value):
        raise DataError(
            f"{metric} is undefined for these items",
            value=value,
            expected="references that are not all empty, and no ceiling of 0",
        )
    resampled = np.concatenate(
        [combine([side.reduce(draws @ side.rows) for side in sides]) for draws in _draws(items, seed)]
    )
    low, high = np.nanpercentile(resampled, INTERVAL)  # NaN: a resample of empty references only
    return Score(value, float(low), float(high), items, sides[0].signature)


def _draws(items: int, seed: int) -> Iterator[Numbers]:
    """How often each item is drawn (R, I), in blocks of R."""
    generator = np.random.default_rng(seed)
    shares = np.full(items, 1 / items)
    for start in range(0, RESAMPLES, _DRAWN_AT_ONCE):
        count = min(_DRAWN_AT_ONCE, RESAMPLES - start)
        yield generator.multinomial(items, shares, size=count).astype(np.float64)


def ratio(part: Numbers, whole: Numbers, scale: float = 100.0) -> Numbers:
    """The share scale * part / whole, NaN where there is no whole."""
    return scale * np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def mean_of(values: Sequence[float], signature: str, *, scale: float = 100.0) -> Statistics:
    """A metric that is the mean of a number of every item."""
    rows = np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)
    return Statistics(rows, lambda sums: ratio(sums[:, 0], sums[:, 1], scale), signature)


def package_version(package: str) -> str:
    """The version that is installed, for signatures."""
    from importlib.metadata import version

    return version(package)
