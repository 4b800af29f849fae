"""Borders between words, moved from a recogniser's frames to where the speech pauses.

A recogniser's frames are long (80 ms in FastConformer), and CTC marks a word in few of them, and late: when it has heard enough
of it. So the border between two words is taken to lie where least is heard, from two frames before the last frame of the one
has ended to the first frame of the other. `tests/recipes/test_alignment.py` holds that against espeak-ng's own word times.

Shape letters: S samples, W windows of 5 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

_HOP_SECS = 0.005
_SMOOTHED = 5  # windows: 25 ms, so that the gap between two pulses of a low voice is no pause
_SILENCE = 1e-4  # of the power of loud speech: 40 dB less
_LOUD_QUANTILE = 0.95
_LATE_FRAMES = 2  # by which the recogniser may be late


def settle(
    words: Sequence[tuple[float, float]], samples: np.ndarray, rate: int, frame_secs: float
) -> list[tuple[float, float]]:
    """When words start and end.

    Args:
        words: first and last second of every word by the recogniser's frames, in order.
        samples: (S,) float.
        rate: Hz.
        frame_secs: of the recogniser.

    Returns:
        Seconds in order and without overlap, in the audio. Between two words lies the silence that is there, or nothing.
    """
    hop = round(_HOP_SECS * rate)
    power, hop_secs, late_secs = _smooth_power(samples, hop), hop / rate, _LATE_FRAMES * frame_secs
    searched = [((end - late_secs) / hop_secs, start / hop_secs) for (_, end), (start, _) in pairwise(words)]
    borders = np.maximum.accumulate([0, *(_quietest(power, *span) for span in searched), len(power)]).tolist()
    loud = power > _SILENCE * np.quantile(power, _LOUD_QUANTILE)
    parts = [_said(loud, first, end) for first, end in pairwise(borders)]
    secs = len(samples) / rate
    return [(min(first * hop_secs, secs), min(end * hop_secs, secs)) for first, end in parts]


def _smooth_power(samples: np.ndarray, hop: int) -> np.ndarray:
    """Power (W,) around every window of so many samples."""
    count = max(1, -(-len(samples) // hop))
    padded = np.pad(samples.astype(np.float64), (0, count * hop - len(samples)))
    power = np.square(padded).reshape(count, hop).mean(1)
    around = np.pad(power, _SMOOTHED // 2, mode="edge")
    return np.convolve(around, np.full(_SMOOTHED, 1 / _SMOOTHED), mode="valid")


def _quietest(power: np.ndarray, first: float, last: float) -> int:
    """The window where least is heard, of those from `first` to before `last`."""
    begin = max(0, min(round(first), len(power) - 1))
    searched = power[begin : max(begin + 1, round(last))]
    quiet = np.flatnonzero(searched <= searched.min())
    return begin + int(quiet[len(quiet) // 2])


def _said(loud: np.ndarray, first: int, end: int) -> tuple[int, int]:
    """The windows between two borders without the silence at their ends; all of them where nothing is loud."""
    heard = np.flatnonzero(loud[first:end])
    return (first + int(heard[0]), first + int(heard[-1]) + 1) if len(heard) else (first, end)
