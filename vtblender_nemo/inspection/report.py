"""What an inspection found, as text for the screen, JSON for machines, and one HTML file for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vtblender_nemo.common.files import write_json, write_text
from vtblender_nemo.inspection.inspection import Inspection, Plans
from vtblender_nemo.inspection.statistics import Share, histogram

LISTED_FINDINGS = 1000
"""Findings that the JSON lists; `write_findings` lists all."""
SCREEN_EXAMPLES = 3
"""Findings of the same words that the screen shows."""


def as_json(inspection: Inspection) -> dict[str, Any]:
    """Everything but the samples; shares are between 0 and 1."""
    findings = [finding for scan in inspection.scans for finding in scan.findings]
    plans = inspection.plans
    return {
        "inspected": inspection.subject.name,
        "token_counts": inspection.tokens,
        "audio_check": inspection.options.audio,
        "rows": sum(count.rows for count in inspection.counts),
        "errors": inspection.errors,
        "warnings": inspection.warnings,
        "sources": [asdict(count) for count in inspection.counts],
        "problems": [
            {"level": problem.level, "problem": problem.problem, "count": problem.count}
            for problem in inspection.problems
        ],
        "findings": [asdict(finding) for finding in findings[:LISTED_FINDINGS]],
        "histograms": {
            scan.name: {
                column: histogram(scan.column(column)) for column in ("audio_secs", "text_tokens", "target_tokens")
            }
            for scan in inspection.scans
        },
        "blend": None if plans is None else _plans_json(plans, assumed=inspection.subject.batches_assumed),
        "no_blend": inspection.no_plans,
    }


def _plans_json(plans: Plans, *, assumed: bool) -> dict[str, Any]:
    def table(shares: Mapping[str, Share]) -> dict[str, Any]:
        return {name: {key: round(value, 5) for key, value in vars(share).items()} for name, share in shares.items()}

    planned = plans.planned
    return {
        "rows_drawn": len(planned),
        "probability_of": plans.probabilities,
        "shares": table(plans.by_source),
        "shares_by_type": table(plans.by_type),
        "shares_by_corpus": table(plans.by_corpus),
        "frames_of_positions": round(float(planned.frames.sum() / planned.length.sum()), 5),
        "targets_of_positions": round(float(planned.targets.sum() / planned.length.sum()), 5),
        "batches_assumed": assumed,
        "bins": plans.bins.total_length,
        "bins_2d": plans.bins.two_dimensional,
        "padding": {
            "buckets": asdict(plans.own),
            "buckets_2d": asdict(plans.two_dimensional),
            "fixed_size": asdict(plans.fixed),
        },
    }


def write_report_json(inspection: Inspection, path: Path) -> None:
    """Writes `as_json`."""
    write_json(as_json(inspection), path)


def write_findings(inspection: Inspection, path: Path) -> None:
    """Writes every finding as one JSON object a line."""
    findings = (finding for scan in inspection.scans for finding in scan.findings)
    write_text("".join(json.dumps(asdict(finding), ensure_ascii=False) + "\n" for finding in findings), path)


def write_html(inspection: Inspection, path: Path) -> None:
    """Writes one file that needs no other: tables, pictures and playable samples."""
    from jinja2 import Environment

    from vtblender_nemo.inspection.page import PAGE, STYLE
    from vtblender_nemo.inspection.plots import colors_of, pictures

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "percent": percent, "secs": secs, "bins": bins_text}
    page = environment.from_string(PAGE).render(
        style=STYLE,
        inspection=inspection,
        totals=totals(inspection),
        pictures=pictures(inspection),
        colors=colors_of(inspection.scans),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(page, path)


def totals(inspection: Inspection) -> dict[str, float]:
    """Sums over the training sources."""
    own = [
        count for scan, count in zip(inspection.scans, inspection.counts, strict=True) if scan.part.role == "training"
    ]
    names = ("rows", "errors", "warnings", "hours", "audios", "text_tokens", "target_tokens", "frames")
    return {name: sum(getattr(count, name) for count in own) for name in names}


def summary(inspection: Inspection) -> str:
    """The findings, the sources, the shares and the padding as text of a screen's width."""
    parts = [_findings_text(inspection), _sources_text(inspection)]
    if inspection.plans is None:
        parts.append(f"The blend cannot be drawn from: {inspection.no_plans}")
    else:
        parts += [_shares_text(inspection.plans), _padding_text(inspection)]
    bad, warned = inspection.errors, inspection.warnings
    rows = sum(count.rows for count in inspection.counts)
    parts.append(f"{number(rows)} rows, {number(bad)} of them bad; {number(warned)} warnings.")
    return "\n\n".join(part for part in parts if part)


def _findings_text(inspection: Inspection) -> str:
    lines: list[str] = []
    for problem in inspection.problems:
        lines.append(f"{problem.level}: {problem.problem} (rows: {number(problem.count)})")
        lines += [f"  {finding}" for finding in problem.examples[:SCREEN_EXAMPLES]]
        left = problem.count - len(problem.examples[:SCREEN_EXAMPLES])
        lines += [f"  and {number(left)} more; --findings lists all"] if left else []
    return "\n".join(lines)


def _sources_text(inspection: Inspection) -> str:
    rows = [
        (
            count.name,
            count.type,
            number(count.rows),
            number(count.errors),
            number(sum(count.left_out.values())),
            f"{count.hours:,.2f}",
            number(count.text_tokens),
            number(count.target_tokens),
        )
        for count in inspection.counts
    ]
    head = ("source", "type", "rows", "bad", "left out", "hours", "text tokens", "target tokens")
    return f"Rows (token counts: {inspection.tokens})\n" + _table([head, *rows])


def _shares_text(plans: Plans) -> str:
    rows = [
        (name, percent(share.probability), percent(share.rows), percent(share.frames), percent(share.targets))
        for name, share in plans.by_source.items()
    ]
    head = ("source", f"weight of {plans.probabilities}", "rows", "speech frames", "target tokens")
    return f"Shares of {number(len(plans.planned))} rows drawn\n" + _table([head, *rows])


def _padding_text(inspection: Inspection) -> str:
    plans = inspection.plans
    assert plans is not None
    named = {"buckets": plans.own, "bins of frames x tokens": plans.two_dimensional, "fixed size": plans.fixed}
    rows = [
        (name, percent(one.positions), percent(one.audio), f"{one.rows[0]:.1f} ({one.rows[1]} to {one.rows[2]})")
        for name, one in named.items()
    ]
    said = " (batch_tokens and num_buckets are this command's)" if inspection.subject.batches_assumed else ""
    head = ("micro-batches by", "padding", "padding of audio", "rows each")
    bins = "\n".join(
        f"bins{' of ' + name if name else ''}: {bins_text(own)}" for name, own in plans.bins.total_length.items()
    )
    two = f"bins of speech frames x text tokens: {bins_text(plans.bins.two_dimensional)}"
    return f"Micro-batches{said}\n{_table([head, *rows])}\n{bins}\n{two}"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    rows = list(rows)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def number(value: float) -> str:
    """With commas between thousands."""
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """A share of 1 as percent."""
    return f"{100 * value:.1f}%"


def secs(value: float) -> str:
    """Seconds as people write them."""
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60}:{int(value) % 60:02} min"


def bins_text(bins: Iterable[float | tuple[int, int]]) -> str:
    """Bins as a configuration takes them."""
    return str([list(edge) if isinstance(edge, tuple) else round(edge) for edge in bins])
