"""Pictures of a run as PNG: losses, scores over steps, scores beside blind ones, contrasts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.jsonl import read_rows
from vtblender_nemo.evaluation.metrics import LOWER_IS_BETTER
from vtblender_nemo.evaluation.report import TEXT_TASK, Report
from vtblender_nemo.evaluation.tables import SCORE_TITLES, TASK_TITLES, kind_blind, main_score, task_sections

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS_PREFIX = "train_loss/"
PROGRESS_PANELS = {
    "val/asr.wer": "WER, lower is better",
    "val/text.accuracy": "text accuracy",
    "val/text.exact_match": "text accuracy",
}
"""What is logged while training -> title; the names are those of validation sets and their metrics."""
SMOOTHED_SHARE = 0.04
"""Share of a curve that each point of its smoothed form is the mean of."""
MODEL_COLOR, KIND_COLOR, BLIND_COLOR, BASE_COLOR = "#0072B2", "#56B4E9", "#BBBBBB", "#E69F00"
"""From the palette of Okabe and Ito, which colour-blind readers can tell apart."""
DPI = 150

History = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class _Bar:
    """A score in a bar plot and, where there is one, the score to compare it with."""

    label: str
    value: float
    interval: tuple[float, float]
    other: float | None = None
    color: str = MODEL_COLOR
    other_color: str = BLIND_COLOR


def read_history(path: Path) -> History:
    """Reads what was logged while training: rows `{"step": int, "name": str, "value": float}`.

    Returns:
        name -> step -> value, steps in order; of a step that was done twice (training went on from an earlier
        checkpoint) the later row.

    Raises:
        DataError: a missing file, or a row of another form.
    """
    history: dict[str, dict[int, float]] = {}
    for row in read_rows(path):
        if isinstance(row, DataError):
            raise row
        step, name, value = (row.data.get(key) for key in ("step", "name", "value"))
        if not (isinstance(step, int) and isinstance(name, str) and isinstance(value, int | float)):
            expected = '{"step": int, "name": str, "value": number}'
            raise DataError("row of another form", path=path, line=row.line, value=row.data, expected=expected)
        history.setdefault(name, {})[step] = float(value)
    return {name: dict(sorted(values.items())) for name, values in history.items()}


def write_plots(report: Report, history: History, folder: Path) -> list[Path]:
    """Draws every plot that report and history have numbers for.

    Returns:
        The files written.
    """
    figures = {
        "loss": _loss_figure(history),
        "progress": _progress_figure(history),
        "scores": _score_figure(report),
        "contrast": _contrast_figure(report),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=DPI)
            written.append(path)
    return written


def _loss_figure(history: History) -> Figure | None:
    losses = {
        name.removeprefix(LOSS_PREFIX): values for name, values in history.items() if name.startswith(LOSS_PREFIX)
    }
    if not losses:
        return None
    figure, (axes,) = _figure(7, 4.2)
    for source, values in sorted(losses.items()):
        steps = list(values)
        (line,) = axes.plot(steps, _smooth(list(values.values())), label=source)
        axes.plot(steps, list(values.values()), color=line.get_color(), alpha=0.2, linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss per target token, log scale", title="Training loss by source", yscale="log")
    _plain_log_ticks(axes)
    axes.legend(frameon=False)
    return figure


def _progress_figure(history: History) -> Figure | None:
    panels = {name: title for name, title in PROGRESS_PANELS.items() if history.get(name)}
    if not panels:
        return None
    figure, all_axes = _figure(7, 1 + 2.4 * len(panels), rows=len(panels))
    for axes, (name, title) in zip(all_axes, panels.items(), strict=True):
        steps, values = list(history[name]), list(history[name].values())
        axes.plot(steps, values, marker="o", markersize=4, color=MODEL_COLOR)
        axes.annotate(
            f"{values[-1]:.1f}", (steps[-1], values[-1]), textcoords="offset points", xytext=(0, 7), ha="center"
        )
        axes.set(ylabel=title, ylim=(0, max(100.0, *values) * 1.08))
    all_axes[0].set_title("Validation while training")
    all_axes[-1].set_xlabel("step")
    return figure


def _score_figure(report: Report) -> Figure | None:
    higher, lower = _score_bars(report)
    groups = [(bars, title) for bars, title in ((higher, "higher is better"), (lower, "lower is better")) if bars]
    if not groups:
        return None
    heights = [0.5 + 0.55 * len(bars) for bars, _ in groups]
    figure, all_axes = _figure(8, 1.1 + sum(heights), rows=len(groups), heights=heights)
    for axes, (bars, title) in zip(all_axes, groups, strict=True):
        _draw_bars(axes, bars, full_scale=100)
        axes.set_xlabel(f"score, {title}")
    all_axes[0].set_title("Held-out scores with 95% intervals")
    _legend(figure, {bar.other_color for bars, _ in groups for bar in bars if bar.other is not None})
    return figure


def _score_bars(report: Report) -> tuple[list[_Bar], list[_Bar]]:
    higher: list[_Bar] = []
    lower: list[_Bar] = []
    for task, section in task_sections(report).items():
        name = main_score(section)
        bars = lower if name in LOWER_IS_BETTER else higher
        is_base = task == TEXT_TASK
        other = section.get(f"base_{name}") if is_base else section.get("blind")
        other_color = BASE_COLOR if is_base else BLIND_COLOR
        label = f"{TASK_TITLES.get(task, task)}, {SCORE_TITLES[name]}"
        bars.append(_Bar(label, section[name], tuple(section["interval"]), other, other_color=other_color))
        if task == "mixed_modal":
            bars.extend(_kind_bars(section, name))
    return higher, lower


def _kind_bars(section: Mapping[str, Any], name: str) -> list[_Bar]:
    return [
        _Bar(f"{_words(kind)}  ", group[name], tuple(group["interval"]), kind_blind(section, name, kind), KIND_COLOR)
        for kind, group in section.get("by_kind", {}).items()
    ]


def _draw_bars(axes: Axes, bars: list[_Bar], full_scale: float) -> None:
    for row, bar in enumerate(bars):
        top = row - (0.18 if bar.other is not None else 0)
        low, high = bar.interval
        spread = [[max(bar.value - low, 0)], [max(high - bar.value, 0)]]
        axes.barh(top, bar.value, height=0.34, color=bar.color, xerr=spread, error_kw={"capsize": 2, "linewidth": 1})
        _number(axes, max(high, bar.value), top, bar.value, "black")
        if bar.other is not None:
            axes.barh(row + 0.18, bar.other, height=0.34, color=bar.other_color)
            _number(axes, bar.other, row + 0.18, bar.other, "#555555")
    widest = max(max(bar.interval[1], bar.value, bar.other or 0) for bar in bars)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set(xlim=(0, max(full_scale, widest) * 1.1))
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()


def _number(axes: Axes, x: float, y: float, value: float, color: str) -> None:
    place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(f"{value:.1f}", (x, y), **place, fontsize=9, color=color)


def _contrast_figure(report: Report) -> Figure | None:
    contrasts: Mapping[str, Mapping[str, Any]] = report.get("contrast", {})
    panels = {"text": "accuracy", "asr": "wer"}
    panels = {task: name for task, name in panels.items() if any(f"{task}_{name}" in c for c in contrasts.values())}
    if not panels:
        return None
    models = 2 + len(contrasts)
    figure, all_axes = _figure(8, 1.1 + len(panels) * (0.7 + 0.42 * models), rows=len(panels))
    for axes, (task, name) in zip(all_axes, panels.items(), strict=True):
        lower_is_better = name in LOWER_IS_BETTER
        _draw_bars(axes, _contrast_bars(report, task, name), full_scale=1 if lower_is_better else 100)
        better = "lower" if lower_is_better else "higher"
        axes.set_xlabel(f"{TASK_TITLES[task]}, {SCORE_TITLES[name]}, {better} is better")
    all_axes[0].set_title("One stage with all data, and trained otherwise")
    return figure


def _contrast_bars(report: Report, task: str, name: str) -> list[_Bar]:
    section = report.get(task, {})
    bars = []
    if f"base_{name}" in section:
        bars.append(
            _Bar("base LLM", section[f"base_{name}"], tuple(section[f"base_{name}_interval"]), color=BASE_COLOR)
        )
    if name in section:
        bars.append(_Bar("all data, LoRA", section[name], tuple(section["interval"])))
    key = f"{task}_{name}"
    for model, scores in report["contrast"].items():
        if key in scores:
            bars.append(_Bar(_words(model), scores[key], tuple(scores[f"{key}_interval"])))
    return bars


def _figure(
    width: float, height: float, *, rows: int = 1, heights: list[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure that no window system knows of, so that it is drawn alike everywhere and freed like any object."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(rows, 1, squeeze=False, height_ratios=heights)[:, 0].tolist()
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return figure, all_axes


def _legend(figure: Figure, colors: set[str]) -> None:
    """Names the colours of what the model is compared with."""
    from matplotlib.patches import Patch

    labels = {BLIND_COLOR: "model without the right audio", BASE_COLOR: "base LLM"}
    handles = [Patch(color=MODEL_COLOR, label="model")]
    handles += [Patch(color=color, label=label) for color, label in labels.items() if color in colors]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("lora", "LoRA")


def _plain_log_ticks(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _smooth(values: list[float]) -> list[float]:
    """Means over windows around each value, without what is not finite: unlike running means they do not lag behind."""
    half = max(1, round(len(values) * SMOOTHED_SHARE / 2))
    windows = (values[max(0, middle - half) : middle + half + 1] for middle in range(len(values)))
    finite = ([value for value in window if math.isfinite(value)] for window in windows)
    return [sum(window) / len(window) if window else math.nan for window in finite]
