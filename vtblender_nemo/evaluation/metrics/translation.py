"""Scores of translations: BLEU and chrF as sacrebleu computes them, COMET where its package is installed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from vtblender_nemo.common.errors import MissingDependencyError
from vtblender_nemo.evaluation.metrics.statistics import Numbers, Statistics, mean_of, package_version

COMET_MODEL = "Unbabel/wmt22-comet-da"


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

    signature = f"nrefs:1|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:{package_version('sacrebleu')}"
    return Statistics(rows, reduce, signature)


def chrf(
    predictions: Sequence[str], references: Sequence[str], *, char_order: int = 6, word_order: int = 0, beta: int = 2
) -> Statistics:
    """Corpus chrF (sacrebleu's counts and defaults: 6-grams of characters, spaces left out, recall counts double).

    Args:
        predictions: I texts.
        references: I texts, one per prediction.
        char_order: longest n-gram of characters.
        word_order: longest n-gram of words; 2 gives chrF++.
        beta: weight of recall against precision.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF(char_order=char_order, word_order=word_order, beta=beta)
    counts = metric._extract_corpus_statistics(list(predictions), [list(references)])
    rows = np.array(counts, dtype=np.float64).reshape(len(references), -1)
    signature = f"nrefs:1|case:mixed|eff:yes|nc:{char_order}|nw:{word_order}|space:no"
    return Statistics(rows, lambda sums: _f_score(sums, beta), f"{signature}|version:{package_version('sacrebleu')}")


def comet(
    predictions: Sequence[str],
    references: Sequence[str],
    sources: Sequence[str],
    *,
    model: str = COMET_MODEL,
    batch_size: int = 8,
    gpus: int = 0,
) -> Statistics:
    """Mean COMET of the sentences (the package `unbabel-comet`), times 100.

    Args:
        predictions: I texts.
        references: I texts.
        sources: I texts, what was said in the language that is translated from.
        model: a name that the package downloads, or the path of a checkpoint.
        batch_size: sentences at once.
        gpus: how many it may use.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    rows = [{"src": s, "mt": p, "ref": r} for s, p, r in zip(sources, predictions, references, strict=True)]
    scores = _comet_model(model).predict(rows, batch_size=batch_size, gpus=gpus, progress_bar=False).scores
    return mean_of(scores, f"model:{model}|version:{package_version('unbabel-comet')}")


def check_comet() -> None:
    """To be called before hours of work whose result is to be scored.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    from importlib.util import find_spec

    if find_spec("comet") is None:
        raise MissingDependencyError(
            "the measure comet needs a package that is not installed",
            value="comet",
            expected="pip install unbabel-comet (its model is downloaded at first use), or tasks without this measure",
            knob="measures",
        )


@lru_cache(maxsize=1)
def _comet_model(name: str) -> Any:
    from pathlib import Path

    check_comet()
    from comet import download_model, load_from_checkpoint

    return load_from_checkpoint(name if Path(name).is_file() else download_model(name))


def _corpus_bleu(row: Sequence[int], max_ngram_order: int) -> float:
    from sacrebleu.metrics import BLEU

    sys_len, ref_len, *ngrams = row
    correct, total = ngrams[:max_ngram_order], ngrams[max_ngram_order:]
    return BLEU.compute_bleu(list(correct), list(total), sys_len, ref_len, smooth_method="exp").score


def _f_score(sums: Numbers, beta: int) -> Numbers:
    """The chrF of summed counts: F of the mean precision and recall over the orders that occur on both sides.

    Args:
        sums: (R, 3 * orders): n-grams of the prediction, of the reference, and of both, order by order.
        beta: see `chrf`.
    """
    said, wanted, common = (sums.reshape(len(sums), -1, 3)[:, :, place] for place in range(3))
    there = (said > 0) & (wanted > 0)
    orders = np.maximum(there.sum(axis=1), 1)
    precision = np.divide(common, said, out=np.zeros_like(said), where=there).sum(axis=1) / orders
    recall = np.divide(common, wanted, out=np.zeros_like(said), where=there).sum(axis=1) / orders
    weighted = beta**2 * precision + recall
    return 100.0 * np.divide((1 + beta**2) * precision * recall, weighted, out=np.zeros(len(sums)), where=weighted > 0)
