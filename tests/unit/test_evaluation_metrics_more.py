"""Metrics by hand and beside the libraries they follow."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import sacrebleu

from vtblender_nemo.common.errors import ConfigError, DataError, MissingDependencyError
from vtblender_nemo.evaluation.metrics import compute, difference, statistics, summarize
from vtblender_nemo.evaluation.metrics.answers import exact_match, squad_f1, squad_text
from vtblender_nemo.evaluation.metrics.formats import json_match, keywords_found, valid_json
from vtblender_nemo.evaluation.metrics.translation import COMET_MODEL, _comet_model, comet

TRANSLATIONS = {
    "the cat sat on the mat": "a cat is on the mat",
    "guten Morgen, Welt": "Guten Tag, Welt!",
    "": "nothing was said",
    "ja": "ja",
}


def percent(kept) -> float:
    return kept.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Park.", "park"),
        ("an apple a day", "apple day"),
        ("Anna's theatre", "annas theatre"),  # punctuation goes without a space; articles only as whole words
        ("A.", ""),
        ("the-the", "thethe"),
        ("« Größe »", "« größe »"),  # only ASCII punctuation
    ],
)
def test_squad_text(text, expected):
    assert squad_text(text) == expected


def test_squad_exact_match_takes_the_nearest_of_several_answers():
    references = [["in 1976", "1976"], ["the Danube"], ["Rome"]]
    kept = exact_match(["1976.", "Danube", "in Rome"], references, rules="squad")
    assert kept.rows[:, 0].tolist() == [1, 1, 0]
    assert kept.signature == "norm:squad"


def test_squad_f1_by_hand():
    # "big red dog" against "red dog": precision 2/3, recall 1, F1 4/5; repeated words count as often as both have them
    predictions = ["the big red dog", "no no", "cat", "Anna"]
    references = ["a red dog", "no", "dog", "Anna!"]
    assert squad_f1(predictions, references).rows[:, 0].tolist() == pytest.approx([0.8, 2 / 3, 0, 1])
    assert compute("f1", predictions, references).value == pytest.approx(100 * (0.8 + 2 / 3 + 0 + 1) / 4)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("", "", 1),  # rightly no answer
        ("the", "", 1),  # nothing but an article is nothing
        ("Anna", "", 0),  # an answer where there is none
        ("", "Anna", 0),  # none where there is one
        ("Unanswerable.", "", 1),  # by no_answer
        ("unanswerable", "Anna", 0),
    ],
)
def test_items_without_an_answer(prediction, reference, expected):
    options = {"no_answer": ["unanswerable"]}
    assert squad_f1([prediction], [reference], **options).rows[0, 0] == expected
    assert exact_match([prediction], [reference], rules="squad", **options).rows[0, 0] == expected


def test_no_answer_counts_only_if_it_is_said_to():
    assert exact_match(["unanswerable"], [""], rules="squad").rows[0, 0] == 0
    assert "unanswerable" in exact_match(["a"], ["a"], rules="squad", no_answer=["Unanswerable!"]).signature


def test_an_answer_of_articles_alone_is_left_out_of_the_right_ones():
    assert exact_match([""], [["The", "Beatles"]], rules="squad").rows[0, 0] == 0
    assert exact_match([""], [["The"]], rules="squad").rows[0, 0] == 1


def test_unknown_rules():
    with pytest.raises(ConfigError, match="found 'quad'; expected one of strip, folded, squad"):
        exact_match(["a"], ["a"], rules="quad")


@pytest.mark.parametrize("options", [{}, {"word_order": 2}, {"char_order": 4, "beta": 1}])
def test_chrf_and_its_signature_equal_sacrebleu(options):
    predictions, references = list(TRANSLATIONS), list(TRANSLATIONS.values())
    metric = sacrebleu.CHRF(**options)
    expected = metric.corpus_score(predictions, [references]).score
    score = compute("chrf", predictions, references, **options)
    assert 0 < expected < 100
    assert score.value == pytest.approx(expected)
    assert score.signature == str(metric.get_signature())


def test_chrf_of_nothing_in_common_is_zero():
    assert compute("chrf", ["", "xyz"], ["abc", "abc"]).value == 0


def test_cer_by_hand():
    # one letter of seven characters, the space counted, is another; two of two are missing
    kept = statistics("cer", ["the cat", ""], ["the cut", "ab"], normalizer="none")
    assert kept.rows.tolist() == [[1, 0, 0, 7], [0, 2, 0, 2]]
    assert percent(kept) == pytest.approx(100 * 3 / 9)


def test_kinds_of_errors_by_hand_make_up_the_wer():
    predictions, references = ["the bat sat", "a b c d", "x"], ["the cat sat down", "a c d", "x y"]
    by_kind = {
        kind: percent(statistics(kind, predictions, references, normalizer="none"))
        for kind in ("substitutions", "deletions", "insertions")
    }
    assert by_kind == pytest.approx({"substitutions": 100 / 9, "deletions": 200 / 9, "insertions": 100 / 9})
    assert sum(by_kind.values()) == pytest.approx(compute("wer", predictions, references, normalizer="none").value)


def test_json():
    predictions = ['{"a": 1, "b": [2]}', '{"a": 1}', "Sure: {}", "[1, 2", '"x"']
    references = ['{"b": [2], "a": 1}', '{"a": 2}', "{}", "[1, 2]", '"x"']
    assert valid_json(predictions, references).rows[:, 0].tolist() == [1, 1, 0, 0, 1]
    assert json_match(predictions, references).rows[:, 0].tolist() == [1, 0, 0, 0, 1]


def test_keywords_are_whole_words():
    predictions = ["Dr. Okonkwo met Lin-Manuel.", "catalogue", "nothing"]
    kept = keywords_found(predictions, [["Okonkwo", "Lin Manuel", "Kim"], ["cat"], []])
    assert kept.rows.tolist() == [[2, 3], [0, 1], [0, 0]]
    assert percent(kept) == pytest.approx(50)


def test_difference_draws_the_same_items_for_both():
    """Ten items are hard for both and one of 200 tells them apart: unpaired, the interval would hold 0."""
    right = np.array([1.0] * 150 + [0.0] * 50)
    better = right.copy()
    better[150:160] = 1
    ours = statistics("exact_match", ["y" if one else "n" for one in better], ["y"] * 200)
    theirs = statistics("exact_match", ["y" if one else "n" for one in right], ["y"] * 200)
    score = difference(ours, theirs)
    assert (score.value, score.items) == (pytest.approx(5), 200)
    half = 196 * np.sqrt(0.05 * 0.95 / 200)  # of the ten items alone: 3.0; of both scores apart it would be 8.2
    assert score.value - score.low == pytest.approx(half, abs=0.6)
    assert difference(ours, ours).interval == (0, 0)


def test_difference_of_corpus_scores_is_the_difference_of_the_scores():
    predictions, references = ["a b c", "d e"], ["a b", "d f"]
    worse = ["x y", "d f"]
    ours, theirs = (statistics("wer", said, references, normalizer="none") for said in (predictions, worse))
    assert difference(ours, theirs).value == pytest.approx(100 * 2 / 4 - 100 * 2 / 4)
    assert difference(ours.take([0]), theirs.take([0])).value == pytest.approx(100 * 1 / 2 - 100 * 2 / 2)


def test_difference_wants_as_many_items_on_both_sides():
    with pytest.raises(DataError, match="paired comparison of wer.*found 1; expected 2 items"):
        difference(statistics("wer", ["a", "b"], ["a", "b"]), statistics("wer", ["a"], ["a"]), "wer")


def test_summarize_of_no_items_is_an_error():
    with pytest.raises(DataError, match="nothing to score"):
        summarize(statistics("wer", ["a"], ["a"]).take([]))


@pytest.fixture
def comet_package(monkeypatch):
    """Stands in for `unbabel-comet`; a score is the share of the reference's characters that were written."""
    _comet_model.cache_clear()
    asked = []

    class Model:
        def predict(self, rows, **options):
            asked.append((rows, options))
            return SimpleNamespace(scores=[len(row["mt"]) / len(row["ref"]) for row in rows])

    module = ModuleType("comet")
    module.download_model = lambda name: f"/models/{name}"
    module.load_from_checkpoint = lambda path: asked.append(path) or Model()
    monkeypatch.setitem(sys.modules, "comet", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("vtblender_nemo.evaluation.metrics.translation.package_version", lambda name: "2.2")
    yield asked
    _comet_model.cache_clear()


def test_comet_asks_its_package(comet_package):
    kept = comet(["ab", "abcd"], ["abcd", "abcd"], ["source 1", "source 2"], batch_size=4)
    assert percent(kept) == pytest.approx(75)
    assert kept.signature == f"model:{COMET_MODEL}|version:2.2"
    path, (rows, options) = comet_package
    assert path == f"/models/{COMET_MODEL}"
    assert rows[0] == {"src": "source 1", "mt": "ab", "ref": "abcd"}
    assert (options["batch_size"], options["gpus"]) == (4, 0)


def test_comet_without_its_package_says_how_to_get_it():
    _comet_model.cache_clear()
    with pytest.raises(MissingDependencyError, match="pip install unbabel-comet"):
        comet(["a"], ["a"], ["a"])
