"""Means over seeds with an interval that knows both chances: another seed, and other test items.

All runs answer the same items, so a score varies with the seed s and with the drawn items i: q(s, i) = m + a(s) + b(i) +
e(s, i). The mean over S seeds has the variance of a and e over seeds, divided by S, which the spread of the seeds' scores
gives, plus that of b over items, which resampling gives: the items are drawn anew, the same for every seed, and the mean
over seeds is taken of each draw. (e is counted in both, which errs towards a wider interval.) The sum is spread by
Student's t with Welch and Satterthwaite's degrees of freedom. For a difference of two variants the same is done with the
differences, seed by seed and draw by draw, so that what both share (items, order of data) falls out.

Shapes: S seeds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtblender_nemo.experiments.measures import RunScores

CONFIDENCE = 0.95

Runs = Mapping[tuple[str, int], RunScores]
"""Finished runs by variant and seed."""

Terms = Mapping[tuple[str, str], float]
"""A sum of measures: (variant, measure) -> factor."""


class Unmeasured(Exception):
    """A sum names what no run has measured; the message tells what."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95% interval.

    Attributes:
        value: of the mean.
        low: lower bound.
        high: upper bound.
        by_seed: the value of every seed.
    """

    value: float
    low: float
    high: float
    by_seed: Mapping[int, float]


def estimate(runs: Runs, terms: Terms, constant: float = 0.0) -> Estimate:
    """The mean of a sum of measures over the seeds that all its variants have.

    With one seed the interval is that over items alone.

    Args:
        runs: by variant and seed.
        terms: at least one.
        constant: added to the sum.

    Raises:
        Unmeasured: no seed in which all the variants have all the measures.
    """
    seeds = common_seeds(runs, terms)
    by_seed = {seed: constant + _sum(runs, terms, seed) for seed in seeds}
    values = np.array(list(by_seed.values()))
    resampled = np.mean([_resampled(runs, terms, seed) for seed in seeds], axis=0)
    resampled = resampled[np.isfinite(resampled)]
    items = min(runs[variant, seeds[0]].measures[measure].items for variant, measure in terms)
    of_items = float(np.var(resampled, ddof=1)) if len(resampled) > 1 else 0.0
    of_seeds = float(np.var(values, ddof=1)) / len(seeds) if len(seeds) > 1 else 0.0
    half = _half_width([(of_seeds, len(seeds) - 1), (of_items, items - 1)])
    value = float(values.mean())
    return Estimate(value, value - half, value + half, by_seed)


def common_seeds(runs: Runs, terms: Terms) -> list[int]:
    """
    Raises:
        Unmeasured: as `estimate`.
    """
    for variant, measure in terms:
        of_variant = [run for (name, _), run in runs.items() if name == variant]
        if not of_variant:
            raise Unmeasured(f"no finished run of {variant}")
        if not any(measure in run.measures for run in of_variant):
            raise Unmeasured(f"{variant} has no {measure}; it has {', '.join(sorted(of_variant[0].measures))}")
    seeds = sorted({seed for _, seed in runs})
    found = [s for s in seeds if all((v, s) in runs and m in runs[v, s].measures for v, m in terms)]
    if not found:
        raise Unmeasured(f"no seed was run with each of {', '.join(sorted({variant for variant, _ in terms}))}")
    return found


def repeatability(runs: Runs, terms: Terms) -> float | None:
    """By how much two runs of one variant differ, at most, in 95% of cases: sqrt(2) * t * s (ISO 5725-6, 4.1.2).

    Args:
        runs: by variant and seed.
        terms: s is pooled over the seeds of each of its measures.

    Returns:
        None where no measure has two seeds.
    """
    squares, freedom = 0.0, 0
    for variant, measure in terms:
        values = [r.measures[measure].value for (v, _), r in runs.items() if v == variant and measure in r.measures]
        if len(values) > 1:
            squares += float(np.var(values)) * len(values)
            freedom += len(values) - 1
    return math.sqrt(2 * squares / freedom) * _student(freedom) if freedom else None


def _sum(runs: Runs, terms: Terms, seed: int) -> float:
    return sum(factor * runs[variant, seed].measures[measure].value for (variant, measure), factor in terms.items())


def _resampled(runs: Runs, terms: Terms, seed: int) -> NDArray[np.float64]:
    """(R,): measures of the same items were resampled alike, others independently; see `measures`."""
    return np.sum([f * runs[v, seed].measures[m].resampled for (v, m), f in terms.items()], axis=0)


def _half_width(parts: list[tuple[float, int]]) -> float:
    """Of the interval, from independent variances with their degrees of freedom."""
    total = sum(variance for variance, _ in parts)
    if not total:
        return 0.0
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts if variance and degrees)
    return math.sqrt(total) * _student(freedom)


def _student(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, freedom))
