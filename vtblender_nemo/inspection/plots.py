"""Pictures of a blend as SVG data URIs for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vtblender_nemo.inspection.inspection import Inspection, Plans
from vtblender_nemo.inspection.scan import SourceScan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999933", "#882255")
"""From the palette of Okabe and Ito, which colour-blind readers can tell apart; repeated for more sources."""
VALIDATION_COLOR = "#9AA0A6"
WIDE, NARROW = 9.0, 5.6
"""Inches of a picture alone in its line, and of one of two."""
SHARE_TITLES = {"probability": "by weight", "rows": "rows", "frames": "speech frames", "targets": "target tokens"}
MOST_SHOWN = 0.995
"""Histograms end at this quantile: a few very long rows would squeeze all others."""


def pictures(inspection: Inspection) -> dict[str, str]:
    """All pictures by name, as data URIs; those without anything to show are left out."""
    colors = colors_of(inspection.scans)
    found: dict[str, Figure | None] = {
        "audio_secs": _histograms(inspection.scans, "audio_secs", "seconds of audio in a row", colors),
        "text_tokens": _histograms(inspection.scans, "text_tokens", "text tokens in a row", colors),
        "target_tokens": _histograms(inspection.scans, "target_tokens", "tokens to be learned in a row", colors),
    }
    if inspection.plans is not None:
        found["shares"] = _shares(inspection.plans, colors)
        found["lengths"] = _lengths(inspection.plans)
        found["bins"] = _bins_2d(inspection.plans)
    return {name: _svg(figure) for name, figure in found.items() if figure is not None}


def colors_of(scans: Sequence[SourceScan]) -> dict[str, str]:
    """A colour for every source, the same in all pictures; validation sets are grey."""
    training = [scan.name for scan in scans if scan.part.role == "training"]
    own = {name: COLORS[number % len(COLORS)] for number, name in enumerate(training)}
    return {scan.name: own.get(scan.name, VALIDATION_COLOR) for scan in scans}


def _ink_on(color: str) -> str:
    """Black or white, whichever is read better on a colour (ITU-R BT.601 luma)."""
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _histograms(
    scans: Sequence[SourceScan], column: str, label: str, colors: Mapping[str, str], bins: int = 48
) -> Figure | None:
    """Rows of all training sources over one column, stacked."""
    values = {scan.name: scan.column(column) for scan in scans if scan.part.role == "training"}
    values = {name: own[own > 0] for name, own in values.items() if (own > 0).any()}
    if not values:
        return None
    from matplotlib.ticker import MaxNLocator

    end = float(np.quantile(np.concatenate(list(values.values())), MOST_SHOWN))
    figure, axes = _figure(NARROW, 2.9)
    edges = np.linspace(0, max(end, 1e-6), bins + 1)
    shown = [np.clip(own, None, edges[-1]) for own in values.values()]
    axes.hist(shown, bins=edges.tolist(), stacked=True, color=[colors[name] for name in values], label=list(values))
    axes.set_xlabel(f"{label} (the last bar holds all above)", fontsize=9)
    axes.set_ylabel("rows", fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(_thousands)
    axes.set_xlim(0, edges[-1])
    if len(values) > 1:
        figure.legend(fontsize=8, frameon=False, ncols=4, loc="outside upper center")
    return figure


def _thousands(value: float, _: float) -> str:
    return f"{value:,.0f}"


def _shares(plans: Plans, colors: Mapping[str, str]) -> Figure:
    """A bar for each kind of share, parted by source."""
    figure, axes = _figure(WIDE, 2.4 + 0.06 * len(plans.by_source))
    titles = list(SHARE_TITLES.values())
    before = np.zeros(len(titles))
    for name, share in plans.by_source.items():
        parts = np.array([getattr(share, key) for key in SHARE_TITLES])
        bars = axes.barh(titles, parts, left=before, color=colors[name], label=name, height=0.66)
        for bar, part in zip(bars, parts, strict=True):
            if part >= 0.045:
                place = (bar.get_x() + part / 2, bar.get_y() + bar.get_height() / 2)
                axes.text(
                    *place, f"{100 * part:.0f}%", ha="center", va="center", fontsize=8, color=_ink_on(colors[name])
                )
        before += parts
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    figure.legend(fontsize=9, frameon=False, ncols=min(6, len(plans.by_source)), loc="outside lower center")
    return figure


def _lengths(plans: Plans) -> Figure:
    """Rows over their total length, and where the bins part them."""
    figure, axes = _figure(NARROW, 3.4)
    length = plans.planned.length
    axes.hist(length, bins=60, color=COLORS[0])
    for number, (name, bins) in enumerate(plans.bins.total_length.items()):
        color = COLORS[1 + 4 * number % 7]
        for position, edge in enumerate(bins):
            label = f"bins of {name}" if name else "bins"
            axes.axvline(edge, color=color, linewidth=1, linestyle="--", label=label if position == 0 else None)
    axes.set_xlabel("positions of a row (text tokens and speech frames)", fontsize=9)
    axes.set_ylabel("rows drawn", fontsize=9)
    axes.set_xlim(0, None)
    if any(plans.bins.total_length.values()):
        axes.legend(fontsize=8, frameon=False, loc="upper right")
    return figure


def _bins_2d(plans: Plans) -> Figure | None:
    """Rows with audio over frames and text tokens, and the buckets of two dimensions."""
    spoken = plans.planned.frames > 0
    if not spoken.any():
        return None
    from matplotlib.colors import LogNorm

    figure, axes = _figure(NARROW, 3.4)
    frames, tokens = plans.planned.frames[spoken], plans.planned.text_tokens[spoken]
    top = float(np.quantile(tokens, MOST_SHOWN)) * 1.05 + 1
    inside = tokens <= top
    drawn = axes.hist2d(
        frames[inside], tokens[inside], bins=(60, 40), cmap="Blues", norm=LogNorm(vmin=1), rasterized=True
    )
    figure.colorbar(drawn[3], ax=axes, label="rows drawn", pad=0.02).ax.tick_params(labelsize=8)
    left = 0.0
    ends = sorted({end for end, _ in plans.bins.two_dimensional if end > 0})
    for end in ends:
        axes.axvline(end, color=COLORS[5], linewidth=0.8)
        for tokens_end in sorted(own for mark, own in plans.bins.two_dimensional if mark == end)[:-1]:
            axes.plot([left, end], [tokens_end, tokens_end], color=COLORS[5], linewidth=0.8)
        left = end
    axes.set_xlim(0, ends[-1] * 1.02)
    axes.set_ylim(0, top)
    axes.set_xlabel("speech frames of a row", fontsize=9)
    axes.set_ylabel("text tokens", fontsize=9)
    return figure
