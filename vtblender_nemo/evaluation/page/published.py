"""What others have published, from a CSV file with sources."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.shipped import shipped
from vtblender_nemo.evaluation.page.charts import Chart, Mark, Row, axis_of
from vtblender_nemo.evaluation.page.names import is_of_100, measure_title
from vtblender_nemo.evaluation.page.runs import Run
from vtblender_nemo.evaluation.page.sections import mark_of, scale_of
from vtblender_nemo.evaluation.scores import Better, Measure

COLUMNS = ("task", "benchmark", "system", "measure", "value", "source", "date")
ERROR_RATES = frozenset({"wer_percent", "cer_percent"})
"""Measures of published figures of which less is better."""


@dataclass(frozen=True)
class Figure:
    """A published number.

    Attributes:
        task: the kind of task it belongs to, as `asr`.
        benchmark: its public name.
        system: what was measured.
        measure: as in `scores.json`.
        value: of the measure.
        source: where it was published.
        date: when, as known; may be empty.
    """

    task: str
    benchmark: str
    system: str
    measure: str
    value: float
    source: str
    date: str

    @property
    def better(self) -> Better:
        return "lower" if self.measure in ERROR_RATES else "higher"


@dataclass(frozen=True)
class Published:
    """Published figures of the kinds of task that a run has.

    Attributes:
        same: of benchmarks that the run was measured on, with the run's own number.
        apart: of other benchmarks, which say nothing about the run.
        sources: `source, date` of all of them.
    """

    same: tuple[Chart, ...]
    apart: tuple[Chart, ...]
    sources: tuple[str, ...]


def default_file() -> Path:
    """The figures that come with the package."""
    return shipped("evaluation/published.csv")


def read_figures(path: Path) -> list[Figure]:
    """Reads published figures.

    Raises:
        DataError: the file is missing, or a row lacks a column, its source or a finite number; names file and line.
    """
    if not path.is_file():
        raise DataError("file of published figures is missing", path=path, expected=f"CSV of {','.join(COLUMNS)}")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataError("wrong columns", path=path, line=1, value=reader.fieldnames, expected=",".join(COLUMNS))
        return [_figure(row, path, reader.line_num) for row in reader]


def _figure(row: dict[str, str | None], path: Path, line: int) -> Figure:
    texts = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if missing := [name for name in COLUMNS if name != "date" and not texts[name]]:
        raise DataError("published figure lacks a value", path=path, line=line, value=missing, expected="a text")
    try:
        value = float(texts["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError("published figure is no number", path=path, line=line, value=texts["value"])
    return Figure(**{**texts, "value": value})  # type: ignore[arg-type]


def select(figures: Sequence[Figure], run: Run) -> Published:
    """The figures that belong to a run's kinds of task, apart from its own numbers unless the benchmark is the same."""
    kinds = set(run.kinds.values())
    same: list[Chart] = []
    apart: list[Chart] = []
    used: list[Figure] = []
    for key in dict.fromkeys((f.task, f.benchmark, f.measure) for f in figures if f.task in kinds):
        chosen = [figure for figure in figures if (figure.task, figure.benchmark, figure.measure) == key]
        own = _own(run, *key)
        (same if own else apart).append(_chart(chosen, own, run.label))
        used += chosen
    sources = dict.fromkeys(", ".join(part for part in (f.source, f.date) if part) for f in used)
    return Published(tuple(same), tuple(apart), tuple(sources))


def _own(run: Run, kind: str, benchmark: str, measure: str) -> Measure | None:
    """The run's number on a benchmark; a test set is the same only where its task has the benchmark's name."""
    for task in run.main:
        if _key(task) == _key(benchmark) and run.kinds[task] == kind:
            return run.get(task, measure)
    return None


def _key(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "", name.casefold())


def _chart(figures: Sequence[Figure], own: Measure | None, label: str) -> Chart:
    first = figures[0]
    marks = [(figure.system, _as_mark(figure)) for figure in figures] + ([(label, mark_of(own))] if own else [])
    marks.sort(key=lambda one: one[1].value, reverse=first.better == "higher")
    rows = tuple(Row(system, "", (mark,)) for system, mark in marks)
    axis = axis_of(rows, of_100=first.better == "higher" and is_of_100(first.measure))
    name = f"published_{_key(first.benchmark)}_{first.measure}"
    title = f"{first.benchmark}, {measure_title(first.measure)}"
    return Chart(name, title, scale_of(marks[0][1].measure), "dots", rows, axis)


def _as_mark(figure: Figure) -> Mark:
    value = figure.value
    measure = Measure(figure.benchmark, figure.task, figure.measure, value, value, value, 0, better=figure.better)
    return Mark("published", "published", measure)
