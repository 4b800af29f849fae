"""The keys of `data.train_ds.augment`: the same place owns their defaults, says what they do and checks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.typed import mapping, read_config


@dataclass
class SpeedConfig:
    """Faster or slower speech, its pitch with it; durations and limits are those of the changed audio."""

    prob: float = 0.0
    """Share of the conversations that are changed."""
    factors: list[float] = field(default_factory=lambda: [0.9, 1.1])
    """One is drawn: 1.1 is a tenth faster. From 0.5 to 2 in steps of 0.01, which keeps resampling filters short."""


@dataclass
class ReverbConfig:
    """The sound of a room; with neither files nor a folder, rooms are generated."""

    prob: float = 0.0
    """Share of the conversations that are changed."""
    manifest_filepath: Any = None
    """JSONL of impulse responses, `{"audio_filepath", "duration"?, "offset"?}`; channels are averaged."""
    folder: str | Path | None = None
    """A folder of impulse responses, searched with all below it."""
    t60: list[float] = field(default_factory=lambda: [0.2, 0.8])
    """Range of seconds in which a generated room's echo falls by 60 dB."""
    direct_to_echo: list[float] = field(default_factory=lambda: [0.0, 12.0])
    """Range of dB by which direct sound is louder than a generated room's echo."""


@dataclass
class NoiseConfig:
    """Noise from recordings."""

    prob: float = 0.0
    """Share of the conversations that are changed."""
    manifest_filepath: Any = None
    """JSONL of noises, `{"audio_filepath", "duration"?, "offset"?}`."""
    folder: str | Path | None = None
    """A folder of noises, searched with all below it."""
    snr: list[float] = field(default_factory=lambda: [5.0, 20.0])
    """Range of dB by which the speech is louder than the noise."""


@dataclass
class TelephoneConfig:
    """A telephone line: 300 to 3400 Hz, 8 bits in mu-law."""

    prob: float = 0.0
    """Share of the conversations that are changed."""


@dataclass
class BandwidthConfig:
    """Recordings of a lower sampling rate: nothing above half of it."""

    prob: float = 0.0
    """Share of the conversations that are changed."""
    rates: list[int] = field(default_factory=lambda: [8000])
    """Hz; one is drawn."""


@dataclass
class AugmentConfig:
    """The keys of `data.train_ds.augment`; effects are drawn apart and applied in this order."""

    speed: SpeedConfig | None = None
    """Speed and pitch."""
    reverb: ReverbConfig | None = None
    """Rooms."""
    noise: NoiseConfig | None = None
    """Noise."""
    telephone: TelephoneConfig | None = None
    """Telephone bandwidth."""
    bandwidth: BandwidthConfig | None = None
    """Lower sampling rates."""


_EFFECTS = {
    "speed": SpeedConfig,
    "reverb": ReverbConfig,
    "noise": NoiseConfig,
    "telephone": TelephoneConfig,
    "bandwidth": BandwidthConfig,
}


def read_augment(values: Any, place: str) -> AugmentConfig:
    """The effects of a configuration; those that it leaves out are off.

    Raises:
        ConfigError: an unknown effect or key, or a value of a wrong type or range.
    """
    effects = {} if values is None else mapping(values, place)
    for key in effects:
        if key not in _EFFECTS:
            raise ConfigError(
                "unknown effect", value=key, expected=f"one of {', '.join(_EFFECTS)}", knob=f"{place}.{key}"
            )
    config = AugmentConfig(
        **{key: read_config(_EFFECTS[key], value, f"{place}.{key}") for key, value in effects.items()}
    )
    for name, effect in vars(config).items():
        if effect is not None and not 0 <= effect.prob <= 1:
            raise ConfigError("value out of range", value=effect.prob, expected="0 to 1", knob=f"{place}.{name}.prob")
    if config.speed is not None:
        _check_factors(config.speed, f"{place}.speed")
    if config.reverb is not None:
        _check_range(config.reverb.t60, 0.05, 5.0, f"{place}.reverb.t60")
        _check_range(config.reverb.direct_to_echo, -20.0, 40.0, f"{place}.reverb.direct_to_echo")
    if config.noise is not None:
        _check_range(config.noise.snr, -20.0, 60.0, f"{place}.noise.snr")
    if config.bandwidth is not None and not (
        config.bandwidth.rates and all(isinstance(rate, int) and rate >= 4000 for rate in config.bandwidth.rates)
    ):
        rates = config.bandwidth.rates
        raise ConfigError(
            "no sampling rates", value=rates, expected="some of 4000 Hz or more", knob=f"{place}.bandwidth.rates"
        )
    return config


def _check_factors(config: SpeedConfig, place: str) -> None:
    good = [0.5 <= factor <= 2 and abs(factor * 100 - round(factor * 100)) < 1e-6 for factor in config.factors]
    if not good or not all(good):
        raise ConfigError(
            "speed out of range",
            value=config.factors,
            expected="factors from 0.5 to 2 in steps of 0.01",
            knob=f"{place}.factors",
        )


def _check_range(values: Sequence[float], low: float, high: float, place: str) -> None:
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        raise ConfigError(
            "no range of values", value=list(values), expected=f"two numbers from {low:g} to {high:g}", knob=place
        )
