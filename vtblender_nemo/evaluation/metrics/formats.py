"""Scores of answers that were asked for in a form of their own: JSON, or with certain words in them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from vtblender_nemo.evaluation.metrics.errors import Normalizer, text_normalizer
from vtblender_nemo.evaluation.metrics.statistics import Statistics, mean_of, ratio

_INVALID = object()


def valid_json(predictions: Sequence[str], references: Sequence[str]) -> Statistics:
    """Share of predictions that are one JSON value, with nothing around it but space."""
    return mean_of([float(_parsed(text) is not _INVALID) for text in predictions], "format:json")


def json_match(predictions: Sequence[str], references: Sequence[str]) -> Statistics:
    """Share of predictions that are JSON and hold what the reference, JSON too, holds; order of keys does not count."""
    pairs = zip(predictions, references, strict=True)
    return mean_of([float(_equal(_parsed(said), _parsed(right))) for said, right in pairs], "format:json")


def keywords_found(
    predictions: Sequence[str], keywords: Sequence[Sequence[str]], *, normalizer: Normalizer = "english"
) -> Statistics:
    """Share of the listed words and names that stand in the predictions, as whole words.

    Args:
        predictions: I texts.
        keywords: I lists of what each should hold; an empty list counts for nothing.
        normalizer: see `word_error_rate`.

    Raises:
        ConfigError: unknown normaliser.
    """
    normalize = text_normalizer(normalizer)
    rows = np.zeros((len(predictions), 2))
    for number, (prediction, wanted) in enumerate(zip(predictions, keywords, strict=True)):
        said = f" {normalize(prediction)} "
        rows[number] = sum(f" {normalize(word)} " in said for word in wanted), len(wanted)
    return Statistics(rows, lambda sums: ratio(sums[:, 0], sums[:, 1]), f"norm:{normalizer}")


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return _INVALID


def _equal(said: object, right: object) -> bool:
    return said is not _INVALID and said == right
