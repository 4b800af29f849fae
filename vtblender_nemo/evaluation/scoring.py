"""From answers to measures: of all items and of groups, as asked and changed, and what the two have to do with each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.groups import group_positions
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.measures import MEASURES, Answered, holding, measure
from vtblender_nemo.evaluation.metrics import Score, Statistics, difference, share, summarize
from vtblender_nemo.evaluation.runner import Prediction
from vtblender_nemo.evaluation.scores import AGREEMENT, DIFFERENCE, SHARE, Measure
from vtblender_nemo.evaluation.tasks import Task


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


@dataclass(frozen=True)
class _Pair:
    """The items that were answered both as asked and of a variant.

    Attributes:
        variant: the other side's.
        asked: the answers as asked.
        other: the answers to the same items in the variant.
        kept: by measure, of both.
        groups: positions of the items of every group, that of all items ("") first.
        lost: items that were not answered both times.
    """

    variant: str
    asked: Sequence[Answered]
    other: Sequence[Answered]
    kept: Mapping[str, tuple[Statistics, Statistics]]
    groups: Mapping[str, Sequence[int]]
    lost: int


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
        differences `minus_VARIANT`: as asked minus that variant, over the items answered both times. Behind one of the
        task's ceilings, over the same items, `share_of_VARIANT`: the score as asked in percent of the ceiling's, of
        measures of which more is better; and `agreement_with_VARIANT`: the answers as asked against those to the variant,
        which stand in the references' place. A group that has no score, as one of silence has no word error rate, is left
        out; so is a share of nothing.

    Raises:
        DataError: not as many predictions as items, no prediction at all, items that lack what a measure needs, or a
            measure that is undefined for all items; names the task.
    """
    try:
        sides = {variant: _side(task, variant, given, folder) for variant, given in predictions.items()}
        return [found for side in sides.values() for found in _of_side(task, side, sides[""], folder)]
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


def _of_side(task: Task, side: _Side, asked: _Side, folder: Path | None) -> Iterator[Measure]:
    yield from _measures(task, side)
    if side.variant:
        pair = _pair(task, side, asked)
        yield from _differences(task, pair)
        if side.variant in task.ceilings:
            yield from _shares(task, pair)
            yield from _agreements(task, pair, folder)


def _measures(task: Task, side: _Side) -> Iterator[Measure]:
    places = _groups(task, [one.item for one in side.answered])
    failed = {group: len(found) for group, found in _groups(task, side.failed).items()}
    for name, kept in side.kept.items():
        yield _measure(task, name, side.variant, "", summarize(kept, name), len(side.failed))
        for group, positions in places.items():
            of_group = kept.take(positions)
            if math.isfinite(of_group.value):
                score = summarize(of_group, name)
                yield _measure(task, name, side.variant, group, score, failed.get(group, 0))


def _pair(task: Task, side: _Side, asked: _Side) -> _Pair:
    position_of = {one.item.id: position for position, one in enumerate(asked.answered)}
    places = [
        (position_of[one.item.id], position) for position, one in enumerate(side.answered) if one.item.id in position_of
    ]
    if not places:
        raise DataError(f"no item was answered both as it is and{_of(side.variant)}", value=len(side.answered))
    mine, theirs = [a for a, _ in places], [b for _, b in places]
    ours = [asked.answered[position] for position in mine]
    return _Pair(
        side.variant,
        ours,
        [side.answered[position] for position in theirs],
        {name: (asked.kept[name].take(mine), kept.take(theirs)) for name, kept in side.kept.items()},
        {"": range(len(ours)), **_groups(task, [one.item for one in ours])},
        len(side.answered) + len(side.failed) - len(ours),
    )


def _differences(task: Task, pair: _Pair) -> Iterator[Measure]:
    for name, (mine, other) in pair.kept.items():
        for group, positions in pair.groups.items():
            ours, theirs = mine.take(positions), other.take(positions)
            if not group or (math.isfinite(ours.value) and math.isfinite(theirs.value)):
                yield _compared(task, name, DIFFERENCE, pair, group, difference(ours, theirs, name))


def _shares(task: Task, pair: _Pair) -> Iterator[Measure]:
    for name, (mine, other) in pair.kept.items():
        for group, positions in pair.groups.items():
            ours, ceiling = mine.take(positions), other.take(positions)
            if MEASURES[name].better == "higher" and math.isfinite(ours.value) and ceiling.value > 0:
                yield _compared(task, name, SHARE, pair, group, share(ours, ceiling, name))


def _agreements(task: Task, pair: _Pair, folder: Path | None) -> Iterator[Measure]:
    held = [holding(one, other.text) for one, other in zip(pair.asked, pair.other, strict=True)]
    for name in pair.kept:
        if not MEASURES[name].of_references:
            continue
        kept = measure(name, held, task.options, folder=folder)
        for group, positions in pair.groups.items():
            of_group = kept.take(positions)
            if math.isfinite(of_group.value):
                yield _compared(task, name, AGREEMENT, pair, group, summarize(of_group, name))


def _compared(task: Task, name: str, relation: str, pair: _Pair, group: str, score: Score) -> Measure:
    return _measure(task, name, relation + pair.variant, group, score, 0 if group else pair.lost)


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
