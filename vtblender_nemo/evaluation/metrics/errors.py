"""Errors of recognition: edited words and characters per word and character of the reference (jiwer)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.evaluation.metrics.statistics import Statistics, package_version, ratio

Normalizer = Literal["english", "basic", "none"]
EDITS = ("substitutions", "deletions", "insertions")


def word_error_rate(
    predictions: Sequence[str], references: Sequence[str], *, normalizer: Normalizer = "english"
) -> Statistics:
    """Edited words per reference word of the whole set (jiwer).

    Args:
        predictions: I texts.
        references: I texts; one may be empty (silence), then every word said in its place is an insertion.
        normalizer: whisper_normalizer's `english` (the Open ASR leaderboard's: lower case, no punctuation, American
            spelling, numerals for number words, so "three five" and "35" are the same word), its `basic` for other
            languages (lower case, no punctuation), or `none`.

    Raises:
        ConfigError: unknown normaliser.
    """
    return _edit_rate(predictions, references, normalizer, range(3))


def character_error_rate(
    predictions: Sequence[str], references: Sequence[str], *, normalizer: Normalizer = "english"
) -> Statistics:
    """Edited characters per reference character of the whole set (jiwer), spaces between words included.

    Args and raised errors are those of `word_error_rate`.
    """
    return _edit_rate(predictions, references, normalizer, range(3), characters=True)


def substitutions(
    predictions: Sequence[str], references: Sequence[str], *, normalizer: Normalizer = "english"
) -> Statistics:
    """Words replaced by others, per reference word; a part of the word error rate."""
    return _edit_rate(predictions, references, normalizer, [EDITS.index("substitutions")])


def deletions(
    predictions: Sequence[str], references: Sequence[str], *, normalizer: Normalizer = "english"
) -> Statistics:
    """Words left out, per reference word; a part of the word error rate."""
    return _edit_rate(predictions, references, normalizer, [EDITS.index("deletions")])


def insertions(
    predictions: Sequence[str], references: Sequence[str], *, normalizer: Normalizer = "english"
) -> Statistics:
    """Words that nobody said, per reference word; a part of the word error rate."""
    return _edit_rate(predictions, references, normalizer, [EDITS.index("insertions")])


def _edit_rate(
    predictions: Sequence[str],
    references: Sequence[str],
    normalizer: str,
    counted: Sequence[int],
    *,
    characters: bool = False,
) -> Statistics:
    """The rate of the kinds of edits, by their place in `EDITS`, that are counted."""
    normalize = text_normalizer(normalizer)
    rows = np.array(
        [
            _edits(normalize(prediction), normalize(reference), characters)
            for prediction, reference in zip(predictions, references, strict=True)
        ],
        dtype=np.float64,
    ).reshape(-1, 4)
    signature = f"jiwer:{package_version('jiwer')}|norm:{normalizer}"
    return Statistics(rows, lambda sums: ratio(sums[:, list(counted)].sum(axis=1), sums[:, 3]), signature)


@lru_cache(maxsize=2**16)  # four measures ask for the same alignment
def _edits(prediction: str, reference: str, characters: bool) -> tuple[int, int, int, int]:
    """Substitutions, deletions, insertions, and the length of the reference."""
    import jiwer

    found = (jiwer.process_characters if characters else jiwer.process_words)(reference, prediction)
    length = found.hits + found.substitutions + found.deletions
    return found.substitutions, found.deletions, found.insertions, length


@lru_cache
def text_normalizer(name: str) -> Callable[[str], str]:
    """The normaliser of a name.

    Raises:
        ConfigError: unknown name.
    """
    if name == "english":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    if name == "basic":
        from whisper_normalizer.basic import BasicTextNormalizer

        return BasicTextNormalizer()
    if name == "none":
        return str.strip
    raise ConfigError("unknown text normaliser", value=name, expected="english, basic or none", knob="normalizer")
