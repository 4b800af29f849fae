"""Long recordings in parts, cut where little is heard.

Shapes: S samples, W windows of 20 ms.
"""

from __future__ import annotations

import numpy as np

from vtblender_nemo.common.errors import ConfigError

SHORTEST_PART_SECS = 2.0
_WINDOW_SECS = 0.02
_PAUSE_WINDOWS = 5  # loudness is that of 0.1 s: a stop consonant is no pause
_SHORTEST_SECS = 0.5  # no part is shorter, so that an encoder has something to hear
_SEARCHED_SHARE = 0.25  # of the longest part: how far before its end a pause is looked for


def quiet_spans(samples: np.ndarray, sampling_rate: int, longest_secs: float) -> list[tuple[int, int]]:
    """Parts a recording without loss or overlap.

    From the left, every part but the last ends in the middle of the quietest 0.1 s of the last quarter of what it may last, the
    latest such place where there are several.

    Args:
        samples: (S,) float.
        sampling_rate: Hz.
        longest_secs: of a part.

    Returns:
        First sample and end of each part, in order.

    Raises:
        ConfigError: parts too short to look for pauses in.
    """
    if longest_secs < SHORTEST_PART_SECS:
        raise ConfigError(
            "parts of long audio are too short",
            value=longest_secs,
            expected=f"{SHORTEST_PART_SECS} seconds or more",
            knob="part_secs, or model.perception.encoder_chunk_secs",
        )
    longest, shortest = int(longest_secs * sampling_rate), int(_SHORTEST_SECS * sampling_rate)
    window = int(_WINDOW_SECS * sampling_rate)
    spans: list[tuple[int, int]] = []
    start = 0
    while len(samples) - start > longest:
        latest = min(start + longest, len(samples) - shortest)
        earliest = start + int(longest * (1 - _SEARCHED_SHARE))
        end = earliest + _quietest(samples[earliest:latest], window)
        spans.append((start, end))
        start = end
    return [*spans, (start, len(samples))]


def _quietest(samples: np.ndarray, window: int) -> int:
    """The middle of the quietest stretch; the end where there is no whole one."""
    count = len(samples) // window
    if count < _PAUSE_WINDOWS:
        return len(samples)
    powers = np.square(samples[: count * window].astype(np.float64)).reshape(count, window).sum(1)
    loudness = np.convolve(powers, np.ones(_PAUSE_WINDOWS), mode="valid")
    latest = len(loudness) - 1 - int(np.argmin(loudness[::-1]))
    return latest * window + _PAUSE_WINDOWS * window // 2
