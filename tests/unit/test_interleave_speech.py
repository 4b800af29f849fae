"""Interleaved speech held against the times that espeak-ng reports of its own words."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers.corpus import RATE, write_jsonl
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import Audio, Conversation
from vtblender_nemo.data.sources import Source, make_source
from vtblender_nemo.data.word_times import as_field
from vtblender_nemo.synthesis.espeak import Utterance, Voice, synthesize_with_times

TEXTS = [
    "The king bought two red apples, and the queen sold seven green pears.",
    "Anna's dog is old; Peter has a young cat!",
    "On Monday we meet at the station at noon.",
]
VOICES = [Voice("en-us", "m3"), Voice("en-gb-scotland", "f2", 210, 40), Voice("en-gb-x-rp", "m5", 150, 60)]
INTERLEAVE = {"prob": 1.0, "words": [1, 3], "switches": [1, 5], "margin_secs": 0.05, "min_secs": 0.1}
VISITS = 60


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> tuple[Source, list[Utterance]]:
    folder: Path = tmp_path_factory.mktemp("spoken")
    utterances = [synthesize_with_times(text, voice) for text in TEXTS for voice in VOICES]
    rows = []
    for number, one in enumerate(utterances):
        soundfile.write(folder / f"{number}.wav", one.samples, one.rate, subtype="FLOAT")
        row = {"audio_filepath": f"{number}.wav", "duration": len(one.samples) / one.rate}
        rows.append({**row, "text": TEXTS[number // len(VOICES)], "alignment": as_field(one.words)})
    path = write_jsonl(folder / "m.jsonl", rows)
    entry = {"type": "nemo", "manifest_filepath": path, "prompts": ["Repeat:"], "interleave": INTERLEAVE}
    return make_source(entry, RATE, "input_cfg[0]"), utterances


def words_of(text: str) -> list[str]:
    return [word.strip(".,;!") for word in text.split()]


def check(conversation: Conversation, original: Utterance, text: str) -> int:
    """Text and audio of one visit against what espeak-ng says; gives the number of audios."""
    starts = [round(word.start_secs * RATE) for word in original.words]
    heard = np.flatnonzero(np.abs(original.samples) > 1e-3)  # the word of every sound: the last one that has begun
    owners = np.maximum(np.searchsorted(starts, heard, side="right") - 1, 0)
    transcripts = iter(conversation.custom["transcript"])
    said = 0
    for part in conversation.turns[0].parts[1:]:
        if not isinstance(part, Audio):
            said += len(words_of(part.text))
            continue
        wanted = words_of(next(transcripts))
        first = round(part.cut.start * RATE)
        samples = load_samples(part.cut, RATE)
        assert np.array_equal(samples, original.samples[first : first + len(samples)])
        inside = (heard >= first) & (heard < first + len(samples))
        assert [original.words[owner].word for owner in np.unique(owners[inside])] == wanted
        assert inside.sum() == np.isin(owners, range(said, said + len(wanted))).sum()  # all of their sound
        said += len(wanted)
    assert said == len(words_of(text))
    return len(conversation.audios)


def test_text_and_audio_of_every_span_agree(spoken):
    source, utterances = spoken
    audios = 0
    for number, one in enumerate(utterances):
        for visit in range(VISITS):
            conversation = source.conversation(number, random.Random(visit))
            audios += check(conversation, one, TEXTS[number // len(VOICES)])
    assert audios > 1.5 * VISITS * len(utterances)


def test_the_check_itself_hears_a_word_too_many(spoken):
    """A cut that is one word off is found, and so is one in the middle of a word."""
    source, utterances = spoken
    original = utterances[0]
    moved = [[word, start + 0.08, end + 0.08] for word, start, end in as_field(original.words)]
    wrong = 0
    for visit in range(20):
        row = source.rows[0]
        row.data["alignment"] = moved
        conversation = source._convert(row, 0, random.Random(visit))
        try:
            check(conversation, original, TEXTS[0])
        except AssertionError:
            wrong += 1
    assert wrong > 15
