"""Speech from espeak-ng."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.synthesis.espeak import Voice, known_accents, known_variants, synthesize, synthesize_with_times

ROOT = Path(__file__).parents[2]
TEXT = "On Monday the king bought two red apples."


def test_speech_is_mono_float_at_the_rate_asked_for():
    samples, rate = synthesize(TEXT, Voice("en-gb", "f2"))
    assert rate == 16000
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert 1.0 < len(samples) / rate < 4.0
    assert 0.1 < np.abs(samples).max() <= 1.0
    slow, slow_rate = synthesize(TEXT, Voice("en-gb", "f2"), sample_rate=8000)
    assert slow_rate == 8000
    assert len(slow) == pytest.approx(len(samples) / 2, rel=0.02)


def test_speech_depends_on_text_and_voice_alone():
    """Bytes and word times, with other voices, noisy ones and other texts said before, and in a process of its own."""
    voices = [Voice("en-us", "m3"), Voice("en-gb-scotland", "f2", 200, 40), Voice("en-gb-x-rp", "f5", 150, 60)]
    texts = [TEXT, "She sells sea shells.", "What is the weather like today?"]

    def say(pairs):
        return {pair: synthesize_with_times(*pair) for pair in pairs}

    pairs = [(text, voice) for text in texts for voice in voices]
    first, again = say(pairs), say(reversed(pairs))
    for pair in pairs:
        assert np.array_equal(first[pair].samples, again[pair].samples)
        assert first[pair].words == again[pair].words
    code = (
        "import hashlib; from vtblender_nemo.synthesis.espeak import Voice, synthesize;"
        f"print(hashlib.sha256(synthesize({texts[1]!r}, {voices[2]!r})[0].tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert other.stdout.strip() == hashlib.sha256(first[texts[1], voices[2]].samples.tobytes()).hexdigest()


def test_a_library_that_somebody_else_holds_is_refused():
    import _ctypes
    import ctypes

    import espeakng_loader

    synthesize("Hello.", Voice())
    held = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    try:
        with pytest.raises(ConfigError, match="another part of this process"):
            synthesize("Hello.", Voice())
    finally:
        _ctypes.dlclose(held._handle)
    synthesize("Hello.", Voice())


def test_silence_is_trimmed_to_fixed_margins():
    samples, rate = synthesize(TEXT, Voice())
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    assert loud[0] <= 0.05 * rate
    assert len(samples) - 1 - loud[-1] <= 0.1 * rate


def test_accent_variant_rate_and_pitch_change_the_speech():
    base, rate = synthesize(TEXT, Voice("en-us", "m1", 170, 50))
    faster, _ = synthesize(TEXT, Voice("en-us", "m1", 230, 50))
    assert len(faster) < 0.9 * len(base)
    others = [Voice("en-gb-scotland", "m1", 170, 50), Voice("en-us", "f3", 170, 50), Voice("en-us", "m1", 170, 80)]
    for voice in others:
        other, _ = synthesize(TEXT, voice)
        length = min(len(base), len(other), rate)
        assert np.corrcoef(base[:length], other[:length])[0, 1] < 0.9


def test_words_have_times_in_order():
    spoken = synthesize_with_times(TEXT, Voice("en-gb-x-rp", "m3"))
    assert [time.word for time in spoken.words] == TEXT.rstrip(".").split()
    starts = [time.start_secs for time in spoken.words]
    assert starts == sorted(starts)
    assert starts[0] < 0.1
    assert starts[-1] < len(spoken.samples) / spoken.rate
    alone, _ = synthesize("apples.", Voice("en-gb-x-rp", "m3"))
    assert len(spoken.samples) / spoken.rate - starts[-1] == pytest.approx(len(alone) / 16000, abs=0.25)


@pytest.mark.parametrize(
    ("voice", "pause_secs"),
    [(Voice("en-us", "m3", 120), 0.25), (Voice("en-gb", "m1"), 0.15), (Voice("en-gb", "f2"), 0)],
)
def test_words_end_with_their_last_sound(voice, pause_secs):
    """Between the end of one word and the start of the next nothing is heard, and every word is; f2 echoes into pauses."""
    spoken = synthesize_with_times("Yes, the old king bought, in May, two apples.", voice)
    words, heard = spoken.words, np.abs(spoken.samples) > 1e-3
    for word, following in pairwise(words):
        assert word.start_secs < word.end_secs <= following.start_secs
        end, start = (round(secs * spoken.rate) for secs in (word.end_secs, following.start_secs))
        assert heard[end - 1]
        assert not heard[end:start].any()
    pauses = [after.start_secs - before.end_secs for before, after in pairwise(words)]
    assert max(pauses) > pause_secs  # at the commas
    assert np.flatnonzero(heard)[-1] == round(words[-1].end_secs * spoken.rate) - 1


def test_words_start_where_espeak_says():
    """A word said after others sounds from its start on as the same text does without them, but for the melody."""
    voice = Voice("en-us", "m3")
    spoken = synthesize_with_times("Go. Stop.", voice)
    go, _ = synthesize("Go.", voice)
    first, second = spoken.words
    assert [first.word, second.word] == ["Go", "Stop"]
    assert first.end_secs == pytest.approx(np.flatnonzero(np.abs(go) > 1e-3)[-1] / 16000, abs=0.02)
    assert second.start_secs - first.end_secs > 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Anna's dog can't do ice-cream.", ["Anna's", "dog", "can't", "do", "ice-cream"]),
        ("In 1999, 3.14 or 123456 men.", ["In", "1999", "3.14", "or", "123456", "men"]),
        ("He said “go” – twenty-two!", ["He", "said", "go", "twenty-two"]),
        ("Dr. Smith of the U.S.A. & me", ["Dr", "Smith", "of the", "U.S.A", "&", "me"]),
    ],
)
def test_words_are_those_between_spaces_however_espeak_says_them(text, words):
    spoken = synthesize_with_times(text, Voice())
    assert [time.word for time in spoken.words] == words
    times = [secs for time in spoken.words for secs in (time.start_secs, time.end_secs)]
    assert times == sorted(times)
    assert all(time.end_secs - time.start_secs > 0.04 for time in spoken.words)


def test_words_of_other_scripts_keep_their_letters():
    spoken = synthesize_with_times("Äpfel für Müller", Voice("de"))
    assert [time.word for time in spoken.words] == ["Äpfel", "für", "Müller"]


@pytest.mark.parametrize("text", ["", "  ", "...", "?!"])
def test_a_text_without_words_is_refused(text):
    with pytest.raises(DataError, match="nothing to speak"):
        synthesize(text, Voice())


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        (Voice("en-moon"), "en-gb-scotland"),
        (Voice("en-us", "m99"), "m3"),
        (Voice("en-us", "m1", rate_wpm=10), "80 to 450"),
        (Voice("en-us", "m1", pitch=120), "0 to 99"),
    ],
)
def test_an_unknown_voice_is_refused_with_what_is_known(voice, message):
    with pytest.raises(ConfigError, match=message):
        synthesize(TEXT, voice)


def test_known_voices_can_be_listed():
    assert {"en-us", "en-gb", "en-gb-scotland", "de", "es"} <= set(known_accents())
    assert {"m1", "m7", "f5"} <= set(known_variants())
