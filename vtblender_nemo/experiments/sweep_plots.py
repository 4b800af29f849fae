"""Pictures of a sweep: every measure over its variants, and speech beside text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
PER_ROW = 3
_COLOR, _REFERENCE_COLOR, _SEED_COLOR = "#1f5fa8", "#c44e1f", "#8c8c8c"
_LINE_COLORS = (_COLOR, _REFERENCE_COLOR, "#3f8f3f", "#7a4fa3")

Values = Mapping[str, Any]


def write_plots(
    report: Values, measures: Sequence[str], folder: Path, *, x_label: str = "", x_log: bool = False
) -> list[Path]:
    """Draws the measures, and their differences from the reference.

    Args:
        report: as `sweep_report` makes it, with at least one variant.
        measures: one panel each; those that nothing measured are left out.
        folder: where `scores.png` and `differences.png` go.
        x_label: of the number that the sweep turns; with it, the panels are lines over that number, one for every `line`.
        x_log: a logarithmic axis.

    Returns:
        The files written.
    """
    written = []
    for name, kind, title in (
        ("scores", "measures", "mean over seeds, 95% interval; grey: single seeds"),
        ("differences", "minus_reference", f"difference from {report['reference']}, paired, 95% interval"),
    ):
        shown = [m for m in measures if any(m in one[kind] for one in report["variants"].values())]
        if not shown:
            continue
        figure = _figure(report, shown, kind, title, x_label, x_log)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=DPI)
        written.append(path)
    return written


def _figure(report: Values, measures: Sequence[str], kind: str, title: str, x_label: str, x_log: bool) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(PER_ROW, len(measures))
    rows = math.ceil(len(measures) / columns)
    as_lines = bool(x_label) and all(one["x"] is not None for one in report["variants"].values())
    height = 2.9 if as_lines else 1.0 + 0.34 * len(report["variants"])
    figure = Figure(figsize=(4.2 * columns, height * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for place, measure in enumerate(measures):
        axes = figure.add_subplot(rows, columns, place + 1)
        if as_lines:
            _lines(axes, report, measure, kind, x_label, x_log)
        else:
            _bars(axes, report, measure, kind)
        better = next(o["measures"][measure]["better"] for o in report["variants"].values() if measure in o["measures"])
        axes.set_title(f"{measure}\n{better} is better", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure


def _points(report: Values, measure: str, kind: str) -> dict[str, Values]:
    return {variant: one[kind][measure] for variant, one in report["variants"].items() if measure in one[kind]}


def _errors(point: Values) -> list[list[float]]:
    low, high = point["interval"]
    return [[point["value"] - low], [high - point["value"]]]


def _bars(axes: Axes, report: Values, measure: str, kind: str) -> None:
    """A variant a line, its interval lying: names stay readable."""
    points = _points(report, measure, kind)
    for height, (variant, point) in enumerate(points.items()):
        color = _REFERENCE_COLOR if variant == report["reference"] else _COLOR
        seeds = list(point["by_seed"].values())
        axes.plot(seeds, [height] * len(seeds), "o", color=_SEED_COLOR, markersize=3, alpha=0.6)
        axes.errorbar(
            point["value"], height, xerr=_errors(point), fmt="o", color=color, capsize=3, markersize=5, linewidth=1.5
        )
    axes.set_yticks(range(len(points)), [variant.replace("_", " ") for variant in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    if kind == "minus_reference":
        axes.axvline(0, color="black", linewidth=0.8)


def _lines(axes: Axes, report: Values, measure: str, kind: str, x_label: str, x_log: bool) -> None:
    points = _points(report, measure, kind)
    at = {variant: report["variants"][variant]["x"] for variant in points}
    lines: dict[str, list[str]] = {}
    for variant in sorted(points, key=lambda variant: at[variant]):
        lines.setdefault(report["variants"][variant].get("line", ""), []).append(variant)
    for number, (name, order) in enumerate(lines.items()):
        color = _LINE_COLORS[number % len(_LINE_COLORS)]
        for variant in order:
            seeds = list(points[variant]["by_seed"].values())
            axes.plot([at[variant]] * len(seeds), seeds, "o", color=_SEED_COLOR, markersize=3, alpha=0.6)
            axes.errorbar(
                at[variant],
                points[variant]["value"],
                yerr=_errors(points[variant]),
                fmt="o",
                color=color,
                capsize=3,
                markersize=5,
            )
        means = [points[variant]["value"] for variant in order]
        axes.plot([at[variant] for variant in order], means, color=color, linewidth=1.2, label=name.replace("_", " "))
    if len(lines) > 1:
        axes.legend(fontsize=7, frameon=False)
    if x_log:
        axes.set_xscale("log", base=2)
    ticks = sorted(set(at.values()))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(x_label, fontsize=8)
    axes.grid(alpha=0.3)
    if kind == "minus_reference":
        axes.axhline(0, color="black", linewidth=0.8)
