from __future__ import annotations

import math
import random

import jiwer
import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.metrics import METRICS, compute, statistics

WORDS = "the a cat dog sat ran on in mat park big red and then slept".split()


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(count)]


def test_wer_sums_edits_and_words_over_the_set():
    predictions = ["the cat sat down", "a x c"]  # one word too many; one replaced and two missing
    references = ["the cat sat", "a b c d e"]
    assert compute("wer", predictions, references, normalizer="none").value == pytest.approx(100 * 4 / 8)
    edits = statistics("wer", predictions, references, normalizer="none").rows.tolist()
    assert edits == [[0, 0, 1, 3], [1, 2, 0, 5]]


def test_wer_may_exceed_100():
    assert compute("wer", ["hi there you all"], ["hi"], normalizer="none").value == pytest.approx(300)


def test_wer_counts_words_said_in_silence():
    assert compute("wer", ["a b", "x"], ["", "x"], normalizer="none").value == pytest.approx(200)


def test_wer_of_empty_references_only_is_an_error():
    with pytest.raises(DataError, match="wer is undefined"):
        compute("wer", ["a", ""], ["", ""])


def test_wer_equals_jiwer():
    predictions, references = sentences(50, 1), sentences(50, 2)
    assert compute("wer", predictions, references).value == pytest.approx(100 * jiwer.wer(references, predictions))


@pytest.mark.parametrize(
    ("normalizer", "reference", "prediction", "expected"),
    [
        ("english", "The colour, RED!", "the color red", 0),
        ("english", "three five", "35", 0),
        ("basic", "Größe, bitte!", "größe bitte", 0),
        ("basic", "the colour", "the color", 50),
        ("none", "Red.", "red", 100),
    ],
)
def test_wer_normalizers(normalizer, reference, prediction, expected):
    assert compute("wer", [prediction], [reference], normalizer=normalizer).value == pytest.approx(expected)


def test_bleu_by_hand():
    # n-gram hits 5/5, 3/4, 2/3, 1/2; five words for six: brevity penalty exp(1 - 6/5)
    expected = 100 * math.exp(1 - 6 / 5) * (5 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert compute("bleu", ["the cat sat on mat"], ["the cat sat on the mat"]).value == pytest.approx(expected)


@pytest.mark.parametrize("tokenize", ["13a", "char"])
def test_bleu_and_its_signature_equal_sacrebleu(tokenize):
    references = sentences(40, 3)
    predictions = [text.replace("cat", "dog") + "." for text in references]
    metric = sacrebleu.BLEU(tokenize=tokenize)
    expected = metric.corpus_score(predictions, [references]).score
    score = compute("bleu", predictions, references, tokenize=tokenize)
    assert 10 < expected < 100
    assert score.value == pytest.approx(expected)
    assert score.signature == str(metric.get_signature())


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [("the dog sat on mats", "the cat sat on it"), ("The Big Dog sat on the mat", "the big dog sat on the mat")],
    ids=["smoothed where no 4-gram is right", "case counts"],
)
def test_bleu_has_the_defaults_of_sacrebleu(prediction, reference):
    expected = sacrebleu.corpus_bleu([prediction], [[reference]]).score
    assert 0 < expected < 100
    assert compute("bleu", [prediction], [reference]).value == pytest.approx(expected)


def test_exact_match_forgives_surrounding_space_only():
    predictions = [" In the park. ", "in the park.", "In the park", "In  the park."]
    assert compute("exact_match", predictions, ["In the park."] * 4).value == pytest.approx(25)


def test_normalized_exact_match_forgives_case_punctuation_and_space():
    predictions = ["in the park", "IN  THE PARK!", "in a park", "STRASSE"]
    references = ["In the park."] * 3 + ["Straße"]
    assert compute("exact_match", predictions, references, normalize=True).value == pytest.approx(75)


def test_rouge_l_by_hand():
    # the longest common subsequence is "the cat": precision 2/3, recall 2/5, F1 1/2; the second pair is equal
    predictions, references = ["the cat sat", "yes"], ["the cat is here now", "Yes!"]
    assert compute("rouge_l", predictions, references).value == pytest.approx(75)


def test_rouge_l_keeps_letters_of_other_languages():
    assert compute("rouge_l", ["große"], ["größe"]).value == 0


@pytest.mark.parametrize("metric", METRICS)
def test_score_of_a_resample_is_the_score_of_the_resampled_items(metric):
    references = sentences(12, 4)
    predictions = [text if number % 3 else changed(text) for number, text in enumerate(references)]
    kept = statistics(metric, predictions, references)
    drawn = np.random.default_rng(5).integers(0, 12, size=12)
    counts = np.bincount(drawn, minlength=12).astype(float)
    resampled = compute(metric, [predictions[i] for i in drawn], [references[i] for i in drawn])
    assert kept.reduce((counts @ kept.rows)[None])[0] == pytest.approx(resampled.value)
    assert 0 < resampled.value < 100


def changed(text: str) -> str:
    """With a word replaced, one left out and some added: the share of every kind of edit is its own."""
    first, _, *rest = text.split()
    return " ".join(["house", *rest, "far", "away", first])


@pytest.mark.parametrize("metric", METRICS)
def test_interval_holds_the_score_and_repeats(metric):
    references = sentences(60, 6)
    predictions = [text if number % 4 else changed(text) for number, text in enumerate(references)]
    score = compute(metric, predictions, references)
    assert score.low < score.value < score.high
    assert score.items == 60
    assert score == compute(metric, predictions, references)


def test_interval_has_the_width_of_a_binomial():
    predictions = ["yes"] * 300 + ["no"] * 200
    score = compute("exact_match", predictions, ["yes"] * 500)
    half = 196 * math.sqrt(0.6 * 0.4 / 500)  # 4.29
    assert score.value - score.low == pytest.approx(half, abs=0.6)
    assert score.high - score.value == pytest.approx(half, abs=0.6)


def test_interval_survives_resamples_without_reference_words():
    score = compute("wer", ["a", "", ""], ["a b", "", ""], normalizer="none")
    assert (score.value, score.low, score.high) == pytest.approx((50, 50, 50))


@given(st.lists(st.text(alphabet="abc de", min_size=1), min_size=1, max_size=5))
def test_equal_texts_are_perfect(texts):
    assert compute("exact_match", texts, texts).value == 100
    if any(text.strip() for text in texts):
        assert compute("wer", texts, texts, normalizer="none").value == 0


def test_unknown_metric_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'meteor'; expected one of wer, .*bleu, .*exact_match, .*rouge_l"):
        compute("meteor", ["a"], ["a"])


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("wer", {"normalizer": "french"}, "french.*english, basic or none"),
        ("wer", {"language": "en"}, "unknown option of metric wer.*language.*among normalizer"),
        ("rouge_l", {"normalize": True}, "unknown option of metric rouge_l.*among none"),
    ],
)
def test_unknown_options(metric, options, message):
    with pytest.raises(ConfigError, match=message):
        compute(metric, ["a"], ["a"], **options)


@pytest.mark.parametrize("metric", METRICS)
def test_counts_that_differ_and_empty_sets(metric):
    with pytest.raises(DataError, match="found 1; expected 2 predictions"):
        compute(metric, ["a"], ["a", "b"])
    with pytest.raises(DataError, match="nothing to score"):
        compute(metric, [], [])
