"""What every speech engine is: a batch of texts in, speech or refusals out. Shape letter: S samples."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.word_times import WordTime
from vtblender_nemo.synthesis.work import Refused

SAMPLE_RATE = 16_000  # Hz: what the speech encoders of this project hear


@dataclass(frozen=True)
class SpeechRequest:
    """A text to be spoken.

    Attributes:
        text: normalised for speaking, or as it was written for an engine that looks recordings up.
        voice_seed: draws the voice; the segments of one row share it, so that one user has one voice.
    """

    text: str
    voice_seed: int

    def rng(self) -> random.Random:
        """Random numbers of this request alone."""
        return random.Random(self.voice_seed)


@dataclass(frozen=True)
class Speech:
    """What was spoken.

    Attributes:
        samples: float32 (S,) in -1..1 at 16 kHz.
        voice: whose.
        provenance: more for the record.
        words: when each word is said, in order; None where the engine does not know.
    """

    samples: np.ndarray
    voice: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    words: Sequence[WordTime] | None = None


class SpeechEngine(ABC):
    """Speaks texts, in one process.

    Attributes:
        model: name and version of what speaks, for the provenance.
        selective: whether it can say only what `knows` holds of; spans are then drawn among those.
    """

    model: str
    selective: bool = False

    @abstractmethod
    def speak(self, requests: Sequence[SpeechRequest]) -> list[Speech | Refused]:
        """One result for every request, in their order; it depends on the request alone, not on its neighbours."""

    def knows(self, text: str) -> bool:
        """Whether this text, as it was written, can be said."""
        return True


class EngineConfig(ABC):
    """Settings of one kind of engine: a dataclass of plain values, pickled to every process.

    Attributes:
        free: settings that change nothing of what is said (where and how fast it is made), or that `fingerprint` replaces; a job
            continues when they have changed.
    """

    free: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: values out of range.
        """

    @abstractmethod
    def open(self, language: str) -> SpeechEngine:
        """Loads the engine.

        Args:
            language: two-letter code of the texts.
        """

    def fingerprint(self) -> Mapping[str, Any]:
        """What else decides the speech beside the settings, such as the contents of files."""
        return {}


def check_range(value: Sequence[float], lowest: float, highest: float, knob: str) -> None:
    """
    Raises:
        ConfigError: not two numbers in order between the bounds.
    """
    if len(value) != 2 or not lowest <= value[0] <= value[1] <= highest:
        raise ConfigError(
            "not a range", value=list(value), expected=f"[slowest or lowest, highest], {lowest} to {highest}", knob=knob
        )


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Speech at 16 kHz, float32 (S,) clipped to -1..1, of mono samples at another rate."""
    import soxr

    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples.astype(np.float32), rate, SAMPLE_RATE)
    return np.clip(samples, -1.0, 1.0).astype(np.float32)
