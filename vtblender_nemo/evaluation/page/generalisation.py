"""What is left of the score with the transcript when the question is heard, the farther it lies from training: the tables of all
systems, and the statement at the top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vtblender_nemo.common.generalisation import DISTANCE, KNOWN, LEVEL
from vtblender_nemo.evaluation.kinds import GENERALISATION
from vtblender_nemo.evaluation.page.charts import Chart, Mark, Row, axis_of, without_empty
from vtblender_nemo.evaluation.page.names import (
    TEXT_TWIN,
    count,
    group_title,
    is_of_100,
    measure_title,
    task_title,
)
from vtblender_nemo.evaluation.page.runs import Run
from vtblender_nemo.evaluation.page.sections import mark_of, scale_of
from vtblender_nemo.evaluation.scores import AGREEMENT, SHARE, Measure

COLUMNS = {
    "": "speech",
    TEXT_TWIN: "transcript",
    SHARE + TEXT_TWIN: "share, %",
    AGREEMENT + TEXT_TWIN: "agreement",
}
"""What stands side by side, by variant."""
BY_DISTANCE = f"{LEVEL}/{DISTANCE}"


def generalisation_charts(run: Run, others: Sequence[Run]) -> list[Chart]:
    """For every measure of the tasks of this kind a chart by what is new, and for the main one another by distance."""
    return [chart for task in tasks_of(run) for chart in _charts(run, others, task)]


def tasks_of(run: Run) -> list[str]:
    """The tasks that are about generalisation."""
    return [task for task, kind in run.kinds.items() if kind == GENERALISATION]


def worst_share(run: Run) -> Measure | None:
    """The smallest share of the score with the transcript among what is new: unseen wordings and unseen tasks."""
    found = [
        measure
        for task in tasks_of(run)
        for group in run.groups(task, run.main[task]).get(LEVEL, [])
        if group != f"{LEVEL}={KNOWN}" and (measure := run.main_of(task, SHARE + TEXT_TWIN, group))
    ]
    return min(found, key=lambda measure: measure.value, default=None)


def _charts(run: Run, others: Sequence[Run], task: str) -> Iterator[Chart]:
    for name in dict.fromkeys(measure.measure for measure in run.sheet.of_task(task)):
        groups = run.groups(task, name).get(LEVEL, [])
        yield from _chart(run, others, task, name, groups, "by what is new", f"{task}_{name}")
    name = run.main[task]
    far = [group for group in run.groups(task, name).get(BY_DISTANCE, []) if group_level(group) != KNOWN]
    yield from _chart(run, others, task, name, far, "by distance of the wording", f"{task}_{DISTANCE}")


def group_level(group: str) -> str:
    """`prompt` of `generalisation/wording_distance=prompt/far`."""
    return group.partition("=")[2].partition("/")[0]


def _chart(
    run: Run, others: Sequence[Run], task: str, measure: str, groups: Sequence[str], by: str, name: str
) -> Iterator[Chart]:
    rows = without_empty(row for group in groups for row in _rows(run, others, task, measure, group))
    if rows:
        first = rows[0].known[0].measure
        full = first.better == "higher" and is_of_100(measure)
        title = f"{task_title(task)} {by}: {measure_title(measure)}"
        yield Chart(name, title, scale_of(first), "dots", rows, axis_of(rows, of_100=full))


def _rows(run: Run, others: Sequence[Run], task: str, measure: str, group: str) -> Iterator[Row]:
    """One row, or with other runs a block of them, one for each system."""
    own = run.get(task, measure, "", group)
    items = count(own.items, "item") if own else ""
    if not others:
        yield Row(group_title(group), items, _marks(run, task, measure, group))
        return
    for one in (run, *others):
        found = one.get(task, measure, "", group)
        note = count(found.items, "item") if found and own and found.items != own.items else ""
        yield Row(one.label, note, _marks(one, task, measure, group), block=f"{group_title(group)}, {items}")


def _marks(run: Run, task: str, measure: str, group: str) -> tuple[Mark | None, ...]:
    found = ((label, run.get(task, measure, variant, group)) for variant, label in COLUMNS.items())
    marks = (mark_of(one, label) if one else None for label, one in found)
    return tuple(mark and replace(mark, drawn=not mark.measure.variant.startswith(SHARE)) for mark in marks)
