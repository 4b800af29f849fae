"""Scores of predictions against references, 0 to 100, each with a 95% bootstrap interval.

A metric is two functions: one turns every item into a row of numbers (edits and words, n-gram counts, hit or miss), the
other turns sums of such rows into the score. The score of all items and the scores of resampled items so come from one
function, and a corpus score (WER, BLEU) is resampled as a corpus score.

Shapes: I items, K numbers kept of an item, R resamples.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vtblender_nemo.common.errors import ConfigError, DataError

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
"""Percentiles of the resampled scores that bound the interval."""

Numbers = NDArray[np.float64]
Normalizer = Literal["english", "basic", "none"]


@dataclass(frozen=True)
class Score:
    """A score over a set of items.

    Attributes:
        value: 0 to 100; a word error rate may exceed 100.
        low: lower bound of the 95% interval.
        high: upper bound of the 95% interval.
        items: how many items were scored.
        signature: what a reader needs to compute the same number again, as sacrebleu's signature.
    """

    value: float
    low: float
    high: float
    items: int
    signature: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass(frozen=True)
class Statistics:
    """What a metric keeps of every item.

    Attributes:
        rows: (I, K).
        reduce: sums of rows (R, K) -> scores (R,); NaN where a sum of items has no score, as no reference word.
        signature: see `Score`.
    """

    rows: Numbers
    reduce: Callable[[Numbers], Numbers]
    signature: str


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
    import jiwer

    normalize = _normalizer(normalizer)
    rows = np.zeros((len(references), 4))
    for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        edits = jiwer.process_words(normalize(reference), normalize(prediction))
        words = edits.hits + edits.substitutions + edits.deletions
        rows[number] = edits.substitutions, edits.deletions, edits.insertions, words
    signature = f"jiwer:{_version('jiwer')}|norm:{normalizer}"
    return Statistics(rows, lambda sums: _ratio(sums[:, :3].sum(axis=1), sums[:, 3]), signature)


def bleu(predictions: Sequence[str], references: Sequence[str], *, tokenize: str = "13a") -> Statistics:
    """Corpus BLEU (sacrebleu's defaults: 4-grams, exponential smoothing, case kept).

    Args:
        predictions: I texts.
        references: I texts, one per prediction.
        tokenize: sacrebleu's tokeniser; `13a` suits European languages, `zh`, `ja-mecab`, `ko-mecab`, `char` others.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=tokenize, effective_order=True)  # effective_order spares a warning per sentence, not a count
    rows = np.zeros((len(references), 2 + 2 * metric.max_ngram_order))
    for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        counted = metric.sentence_score(prediction, [reference])
        rows[number] = [counted.sys_len, counted.ref_len, *counted.counts, *counted.totals]

    def reduce(sums: Numbers) -> Numbers:
        return np.array([_corpus_bleu(row, metric.max_ngram_order) for row in sums.round().astype(int).tolist()])

    signature = f"nrefs:1|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:{_version('sacrebleu')}"
    return Statistics(rows, reduce, signature)


def exact_match(predictions: Sequence[str], references: Sequence[str], *, normalize: bool = False) -> Statistics:
    """Share of predictions that equal their reference.

    Args:
        predictions: I texts.
        references: I texts.
        normalize: by default only surrounding space is taken away, as upper case, punctuation and inner spaces may be
            what was asked for; with True, case, punctuation and the amount of space do not count.
    """
    clean = _fold if normalize else str.strip
    hits = [float(clean(p) == clean(r)) for p, r in zip(predictions, references, strict=True)]
    rows = np.stack([np.array(hits), np.ones(len(hits))], axis=1)
    return Statistics(rows, lambda sums: _ratio(sums[:, 0], sums[:, 1]), f"norm:{'folded' if normalize else 'strip'}")


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> Statistics:
    """Mean F1 of the longest common subsequence of words (rouge_score, no stemming).

    Words are runs of letters and digits of any script; on ASCII text without underscores that is rouge_score's own
    tokeniser, which drops every other letter.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    f1 = [scorer.score(r, p)["rougeL"].fmeasure for p, r in zip(predictions, references, strict=True)]
    rows = np.stack([np.array(f1), np.ones(len(f1))], axis=1)
    return Statistics(
        rows, lambda sums: _ratio(sums[:, 0], sums[:, 1]), f"rouge_score:{_version('rouge_score')}|stem:no"
    )


METRICS: Mapping[str, Callable[..., Statistics]] = {
    "wer": word_error_rate,
    "bleu": bleu,
    "exact_match": exact_match,
    "rouge_l": rouge_l,
}
LOWER_IS_BETTER = frozenset({"wer"})


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
        references: I texts.
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


def summarize(kept: Statistics, metric: str = "score", *, seed: int = 0) -> Score:
    """A score and its percentile bootstrap interval over items, the same at every call with the same seed."""
    value = float(kept.reduce(kept.rows.sum(axis=0, keepdims=True))[0])
    if not math.isfinite(value):
        raise DataError(
            f"{metric} is undefined for these items", value=value, expected="references that are not all empty"
        )
    items = len(kept.rows)
    draws = np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), size=RESAMPLES)
    resampled = kept.reduce(draws.astype(np.float64) @ kept.rows)
    low, high = np.nanpercentile(resampled, INTERVAL)  # NaN: a resample of empty references only
    return Score(value, float(low), float(high), items, kept.signature)


def _corpus_bleu(row: Sequence[int], max_ngram_order: int) -> float:
    from sacrebleu.metrics import BLEU

    sys_len, ref_len, *ngrams = row
    correct, total = ngrams[:max_ngram_order], ngrams[max_ngram_order:]
    return BLEU.compute_bleu(list(correct), list(total), sys_len, ref_len, smooth_method="exp").score


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    """100 * part / whole, NaN where there is no whole."""
    return 100.0 * np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _fold(text: str) -> str:
    """Case, punctuation and amount of space taken away; letters of every script stay."""
    kept = (" " if unicodedata.category(character).startswith("P") else character for character in text.casefold())
    return " ".join("".join(kept).split())


@lru_cache
def _normalizer(name: str) -> Callable[[str], str]:
    if name == "english":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    if name == "basic":
        from whisper_normalizer.basic import BasicTextNormalizer

        return BasicTextNormalizer()
    if name == "none":
        return str.strip
    raise ConfigError("unknown text normaliser", value=name, expected="english, basic or none", knob="normalizer")


class _Words:
    """A tokeniser for rouge_score."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
