"""Intervals over seeds and items: by hand, paired, and as often right as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vtblender_nemo.experiments.estimates import Runs, Unmeasured, estimate, repeatability
from vtblender_nemo.experiments.measures import Measured, RunScores, measure


def runs_of(scores: dict[tuple[str, int], Measured], name: str = "t.x") -> Runs:
    return {key: RunScores(*key, None, {name: one}) for key, one in scores.items()}


def certain(value: float) -> Measured:
    """A score that other items would not change."""
    return Measured(value, 1000, 0, "d", np.full(500, value), "higher")


def answers(right: list[int], total: int) -> Measured:
    rows = [{"id": str(n), "prediction": "a" if n in right else "b", "reference": "a"} for n in range(total)]
    return measure(rows, "exact_match")[""]


def test_over_seeds_alone_it_is_the_t_interval() -> None:
    found = estimate(runs_of({("a", 1): certain(10), ("a", 2): certain(12), ("a", 3): certain(14)}), {("a", "t.x"): 1})
    half = 4.302653 * 2 / math.sqrt(3)  # t of 2 degrees of freedom
    assert (found.value, found.low, found.high) == pytest.approx((12, 12 - half, 12 + half), abs=1e-4)
    assert found.by_seed == {1: 10, 2: 12, 3: 14}


def test_over_items_alone_it_is_the_binomial_one() -> None:
    found = estimate(runs_of({("a", 1): answers(list(range(160)), 200)}), {("a", "t.x"): 1})
    half = 1.96 * 100 * math.sqrt(0.8 * 0.2 / 200)
    assert found.value == 80
    assert found.high - found.value == pytest.approx(half, rel=0.1)


def test_seeds_that_fail_on_other_items_are_surer_than_seeds_that_fail_on_the_same() -> None:
    same = {("a", seed): answers(list(range(150)), 200) for seed in (1, 2, 3)}
    other = {("a", seed): answers([n for n in range(200) if n % 4 != seed], 200) for seed in (1, 2, 3)}
    wide, narrow = (estimate(runs_of(runs), {("a", "t.x"): 1}) for runs in (same, other))
    assert wide.value == narrow.value == 75
    assert narrow.high - narrow.low < 0.6 * (wide.high - wide.low)


def test_a_difference_on_the_same_items_is_paired() -> None:
    """Two variants that differ on 4 of 200 items: what both share falls out."""
    runs = runs_of(
        {("a", s): answers(list(range(140)), 200) for s in (1, 2)}
        | {("b", s): answers(list(range(144)), 200) for s in (1, 2)}
    )
    found = estimate(runs, {("b", "t.x"): 1, ("a", "t.x"): -1})
    assert found.value == pytest.approx(2)
    paired = 1.96 * 100 * math.sqrt(0.02 * 0.98 / 200)
    assert found.high - found.value == pytest.approx(paired, rel=0.15)


def test_a_difference_on_other_items_is_not() -> None:
    rows = [{"id": f"other{n}", "prediction": "a" if n < 144 else "b", "reference": "a"} for n in range(200)]
    runs = runs_of({("a", 1): answers(list(range(140)), 200), ("b", 1): measure(rows, "exact_match")[""]})
    found = estimate(runs, {("b", "t.x"): 1, ("a", "t.x"): -1})
    apart = 1.96 * 100 * math.sqrt(0.7 * 0.3 / 200 + 0.72 * 0.28 / 200)
    assert found.high - found.value == pytest.approx(apart, rel=0.15)


def test_only_seeds_of_all_variants_count() -> None:
    runs = runs_of({("a", 1): certain(1), ("a", 2): certain(3), ("b", 2): certain(10), ("b", 3): certain(99)})
    found = estimate(runs, {("b", "t.x"): 1, ("a", "t.x"): -1}, constant=0.5)
    assert found.by_seed == {2: 7.5}


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ({("c", "t.x"): 1.0}, "no finished run of c"),
        ({("a", "t.y"): 1.0}, "a has no t.y; it has t.x"),
        ({("a", "t.x"): 1.0, ("b", "t.x"): -1.0}, "no seed was run with each of a, b"),
    ],
)
def test_what_is_missing_is_told(terms: dict[tuple[str, str], float], told: str) -> None:
    with pytest.raises(Unmeasured, match=told):
        estimate(runs_of({("a", 1): certain(1), ("b", 2): certain(1)}), terms)


def test_repeatability_needs_two_seeds() -> None:
    assert repeatability(runs_of({("a", 1): certain(1)}), {("a", "t.x"): 1}) is None
    found = repeatability(runs_of({("a", 1): certain(1), ("a", 2): certain(2)}), {("a", "t.x"): 1})
    assert found == pytest.approx(math.sqrt(2) * 12.7062 * math.sqrt(0.5), rel=1e-4)  # t of 1 degree of freedom


def test_95_of_100_intervals_hold_the_truth() -> None:
    """Scores from seeds, items and both at once; errs, if at all, towards wide intervals."""
    rng = np.random.default_rng(5)
    seeds, items, resamples, worlds, inside = 3, 100, 200, 300, 0
    for _ in range(worlds):
        of_seed, of_item = rng.normal(0, 0.1, (seeds, 1)), rng.normal(0, 1, (1, items))
        scores = of_seed + of_item + rng.normal(0, 0.5, (seeds, items))
        draws = rng.multinomial(items, np.full(items, 1 / items), size=resamples) / items
        measured = {
            ("a", seed): Measured(scores[seed].mean(), items, 0, "d", draws @ scores[seed], "higher")
            for seed in range(seeds)
        }
        found = estimate(runs_of(measured), {("a", "t.x"): 1})
        inside += found.low <= 0 <= found.high
    assert 0.93 <= inside / worlds <= 0.995
