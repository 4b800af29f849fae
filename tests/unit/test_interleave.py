"""Spans of a transcript in place of their speech: what is drawn, where audio is cut, and that text and audio agree."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtblender_nemo.common.audio import cut_from_array, load_samples
from vtblender_nemo.common.conversation import Audio, Text
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.interleave import (
    InterleaveConfig,
    Span,
    draw_spans,
    heard_secs,
    interleaved,
    open_interleaver,
    replaced,
)
from vtblender_nemo.data.word_times import Unit

RATE = 1000


def audio_of(secs: float) -> Audio:
    """An audio whose sample number n is n / 100000."""
    return Audio(cut_from_array((np.arange(round(secs * RATE)) / 100_000).astype(np.float32), RATE))


def samples_of(audio: Audio) -> list[int]:
    return np.rint(load_samples(audio.cut, RATE) * 100_000).astype(int).tolist()


def fields_of(words: str, *, every: float = 1.0, said: float = 0.6) -> dict:
    """A row in which a word is said every second, from 0.2 s on, with silence behind it."""
    times = [[word, number * every + 0.2, number * every + 0.2 + said] for number, word in enumerate(words.split())]
    return {"text": words, "alignment": times}


def units(*times: tuple[float, float]) -> list[Unit]:
    return [Unit(f" w{number}", *time) for number, time in enumerate(times)]


# Cutting


def test_a_cut_is_the_middle_of_the_silence_between_two_words():
    said = units((0.2, 1.0), (1.2, 2.0), (2.0, 3.0))
    assert heard_secs(said, Span(0, 1, True), 4.0, 1.0) == (0.0, 1.1)
    assert heard_secs(said, Span(1, 2, True), 4.0, 1.0) == (1.1, 2.0)
    assert heard_secs(said, Span(2, 3, True), 4.0, 1.0) == (2.0, 4.0)


def test_long_silences_are_left_out_at_a_cut_but_not_at_the_recordings_ends():
    said = units((2.0, 3.0), (5.0, 6.0), (8.0, 9.0))
    assert heard_secs(said, Span(0, 1, True), 12.0, 0.25) == (0.0, 3.25)
    assert heard_secs(said, Span(1, 2, True), 12.0, 0.25) == (4.75, 6.25)
    assert heard_secs(said, Span(2, 3, True), 12.0, 0.25) == (7.75, 12.0)
    assert heard_secs(said, Span(1, 2, True), 12.0, 0.0) == (5.0, 6.0)


def test_parts_are_text_and_the_very_samples_of_the_span():
    said = units((0.002, 0.010), (0.014, 0.020), (0.020, 0.030), (0.040, 0.050))
    given = interleaved(audio_of(0.06), said, [Span(0, 1, False), Span(1, 3, True), Span(3, 4, False)], 0.004)
    first, heard, last = given.parts
    assert (first, last) == (Text("w0"), Text("w3"))
    assert samples_of(heard) == list(range(12, 34))
    assert given.transcripts == ("w1 w2",)
    assert heard.duration_secs == pytest.approx(0.022)


# Drawing


def drawn(count: int, config: InterleaveConfig, seed: int = 0, secs: float = 0.5) -> list[Span] | None:
    said = units(*((number * secs, (number + 1) * secs) for number in range(count)))
    return draw_spans(said, count * secs, config, random.Random(seed))


def test_settings_bound_switches_and_words():
    config = InterleaveConfig(words=[2, 3], switches=[2, 3])
    switches, words = Counter(), Counter()
    for seed in range(300):
        spans = drawn(12, config, seed)
        switches[len(spans) - 1] += 1
        words.update(span.end - span.begin for span in spans if span.heard)
    assert set(switches) == {2, 3}
    assert set(words) == {2, 3}
    assert min(switches.values()) > 100
    assert min(words.values()) > 100


def test_either_kind_comes_first():
    first = Counter(drawn(6, InterleaveConfig(words=[1, 2], switches=[1, 2]), seed)[0].heard for seed in range(200))
    assert min(first[True], first[False]) > 60


def test_a_transcript_without_room_for_the_fewest_switches_stays_whole():
    assert drawn(1, InterleaveConfig()) is None
    assert drawn(3, InterleaveConfig(switches=[3, 4])) is None
    assert drawn(3, InterleaveConfig(words=[3, 4])) is None
    assert len(drawn(3, InterleaveConfig(words=[1, 4], switches=[2, 9]))) == 3


def test_speech_shorter_than_the_minimum_is_not_made():
    said = units((0.0, 0.1), (0.1, 0.2), (0.2, 0.9), (0.9, 1.0))
    config = InterleaveConfig(words=[1, 1], switches=[1, 3], min_secs=0.5)
    found = [draw_spans(said, 1.0, config, random.Random(seed)) for seed in range(50)]
    heard = {(span.begin, span.end) for spans in found if spans for span in spans if span.heard}
    assert heard == {(2, 3)}
    assert draw_spans(said, 1.0, InterleaveConfig(min_secs=2.0), random.Random(0)) is None


@given(
    count=st.integers(1, 15),
    words=st.tuples(st.integers(1, 4), st.integers(0, 6)),
    switches=st.tuples(st.integers(1, 5), st.integers(0, 5)),
    min_secs=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_spans_hold_every_unit_once_alternate_and_keep_to_the_settings(count, words, switches, min_secs, seed):
    config = InterleaveConfig(words=[words[0], sum(words)], switches=[switches[0], sum(switches)], min_secs=min_secs)
    spans = drawn(count, config, seed, secs=0.25)
    assert spans == drawn(count, config, seed, secs=0.25)
    if spans is None:
        return
    assert [place for span in spans for place in range(span.begin, span.end)] == list(range(count))
    assert all(before.heard != after.heard for before, after in pairwise(spans))
    assert config.switches[0] <= len(spans) - 1 <= config.switches[1]
    for span in spans:
        length = span.end - span.begin
        assert length >= 1
        if span.heard:
            assert config.words[0] <= length <= config.words[1]
            assert length * 0.25 >= min_secs


# Rows


def words_in(parts, transcripts) -> list[str]:
    """The words of text, and of the transcripts of audio, in the order of the parts."""
    heard = iter(transcripts)
    return " ".join(next(heard) if isinstance(part, Audio) else part.text for part in parts).split()


@given(seed=st.integers(0, 2**32), count=st.integers(1, 12), gap=st.sampled_from([0.0, 0.1, 0.5]))
def test_text_and_audio_agree_for_every_draw(seed, count, gap):
    """Words in order are the transcript; audio is disjoint, in order, inside the recording, and holds exactly its words."""
    words = [f"w{number}" for number in range(count)]
    times = [(0.3 + number * (0.4 + gap), 0.7 + number * (0.4 + gap)) for number in range(count)]
    row = {"text": " ".join(words), "alignment": [[word, *time] for word, time in zip(words, times, strict=True)]}
    audio = audio_of(times[-1][1] + 0.3)
    config = {"prob": 1.0, "words": [1, 3], "switches": [1, 4], "margin_secs": 0.1, "min_secs": 0.2}
    interleave = open_interleaver(config)
    given = interleave(audio, row, random.Random(seed))
    assert words_in(given.parts, given.transcripts) == words
    heard = [samples_of(part) for part in given.parts if isinstance(part, Audio)]
    flat = [sample for samples in heard for sample in samples]
    assert flat == sorted(set(flat))
    assert flat[-1] < round(audio.duration_secs * RATE)
    for samples, transcript in zip(heard, given.transcripts, strict=True):
        said = [
            word
            for word, (start, end) in zip(words, times, strict=True)
            if samples[0] <= round(start * RATE) and round(end * RATE) <= samples[-1] + 1
        ]
        assert said == transcript.split()
        touched = [
            word
            for word, (start, end) in zip(words, times, strict=True)
            if samples[0] < round(end * RATE) and round(start * RATE) <= samples[-1]
        ]
        assert touched == said
    durations = sum(part.duration_secs for part in given.parts if isinstance(part, Audio))
    assert durations == pytest.approx(len(flat) / RATE)


def test_every_visit_differs_and_the_same_random_numbers_give_the_same():
    interleave = open_interleaver({"prob": 1.0})
    row, audio = fields_of("a b c d e f g h"), audio_of(8.0)

    def visit(seed: int) -> list:
        given = interleave(audio, row, random.Random(seed))
        return [part.text if isinstance(part, Text) else part.cut.id for part in given.parts]

    visits = [visit(seed) for seed in range(20)]
    assert len({tuple(one) for one in visits}) > 15
    assert [visit(seed) for seed in range(20)] == visits


def test_later_draws_of_a_row_do_not_depend_on_what_was_interleaved():
    after = []
    for prob in (0.0, 1.0):
        rng = random.Random(3)
        open_interleaver({"prob": prob})(audio_of(3.0), fields_of("a b c"), rng)
        after.append(rng.random())
    assert after[0] == after[1]


def test_a_share_of_the_visits_hears_all():
    interleave, audio = open_interleaver({"prob": 0.3}), audio_of(6.0)
    row = fields_of("a b c d e f")
    whole = [interleave(audio, row, random.Random(seed)).parts == (audio,) for seed in range(400)]
    assert 0.6 < sum(whole) / len(whole) < 0.8


def test_a_row_marked_as_without_alignment_is_heard_whole():
    audio = audio_of(1.0)
    given = open_interleaver({"prob": 1.0})(audio, {"text": "a b", "alignment": None}, random.Random(0))
    assert given.parts == (audio,)
    assert given.transcripts == ("a b",)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"alignment": []}, "without the transcript"),
        ({"text": " ", "alignment": []}, "without the transcript"),
        ({"text": "a"}, r"without alignment.*align_corpus"),
        ({"text": "a b", "alignment": [["a", 0, 1]]}, "other words"),
        ({"text": "a", "alignment": [["a", 0, 3]]}, "not in the audio"),
    ],
)
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_a_row_that_does_not_fit_is_refused_at_every_visit(fields, problem, prob):
    with pytest.raises(DataError, match=problem):
        open_interleaver({"prob": prob})(audio_of(1.0), fields, random.Random(0))


def test_characters_are_words_where_there_are_no_spaces():
    row = {"text": "今天天气好。", "alignment": [[c, n, n + 1] for n, c in enumerate("今天天气好")]}
    given = open_interleaver({"prob": 1.0, "words": [2, 2], "switches": [2, 2]})(audio_of(5.0), row, random.Random(1))
    heard = iter(given.transcripts)
    assert "".join(next(heard) if isinstance(part, Audio) else part.text for part in given.parts) == row["text"]
    assert all(part.duration_secs == pytest.approx(2.0) for part in given.parts if isinstance(part, Audio))


def test_only_the_audio_itself_is_replaced():
    audio, other = audio_of(1.0), audio_of(1.0)
    assert replaced((Text("x"), audio, other), audio, (Text("y"), Text("z"))) == (
        Text("x"),
        Text("y"),
        Text("z"),
        other,
    )


# Settings


def test_no_settings_no_interleaving():
    assert open_interleaver(None) is None
    assert open_interleaver({}).config == InterleaveConfig()


@pytest.mark.parametrize(
    ("values", "knob"),
    [
        ({"prob": 1.5}, "place.prob"),
        ({"prob": float("nan")}, "place.prob"),
        ({"words": [0, 3]}, "place.words"),
        ({"words": [3, 2]}, "place.words"),
        ({"words": [3]}, "place.words"),
        ({"words": 3}, "place.words"),
        ({"switches": [0, 1]}, "place.switches"),
        ({"margin_secs": -0.1}, "place.margin_secs"),
        ({"min_secs": float("inf")}, "place.min_secs"),
        ({"span": 3}, "place.span"),
        ([1], "place"),
    ],
)
def test_settings_out_of_range_are_refused(values, knob):
    with pytest.raises(ConfigError) as caught:
        open_interleaver(values, "place")
    assert caught.value.knob == knob
