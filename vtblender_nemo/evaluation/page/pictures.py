"""The charts of the page as PNG files, for slides and papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtblender_nemo.evaluation.page.charts import Chart, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
MARKERS = {"model": "o", "base": "D", "twin": "^", "other": "s", "published": "|"}
MARKERS |= {"agreement": "X", "blind": "o", "blind_square": "s", "blind_triangle": "v"}
LONGEST_LABEL = 48
GREY, LIGHT = "#5F6670", "#E4E6EA"


def file_name(chart: Chart) -> str:
    """A name that is one on every file system."""
    return re.sub(r"[^\w.-]+", "_", chart.name) + ".png"


def write_pictures(charts: Sequence[Chart], folder: Path, subject: str) -> list[Path]:
    """Draws every chart.

    Args:
        charts: of distinct names.
        folder: made if it is not there.
        subject: the model's name, written into every picture.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in charts:
        path = folder / file_name(chart)
        draw(chart, subject).savefig(path, dpi=DPI)
        written.append(path)
    return written


def draw(chart: Chart, subject: str = "") -> Figure:
    """One chart as a figure that no window system knows of, drawn alike everywhere."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 4.2 if chart.form == "spans" else 1.3 + 0.34 * len(chart.rows)
    if chart.form == "bars":
        height += 0.3 * sum(len(row.known) + 0.3 for row in chart.rows)
    figure = Figure(figsize=(8, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    {"bars": _draw_bars, "dots": _draw_dots, "spans": _draw_spans}[chart.form](axes, chart)
    axes.set_title(_plain(chart.title), loc="left", fontsize=12, pad=12)
    axes.set_title(_plain(subject), loc="right", fontsize=9, color=GREY, pad=12)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT)
    axes.tick_params(length=0, labelcolor="black")
    axes.set_axisbelow(True)
    _legend(figure, chart)
    return figure


def _draw_bars(axes: Axes, chart: Chart) -> None:
    y, lanes = 0.0, []
    for row in chart.rows:
        axes.annotate(_plain(f"{row.label}, {row.note}"), (0, y), va="center", weight="bold", fontsize=10)
        for mark in row.known:
            y += 1
            lanes.append((y, mark.label))
            axes.barh(y, mark.value, height=0.72, color=mark.color)
            _whisker(axes, mark, y, horizontal=True, color="black")
            _number(axes, mark, max(mark.value, mark.measure.high), y)
        y += 1.3
    axes.set_yticks([at for at, _ in lanes], [_plain(label) for _, label in lanes])
    axes.set_ylim(-0.6, y - 0.6)
    _across(axes, chart)


def _draw_dots(axes: Axes, chart: Chart) -> None:
    if chart.band:
        axes.axvspan(*chart.band, color=LIGHT, zorder=0)
    if chart.axis.low < 0:
        axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    shift = 0.22 if len(chart.columns) > 1 else 0.0
    for y, row in enumerate(chart.rows):
        for number, mark in enumerate(row.marks):
            if mark is not None and mark.drawn:
                at = y + shift * (number - (len(row.marks) - 1) / 2)
                _whisker(axes, mark, at, horizontal=True, color=mark.color)
                axes.plot(mark.value, at, **_marker(mark))
        if len(chart.columns) == 1:
            _number(axes, row.known[0], max(row.known[0].value, row.known[0].measure.high), y)
    labels = [_plain(row.title or row.note) for row in chart.rows]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    _across(axes, chart)


def _draw_spans(axes: Axes, chart: Chart) -> None:
    for number in range(len(chart.columns)):
        found = [(x, row.marks[number]) for x, row in enumerate(chart.rows)]
        shift = 0.06 * (number - (len(chart.columns) - 1) / 2)
        points = [(x + shift, mark) for x, mark in found if mark is not None]
        color = points[0][1].color
        axes.plot([x for x, _ in points], [mark.value for _, mark in points], color=color, linewidth=1.5, zorder=2)
        for x, mark in points:
            _whisker(axes, mark, x, horizontal=False, color=color)
            axes.plot(x, mark.value, **_marker(mark))
            if len(chart.columns) == 1:
                place: dict[str, Any] = {"xytext": (7, 5), "textcoords": "offset points", "fontsize": 9}
                axes.annotate(mark.written, (x, mark.value), color="black", **place)
    axes.set_xticks(range(len(chart.rows)), [_plain(f"{row.label}\n{row.note}") for row in chart.rows])
    axes.set(ylim=(chart.axis.low, chart.axis.high), xlim=(-0.4, len(chart.rows) - 0.4), ylabel=_plain(chart.scale))
    axes.yaxis.label.set_color(GREY)
    axes.set_yticks(chart.axis.ticks)
    axes.grid(axis="y", color=LIGHT)


def _across(axes: Axes, chart: Chart) -> None:
    """The horizontal axis, with room for numbers behind the bars."""
    room = 0.08 * (chart.axis.high - chart.axis.low)
    axes.set(xlim=(chart.axis.low, chart.axis.high + room), xlabel=_plain(chart.scale))
    axes.xaxis.label.set_color(GREY)
    axes.set_xticks(chart.axis.ticks)
    axes.grid(axis="x", color=LIGHT)
    axes.invert_yaxis()


def _plain(text: str) -> str:
    """A text of bearable length in which no formula is looked for."""
    shown = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
    return shown.replace("$", r"\$")


def _whisker(axes: Axes, mark: Mark, at: float, *, horizontal: bool, color: str) -> None:
    if mark.has_interval:
        line = axes.hlines if horizontal else axes.vlines
        line(at, mark.measure.low, mark.measure.high, color=color, linewidth=1.6, alpha=0.75, zorder=3)


def _marker(mark: Mark) -> dict[str, Any]:
    fill = "white" if mark.role == "blind" else mark.color
    return {
        "marker": MARKERS[mark.shape],
        "markersize": 7 if mark.role != "published" else 11,
        "markerfacecolor": fill,
        "markeredgecolor": mark.color,
        "markeredgewidth": 1.4 if mark.role != "published" else 3,
        "zorder": 4,
    }


def _number(axes: Axes, mark: Mark, x: float, y: float) -> None:
    place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
    axes.annotate(mark.written, (x, y), color="black", **place)


def _legend(figure: Figure, chart: Chart) -> None:
    from matplotlib.lines import Line2D

    if chart.form == "bars" or len(chart.legend) < 2:  # bars have their names beside them
        return
    handles = [
        Line2D([], [], linestyle="", label=_plain(mark.label), **_marker(mark)) for mark in chart.legend if mark.drawn
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), 3), frameon=False, fontsize=9)
