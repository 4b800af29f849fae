"""Speech from text with espeak-ng, a small rule-based synthesiser that comes in the PyPI wheel `espeakng_loader`.

The wheel holds the shared library and its data; it is called through `ctypes`, so no Debian package is needed. Shape
letter: S samples.

The library remembers what it said: the place in its table of pitch flutter, the phase of the wave, its automatic gain and its
random numbers live in static variables (wavegen.c) that neither `espeak_Terminate` nor `espeak_Cancel` resets, so that the
same text sounded otherwise each time, up to its length. Every utterance therefore gets a library that was loaded anew, and
speech depends on text and voice alone. An utterance of 2.9 s took 3.7 ms so, instead of 2.6.
"""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import os
import re
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vtblender_nemo.common.errors import ConfigError, DataError, MissingDependencyError
from vtblender_nemo.data.word_times import WordTime

SAMPLE_RATE = 16_000  # Hz: what the speech encoders of this project hear

# Constants of espeak-ng's public header speak_lib.h (release 1.52).
_OUTPUT_SYNCHRONOUS = 2
_OPTION_DO_NOT_EXIT = 0x8000
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
_EVENT_LIST_END, _EVENT_WORD = 0, 1

_SEED = 1  # of the noise in breath and fricatives
_SILENCE_LEVEL = 1e-3  # of full scale; espeak's own pauses are exact zeros
_KEPT_BEFORE_SECS, _KEPT_AFTER_SECS = 0.05, 0.10


@dataclass(frozen=True)
class Voice:
    """One way of speaking.

    Attributes:
        accent: espeak-ng's language name, such as `en-us` or `en-gb-scotland`.
        variant: the speaker's timbre, such as `m3` or `f2`; empty for the accent's own.
        rate_wpm: words a minute, 80 to 450.
        pitch: 0 (low) to 99 (high).
    """

    accent: str = "en-us"
    variant: str = ""
    rate_wpm: int = 175
    pitch: int = 50

    @property
    def name(self) -> str:
        """Accent and variant in espeak-ng's notation, such as `en-us+m3`."""
        return f"{self.accent}+{self.variant}" if self.variant else self.accent


@dataclass(frozen=True)
class Utterance:
    """Spoken text: `samples` float32 (S,) in -1..1 at `rate` Hz, and when every word is said.

    A word starts where espeak-ng says so, and ends with the last sound before the next word's start.
    """

    samples: np.ndarray
    rate: int
    words: tuple[WordTime, ...]


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


class _VoiceRecord(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.POINTER(ctypes.c_char)),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Engine:
    """The one espeak-ng of this process: its library keeps global state, so every call holds the lock."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise MissingDependencyError(
                "speech synthesis needs the package espeakng-loader", expected="pip install espeakng-loader"
            ) from error
        self.data_path = Path(espeakng_loader.get_data_path())
        self._library_path = str(espeakng_loader.get_library_path())
        self._callback = _Callback(self._receive)
        self.lock = threading.Lock()
        self._chunks: list[np.ndarray] = []
        self._words: list[tuple[int, int]] = []
        self._load()

    def _load(self) -> None:
        self._library = ctypes.CDLL(self._library_path)
        self._library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_VoiceRecord))
        self._library.espeak_Info.restype = ctypes.c_char_p
        self.rate = self._library.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, 0, str(self.data_path.parent).encode(), _OPTION_DO_NOT_EXIT
        )
        if self.rate <= 0:
            raise ConfigError(
                "espeak-ng could not be started", path=self.data_path, expected="its espeak-ng-data folder"
            )
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(_SEED))
        self._library.espeak_SetSynthCallback(self._callback)

    def _forget(self) -> None:
        """Loads the library anew, as all that it remembers lives in its own memory."""
        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)
        held = _is_loaded(self._library_path)
        self._load()
        if held:
            raise ConfigError(
                "another part of this process holds espeak-ng, so that speech would depend on what was said before",
                path=self._library_path,
                expected="a process of its own for synthesis",
            )

    def accents(self) -> dict[str, str]:
        """Language name to the voice file that speaks it; the library loads `en-gb` by its file alone (`gmw/en`)."""
        records, files, index = self._library.espeak_ListVoices(None), {}, 0
        while records[index]:
            priority_and_name = ctypes.string_at(records[index].contents.languages)
            files[priority_and_name[1:].decode()] = records[index].contents.identifier.decode()
            index += 1
        return files

    def version(self) -> str:
        return self._library.espeak_Info(None).decode()

    def variants(self) -> list[str]:
        return sorted(file.name for file in (self.data_path / "voices" / "!v").iterdir())

    def speak(self, text: str, voice: Voice) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Samples as int16, and (position in the text from 0, first sample) of every word."""
        name = "+".join(part for part in (_accent_files()[voice.accent], voice.variant) if part)
        self._forget()
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ConfigError(f"espeak-ng could not load the voice {voice.name!r}", knob="accent, variant")
        self._library.espeak_SetParameter(_PARAMETER_RATE, voice.rate_wpm, 0)
        self._library.espeak_SetParameter(_PARAMETER_PITCH, voice.pitch, 0)
        self._chunks, self._words = [], []
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16), self._words

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        index = 0
        while events[index].type != _EVENT_LIST_END:
            event = events[index]
            if event.type == _EVENT_WORD:
                self._words.append((event.text_position - 1, event.sample))
            index += 1
        return 0


def _is_loaded(library: str) -> bool:
    try:
        loaded = ctypes.CDLL(library, mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    _ctypes.dlclose(loaded._handle)
    return True


@functools.cache
def _engine() -> _Engine:
    return _Engine()


@functools.cache
def _accent_files() -> dict[str, str]:
    return _engine().accents()


def known_accents() -> tuple[str, ...]:
    """All accents (languages) that espeak-ng speaks."""
    return tuple(sorted(_accent_files()))


@functools.cache
def known_variants() -> tuple[str, ...]:
    """All speaker variants that espeak-ng can lay over an accent."""
    return tuple(_engine().variants())


@functools.cache
def version() -> str:
    """Version of the espeak-ng library."""
    return _engine().version()


def synthesize(text: str, voice: Voice, sample_rate: int = SAMPLE_RATE) -> tuple[np.ndarray, int]:
    """Speaks a text.

    Args:
        text: what to say; at least one letter or digit.
        voice: who says it, and how.
        sample_rate: Hz of the result.

    Returns:
        Samples as float32 (S,) in -1..1, silence trimmed to 0.05 s before and 0.1 s after, and the sample rate.

    Raises:
        DataError: the text has nothing to say.
        ConfigError: the accent, the variant, the rate or the pitch is unknown to espeak-ng.
    """
    spoken = synthesize_with_times(text, voice, sample_rate)
    return spoken.samples, spoken.rate


def synthesize_with_times(text: str, voice: Voice, sample_rate: int = SAMPLE_RATE) -> Utterance:
    """Speaks a text like `synthesize`, and also tells when each word is said.

    The times are espeak-ng's own word events, moved by the silence that was trimmed.

    Raises:
        DataError, ConfigError: as `synthesize`.
    """
    import soxr

    if not any(letter.isalnum() for letter in text):
        raise DataError("there is nothing to speak in this text", value=text, expected="at least one letter or digit")
    check_voice(voice)
    engine = _engine()
    with engine.lock:
        raw, words = engine.speak(text, voice)
    samples = soxr.resample(raw.astype(np.float32) / 32768.0, engine.rate, sample_rate)
    loud = np.flatnonzero(np.abs(samples) > _SILENCE_LEVEL)
    if not len(loud):
        raise DataError("espeak-ng made only silence of this text", value=text)
    first = max(0, int(loud[0]) - int(_KEPT_BEFORE_SECS * sample_rate))
    last = int(loud[-1]) + 1 + int(_KEPT_AFTER_SECS * sample_rate)
    trimmed = np.clip(samples[first:last], -1.0, 1.0)
    starts = [max(0, round(sample * sample_rate / engine.rate) - first) for _, sample in words]
    places = [place for place, _ in words]
    return Utterance(trimmed, sample_rate, _word_times(text, places, starts, loud - first, sample_rate))


def _word_times(
    text: str, places: Sequence[int], starts: Sequence[int], loud: np.ndarray, rate: int
) -> tuple[WordTime, ...]:
    """When the words of a text are said.

    Args:
        text: what was spoken.
        places: of espeak-ng's words in the text. It says `42` as two words at odd places, `of the` as one, and of `ice-cream` it
            tells of the first part only: so a word reaches from space to space, over all that is not told apart.
        starts: their first samples.
        loud: numbers of the samples that are heard, in order.
        rate: Hz.
    """
    begun = _begun(text, places, starts)
    ends_of_text = [*(place for place, _ in begun[1:]), len(text)]
    ends = [*(start for _, start in begun[1:]), int(loud[-1]) + 1]
    times = []
    for (place, start), text_end, until in zip(begun, ends_of_text, ends, strict=True):
        heard = int(np.searchsorted(loud, until))  # loud samples before the next word
        end = max(start, int(loud[heard - 1]) + 1) if heard else start
        times.append(WordTime(_without_punctuation(text[place:text_end].strip()), start / rate, end / rate))
    return tuple(times)


def _begun(text: str, places: Sequence[int], starts: Sequence[int]) -> list[tuple[int, int]]:
    """The words between spaces of which espeak-ng tells: their first character and first sample, in order."""
    begun: list[tuple[int, int]] = []
    words = [match.span() for match in re.finditer(r"\S+", text)]
    for place, start in zip(places, starts, strict=True):
        first = next((first for first, end in words if first <= place < end), -1)
        if first > (begun[-1][0] if begun else -1):
            begun.append((first, start))
    return begun


def _without_punctuation(word: str) -> str:
    """A word without what stands around it; all of it where there is nothing else, as `&`."""
    kept = [place for place, letter in enumerate(word) if unicodedata.category(letter)[0] in "LMN"]
    return word[kept[0] : kept[-1] + 1] if kept else word


def check_voice(voice: Voice) -> None:
    """
    Raises:
        ConfigError: the accent, the variant, the rate or the pitch is unknown to espeak-ng.
    """
    if voice.accent not in known_accents():
        raise ConfigError(
            f"espeak-ng has no accent {voice.accent!r}", expected="one of " + ", ".join(known_accents()), knob="accent"
        )
    if voice.variant and voice.variant not in known_variants():
        raise ConfigError(
            f"espeak-ng has no voice variant {voice.variant!r}",
            expected="one of " + ", ".join(known_variants()),
            knob="variant",
        )
    if not 80 <= voice.rate_wpm <= 450:
        raise ConfigError(
            "the speaking rate is out of bounds", value=voice.rate_wpm, expected="80 to 450", knob="rate_wpm"
        )
    if not 0 <= voice.pitch <= 99:
        raise ConfigError("the pitch is out of bounds", value=voice.pitch, expected="0 to 99", knob="pitch")
