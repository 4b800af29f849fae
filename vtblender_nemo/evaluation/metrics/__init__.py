"""Scores of predictions against references, 0 to 100, each with a 95% bootstrap interval.

A metric is two functions: one turns every item into a row of numbers (edits and words, n-gram counts, hit or miss), the
other turns sums of such rows into the score. The score of all items and the scores of resampled items so come from one
function, and a corpus score (WER, BLEU) is resampled as a corpus score.
"""

from vtblender_nemo.evaluation.metrics.registry import LOWER_IS_BETTER, METRICS, check_metric, compute, statistics
from vtblender_nemo.evaluation.metrics.statistics import Score, Statistics, difference, share, summarize

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "Score",
    "Statistics",
    "check_metric",
    "compute",
    "difference",
    "share",
    "statistics",
    "summarize",
]
