"""The report of a run: one JSON object whose keys stay, and the same as tables on the screen.

Keys: `TASK.SCORE` (as `asr.wer`, `sqa.exact_match`), beside it `interval` (95%), `items`, `failed`, `by_kind`; `blind`
is the score that the model reached without the right audio, the best over the ways to take it away, all of which are in
`blind_by`. Any other score `X` has its `X_interval`. Scores are 0 to 100 (a word error rate may exceed 100).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.files import write_json
from vtblender_nemo.evaluation.metrics import LOWER_IS_BETTER, Score
from vtblender_nemo.evaluation.runner import Scores, TaskResult
from vtblender_nemo.evaluation.variants import BLIND_VARIANTS

Report = dict[str, Any]

TEXT_TASK = "text"
NOT_TASKS = frozenset({"contrast", "seconds", "sources", "trained_parameters", "about"})


@dataclass(frozen=True)
class SourceShare:
    """How much of the training data a source was to give, and gave; both are shares of 1."""

    weight_wanted: float
    share_seen: float


@dataclass(frozen=True)
class RunFacts:
    """What a report tells of a run beside its scores.

    Attributes:
        seconds: by stage.
        sources: by name of the data source.
        trained_parameters: by part of the model.
        about: anything else worth knowing, as `{"warm_start": True, "seed": 1}`.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, SourceShare] = field(default_factory=dict)
    trained_parameters: Mapping[str, int] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def score_name(task: str, metric: str) -> str:
    """The key of a task's main score: the metric, or `accuracy` for text skills."""
    return "accuracy" if task == TEXT_TASK else metric


def build_report(
    results: Mapping[str, TaskResult],
    *,
    base_text: TaskResult | None = None,
    contrasts: Mapping[str, Mapping[str, TaskResult]] | None = None,
    facts: RunFacts = RunFacts(),
) -> Report:
    """Puts everything that was measured under the keys that stay.

    Args:
        results: by task, as from `runner.evaluate`; the task `text` holds the text skills.
        base_text: the text skills of the base LLM.
        contrasts: results of other models by name of the model and task, as `speech_only_lora`.
        facts: of the run.

    Raises:
        ConfigError: a task with the name of another section.
        DataError: a number that is not finite; names its key.
    """
    if taken := sorted(NOT_TASKS & results.keys()):
        raise ConfigError("task with the name of another section of the report", value=taken, expected="another name")
    report: Report = {task: _section(task, result) for task, result in results.items()}
    if base_text is not None:
        name = score_name(TEXT_TASK, base_text.metric)
        text = report.setdefault(TEXT_TASK, {})
        text |= {f"base_{name}": _number(base_text.score), f"base_{name}_interval": _interval(base_text.score)}
        text["base_by_kind"] = _groups(name, base_text.scores)
    if contrasts:
        report["contrast"] = {name: _flat(compared) for name, compared in contrasts.items()}
    report["seconds"] = dict(facts.seconds)
    report["sources"] = {name: asdict(share) for name, share in facts.sources.items()}
    report["trained_parameters"] = dict(facts.trained_parameters)
    report["about"] = dict(facts.about)
    for key, value in _leaves(report):
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError("the report holds a number that is not finite", value=value, expected=f"a number at {key}")
    return report


def write_report(report: Report, path: Path) -> None:
    """Writes `report` as JSON, whole or not at all."""
    write_json(report, path)


def _section(task: str, result: TaskResult) -> dict[str, Any]:
    name = score_name(task, result.metric)
    section = _scores(name, result.scores)
    blind = {variant: scores for variant, scores in result.variants.items() if variant in BLIND_VARIANTS}
    if blind:
        best = min if result.metric in LOWER_IS_BETTER else max
        most = best((scores.score for scores in blind.values()), key=lambda score: score.value)
        section |= {"blind": _number(most), "blind_interval": _interval(most)}
        section["blind_by"] = {variant: _scores(name, scores) for variant, scores in blind.items()}
    for variant, scores in result.variants.items():
        if variant not in blind:
            section[variant] = _scores(name, scores)
    return section


def _scores(name: str, scores: Scores) -> dict[str, Any]:
    section = _score(name, scores.score) | {"failed": scores.failed, "signature": scores.score.signature}
    return section | ({"by_kind": _groups(name, scores)} if scores.by_group else {})


def _groups(name: str, scores: Scores) -> dict[str, Any]:
    return {group: _score(name, score) for group, score in scores.by_group.items()}


def _score(name: str, score: Score) -> dict[str, Any]:
    return {name: _number(score), "interval": _interval(score), "items": score.items}


def _flat(results: Mapping[str, TaskResult]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for task, result in results.items():
        key = f"{task}_{score_name(task, result.metric)}"
        flat |= {key: _number(result.score), f"{key}_interval": _interval(result.score)}
    return flat


def _number(score: Score) -> float:
    return round(score.value, 4)


def _interval(score: Score) -> list[float]:
    return [round(score.low, 4), round(score.high, 4)]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{number}]")
    else:
        yield key, value
