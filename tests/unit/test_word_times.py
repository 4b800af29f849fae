"""Alignments held against transcripts: which words can be told apart in time, and which alignments are refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.data.word_times import (
    WordTime,
    as_field,
    fitting_field,
    has_spaces,
    read_alignment,
    split_words,
    units_of,
)


def texts(transcript: str, *words: list, secs: float = 10.0) -> list[str]:
    return [unit.text for unit in units_of(transcript, read_alignment(list(words)), secs)]


def test_every_word_is_a_unit_with_its_times_and_its_punctuation():
    units = units_of("The cat, sat.", read_alignment([["the", 0.1, 0.3], ["CAT", 0.4, 0.8], ["sat", 1, 1.5]]), 2.0)
    assert [(unit.text, unit.start_secs, unit.end_secs) for unit in units] == [
        ("The", 0.1, 0.3),
        (" cat,", 0.4, 0.8),
        (" sat.", 1.0, 1.5),
    ]


def test_alignments_come_as_lists_and_as_mappings():
    wanted = [WordTime("a", 0.5, 1.0), WordTime("b", 1.0, 1.5)]
    assert read_alignment([["a", 0.5, 1.0], ("b", 1, 1.5)]) == wanted
    assert (
        read_alignment([{"word": "a", "start": 0.5, "end": 1.0}, {"symbol": "b", "start": 1, "duration": 0.5}])
        == wanted
    )


def test_silence_noise_and_lone_punctuation_are_no_words():
    entries = [["<eps>", 0, 1], ["", 1, 2], ["a", 2, 3], ["[noise]", 3, 4], ["-", 4, 4]]
    assert [word.word for word in read_alignment(entries)] == ["a", "-"]
    assert texts("a - b", ["a", 0, 1], ["b", 1, 2]) == ["a -", " b"]
    assert texts('"a" "b"', ["a", 0, 1], ["b", 1, 2]) == ['"a"', ' "b"']


def test_signs_that_are_said_belong_to_the_word_before():
    units = units_of("you & me", read_alignment([["you", 0, 1], ["&", 1.2, 2], ["me", 2.1, 3]]), 4.0)
    assert [(unit.text, unit.start_secs, unit.end_secs) for unit in units] == [("you &", 0, 2), (" me", 2.1, 3)]
    assert texts("you & me", ["you", 0, 1], ["&", None, None], ["me", 2.1, 3]) == ["you & me"]


def test_words_without_times_stay_with_both_neighbours():
    units = units_of("a b c d", read_alignment([["a", 0, 1], ["b", None, None], ["c", 2, 3], ["d", 3, 4]]), 5.0)
    assert [(unit.text, unit.start_secs, unit.end_secs) for unit in units] == [("a b c", 0, 3), (" d", 3, 4)]


def test_words_without_times_at_the_ends_reach_to_the_ends_of_the_audio():
    units = units_of("a b c d", read_alignment([["a", None, None], ["b", 1, 2], ["c", 2, 3], ["d", None, None]]), 5.0)
    assert [(unit.text, unit.start_secs, unit.end_secs) for unit in units] == [("a b", 0.0, 2), (" c d", 2, 5.0)]


def test_words_that_the_aligner_joined_or_parted_are_told_apart_where_both_agree():
    assert texts("ice-cream can not", ["ice", 0, 1], ["cream", 1, 2], ["cannot", 2, 3]) == ["ice-cream", " can not"]


def test_words_that_overlap_stay_together():
    assert texts("a b c", ["a", 0, 2], ["b", 1, 1.5], ["c", 1.8, 3]) == ["a b c"]
    assert texts("a b c", ["a", 0, 2], ["b", 1, 1.5], ["c", 2, 3]) == ["a b", " c"]


def test_letters_are_compared_without_case_and_composition():
    assert texts("Straße é ﬁn", ["STRASSE", 0, 1], ["e\u0301", 1, 2], ["fin", 2, 3]) == ["Straße", " é", " ﬁn"]


def test_scripts_without_spaces_are_cut_where_the_alignment_parts_them():
    assert texts("今天，天气好。", ["今天", 0, 1], ["天气", 1, 2], ["好", 2, 3]) == ["今天，", "天气", "好。"]
    assert texts("今天好", *([c, n, n + 1] for n, c in enumerate("今天好"))) == ["今", "天", "好"]
    assert texts("说「好」吧", ["说", 0, 1], ["好", 1, 2], ["吧", 2, 3]) == ["说", "「好」", "吧"]
    # The vowel above stays on its consonant, as an aligner by code points would part them.
    assert texts("ที่นี่", *([c, n, n + 1] for n, c in enumerate("ที่นี่"))) == ["ที่", "นี่"]


def test_words_of_a_transcript_are_split_as_units_are():
    assert split_words(" Well - ice-cream, “now”! ") == ["Well -", "ice-cream,", "“now”!"]
    assert split_words("天气good") == ["天", "气", "good"]
    assert split_words("... !") == []
    assert [has_spaces(text) for text in ("Grüße, 안녕하세요", "今天", "ok ไทย")] == [True, False, False]


@pytest.mark.parametrize(
    ("transcript", "alignment", "problem"),
    [
        ("a b", [["a", 0, 1]], r"other words.*'a'.*expected a b"),
        ("a", [["a", 0, 1], ["b", 1, 2]], r"other words"),
        ("one two three", [["one", 0, 1], ["too", 1, 2], ["three", 2, 3]], r"'one too three'.*one two three"),
        ("42 men", [["forty", 0, 1], ["two", 1, 2], ["men", 2, 3]], "other words"),
        ("...", [], "no words"),
        ("a b", [["a", 2, 3], ["b", 1, 2]], "not in order"),
        ("a b", [["a", 2, 1], ["b", 3, 4]], "not in order"),
        ("a", [["a", -0.1, 1]], "not in order"),
        ("a", [["a", 9, 10.2]], "not in the audio"),
        ("a", [["a", 1]], "wrong shape"),
        ("a", [["a", 1, 2, 3]], "wrong shape"),
        ("a", ["a"], "wrong shape"),
        ("a", {"a": 1}, "no list"),
        ("a", "a", "no list"),
        ("a", [[1, 1, 2]], "no text"),
        ("a", [["a", 1, None]], "no number"),
        ("a", [["a", None, 1]], "no number"),
        ("a", [["a", "0", 1]], "no number"),
        ("a", [["a", True, 2]], "no number"),
        ("a", [["a", 0, float("nan")]], "no number"),
        ("a", [{"start": 0, "end": 1}], "no text"),
    ],
)
def test_alignments_that_do_not_fit_are_refused(transcript, alignment, problem):
    with pytest.raises(DataError, match=problem):
        units_of(transcript, read_alignment(alignment), 10.0)


def test_times_rounded_past_the_end_are_the_end():
    (unit,) = units_of("a", read_alignment([["a", 0.5, 1.05]]), 1.0)
    assert (unit.start_secs, unit.end_secs) == (0.5, 1.0)


def test_a_field_is_written_rounded_and_moved_and_read_again():
    words = [WordTime("a", 0.1234567, 0.5), WordTime("b", None, None)]
    assert as_field(words, 1.0) == [["a", 1.12346, 1.5], ["b", None, None]]
    assert read_alignment(as_field(words)) == [WordTime("a", 0.12346, 0.5), WordTime("b", None, None)]


def test_a_field_is_left_out_where_other_words_were_said():
    words = [WordTime("twenty", 0.0, 0.5), WordTime("men", 0.5, 1.0)]
    assert fitting_field("Twenty men.", words, 1.0) == [["twenty", 0.0, 0.5], ["men", 0.5, 1.0]]
    assert fitting_field("20 men.", words, 1.0) is None
    assert fitting_field("Twenty men.", None, 1.0) is None


WORDS = st.lists(st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=6), min_size=1, max_size=12)


@given(words=WORDS, seed=st.integers(0, 2**32))
def test_units_make_up_the_transcript_in_order_and_apart(words, seed):
    """Whatever is written between words, whichever are untimed, and however the times lie."""
    rng = random.Random(seed)
    transcript = "".join(word + rng.choice([" ", "  ", ", ", " - ", "\n"]) for word in words)
    clock, entries = 0.0, []
    for word in words:
        start = clock + rng.choice([0.0, 0.25])
        clock = start + rng.choice([0.0, 0.5])
        entries.append([word, None, None] if rng.random() < 0.2 else [word, start, clock])
    units = units_of(transcript, read_alignment(entries), clock + 0.25)
    assert "".join(unit.text for unit in units) == transcript
    assert all(unit.text.strip() for unit in units)
    borders = [secs for unit in units for secs in (unit.start_secs, unit.end_secs)]
    assert borders == sorted(borders)
    assert borders[0] >= 0.0
    assert borders[-1] <= clock + 0.25
    timed = {number for number, entry in enumerate(entries) if entry[1] is not None}
    wanted = sum({number, number - 1} <= timed for number in range(1, len(words)))
    assert len(units) == wanted + 1
