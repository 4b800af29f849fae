"""What a run keeps of its predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.metrics import compute
from vtblender_nemo.experiments.measures import (
    RESAMPLES,
    RunScores,
    interval,
    measure,
    measure_agreement,
    named,
    read_run,
    write_run,
)


def row(id: str, prediction: str | None, reference: str, **custom: Any) -> dict[str, Any]:
    return {"id": id, "task": "t", "prediction": prediction, "reference": reference, "custom": custom}


ROWS = [
    row("1", "one two three", "one two four", kind="a"),
    row("2", "five", "five", kind="a"),
    row("3", None, "six", kind="b"),
    row("4", "seven eight", "seven nine", kind="b"),
]


def test_the_score_is_that_of_the_metric_and_of_every_group() -> None:
    found = measure(ROWS, "wer", {"normalizer": "basic"}, "kind")
    assert {name: (one.value, one.items) for name, one in found.items()} == {
        "": (pytest.approx(100 * 2 / 6), 3),
        "a": (25.0, 2),
        "b": (50.0, 1),
    }
    assert found[""].failed == 1
    assert found[""].better == "lower"


def test_its_spread_is_that_of_the_metrics_own_interval() -> None:
    predictions, references = ["a"] * 70 + ["b"] * 30, ["a"] * 100
    rows = [row(str(n), p, r) for n, (p, r) in enumerate(zip(predictions, references, strict=True))]
    own = compute("exact_match", predictions, references)
    assert interval(measure(rows, "exact_match")[""]) == pytest.approx(own.interval, abs=2)


def test_the_same_items_are_drawn_alike_whatever_was_answered() -> None:
    right = [row(str(n), "a", "a") for n in range(50)]
    swapped = [row(str(n), "b" if n == 7 else "a", "a") for n in range(50)]
    one, other = (measure(rows, "exact_match")[""] for rows in (right, swapped))
    times_drawn = (one.resampled - other.resampled) / 2  # item 7 is worth 2 points each time that it is drawn
    assert one.digest == other.digest
    assert np.allclose(times_drawn, times_drawn.round())
    assert 0.8 < times_drawn.mean() < 1.2
    elsewhere = measure([row(f"x{n}", "b" if n == 7 else "a", "a") for n in range(50)], "exact_match")[""]
    assert elsewhere.digest != one.digest
    assert not np.array_equal(elsewhere.resampled, other.resampled)


def test_agreement_is_with_the_twins_answers_whether_they_are_right_or_not() -> None:
    heard = [row(str(n), answer, "a", kind="xy"[n % 2]) for n, answer in enumerate(["a", "b", "b", None, "a"])]
    read = [row(str(n), answer, "a") for n, answer in enumerate(["a", "b", "a", "a", None])]
    found = measure_agreement(heard, read[::-1], "exact_match", None, "kind")
    assert {name: (one.value, one.items, one.failed) for name, one in found.items()} == {
        "": (pytest.approx(200 / 3), 3, 2),
        "x": (50.0, 2, 0),
        "y": (100.0, 1, 0),
    }


def test_agreement_and_scores_draw_the_same_items() -> None:
    """So that a difference of the two is one of the same items."""
    heard = [row(str(n), "b" if n == 7 else "a", "a") for n in range(50)]
    score, agreement = measure(heard, "exact_match")[""], measure_agreement(heard, heard, "exact_match")[""]
    assert (score.value, agreement.value) == (98.0, 100.0)
    assert score.digest == agreement.digest
    times_drawn = (agreement.resampled - score.resampled) / 2
    assert np.allclose(times_drawn, times_drawn.round())


def test_a_single_group_is_not_told_twice() -> None:
    assert measure(ROWS[:2], "wer", {"normalizer": "basic"}, "kind").keys() == {""}
    assert measure([r | {"task": r["id"]} for r in ROWS[:2]], "wer", {}, "task").keys() == {"", "1", "2"}


def test_nothing_answered_is_an_error() -> None:
    with pytest.raises(DataError, match="every item failed"):
        measure([row("1", None, "a")], "exact_match")


def test_names_have_task_variant_group_and_score() -> None:
    found = measure(ROWS, "wer", {"normalizer": "basic"}, "kind")
    assert [name for name, _ in named("asr", "wer", found, "shuffle")] == [
        "asr.shuffle.wer",
        "asr.shuffle.a.wer",
        "asr.shuffle.b.wer",
    ]


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None
    scores = RunScores(
        "joint", 3, 16.0, dict(named("asr", "wer", measure(ROWS, "wer"))), {"training": 60.5}, {"a": 1}, "l"
    )
    write_run(scores, tmp_path)
    read = read_run(tmp_path)
    assert read is not None
    assert (read.variant, read.seed, read.x, read.seconds, read.about, read.line) == (
        "joint",
        3,
        16.0,
        {"training": 60.5},
        {"a": 1},
        "l",
    )
    before, after = scores.measures["asr.wer"], read.measures["asr.wer"]
    assert after.value == pytest.approx(before.value, abs=1e-4)
    assert after.resampled.shape == (RESAMPLES,)
    assert np.allclose(before.resampled, after.resampled, rtol=1e-5, equal_nan=True)


def test_resamples_without_a_score_stay_such(tmp_path: Path) -> None:
    rows = [row("1", "", ""), row("2", "a", "a")]
    scores = RunScores("joint", 1, None, {"asr.wer": measure(rows, "wer")[""]})
    write_run(scores, tmp_path)
    read = read_run(tmp_path)
    assert read is not None
    assert (
        np.isnan(read.measures["asr.wer"].resampled).sum() == np.isnan(scores.measures["asr.wer"].resampled).sum() > 0
    )


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DataError, match="another format"):
        read_run(tmp_path)
