"""Which charts and tables a report has: one for every question that the measures answer, none without numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vtblender_nemo.evaluation.page.charts import Axis, Chart, Mark, Row, axis_of, without_empty
from vtblender_nemo.evaluation.page.names import (
    BASE,
    BLIND_PREFIX,
    DURATION_KEY,
    GROUP_KEYS,
    TEXT_KIND,
    TEXT_TWIN,
    count,
    difference_title,
    group_title,
    is_of_100,
    measure_title,
    role_of,
    span_start,
    task_title,
    unit_of,
    variant_title,
    words,
)
from vtblender_nemo.evaluation.page.runs import Run
from vtblender_nemo.evaluation.scores import COMPARISONS, DIFFERENCE, Better, Measure

TEXT_MARGIN, GAP_MARGIN = 1.0, 5.0
"""Points that text skills may lose against the base LLM, and that speech may lie behind its transcript: the project's goals."""
DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "none": ""}


@dataclass(frozen=True)
class Details:
    """Every measure of a task over all its items; measures and variants, whichever are fewer, stand side by side.

    Attributes:
        corner: what the rows are.
        columns: headings, each with a note.
        rows: headings, each with a note, and a number for every column.
    """

    corner: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[tuple[str, str], tuple[Mark | None, ...]], ...]


@dataclass(frozen=True)
class TaskSection:
    """What is shown of one task."""

    task: str
    title: str
    facts: tuple[str, ...]
    details: Details | None
    charts: tuple[Chart, ...]


def mark_of(measure: Measure, label: str | None = None, *, run: int | None = None, note: str = "") -> Mark:
    """A measure with the name and colour of its variant, or of the run it is from."""
    signed = measure.variant.startswith(DIFFERENCE)
    role = "other" if run is not None else "model" if signed else role_of(measure.variant)
    return Mark(label or variant_title(measure.variant, measure.kind), role, measure, run or 0, signed, note)


def scale_of(measure: Measure) -> str:
    """`WER, %, lower is better`."""
    parts = (measure_title(measure.measure), unit_of(measure.measure), DIRECTIONS[measure.better])
    return ", ".join(part for part in parts if part)


def score_charts(run: Run, others: Sequence[Run]) -> list[Chart]:
    """Main scores beside the base LLM's and the other runs'."""

    def marks(task: str) -> list[Mark]:
        found = [run.main_of(task), run.main_of(task, BASE)]
        rivals = ((number, other.get(task, run.main[task])) for number, other in enumerate(others))
        beside = [mark_of(measure, others[number].label, run=number) for number, measure in rivals if measure]
        return [mark_of(measure) for measure in found if measure] + beside

    return _bars(run, "scores", "Scores", marks)


def twin_charts(run: Run) -> list[Chart]:
    """Speech beside its transcript."""
    return _bars(run, "speech_and_transcript", "Speech and its transcript", _beside(run, lambda v: v == TEXT_TWIN))


def blind_charts(run: Run) -> list[Chart]:
    """What is reached when a part of the question is taken away."""
    return _bars(run, "blind", "With a part taken away", _beside(run, lambda v: v.startswith(BLIND_PREFIX)))


def _beside(run: Run, wanted: Callable[[str], bool]) -> Callable[[str], list[Mark]]:
    def marks(task: str) -> list[Mark]:
        main = run.main_of(task)
        found = [run.main_of(task, variant) for variant in run.variants(task) if wanted(variant)]
        others = [measure for measure in found if measure]
        if not main or not others:
            return []
        notes = ["" if measure.items == main.items else count(measure.items, "item") for measure in others]
        return [mark_of(main), *(mark_of(measure, note=note) for measure, note in zip(others, notes, strict=True))]

    return marks


def _bars(run: Run, name: str, title: str, marks: Callable[[str], list[Mark]]) -> list[Chart]:
    """One chart for every scale, as error rates do not fit one with scores."""
    by_scale: dict[tuple[Better, str], list[Row]] = {}
    for task, measure in run.main.items():
        found = marks(task)
        if found:
            first = found[0].measure
            scale = "of 100" if is_of_100(measure) else measure
            row = Row(task_title(task), _row_note(first), tuple(found))
            by_scale.setdefault((first.better, scale), []).append(row)
    charts = []
    for (better, scale), rows in by_scale.items():
        shown = [words(scale) if scale != "of 100" else "", DIRECTIONS[better]]
        full = better == "higher" and scale == "of 100"
        file_name = name if full else f"{name}_{better}" + ("" if scale == "of 100" else f"_{scale}")
        text = ", ".join(part for part in shown if part) + (", 0 to 100" if full else "")
        charts.append(Chart(file_name, title, text.lstrip(", "), "bars", tuple(rows), axis_of(rows, of_100=full)))
    return sorted(charts, key=lambda chart: chart.name != name)


def _row_note(measure: Measure) -> str:
    unit = unit_of(measure.measure)
    return measure_title(measure.measure) + (f", {unit}" if unit else "")


def kept_charts(run: Run) -> list[Chart]:
    """Text skills minus those of the base LLM."""
    tasks = [task for task in run.main if run.kinds[task] == TEXT_KIND]
    return _differences(run, tasks, BASE, TEXT_MARGIN, "minus_base")


def gap_charts(run: Run) -> list[Chart]:
    """Speech minus its transcript, as the model reads it and as the base LLM does."""
    tasks = [task for task in run.main if run.kinds[task] != TEXT_KIND]
    own = _differences(run, tasks, TEXT_TWIN, GAP_MARGIN, "minus_text_twin")
    return own + _differences(run, tasks, BASE, GAP_MARGIN, "speech_minus_base")


def _differences(run: Run, tasks: Sequence[str], against: str, margin: float, name: str) -> list[Chart]:
    rows = without_empty(row for task in tasks for row in _difference_rows(run, task, DIFFERENCE + against))
    if not rows:
        return []
    kind = rows[0].known[0].measure.kind
    axis = axis_of(rows, signed=True, at_least=1.5 * margin)
    title = difference_title(DIFFERENCE + against, kind)
    return [Chart(name, title, "points, paired by item", "dots", rows, axis, (-margin, margin))]


def _difference_rows(run: Run, task: str, variant: str) -> Iterator[Row]:
    name = run.main[task]
    whole = run.get(task, name, variant)
    if whole:
        note = _row_note(whole) + (", lower is better" if whole.better == "lower" else "")
        yield Row(task_title(task), note, (mark_of(whole, "difference"),))
    for key, groups in run.groups(task, name).items():
        for group in groups if "/" not in key else ():  # groups of two keys have few items each
            measure = run.get(task, name, variant, group)
            if measure:
                yield Row("", group_title(group), (mark_of(measure, "difference"),))


def task_sections(run: Run, others: Sequence[Run]) -> list[TaskSection]:
    """Everything about each task that the charts above do not hold."""
    sections = []
    for task in run.main:
        charts = (*_group_charts(run, task), *_duration_charts(run, others, task))
        details = _details(run, task)
        if charts or details:
            sections.append(TaskSection(task, task_title(task), _facts(run, task), details, charts))
    return sections


def _facts(run: Run, task: str) -> tuple[str, ...]:
    main = run.main_of(task) or run.sheet.of_task(task)[0]
    facts = [count(main.items, "item")]
    failed = {m.variant: m.failed for m in run.sheet.of_task(task) if m.failed and not m.group}
    facts += [
        f"{count(number, 'item')} without an answer"
        + (f" ({variant_title(variant, run.kinds[task])})" if variant else "")
        for variant, number in failed.items()
        if not variant.startswith(COMPARISONS)
    ]
    if task in run.sheet.seconds:
        facts.append(f"{run.sheet.seconds[task]:,.0f} s")
    return tuple(facts)


def _details(run: Run, task: str) -> Details | None:
    whole = [measure for measure in run.sheet.of_task(task) if not measure.group]
    variants = list(dict.fromkeys(measure.variant for measure in whole))
    variants.sort(key=lambda variant: (variant != "", variant.startswith(COMPARISONS)))
    names = list(dict.fromkeys(measure.measure for measure in whole))
    if len(names) < 2:  # the charts of all tasks hold it
        return None
    table = [[mark_of(found) if (found := run.get(task, name, v)) else None for v in variants] for name in names]
    measures = [(measure_title(name), _scale(run.sheet.of_task(task), name)) for name in names]
    titles = [(_title(variant, run.kinds[task]), "") for variant in variants]
    if len(variants) > len(names):
        columns = [tuple(column) for column in zip(*table, strict=True)]
        return Details("", tuple(measures), tuple(zip(titles, columns, strict=True)))
    return Details("measure", tuple(titles), tuple(zip(measures, map(tuple, table), strict=True)))


def _scale(measures: Sequence[Measure], name: str) -> str:
    better = next(measure.better for measure in measures if measure.measure == name)
    return ", ".join(part for part in (unit_of(name), DIRECTIONS[better]) if part)


def _title(variant: str, kind: str) -> str:
    return difference_title(variant, kind) if variant.startswith(DIFFERENCE) else variant_title(variant, kind)


def _group_charts(run: Run, task: str) -> Iterator[Chart]:
    name = run.main[task]
    for key, groups in run.groups(task, name).items():
        if key == DURATION_KEY or len(groups) < 2:  # one group is all items
            continue
        variants = run.variants(task)
        rows = without_empty(
            Row(group_title(group), _items(run, task, group), _group_marks(run, task, group, variants))
            for group in groups
        )
        if rows:
            first = rows[0].known[0].measure
            full = first.better == "higher" and is_of_100(name)
            title = f"{task_title(task)} by {GROUP_KEYS.get(key, words(key))}"
            yield Chart(
                f"{task}_by_{key.replace('/', '_')}", title, scale_of(first), "dots", rows, axis_of(rows, of_100=full)
            )


def _items(run: Run, task: str, group: str) -> str:
    measure = run.main_of(task, "", group)
    return count(measure.items, "item") if measure else ""


def _group_marks(run: Run, task: str, group: str, variants: Sequence[str]) -> tuple[Mark | None, ...]:
    found = (run.main_of(task, variant, group) for variant in variants)
    return tuple(mark_of(measure) if measure else None for measure in found)


def _duration_charts(run: Run, others: Sequence[Run], task: str) -> Iterator[Chart]:
    name = run.main[task]
    groups = sorted(run.groups(task, name).get(DURATION_KEY, []), key=span_start)
    rows = []
    for group in groups:
        own = run.get(task, name, "", group)
        beside = ((number, other.get(task, name, "", group)) for number, other in enumerate(others))
        rivals = [mark_of(m, others[number].label, run=number) if m else None for number, m in beside]
        rows.append(Row(group_title(group), _items(run, task, group), (mark_of(own) if own else None, *rivals)))
    kept = without_empty(rows)
    if len(kept) > 1:
        first = kept[0].known[0].measure
        title = f"{task_title(task)} by {GROUP_KEYS[DURATION_KEY]}"
        yield Chart(f"{task}_by_{DURATION_KEY}", title, scale_of(first), "spans", kept, axis_of(kept))


def mini_axis(margin: float, measure: Measure) -> Axis:
    """A scale around zero for a verdict's small drawing."""
    reach = max(2 * margin, abs(measure.low), abs(measure.high), abs(measure.value)) * 1.1 or 1.0
    return Axis(-reach, reach, (0.0,))
