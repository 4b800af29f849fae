"""What is drawn, as plain numbers: the page draws it as SVG, `pictures` as PNG, and both show the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vtblender_nemo.evaluation.page.names import BLIND_SHAPES, Role, decimals_of, unit_of, written
from vtblender_nemo.evaluation.scores import Measure

ROLE_COLORS = {"model": "#0072B2", "base": "#B86400", "twin": "#00805F", "blind": "#7A828C", "published": "#6B5B95"}
ROLE_COLORS |= {"agreement": "#A3336F"}
"""After Okabe and Ito, whom colour-blind readers can tell apart; darkened to a contrast of 3 to 1 on white."""
RUN_COLORS = ("#B0407F", "#8A6D00", "#4B55A8", "#A33B20")
"""Of the runs beside this one, in turn."""


@dataclass(frozen=True)
class Axis:
    """A linear scale.

    Attributes:
        low: value at its left end.
        high: value at its right end.
        ticks: values with a line.
    """

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Where a value stands, in percent of the width; what lies outside is drawn at the end."""
        return round(min(max((value - self.low) / (self.high - self.low), 0.0), 1.0) * 100, 3)


@dataclass(frozen=True)
class Mark:
    """One number in a chart.

    Attributes:
        label: who or what reached it.
        role: decides colour and shape.
        measure: the number, its interval and its items.
        run: place among the runs beside this one, from 0, for the role `other`.
        signed: a difference, written with its sign.
        note: what a reader has to know of this number, as that it is of other items.
        drawn: False for what is written alone, as it has not the scale of what stands beside it.
    """

    label: str
    role: Role
    measure: Measure
    run: int = 0
    signed: bool = False
    note: str = ""
    drawn: bool = True

    @property
    def value(self) -> float:
        return self.measure.value

    @property
    def has_interval(self) -> bool:
        """What was not resampled has its value for both bounds."""
        return self.measure.low != self.measure.high

    @property
    def failed(self) -> str:
        """How many items had no answer; empty where all had one."""
        return f"{self.measure.failed:,} failed" if self.measure.failed else ""

    @property
    def color(self) -> str:
        return RUN_COLORS[self.run % len(RUN_COLORS)] if self.role == "other" else ROLE_COLORS[self.role]

    @property
    def style(self) -> str:
        """The page's name for its colour."""
        return f"run{self.run % len(RUN_COLORS)}" if self.role == "other" else self.role

    @property
    def shape(self) -> str:
        return BLIND_SHAPES.get(self.measure.variant, "blind") if self.role == "blind" else self.role

    @property
    def written(self) -> str:
        if self.role == "published":  # with the places that it was published with
            return f"{self.value:g}"
        return written(self.value, decimals_of(self.measure), signed=self.signed)

    @property
    def written_interval(self) -> str:
        """Empty where there is none."""
        if not self.has_interval:
            return ""
        places = decimals_of(self.measure)
        low, high = (written(bound, places, signed=self.signed) for bound in (self.measure.low, self.measure.high))
        return f"{low} to {high}"

    @property
    def spoken(self) -> str:
        """The number in words, for those who do not see the drawing."""
        unit = " points" if self.signed else f" {unit_of(self.measure.measure)}".rstrip()
        interval = f" (interval {self.written_interval})" if self.has_interval else ""
        return f"{self.label} {self.written}{unit}{interval}"


@dataclass(frozen=True)
class Row:
    """Numbers that belong together.

    Attributes:
        label: of the row.
        note: smaller, beside it.
        marks: in a chart of dots one for each column, None where there is no number.
        block: what it shares with the rows around it, in a chart of dots.
    """

    label: str
    note: str
    marks: tuple[Mark | None, ...]
    block: str = ""

    @property
    def title(self) -> str:
        """Its label where no block stands above it."""
        return f"{self.block}: {self.label}" if self.block else self.label

    @property
    def known(self) -> list[Mark]:
        return [mark for mark in self.marks if mark is not None]

    @property
    def spoken(self) -> str:
        return f"{self.title}: " + "; ".join(mark.spoken for mark in self.known)


@dataclass(frozen=True)
class Chart:
    """A drawing and the table of its numbers.

    Attributes:
        name: of its file, unique in a report.
        title: what it shows.
        scale: what its axis counts.
        form: `bars` from zero, each mark a line of its own; `dots`, the marks of a row on one line; `spans`, rows from
            left to right.
        rows: of numbers.
        axis: for all of them.
        band: from and to what a difference is held to be none.
    """

    name: str
    title: str
    scale: str
    form: Literal["bars", "dots", "spans"]
    rows: tuple[Row, ...]
    axis: Axis
    band: tuple[float, float] | None = None

    @property
    def columns(self) -> list[Mark]:
        """One mark of every column of dots, for headings and the legend."""
        columns = zip(*(row.marks for row in self.rows), strict=True)
        return [next(mark for mark in column if mark is not None) for column in columns]

    @property
    def legend(self) -> list[Mark]:
        """One mark of each name."""
        found: dict[str, Mark] = {}
        for row in self.rows:
            for mark in row.known:
                found.setdefault(mark.label, mark)
        return list(found.values())

    @property
    def spoken(self) -> str:
        return f"{self.title}. " + ". ".join(row.spoken for row in self.rows)


def without_empty(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows with a number, and of them the columns with a number."""
    known = [row for row in rows if row.known]
    if not known or len({len(row.marks) for row in known}) > 1:
        return tuple(known)
    kept = [number for number, column in enumerate(zip(*(row.marks for row in known), strict=True)) if any(column)]
    return tuple(replace(row, marks=tuple(row.marks[number] for number in kept)) for row in known)


def axis_of(rows: Sequence[Row], *, of_100: bool = False, signed: bool = False, at_least: float = 0.0) -> Axis:
    """A scale on which every value and bound of the rows has its place.

    Args:
        rows: with at least one mark that is drawn.
        of_100: from 0 to 100, whatever is reached.
        signed: around zero.
        at_least: how far it reaches in any case.
    """
    from matplotlib.ticker import MaxNLocator

    measures = [mark.measure for row in rows for mark in row.known if mark.drawn]
    low = min(min(m.low, m.value) for m in measures)
    high = max(max(m.high, m.value) for m in measures)
    low = min(low, -at_least) if signed else min(low, 0.0)
    high = max(high, at_least, 100.0 if of_100 else 0.0)
    if low == high:
        high = low + 1.0
    ticks = [round(float(tick), 6) for tick in MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    return Axis(low, high, tuple(tick for tick in ticks if low <= tick <= high))
