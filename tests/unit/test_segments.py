"""Which sentences become speech: the paper's distribution, and what goes beyond it."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from scipy.stats import chisquare

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.mixed_modal.segments import (
    Span,
    SpanConfig,
    draw_span,
    draw_spans,
    draw_turns,
    split_sentences,
)

# Begin uniform over four sentences, end uniform after it: the probabilities of all ten runs, in 48ths.
FOUR_SENTENCES = {
    Span(0, 1): 3, Span(0, 2): 3, Span(0, 3): 3, Span(0, 4): 3,
    Span(1, 2): 4, Span(1, 3): 4, Span(1, 4): 4,
    Span(2, 3): 6, Span(2, 4): 6,
    Span(3, 4): 12,
}  # fmt: skip
LIKELY = 1e-3  # a right draw fails one seed in a thousand; the seed is fixed


def p_value(seen: Counter, shares: dict) -> float:
    total = sum(seen.values())
    assert set(seen) <= set(shares)
    whole = sum(shares.values())
    return chisquare([seen[key] for key in shares], [total * share / whole for share in shares.values()]).pvalue


def test_a_run_begins_uniformly_and_ends_uniformly_after_its_begin():
    rng = random.Random(0)
    seen = Counter(draw_span(4, rng) for _ in range(20_000))
    assert p_value(seen, FOUR_SENTENCES) > LIKELY


def test_the_default_draw_of_a_turn_is_the_papers():
    rng = random.Random(1)
    seen = Counter(draw_spans(4, SpanConfig(), rng) for _ in range(20_000))
    assert p_value(seen, {(span,): share for span, share in FOUR_SENTENCES.items()}) > LIKELY


def test_allowed_runs_keep_their_proportions():
    allowed = {Span(0, 1), Span(1, 3), Span(3, 4)}
    rng = random.Random(2)
    seen = Counter(draw_span(4, rng, allowed=allowed.__contains__) for _ in range(10_000))
    assert p_value(seen, {span: FOUR_SENTENCES[span] for span in sorted(allowed)}) > LIKELY
    assert draw_span(4, rng, allowed=lambda span: False) is None


def test_several_runs_are_in_order_with_text_between_them():
    rng, config = random.Random(3), SpanConfig(max_spans=3)
    numbers = Counter()
    for _ in range(3000):
        spans = draw_spans(8, config, rng)
        numbers[len(spans)] += 1
        for left, right in pairwise(spans):
            assert left.end < right.begin
        assert all(0 <= span.begin < span.end <= 8 for span in spans)
    assert set(numbers) == {1, 2, 3}


def test_the_number_of_runs_is_drawn():
    """Two in half of the draws, where the first leaves a gap of one sentence and one more: it ends before the last but one."""
    room = sum((6 - begin) / (8 * (8 - begin)) for begin in range(6))
    rng = random.Random(7)
    numbers = Counter(len(draw_spans(8, SpanConfig(max_spans=2), rng)) for _ in range(20_000))
    assert p_value(numbers, {1: 1 - room / 2, 2: room / 2}) > LIKELY


def test_a_second_run_is_drawn_from_what_is_left_behind_the_first():
    rng, config = random.Random(4), SpanConfig(max_spans=2)
    drawn = [draw_spans(4, config, rng) for _ in range(40_000)]
    after_first = Counter(spans[1] for spans in drawn if len(spans) == 2 and spans[0] == Span(0, 1))
    # Sentences 2 and 3 are left: begin 2 ends at 3 or 4, begin 3 at 4.
    assert p_value(after_first, {Span(2, 3): 1, Span(2, 4): 1, Span(3, 4): 2}) > LIKELY


def test_whole_turns_come_in_their_share():
    rng, config = random.Random(5), SpanConfig(whole_turn=0.5)
    whole = sum(draw_spans(4, config, rng) == (Span(0, 4),) for _ in range(10_000)) / 10_000
    assert whole == pytest.approx(0.5 + 0.5 / 16, abs=0.02)


@pytest.mark.parametrize(
    ("turns", "expected"), [("first", {(0,)}), ("any", {(0,), (2,), (4,)}), ("every", {(0, 2, 4)})]
)
def test_turns_are_chosen_as_configured(turns, expected):
    rng = random.Random(6)
    seen = Counter(tuple(draw_turns([0, 2, 4], SpanConfig(turns=turns), rng)) for _ in range(3000))
    assert set(seen) == expected
    assert p_value(seen, dict.fromkeys(expected, 1)) > LIKELY if len(expected) > 1 else True


def test_a_chat_without_turns_that_can_be_spoken_gives_none():
    assert draw_turns([], SpanConfig(), random.Random(0)) == []


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Smith came at 5 p.m. today. Did he stay? Yes!", ["Dr. Smith came at 5 p.m. today.", "Did he stay?", "Yes!"]),
        ("It costs $3.50. That is cheap.", ["It costs $3.50.", "That is cheap."]),
        ("  One line\n\nand a paragraph.  ", ["One line", "and a paragraph."]),
        ("Go. Go. Go.", ["Go.", "Go.", "Go."]),
        ("no full stop", ["no full stop"]),
        ("Crème brûlée is nice — “very nice”. I ate it.", ["Crème brûlée is nice — “very nice”.", "I ate it."]),
        (" \n ", []),
    ],
)  # fmt: skip
def test_sentences_are_found_where_they_stand(text, sentences):
    places = split_sentences(text, "en")
    assert [text[start:end] for start, end in places] == sentences
    assert all(before[1] <= after[0] for before, after in pairwise(places))


@pytest.mark.parametrize(
    ("language", "text", "first"),
    [
        ("de", "Er kam am 3. Mai. Sie blieb.", "Er kam am 3. Mai."),
        ("es", "Vino la Sra. Ruiz. Bien.", "Vino la Sra. Ruiz."),
    ],
)
def test_sentences_of_other_languages_follow_their_abbreviations(language, text, first):
    (start, end), _ = split_sentences(text, language)
    assert text[start:end] == first
    assert len(split_sentences(text, "en")) == 3


@pytest.mark.parametrize(
    ("values", "knob"),
    [
        ({"variants": 0}, "spans.variants"),
        ({"max_spans": 0}, "spans.max_spans"),
        ({"whole_turn": 1.5}, "spans.whole_turn"),
        ({"turns": "odd"}, "spans.turns"),
    ],
)
def test_wrong_values_name_their_knob(values, knob):
    with pytest.raises(ConfigError, match=knob):
        SpanConfig(**values).check("spans")
