"""The scores of an evaluation as a table on the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vtblender_nemo.common.generalisation import LEVEL
from vtblender_nemo.evaluation.scores import AGREEMENT, DIFFERENCE, SHARE, Measure, ScoreSheet

HEARD_AND_READ = {
    "speech": "",
    "transcript": "text_twin",
    "share, %": f"{SHARE}text_twin",
    "agreement": f"{AGREEMENT}text_twin",
}
"""Columns of the table of generalisation, by variant."""


def show_scores(sheet: ScoreSheet, console: Console | None = None) -> None:
    """Prints every task's measures of all items, and its main one of the variants; of generalisation a table by what is new."""
    table = Table(box=SIMPLE_HEAD, caption="lower, upper: 95% interval", caption_justify="left")
    table.add_column("")
    for title in ("score", "lower", "upper", "items"):
        table.add_column(title, justify="right", no_wrap=True)
    for task in dict.fromkeys(measure.task for measure in sheet.measures):
        table.add_row(task, style="bold")
        for row in _rows(sheet.of_task(task)):
            table.add_row(*row)
        table.add_section()
    levels = _level_table(sheet)
    for shown in (table, *([levels] if levels.row_count else [])):
        (console or Console()).print(shown)


def _level_table(sheet: ScoreSheet) -> Table:
    """Main measures of what is known and new, heard and read."""
    table = Table(box=SIMPLE_HEAD, caption="intervals are in the report", caption_justify="left")
    table.add_column("main measure")
    for title in (*HEARD_AND_READ, "items"):
        table.add_column(title, justify="right", no_wrap=True)
    for task in dict.fromkeys(measure.task for measure in sheet.measures):
        measures = sheet.of_task(task)
        found = {(one.group, one.variant): one for one in measures if one.measure == measures[0].measure}
        for group in dict.fromkeys(one.group for one in measures if one.group.startswith(f"{LEVEL}=")):
            row = [found.get((group, variant)) for variant in HEARD_AND_READ.values()]
            numbers = ("" if one is None else f"{one.value:.1f}" for one in row)
            items = "" if row[0] is None else str(row[0].items)
            table.add_row(f"{task}, {group.partition('=')[2]}", *numbers, items)
    return table


def _rows(measures: Sequence[Measure]) -> Iterator[tuple[str, ...]]:
    main = measures[0].measure
    whole = [one for one in measures if not one.group]
    variants = [one for one in whole if one.variant and one.measure == main]
    for one in [*(one for one in whole if not one.variant), *variants]:
        sign = "+" if one.variant.startswith(DIFFERENCE) else ""
        numbers = (f"{value:{sign}.1f}" for value in (one.value, one.low, one.high))
        items = str(one.items) + (f" of {one.items + one.failed}" if one.failed else "")
        title = f"{_words(main)}, {_words(one.variant)}" if one.variant else _words(one.measure)
        yield f"  {title}", *numbers, items


def _words(name: str) -> str:
    return name.replace("_percent", " %").replace("_", " ")
