"""Metrics by name, each with a typed list of what can be set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.metrics.answers import exact_match, rouge_l, squad_f1
from vtblender_nemo.evaluation.metrics.errors import (
    character_error_rate,
    deletions,
    insertions,
    substitutions,
    word_error_rate,
)
from vtblender_nemo.evaluation.metrics.statistics import Score, Statistics, summarize
from vtblender_nemo.evaluation.metrics.translation import bleu, chrf

METRICS: Mapping[str, Callable[..., Statistics]] = {
    "wer": word_error_rate,
    "cer": character_error_rate,
    "substitutions": substitutions,
    "deletions": deletions,
    "insertions": insertions,
    "bleu": bleu,
    "chrf": chrf,
    "exact_match": exact_match,
    "f1": squad_f1,
    "rouge_l": rouge_l,
}
LOWER_IS_BETTER = frozenset({"wer", "cer", "substitutions", "deletions", "insertions"})


def check_metric(metric: str, options: Mapping[str, Any]) -> None:
    """To be called before hours of work whose result is to be scored.

    Raises:
        ConfigError: an unknown metric or option; names the known ones.
    """
    if metric not in METRICS:
        raise ConfigError("unknown metric", value=metric, expected=f"one of {', '.join(METRICS)}", knob="metric")
    known = METRICS[metric].__kwdefaults__ or {}
    if unknown := sorted(options.keys() - known.keys()):
        raise ConfigError(
            f"unknown option of metric {metric}", value=unknown, expected=f"among {', '.join(known) or 'none'}"
        )


def statistics(metric: str, predictions: Sequence[str], references: Sequence[str], **options: Any) -> Statistics:
    """What `metric` keeps of every item.

    Args:
        metric: a name in `METRICS`.
        predictions: I texts.
        references: I texts; for metrics of answers also I lists of right answers.
        options: of the metric, as `normalizer="basic"`.

    Raises:
        ConfigError: an unknown metric or option.
        DataError: no items, or not as many predictions as references.
    """
    check_metric(metric, options)
    if len(predictions) != len(references):
        raise DataError(
            "not as many predictions as references", value=len(predictions), expected=f"{len(references)} predictions"
        )
    if not references:
        raise DataError("nothing to score", value=0, expected=f"at least one item for {metric}")
    return METRICS[metric](predictions, references, **options)


def compute(metric: str, predictions: Sequence[str], references: Sequence[str], **options: Any) -> Score:
    """The score of a set of predictions with its 95% interval.

    Args and raised errors are those of `statistics`; also raises a DataError where the references hold nothing to score
    against, as only empty transcripts for a word error rate.
    """
    return summarize(statistics(metric, predictions, references, **options), metric)
