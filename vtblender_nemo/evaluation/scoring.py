"""From answers to measures: of all items and of groups, as asked and changed, and the differences between the two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.groups import group_positions
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.measures import MEASURES, Answered, measure
from vtblender_nemo.evaluation.metrics import Score, Statistics, difference, summarize
from vtblender_nemo.evaluation.runner import Prediction
from vtblender_nemo.evaluation.scores import Measure
from vtblender_nemo.evaluation.tasks import Task

DIFFERENCE = "minus_"


@dataclass(frozen=True)
class _Side:
    """What was answered to one variant of a task.

    Attributes:
        variant: "" for the items as they are.
        answered: items, as they are, with their answers.
        failed: items without an answer.
        kept: by measure, of `answered`.
    """

    variant: str
    answered: Sequence[Answered]
    failed: Sequence[Item]
    kept: Mapping[str, Statistics]


def score_task(
    task: Task, predictions: Mapping[str, Sequence[Prediction]], *, folder: Path | None = None
) -> list[Measure]:
    """All measures of a task.

    Args:
        task: with items.
        predictions: by variant, one for each item of `task.sets[variant]`, in its order.
        folder: where a judge's verdicts are kept.

    Returns:
        For every variant its measures, the main one first, each of all items and then of every group; behind a variant the
        differences `minus_VARIANT`: as asked minus that variant, over the items answered both times. A group that has no
        score, as one of silence has no word error rate, is left out.

    Raises:
        DataError: not as many predictions as items, no prediction at all, items that lack what a measure needs, or a
            measure that is undefined for all items; names the task.
    """
    try:
        sides = {variant: _side(task, variant, given, folder) for variant, given in predictions.items()}
        return [found for side in sides.values() for found in _measures(task, side, sides[""])]
    except DataError as error:
        raise DataError(
            f"task {task.name} cannot be scored: {error.problem}",
            path=error.path,
            line=error.line,
            value=error.value,
            expected=error.expected,
            knob=error.knob,
        ) from error


def _side(task: Task, variant: str, predictions: Sequence[Prediction], folder: Path | None) -> _Side:
    items = task.sets[variant]
    if len(predictions) != len(items):
        raise DataError(
            "not as many predictions as references", value=len(predictions), expected=f"{len(items)} predictions"
        )
    originals = {item.id: item for item in task.sets[""]}
    pairs = [(originals[item.id], given) for item, given in zip(items, predictions, strict=True)]
    answered = [Answered(item, one.text, one.secs, one.device) for item, one in pairs if one.text is not None]
    failed = [item for item, one in pairs if one.text is None]
    if not answered:
        error = next((one.error for one in predictions), "no items")
        raise DataError(f"every item{_of(variant)} failed, the first with: {error}", value=len(failed))
    names = [name for name in task.measures if not variant or MEASURES[name].of_variants]
    return _Side(
        variant, answered, failed, {name: measure(name, answered, task.options, folder=folder) for name in names}
    )


def _measures(task: Task, side: _Side, asked: _Side) -> Iterator[Measure]:
    places = _groups(task, [one.item for one in side.answered])
    failed = {group: len(found) for group, found in _groups(task, side.failed).items()}
    for name, kept in side.kept.items():
        yield _measure(task, name, side.variant, "", summarize(kept, name), len(side.failed))
        for group, positions in places.items():
            of_group = kept.take(positions)
            if group and math.isfinite(of_group.value):
                score = summarize(of_group, name)
                yield _measure(task, name, side.variant, group, score, failed.get(group, 0))
    if side.variant:
        yield from _differences(task, side, asked)


def _differences(task: Task, side: _Side, asked: _Side) -> Iterator[Measure]:
    position_of = {one.item.id: position for position, one in enumerate(asked.answered)}
    pairs = [
        (position_of[one.item.id], position) for position, one in enumerate(side.answered) if one.item.id in position_of
    ]
    if not pairs:
        raise DataError(f"no item was answered both as it is and{_of(side.variant)}", value=len(side.answered))
    common = [side.answered[position].item for _, position in pairs]
    lost = len(side.answered) + len(side.failed) - len(common)
    groups = {"": list(range(len(common))), **_groups(task, common)}
    for name in side.kept:
        mine, other = asked.kept[name].take([a for a, _ in pairs]), side.kept[name].take([b for _, b in pairs])
        for group, positions in groups.items():
            ours, theirs = mine.take(positions), other.take(positions)
            if group and not (math.isfinite(ours.value) and math.isfinite(theirs.value)):
                continue
            score = difference(ours, theirs, name)
            yield _measure(task, name, DIFFERENCE + side.variant, group, score, 0 if group else lost)


def _groups(task: Task, items: Sequence[Item]) -> dict[str, list[int]]:
    return {group: found for key in task.group_by for group, found in group_positions(items, key).items()}


def _measure(task: Task, name: str, variant: str, group: str, score: Score, failed: int) -> Measure:
    numbers: dict[str, Any] = {"value": _rounded(score.value), "low": _rounded(score.low), "high": _rounded(score.high)}
    return Measure(
        task=task.name,
        kind=task.kind,
        measure=name,
        variant=variant,
        group=group,
        **numbers,
        items=score.items,
        failed=failed,
        better=MEASURES[name].better,
        signature=score.signature,
    )


def _rounded(value: float) -> float:
    return round(value, 4) + 0.0  # no minus before zero


def _of(variant: str) -> str:
    return f" of variant {variant}" if variant else ""
