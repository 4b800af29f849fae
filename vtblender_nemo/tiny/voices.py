"""The voices of the tiny world, whichever engine they belong to."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from vtblender_nemo.synthesis.espeak import Voice
from vtblender_nemo.tiny.config import FLITE_VOICES, HELD_OUT_FLITE_VOICES, VoicesConfig

FLITE_STRETCH = (0.75, 1.4)
"""Shortest and longest speech of flite, as factors of the voice's own duration."""
_STRETCH_STEP = 0.05  # few different ones, so that single words need not be spoken again


@dataclass(frozen=True)
class FliteVoice:
    """One way in which flite speaks.

    Attributes:
        flite: its name of the voice, such as `awb`.
        stretch: duration of the speech as a factor of the voice's own.
    """

    flite: str
    stretch: float

    @property
    def name(self) -> str:
        """The voice as it is shown, such as `flite+awb`."""
        return f"flite+{self.flite}"

    @property
    def accent(self) -> str:
        """That of no accent of espeak-ng's."""
        return "flite"

    @property
    def variant(self) -> str:
        """That of no speaker of espeak-ng's."""
        return self.flite


AnyVoice: TypeAlias = Voice | FliteVoice


def voice_of(row: Mapping[str, Any]) -> AnyVoice:
    """The voice that `dataclasses.asdict` made a mapping of."""
    return FliteVoice(**row) if "flite" in row else Voice(**row)


def training_voice(rng: random.Random, voices: VoicesConfig) -> AnyVoice:
    """A voice of one of the training's engines."""
    engines = voices.engines
    if engines is not None and rng.choices(list(engines), list(engines.values()))[0] == "flite":
        return _flite_voice(rng, voices.flite_voices or FLITE_VOICES)
    return _espeak_voice(rng, voices, voices.accents, voices.variants)


def held_out_voice(rng: random.Random, voices: VoicesConfig, index: int) -> Voice:
    """A voice of espeak-ng for the utterance `index` of tests, which no training hears.

    Half of them have accents of the training; where engines are tested, no voice depends on those of the training, so
    that worlds of other training voices have the same tests.
    """
    if voices.test_engines is not None:
        return _espeak_voice(rng, VoicesConfig(), voices.held_out_accents, voices.held_out_variants)
    accents = voices.held_out_accents if index % 2 == 0 else voices.accents
    return _espeak_voice(rng, voices, accents, voices.held_out_variants)


def engine_test_voice(rng: random.Random, voices: VoicesConfig, engine: str, index: int) -> AnyVoice:
    """A voice of an engine for the utterance `index` of its test, which no training hears."""
    if engine == "flite":
        return _flite_voice(rng, voices.held_out_flite_voices or HELD_OUT_FLITE_VOICES)
    return held_out_voice(rng, voices, index)


def another_pace(rng: random.Random, voice: AnyVoice, voices: VoicesConfig) -> AnyVoice:
    """The same speaker, faster or slower: people say no two words at one pace."""
    if isinstance(voice, FliteVoice):
        return FliteVoice(voice.flite, _draw_stretch(rng))
    return Voice(voice.accent, voice.variant, rng.randrange(*_widened(voices.rate_wpm), 5), voice.pitch)


def _widened(rate_wpm: tuple[int, ...]) -> tuple[int, int]:
    return rate_wpm[0], rate_wpm[1] + 1


def _espeak_voice(
    rng: random.Random, voices: VoicesConfig, accents: tuple[str, ...], variants: tuple[str, ...]
) -> Voice:
    return Voice(rng.choice(accents), rng.choice(variants), rng.randint(*voices.rate_wpm), rng.randint(*voices.pitch))


def _flite_voice(rng: random.Random, names: tuple[str, ...]) -> FliteVoice:
    return FliteVoice(rng.choice(names), _draw_stretch(rng))


def _draw_stretch(rng: random.Random) -> float:
    shortest, longest = (round(bound / _STRETCH_STEP) for bound in FLITE_STRETCH)
    return round(rng.randint(shortest, longest) * _STRETCH_STEP, 2)
