"""Audio that strangers send: decoded piece by piece within limits, so that no file costs more than it may."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from vtblender_nemo.common.audio import SHORTEST_SECS, cut_from_array, first_line
from vtblender_nemo.common.conversation import Audio
from vtblender_nemo.common.errors import AudioError

FORMATS = "WAV, FLAC, MP3, Ogg (Vorbis or Opus), AIFF or AU"
_BLOCK_SECS = 1.0


@dataclass(frozen=True)
class AudioLimits:
    """What an audio may be.

    Attributes:
        max_secs: longest one.
        max_channels: most channels; they are averaged.
        min_rate: lowest sampling rate, Hz.
        max_rate: highest.
    """

    max_secs: float = 600.0
    max_channels: int = 8
    min_rate: int = 4_000
    max_rate: int = 192_000


def decode_upload(data: bytes, limits: AudioLimits, sampling_rate: int) -> Audio:
    """An audio file in memory as mono samples; its id follows from its bytes.

    Memory is that of the samples at `sampling_rate` (a few times, for a moment), whatever the file says of itself: no header is
    trusted with an allocation, and reading ends where `max_secs` are exceeded.

    Args:
        data: the file.
        limits: beyond which it is refused.
        sampling_rate: Hz of the result.

    Raises:
        AudioError: no audio in a known format, damaged, outside the limits, too short, or with values that are not finite.
    """
    digest = hashlib.sha256(data).hexdigest()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(file, limits)
            samples = _mono(file, limits, sampling_rate)
    except AudioError:
        raise
    except Exception as error:  # libsndfile's errors, and whatever a hostile file makes of them
        raise AudioError(
            f"audio cannot be decoded ({first_line(error)})", value=f"{len(data)} bytes", expected=FORMATS
        ) from error
    if len(samples) < SHORTEST_SECS * sampling_rate:
        raise AudioError("audio is too short", value=len(samples) / sampling_rate, expected=f"{SHORTEST_SECS} s")
    return Audio(cut_from_array(samples, sampling_rate, id=digest))


def _check_header(file: soundfile.SoundFile, limits: AudioLimits) -> None:
    if not limits.min_rate <= file.samplerate <= limits.max_rate:
        raise AudioError(
            "sampling rate out of range", value=file.samplerate, expected=f"{limits.min_rate} to {limits.max_rate} Hz"
        )
    if not 1 <= file.channels <= limits.max_channels:
        raise AudioError("too many channels", value=file.channels, expected=f"at most {limits.max_channels}")
    if file.frames > limits.max_secs * file.samplerate:
        raise _too_long(file.frames / file.samplerate, limits)


def _mono(file: soundfile.SoundFile, limits: AudioLimits, sampling_rate: int) -> np.ndarray:
    """Samples, float32 (S,)."""
    resampler = soxr.ResampleStream(file.samplerate, sampling_rate, 1, dtype="float32")
    blocks = [resampler.resample_chunk(block) for block in _blocks(file, limits)]
    blocks.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(blocks)


def _blocks(file: soundfile.SoundFile, limits: AudioLimits) -> Iterator[np.ndarray]:
    read = 0
    while len(block := file.read(int(_BLOCK_SECS * file.samplerate), dtype="float32", always_2d=True)):
        read += len(block)
        if read > limits.max_secs * file.samplerate:
            raise _too_long(read / file.samplerate, limits)
        if not np.isfinite(block).all():
            raise AudioError("audio holds values that are not finite", expected="finite samples")
        yield block.mean(axis=1)


def _too_long(secs: float, limits: AudioLimits) -> AudioError:
    return AudioError("audio is too long", value=f"{secs:.0f} s", expected=f"at most {limits.max_secs:.0f} s")
