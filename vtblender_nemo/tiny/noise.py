"""Noises of many colours. Shape letter: S samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

COLOURS = (0.0, 2.2)
"""The power falls with a power of the frequency between these: white noise to a rumble."""

_RATE = 16_000
_LOWEST_HZ = 20.0
_NOISES, _NOISE_SECS = 24, 10.0
_SWELLS_HZ = (0.1, 4.0)


def coloured_noise(rng: np.random.Generator, count: int, colour: float) -> np.ndarray:
    """Noise (S,) of unit power at 16 kHz.

    Args:
        rng: draws it.
        count: of samples.
        colour: the power falls with this power of the frequency.
    """
    frequencies = np.maximum(np.fft.rfftfreq(count, 1 / _RATE), _LOWEST_HZ)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * frequencies ** (-colour / 2), count)
    return noise / np.sqrt(np.mean(noise**2))


def with_noise(rng: np.random.Generator, samples: np.ndarray, snr_db: float, colour: float) -> np.ndarray:
    """Speech (S,) that is so many dB louder than the noise that lies over it."""
    level = np.sqrt(np.mean(samples**2) / 10 ** (snr_db / 10))
    return samples + level * coloured_noise(rng, len(samples), colour)


def write_noises(folder: Path, seed: int) -> None:
    """Writes noises of many colours, which swell more or less, as 16-bit WAV files at 16 kHz."""
    import soundfile

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    count = round(_NOISE_SECS * _RATE)
    for index in range(_NOISES):
        noise = coloured_noise(rng, count, rng.uniform(*COLOURS))
        swell = 1 + rng.uniform(0, 0.9) * np.sin(2 * np.pi * rng.uniform(*_SWELLS_HZ) * np.arange(count) / _RATE)
        samples = noise * swell
        soundfile.write(
            folder / f"noise_{index:02d}.wav", 0.9 * samples / np.abs(samples).max(), _RATE, subtype="PCM_16"
        )
