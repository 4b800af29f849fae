"""When a validation score first reaches a level."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.experiments.curves import measure_levels, steps_to
from vtblender_nemo.experiments.estimates import estimate
from vtblender_nemo.experiments.measures import RunScores

RISING = [(10, 0.0), (20, 40.0), (30, 30.0), (40, 80.0)]


@pytest.mark.parametrize(
    ("level", "steps"), [(0, 10.0), (20, 15.0), (40, 20.0), (35, 18.75), (55, 35.0), (80, 40.0), (81, None)]
)
def test_between_validations_the_score_moves_evenly(level: float, steps: float | None) -> None:
    assert steps_to(RISING, level) == steps


def test_what_falls_reaches_a_level_from_above() -> None:
    falling = [(10, 100.0), (20, 60.0), (30, 20.0)]
    assert steps_to(falling, 50, lower_is_better=True) == 22.5
    assert steps_to(falling, 10, lower_is_better=True) is None
    assert steps_to(falling, 100, lower_is_better=True) == 10


def written(folder: Path, curve: list[tuple[int, float]], name: str = "val/generalisation.exact_match") -> Path:
    """Lightning counts steps from 0 on in what it logs."""
    path = folder / "history.jsonl"
    rows = [{"step": step - 1, "name": name, "value": value} for step, value in curve]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": 5, "name": "train_loss", "value": 1}]))
    return path


def test_levels_are_measures_and_those_never_reached_count_the_whole_training(tmp_path: Path) -> None:
    levels = {"generalisation.exact_match": [20, 12.5, 90]}
    measures, missed = measure_levels(written(tmp_path, RISING), levels, 48)
    values = {name: one.value for name, one in measures.items()}
    assert values == {
        "generalisation.steps_to_20": 15.0,
        "generalisation.steps_to_12_5": 13.125,
        "generalisation.steps_to_90": 48.0,
    }
    assert missed == ["generalisation.steps_to_90"]
    assert {one.better for one in measures.values()} == {"lower"}


def test_a_word_error_rate_is_reached_from_above(tmp_path: Path) -> None:
    path = written(tmp_path, [(10, 90.0), (20, 30.0)], "val/asr.wer")
    measures, missed = measure_levels(path, {"asr.wer": [60]}, 20)
    assert (measures["asr.steps_to_60"].value, missed) == (15.0, [])


def test_its_chance_is_that_of_the_seed_alone(tmp_path: Path) -> None:
    runs = {}
    for seed, top in ((1, 80.0), (2, 160.0), (3, 80.0)):
        measures, _ = measure_levels(
            written(tmp_path, [(10, 0.0), (20, top)]), {"generalisation.exact_match": [40]}, 20
        )
        runs["a", seed] = RunScores("a", seed, None, measures)
    found = estimate(runs, {("a", "generalisation.steps_to_40"): 1.0})
    assert found.by_seed == {1: 15.0, 2: 12.5, 3: 15.0}
    half = 4.302653 * (25 / 12 / 3) ** 0.5  # t of 2 degrees of freedom; the variance of 15, 12.5, 15 is 25/12
    assert found.high - found.value == pytest.approx(half, rel=1e-5)
    alone = estimate({("a", 1): runs["a", 1]}, {("a", "generalisation.steps_to_40"): 1.0})
    assert (alone.low, alone.high) == (15.0, 15.0)


def test_a_curve_that_was_not_drawn_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such curve"):
        measure_levels(written(tmp_path, RISING), {"asr.wer": [20]}, 48)
    assert measure_levels(tmp_path / "nowhere.jsonl", {}, 48) == ({}, [])
