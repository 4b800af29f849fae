"""What one run of a sweep scored, kept so that runs can be compared item by item without their predictions.

A measure has a name as `asr.wer`, `sqa.shuffle.exact_match` (a variant of the items), `mixed_modal.mixed_two_facts.exact_match`
(a group of them), `sqa.agreement_exact_match` (with the same model's answers to the transcripts) or `text.base_accuracy` (of
the base LLM). Beside its value stand R values of it over resampled items. The draws depend on nothing but the items, so that two
runs that answered the same items were resampled alike, and the difference of their R values is a paired one.

Shapes: I items, R resamples, K numbers kept of an item.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.files import write_json

FORMAT = 1
RUN_FILE = "run.json"
RESAMPLES = 500
"""Of which only the spread is used; its own error is then 1/sqrt(2R), 3 percent."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """One number and how it would have come out on other items.

    Attributes:
        value: 0 to 100; a word error rate may exceed 100.
        items: how many items it comes from.
        failed: items without an answer, which count nowhere else.
        digest: of the items' ids and references.
        resampled: (R,) values over resampled items; NaN where a resample has no score.
        better: `lower` or `higher`.
    """

    value: float
    items: int
    failed: int
    digest: str
    resampled: NDArray[np.float64]
    better: str


@dataclass(frozen=True)
class RunScores:
    """A finished run.

    Attributes:
        variant: its name.
        seed: of the training.
        x: the number that the sweep turns, if it is one.
        line: what the variant has in common with those at other numbers.
        measures: by name.
        seconds: by stage of the run.
        about: anything else worth knowing.
    """

    variant: str
    seed: int
    x: float | None
    measures: Mapping[str, Measured]
    seconds: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    line: str = ""


def measure(
    rows: Sequence[Row],
    metric: str,
    options: Mapping[str, Any] | None = None,
    group_by: str | None = None,
    against: str = "reference",
) -> dict[str, Measured]:
    """Scores predictions, all of them (under an empty name) and those of every group.

    Args:
        rows: with `id`, `prediction` (null for an item that failed) and `reference`.
        metric: a name of `evaluation.metrics`.
        options: of the metric.
        group_by: the field of `custom` that names a row's group; `task` means the row's own task.
        against: the field of a row that its prediction is compared with; items are drawn alike whatever it is.

    Raises:
        DataError: no row has a prediction, or the references hold nothing to score against.
    """
    answered = [row for row in rows if row["prediction"] is not None]
    if not answered:
        raise DataError("every item failed", expected="at least one prediction")
    groups: dict[str, list[Row]] = {}
    for row in answered:
        name = row.get("task") if group_by == "task" else (row.get("custom") or {}).get(group_by)
        if name is not None:
            groups.setdefault(str(name), []).append(row)
    sets = {"": answered} | (groups if len(groups) > 1 else {})
    failed = len(rows) - len(answered)
    return {
        name: _measured(chosen, metric, options or {}, against, 0 if name else failed) for name, chosen in sets.items()
    }


def measure_agreement(
    rows: Sequence[Row],
    twins: Sequence[Row],
    metric: str,
    options: Mapping[str, Any] | None = None,
    group_by: str | None = None,
) -> dict[str, Measured]:
    """How like the answers to a variant of the items the answers are, whether right or wrong; see `measure`.

    Args:
        rows: predictions.
        twins: those of the variant; an item without an answer to either counts as failed.
        metric: see `measure`.
        options: see there.
        group_by: see there.

    Raises:
        DataError: as `measure`.
    """
    answers = {row["id"]: row["prediction"] for row in twins}
    return measure([_beside(row, answers.get(row["id"])) for row in rows], metric, options, group_by, "twin")


def _beside(row: Row, twin: str | None) -> Row:
    return {**row, "twin": twin, "prediction": None if twin is None else row["prediction"]}


def _measured(rows: Sequence[Row], metric: str, options: Mapping[str, Any], against: str, failed: int) -> Measured:
    from vtblender_nemo.evaluation.metrics import LOWER_IS_BETTER, statistics

    kept = statistics(metric, [row["prediction"] for row in rows], [row[against] for row in rows], **options)
    value = float(kept.reduce(kept.rows.sum(axis=0, keepdims=True))[0])
    if not math.isfinite(value):
        raise DataError(f"{metric} is undefined for these items", value=value, expected="references that are not empty")
    digest = _digest(rows)
    items = len(kept.rows)
    rng = np.random.default_rng(int(digest, 16))
    draws = rng.multinomial(items, np.full(items, 1 / items), size=RESAMPLES)  # (R, I)
    resampled = kept.reduce(draws.astype(np.float64) @ kept.rows)
    better = "lower" if metric in LOWER_IS_BETTER else "higher"
    return Measured(value, items, failed, digest, np.asarray(resampled, dtype=np.float64), better)


def _digest(rows: Sequence[Row]) -> str:
    text = "\n".join(f"{row['id']}\t{json.dumps(row['reference'], ensure_ascii=False)}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_run(scores: RunScores, folder: Path) -> None:
    """Writes `run.json`, whole or not at all: with it, a run counts as done."""
    values = {"format": FORMAT, **asdict(scores)}
    for measured in values["measures"].values():
        measured["value"] = round(measured["value"], 4)
        # as one text, which a reader may skip
        measured["resampled"] = " ".join(f"{value:.6g}" for value in measured["resampled"])
    write_json(values, folder / RUN_FILE)


def read_run(folder: Path) -> RunScores | None:
    """A run's scores; None if it is not done.

    Raises:
        DataError: the file is of another format.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.pop("format", None) != FORMAT:
        raise DataError("a run of another format", path=path, expected=f'"format": {FORMAT}')
    measures = {name: Measured(**_with_numbers(measured)) for name, measured in values.pop("measures").items()}
    return RunScores(measures=measures, **values)


def _with_numbers(measured: dict[str, Any]) -> dict[str, Any]:
    return measured | {"resampled": np.array(measured["resampled"].split(), dtype=np.float64)}


def interval(measured: Measured) -> tuple[float, float]:
    """The 95% interval over items, as percentiles."""
    low, high = np.nanpercentile(measured.resampled, (2.5, 97.5))
    return float(low), float(high)


def named(task: str, score: str, found: Mapping[str, Measured], variant: str = "") -> Iterator[tuple[str, Measured]]:
    """The full names of what `measure` found."""
    for group, measured in found.items():
        yield ".".join(part for part in (task, variant, group, score) if part), measured
