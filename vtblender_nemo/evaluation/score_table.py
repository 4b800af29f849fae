"""The scores of an evaluation as a table on the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vtblender_nemo.evaluation.scores import Measure, ScoreSheet

DIFFERENCE = "minus_"


def show_scores(sheet: ScoreSheet, console: Console | None = None) -> None:
    """Prints every task's measures of all items, and its main one of the variants."""
    table = Table(box=SIMPLE_HEAD, caption="lower, upper: 95% interval", caption_justify="left")
    table.add_column("")
    for title in ("score", "lower", "upper", "items"):
        table.add_column(title, justify="right", no_wrap=True)
    for task in dict.fromkeys(measure.task for measure in sheet.measures):
        table.add_row(task, style="bold")
        for row in _rows(sheet.of_task(task)):
            table.add_row(*row)
        table.add_section()
    (console or Console()).print(table)


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
