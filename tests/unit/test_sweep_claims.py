"""Claims: what the grammar takes, and what intervals make of them."""

from __future__ import annotations

import numpy as np
import pytest

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.experiments.claims import FAILS, HOLDS, UNDECIDED, UNMEASURED, judge, read_claim, read_claims
from vtblender_nemo.experiments.estimates import Runs
from vtblender_nemo.experiments.measures import Measured, RunScores


def runs_of(values: dict[str, list[float]], measure: str = "asr.wer", spread: float = 0.0) -> Runs:
    """Runs by variant with a value for every seed from 1 on; `spread` is that over items, the same in every run."""
    over_items = spread * np.random.default_rng(0).standard_normal(500)
    return {
        (variant, seed): RunScores(
            variant, seed, None, {measure: Measured(value, 1000, 0, "d", value + over_items, "lower")}
        )
        for variant, of_seeds in values.items()
        for seed, value in enumerate(of_seeds, 1)
    }


@pytest.mark.parametrize(
    ("text", "terms", "constant", "noise"),
    [
        ("a.asr.wer <= 5", {("a", "asr.wer"): -1}, 5, 0),
        ("a.asr.wer >= 5", {("a", "asr.wer"): 1}, -5, 0),
        ("a.t.x - b.t.x >= -1", {("a", "t.x"): 1, ("b", "t.x"): -1}, 1, 0),
        ("a.asr.wer<=b.asr.wer+noise", {("a", "asr.wer"): -1, ("b", "asr.wer"): 1}, 0, 1),
        ("-a.t.x + 2.5 * b.t.x > 0.5 - noise", {("a", "t.x"): -1, ("b", "t.x"): 2.5}, -0.5, 1),
        ("3 < *.text.accuracy", {("*", "text.accuracy"): 1}, -3, 0),
        ("a.t.x + a.t.x >= b.t.y", {("a", "t.x"): 2, ("b", "t.y"): -1}, 0, 0),
    ],
)
def test_both_sides_become_one_margin(
    text: str, terms: dict[tuple[str, str], float], constant: float, noise: float
) -> None:
    claim = read_claim(text)
    assert (dict(claim.terms), claim.constant, claim.noise) == (terms, constant, noise)


@pytest.mark.parametrize(
    "text",
    [
        "a.asr.wer",
        "a.asr.wer <= ",
        "a.asr.wer <= 1 <= 2",
        "a.asr.wer b.asr.wer <= 1",
        "a <= 1",
        "1 <= 2",
        "a.t.x - a.t.x >= 0",
        "a.t.x * 2 >= 0",
        "2 * 3 >= a.t.x",
        "a.t.x + >= 0",
        "__import__('os') >= 0",
        "a.t.x; b.t.x >= 0",
        "",
    ],
)
def test_what_is_no_claim_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        read_claim(text)
    assert raised.value.value == text


def test_entries_have_two_keys() -> None:
    assert read_claims([{"claim": "a.t.x >= 0", "says": "words"}])[0].says == "words"
    for entry in ("a.t.x >= 0", {"says": "words"}, {"claim": "a.t.x >= 0", "verdict": "holds"}):
        with pytest.raises(ConfigError, match="no claim"):
            read_claims([entry])


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("a.asr.wer <= b.asr.wer", HOLDS),
        ("a.asr.wer >= b.asr.wer", FAILS),
        ("a.asr.wer <= c.asr.wer", UNDECIDED),
        ("c.asr.wer <= a.asr.wer", UNDECIDED),
        ("a.asr.wer <= nobody.asr.wer", UNMEASURED),
        ("a.asr.wer <= b.asr.cer", UNMEASURED),
    ],
)
def test_verdicts(text: str, verdict: str) -> None:
    runs = runs_of({"a": [3.0, 3.1, 2.9], "b": [6.0, 6.2, 5.9], "c": [3.2, 2.8, 3.1]})
    (judged,) = judge(read_claim(text), runs)
    assert judged.verdict == verdict
    assert (judged.margin is None) == (verdict == UNMEASURED)


def test_what_items_alone_may_change_is_undecided() -> None:
    values = {"a": [90.0, 90.0, 90.0]}
    claim = read_claim("a.asr.wer >= 89")
    assert judge(claim, runs_of(values, spread=0.1))[0].verdict == HOLDS
    assert judge(claim, runs_of(values, spread=1.0))[0].verdict == UNDECIDED


def test_one_seed_decides_nothing() -> None:
    (judged,) = judge(read_claim("a.asr.wer <= b.asr.wer"), runs_of({"a": [1.0], "b": [50.0]}))
    assert judged.verdict == UNDECIDED
    assert "one seed" in judged.reason
    assert judged.margin is not None
    assert judged.margin.value == 49


def test_noise_is_what_another_seed_changes() -> None:
    runs = runs_of({"a": [5.0, 5.2, 4.8], "b": [4.9, 5.1, 4.7]})
    (judged,) = judge(read_claim("a.asr.wer <= b.asr.wer + noise"), runs)
    # both have the standard deviation 0.2 over 4 degrees of freedom: 2.776 * sqrt(2) * 0.2
    assert judged.noise == pytest.approx(0.7852, abs=1e-3)
    assert judged.verdict == HOLDS
    assert judged.margin is not None
    assert judged.margin.value == pytest.approx(-0.1 + 0.7852, abs=1e-3)
    assert judge(read_claim("a.asr.wer <= b.asr.wer"), runs)[0].verdict == FAILS  # paired by seed, a is worse by 0.1


def test_a_claim_on_every_variant_is_judged_for_each() -> None:
    runs = runs_of({"a": [1.0, 1.1], "b": [9.0, 9.1]})
    verdicts = {one.claim.text: one.verdict for one in judge(read_claim("*.asr.wer <= 5"), runs)}
    assert verdicts == {"a.asr.wer <= 5": HOLDS, "b.asr.wer <= 5": FAILS}
    assert judge(read_claim("*.asr.wer <= 5"), {})[0].verdict == UNMEASURED


def test_a_variant_against_itself_is_level() -> None:
    (of_a, of_b) = judge(read_claim("*.asr.wer <= a.asr.wer"), runs_of({"a": [1.0, 1.1], "b": [9.0, 9.1]}))
    assert (of_a.verdict, of_b.verdict) == (HOLDS, FAILS)
    assert of_a.margin is not None
    assert of_a.margin.value == 0
