"""A report as tables on the screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vtblender_nemo.evaluation.metrics import LOWER_IS_BETTER
from vtblender_nemo.evaluation.report import NOT_TASKS, Report

TASK_TITLES = {
    "asr": "speech recognition",
    "ast": "speech translation",
    "sqa": "speech questions",
    "mixed_modal": "speech with text",
    "text": "text skills",
}
SCORE_TITLES = {
    "wer": "WER",
    "bleu": "BLEU",
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "accuracy": "accuracy",
}


def show_report(report: Report, console: Console | None = None) -> None:
    """Prints scores, contrasts, data shares, trained parameters and times, whichever the report has."""
    console = console or Console()
    for table in (_score_table(report), _contrast_table(report), _source_table(report), _count_table(report)):
        if table.row_count:
            console.print(table)


def main_score(section: Mapping[str, Any]) -> str:
    """The name of a section's score."""
    return next(name for name in SCORE_TITLES if name in section)


def task_sections(report: Report) -> dict[str, Mapping[str, Any]]:
    """The sections of a report that hold a task's score."""
    return {
        name: section
        for name, section in report.items()
        if name not in NOT_TASKS and any(s in section for s in SCORE_TITLES)
    }


def _score_table(report: Report) -> Table:
    table = _table("Scores, 0 to 100", "score", "", "95% interval", "blind", "base", "items")
    table.caption = "blind: without the right audio; base: the LLM before training"
    for task, section in task_sections(report).items():
        name = main_score(section)
        blind = _value(section["blind"]) if "blind" in section else ""
        base = _value(section[f"base_{name}"]) if f"base_{name}" in section else ""
        title = f"{TASK_TITLES.get(task, task)}, {SCORE_TITLES[name]}"
        items = str(section["items"])
        if section["failed"]:
            items += f" of {section['items'] + section['failed']}"
        table.add_row(title, _value(section[name]), _range(section["interval"]), blind, base, items, style="bold")
        for row in _kind_rows(section, name):
            table.add_row(*row)
    return table


def _kind_rows(section: Mapping[str, Any], name: str) -> Iterator[tuple[str, ...]]:
    for kind, group in section.get("by_kind", {}).items():
        blind = kind_blind(section, name, kind)
        base = section.get("base_by_kind", {}).get(kind, {}).get(name)
        others = ("" if value is None else _value(value) for value in (blind, base))
        title = f"  {kind.replace('_', ' ')}"
        yield title, _value(group[name]), _range(group["interval"]), *others, str(group["items"])


def kind_blind(section: Mapping[str, Any], name: str, kind: str) -> float | None:
    """The best score that a kind reached without the right audio; None where it was not measured."""
    of_kind = [variant.get("by_kind", {}).get(kind, {}).get(name) for variant in section.get("blind_by", {}).values()]
    known = [value for value in of_kind if value is not None]
    best = min if name in LOWER_IS_BETTER else max
    return best(known, default=None)


def _contrast_table(report: Report) -> Table:
    contrasts: Mapping[str, Mapping[str, Any]] = report.get("contrast", {})
    names = list(dict.fromkeys(key for scores in contrasts.values() for key in scores if f"{key}_interval" in scores))
    table = _table("Contrasts", "trained otherwise", *(name.replace("_", " ") for name in names))
    for model, scores in contrasts.items():
        cells = (f"{_value(scores[n])} ({_range(scores[f'{n}_interval'])})" if n in scores else "" for n in names)
        table.add_row(model.replace("_", " "), *cells)
    return table


def _source_table(report: Report) -> Table:
    table = _table("Training data", "source", "share wanted", "share seen")
    for name, source in report.get("sources", {}).items():
        table.add_row(name, f"{source['weight_wanted']:.3f}", f"{source['share_seen']:.3f}")
    return table


def _count_table(report: Report) -> Table:
    table = _table("Size and time", "", "")
    for part, count in report.get("trained_parameters", {}).items():
        table.add_row(f"trained parameters, {part}", f"{count:,}")
    for stage, seconds in report.get("seconds", {}).items():
        table.add_row(f"time, {stage}", f"{seconds:,.0f} s")
    return table


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", caption_justify="left")
    table.add_column(first)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _value(value: float) -> str:
    return f"{value:.1f}"


def _range(interval: Sequence[float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"
