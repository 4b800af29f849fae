"""The saying of planned utterances, by every engine. Shape letter: S samples."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.data.word_times import WordTime
from vtblender_nemo.synthesis.espeak import SAMPLE_RATE, synthesize_with_times
from vtblender_nemo.synthesis.tts.base import Speech
from vtblender_nemo.synthesis.tts.flite import FliteConfig, FliteEngine
from vtblender_nemo.tiny.noise import with_noise
from vtblender_nemo.tiny.voices import AnyVoice, FliteVoice, voice_of

_SILENCE_SHARE = 0.02  # of the loudest sample; flite's pauses are not quite silent
_KEPT_BEFORE_SECS, _KEPT_AFTER_SECS = 0.05, 0.10  # as espeak-ng's speech is trimmed
_MOST_AROUND = round(0.1 * SAMPLE_RATE)  # before and behind a word in its recording, besides what its speech has
_KEPT_WORDS = 4096  # single words that are remembered, of 20 kB or so each


def open_flite(voices: tuple[str, ...]) -> FliteEngine:
    """Flite with these voices.

    Raises:
        MissingDependencyError: the program is not installed.
        ConfigError: a voice that it does not have.
    """
    return FliteEngine(FliteConfig(voices=list(voices)), "en")


Said: TypeAlias = tuple[np.ndarray, tuple[WordTime, ...] | None]
"""Speech, float32 (S,) at 16 kHz, and when each word is said where that is known."""


class Speakers:
    """Says rows of the plan; engines are opened when the first of their voices speaks."""

    def __init__(self) -> None:
        self._flite: FliteEngine | None = None
        self._word = lru_cache(maxsize=_KEPT_WORDS)(self._say)

    def say(self, row: Mapping[str, Any]) -> np.ndarray:
        """Speech of a row, float32 (S,) at 16 kHz.

        Raises:
            DataError: an engine that makes no sound of the text.
        """
        return self.say_with_times(row)[0]

    def say_with_times(self, row: Mapping[str, Any]) -> Said:
        """The same, and when each of its words is said."""
        if "pieces" not in row:
            return self._say(row["text"], voice_of(row["voice"]))
        parts: list[np.ndarray] = []
        words: list[WordTime] = []
        rng = np.random.default_rng(zlib.crc32(row["name"].encode()))
        for piece in row["pieces"]:
            word = self._word(piece["text"], voice_of(piece["voice"]))[0] * 10 ** (piece["level_db"] / 20)
            start, size = sum(map(len, parts)), len(word)
            if piece["snr_db"] is not None:
                around = rng.integers(_MOST_AROUND, size=2)
                word = with_noise(rng, np.pad(word, around), piece["snr_db"], piece["colour"])
                start += int(around[0])
            words.append(WordTime(piece["text"], start / SAMPLE_RATE, (start + size) / SAMPLE_RATE))
            parts += [word, np.zeros(round(piece["pause_secs"] * SAMPLE_RATE))]
        samples = np.concatenate(parts)
        return (samples / max(1.0, np.abs(samples).max())).astype(np.float32), tuple(words)

    def _say(self, text: str, voice: AnyVoice) -> Said:
        if isinstance(voice, FliteVoice):
            return self._say_by_flite(text, voice), None
        spoken = synthesize_with_times(text, voice)
        return spoken.samples, spoken.words

    def _say_by_flite(self, text: str, voice: FliteVoice) -> np.ndarray:
        if self._flite is None:
            self._flite = open_flite((voice.flite,))
        with tempfile.TemporaryDirectory(prefix="flite_") as folder:
            speech = self._flite.say(text, voice.flite, voice.stretch, Path(folder) / "speech.wav")
        if not isinstance(speech, Speech):
            raise DataError(speech.detail, value=text)
        return trimmed(speech.samples)


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Speech (S,) with 0.05 s of what was before it and 0.1 s of what was behind it."""
    loud = np.flatnonzero(np.abs(samples) > _SILENCE_SHARE * np.abs(samples).max())
    if not len(loud):
        return samples
    first = max(0, int(loud[0]) - int(_KEPT_BEFORE_SECS * SAMPLE_RATE))
    return samples[first : int(loud[-1]) + 1 + int(_KEPT_AFTER_SECS * SAMPLE_RATE)]
