"""Waveforms to be changed, and what is measured of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from tests.helpers.corpus import RATE
from vtblender_nemo.common.audio import cut_from_array, load_samples
from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.data.augment import Augmenter
from vtblender_nemo.data.augment_config import read_augment


def tone(secs: float, *hertz: float, rate: int = RATE, height: float = 0.2) -> np.ndarray:
    time = np.arange(round(secs * rate)) / rate
    return sum(height * np.sin(2 * np.pi * f * time) for f in hertz).astype(np.float32)


def hiss(secs: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return (0.05 * np.random.default_rng(seed).standard_normal(round(secs * rate))).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, wave, rate, subtype="FLOAT")
    return path


def augmenter(**effects: Any) -> Augmenter:
    return Augmenter(read_augment(effects, "augment"), RATE, "augment")


def spoken(*waves: np.ndarray, rate: int = RATE) -> Conversation:
    parts = tuple(Audio(cut_from_array(wave, rate, id=str(n))) for n, wave in enumerate(waves))
    return Conversation("x", (Turn("user", (Text("Hear:"), *parts)), Turn("assistant", (Text("yes"),))))


def heard(conversation: Conversation) -> list[np.ndarray]:
    return [load_samples(audio.cut, RATE) for audio in conversation.audios]


def band_db(wave: np.ndarray, low: float, high: float) -> float:
    """Energy between two frequencies."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
    return 10 * np.log10(power[(hertz >= low) & (hertz < high)].sum() + 1e-12)


def snr_db(mixed: np.ndarray, clean: np.ndarray) -> float:
    return 10 * np.log10(np.mean(clean**2) / np.mean((mixed - clean) ** 2))
