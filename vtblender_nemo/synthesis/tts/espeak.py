"""espeak-ng as a speech engine: offline, fast, and in a wheel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.synthesis.espeak import Voice, known_accents, known_variants, synthesize_with_times, version
from vtblender_nemo.synthesis.tts.base import EngineConfig, Speech, SpeechEngine, SpeechRequest, check_range
from vtblender_nemo.synthesis.work import Refused

# English as it is spoken here and there; espeak-ng's en-shaw reads another alphabet.
ENGLISH_ACCENTS = "en-us en-gb en-gb-scotland en-gb-x-gbclan en-us-nyc en-029 en-gb-x-rp en-gb-x-gbcwmd".split()
VARIANTS = "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5".split()


@dataclass
class EspeakConfig(EngineConfig):
    """Which voices speak; every row draws one."""

    accents: list[str] | None = None
    """espeak-ng's language names; null: eight of English, or the one of another language."""
    variants: list[str] = field(default_factory=lambda: list(VARIANTS))
    """Speaker variants laid over the accent."""
    rate_wpm: list[int] = field(default_factory=lambda: [150, 210])
    """Slowest and fastest speech, in words a minute."""
    pitch: list[int] = field(default_factory=lambda: [30, 70])
    """Lowest and highest pitch, on espeak-ng's scale of 0 to 99."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: an empty list of voices, or a range out of bounds.
        """
        check_range(self.rate_wpm, 80, 450, f"{place}.rate_wpm")
        check_range(self.pitch, 0, 99, f"{place}.pitch")
        for name, values in (("accents", self.accents), ("variants", self.variants)):
            if values is not None and not values:
                raise ConfigError("no voice is given", value=values, expected="at least one", knob=f"{place}.{name}")

    def open(self, language: str) -> SpeechEngine:
        return EspeakEngine(self, language)


class EspeakEngine(SpeechEngine):
    """Speaks with espeak-ng.

    Raises:
        ConfigError: a language, an accent or a variant that espeak-ng does not have.
        MissingDependencyError: the package espeakng-loader is missing.
    """

    def __init__(self, config: EspeakConfig, language: str) -> None:
        self._config = config
        if config.accents is None and language != "en" and language not in known_accents():
            known = ", ".join(name for name in known_accents() if "-" not in name)
            raise ConfigError(
                "espeak-ng does not speak this language", value=language, expected=f"one of {known}", knob="language"
            )
        self._accents = config.accents or (ENGLISH_ACCENTS if language == "en" else [language])
        _check_known("accents", self._accents, known_accents())
        _check_known("variants", config.variants, known_variants())
        self.model = f"espeak-ng {version()}"

    def speak(self, requests: Sequence[SpeechRequest]) -> list[Speech | Refused]:
        return [self._speak(request) for request in requests]

    def _speak(self, request: SpeechRequest) -> Speech | Refused:
        rng, config = request.rng(), self._config
        voice = Voice(
            rng.choice(self._accents),
            rng.choice(config.variants),
            rng.randint(*config.rate_wpm),
            rng.randint(*config.pitch),
        )
        try:
            spoken = synthesize_with_times(request.text, voice)
        except DataError as error:
            return Refused("not_spoken", str(error))
        name = f"{voice.name} {voice.rate_wpm} wpm, pitch {voice.pitch}"
        return Speech(spoken.samples, name, words=spoken.words)


def _check_known(name: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(wanted) - set(known)):
        expected = f"some of {', '.join(known)}"
        raise ConfigError(f"espeak-ng has no such {name}", value=unknown, expected=expected, knob=f"engines[].{name}")
