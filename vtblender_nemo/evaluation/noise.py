"""Audio in which nobody speaks, made on the fly: whatever a model writes of it is made up.

Every item is made from its own seed, so that two runs, and two models, hear the same samples.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vtblender_nemo.common.conversation import Conversation, from_messages
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.evaluation.items import Item

SAMPLING_RATE = 16000
HUM_HZ = 50.0
"""Mains hum in most of the world; 60 Hz in the Americas sounds alike."""
HUM_HARMONICS = 8

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class NoiseConfig:
    """What is played to a model.

    Attributes:
        sounds: among `silence` (zeros), `white`, `pink` (power falls by 3 dB an octave) and `hum` (50 Hz and its overtones).
        secs: lengths.
        level_dbfs: root mean square of the sound, in decibels below full scale; silence has none.
        repeats: items of every sound and length, each with noise of its own (silence and hum differ in nothing but phase).
        seed: of all of it.
    """

    sounds: list[str] = field(default_factory=lambda: ["silence", "white", "pink", "hum"])
    secs: list[float] = field(default_factory=lambda: [2.0, 5.0, 10.0])
    level_dbfs: float = -30.0
    repeats: int = 4
    seed: int = 0

    def check(self, place: str) -> None:
        """Raises a ConfigError for an unknown sound or a number out of range; `place` is the key that holds these."""
        for sound in self.sounds:
            if sound not in SOUNDS:
                raise ConfigError(
                    "unknown sound", value=sound, expected=f"one of {', '.join(SOUNDS)}", knob=f"{place}.sounds"
                )
        if not self.sounds:
            raise ConfigError("no sounds", value=self.sounds, expected="at least one", knob=f"{place}.sounds")
        if not self.secs or not all(0.1 <= length <= 3600 for length in self.secs):
            raise ConfigError(
                "lengths out of range", value=self.secs, expected="0.1 to 3600 s each", knob=f"{place}.secs"
            )
        if not -100 <= self.level_dbfs <= -10:
            expected = "-100 to -10, where peaks of noise still fit"
            raise ConfigError(
                "level out of range", value=self.level_dbfs, expected=expected, knob=f"{place}.level_dbfs"
            )
        if self.repeats < 1:
            raise ConfigError("too few repeats", value=self.repeats, expected="at least 1", knob=f"{place}.repeats")


def noise_items(config: NoiseConfig, *, prompt: str, task: str) -> list[Item]:
    """Items whose only right answer is none at all; `custom.noise` says what is heard.

    Args:
        config: which sounds.
        prompt: what is asked; the audio follows it.
        task: name of the task.
    """
    return [
        _item(sound, secs, repeat, config, prompt, task)
        for sound in config.sounds
        for secs in config.secs
        for repeat in range(config.repeats)
    ]


def make_sound(sound: str, secs: float, *, level_dbfs: float, seed: Sequence[int]) -> Samples:
    """Samples (S,) of a sound at `SAMPLING_RATE`.

    Args:
        sound: a name in `SOUNDS`.
        secs: its length.
        level_dbfs: root mean square, decibels below full scale.
        seed: the same seed, the same samples.
    """
    wave = SOUNDS[sound](round(secs * SAMPLING_RATE), np.random.default_rng(list(seed)))
    loudness = float(np.sqrt(np.mean(np.square(wave))))
    scale = 10 ** (level_dbfs / 20) / loudness if loudness else 0.0
    return np.clip(wave * scale, -1.0, 1.0).astype(np.float32)


def _item(sound: str, secs: float, repeat: int, config: NoiseConfig, prompt: str, task: str) -> Item:
    seed = (config.seed, list(SOUNDS).index(sound), round(1000 * secs), repeat)
    samples = make_sound(sound, secs, level_dbfs=config.level_dbfs, seed=seed)
    id = f"{sound}_{secs:g}s_{repeat}"
    return Item(id, task, _conversation(samples, prompt, id), "", {"noise": sound, "seed": list(seed)})


def _conversation(samples: Samples, prompt: str, id: str) -> Conversation:
    from vtblender_nemo.common.audio import cut_from_array

    text = [{"type": "text", "text": prompt}] if prompt.strip() else []
    audio = {"type": "audio", "audio": cut_from_array(samples, SAMPLING_RATE, id=id)}
    return from_messages([{"role": "user", "content": [*text, audio]}], id=id)


def _silence(samples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    return np.zeros(samples)


def _white(samples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    return generator.standard_normal(samples)


def _pink(samples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """White noise whose amplitudes are divided by the root of their frequency; without its mean."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / SAMPLING_RATE)
    frequencies[0] = np.inf
    return np.fft.irfft(spectrum / np.sqrt(frequencies), samples)


def _hum(samples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """The mains' frequency and its overtones, each half as strong as the one before, in phases of their own."""
    times = np.arange(samples) / SAMPLING_RATE
    phases = generator.uniform(0, 2 * np.pi, HUM_HARMONICS)
    tones = [0.5**n * np.sin(2 * np.pi * HUM_HZ * (n + 1) * times + phase) for n, phase in enumerate(phases)]
    return np.sum(tones, axis=0)


SOUNDS: Mapping[str, Callable[[int, np.random.Generator], NDArray[np.float64]]] = {
    "silence": _silence,
    "white": _white,
    "pink": _pink,
    "hum": _hum,
}
