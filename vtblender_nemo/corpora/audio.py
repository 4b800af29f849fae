"""Speech of a corpus as FLAC: mono, 16 bit, at the rate that is asked for. Shape letters: S samples, C channels."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from vtblender_nemo.common.errors import AudioError, MissingDependencyError

# How much less than its header or its list says audio may hold; lists round times, and some codecs pad.
_TOLERANCE_SECS = 0.1
_SHORTEST_SECS = 0.01
_FULL_SCALE = 32768
_CONTAINERS = (".m4a", ".mp4", ".aac", ".webm", ".wma")  # what libsndfile cannot read


class UnusableAudioError(AudioError):
    """Audio that a row cannot be made of; `reason` is the short name that refusals are counted by."""

    def __init__(self, problem: str, *, reason: str = "audio_unreadable", **parts: Any) -> None:
        super().__init__(problem, **parts)
        self.reason = reason


def flac_of(
    audio: Sequence[str], rate: int, *, offset_secs: float | None = None, duration_secs: float | None = None
) -> tuple[bytes, int]:
    """Files, or a part of one, as a FLAC file.

    A whole file that is such a FLAC already is taken byte by byte; it is decoded once all the same, to know that it can be.
    Samples of 16-bit mono files at `rate` stay as they are.

    Args:
        audio: paths of files whose samples follow each other.
        rate: Hz of the result.
        offset_secs: where the part begins in the one file; None takes whole files.
        duration_secs: how long the part is.

    Returns:
        The bytes, and the number of samples.

    Raises:
        UnusableAudioError: a file is missing, broken, shorter than its header or the part, or not finite.
        MissingDependencyError: a file needs a decoder that is not installed.
    """
    if len(audio) == 1 and offset_secs is None and not _is_container(audio[0]):
        ready = _ready_flac(audio[0], rate)
        if ready is not None:
            return ready
    parts = [_part(path, rate, offset_secs, duration_secs) for path in audio]
    samples = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if len(samples) < _SHORTEST_SECS * rate:
        found = f"{len(samples) / rate:.3f} s"
        raise UnusableAudioError("audio is empty", path=audio[0], value=found, reason="audio_too_short")
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue(), len(samples)


def _is_container(path: str) -> bool:
    return Path(path).suffix.lower() in _CONTAINERS


def _ready_flac(path: str, rate: int) -> tuple[bytes, int] | None:
    """The bytes and the length of a file that needs no change; None for any other."""
    with _open(path) as file:
        same = (file.format, file.subtype, file.channels, file.samplerate) == ("FLAC", "PCM_16", 1, rate)
        if not same or file.frames < _SHORTEST_SECS * rate:
            return None
        samples = _read(file, path, file.frames)
    return Path(path).read_bytes(), len(samples)


def _part(path: str, rate: int, offset_secs: float | None, duration_secs: float | None) -> np.ndarray:
    """int16 samples (S,) of a file or a part of it."""
    _check_there(path)
    if _is_container(path):
        wave, found_rate = _decode_container(path)
        start, count = _span(path, len(wave), found_rate, offset_secs, duration_secs)
        return _mono16(wave[start : start + count], path, found_rate, rate)
    with _open(path) as file:
        start, count = _span(path, file.frames, file.samplerate, offset_secs, duration_secs)
        file.seek(start)
        return _mono16(_read(file, path, count), path, file.samplerate, rate)


def _check_there(path: str) -> None:
    if not Path(path).is_file():
        raise UnusableAudioError("audio file is missing", path=path, reason="audio_missing")


def _open(path: str) -> sf.SoundFile:
    _check_there(path)
    try:
        return sf.SoundFile(path)
    except sf.SoundFileError as error:
        raise UnusableAudioError(f"audio file cannot be opened ({error})", path=path) from error


def _read(file: sf.SoundFile, path: str, count: int) -> np.ndarray:
    """Exactly `count` samples, float32 (S,) or (S, C), or fewer by what codecs may pad; 16 bits are kept."""
    try:
        wave = file.read(count, dtype="float32")
    except sf.SoundFileError as error:
        raise UnusableAudioError(f"audio file cannot be decoded ({error})", path=path) from error
    if count - len(wave) > _TOLERANCE_SECS * file.samplerate:
        raise UnusableAudioError(
            "audio file is cut off",
            path=path,
            value=f"{len(wave) / file.samplerate:.3f} s",
            expected=f"{count / file.samplerate:.3f} s",
        )
    return wave


def _span(path: str, frames: int, rate: int, offset_secs: float | None, duration_secs: float | None) -> tuple[int, int]:
    """First sample and number of samples of a part at the file's own rate."""
    if offset_secs is None or duration_secs is None:
        return 0, frames
    end_secs = offset_secs + duration_secs
    kept_secs = min(end_secs, frames / rate) - offset_secs
    if not (
        offset_secs >= 0 and end_secs <= frames / rate + _TOLERANCE_SECS and kept_secs >= _SHORTEST_SECS
    ):  # NaN too
        raise UnusableAudioError(
            "part does not lie in the recording",
            path=path,
            value=f"{offset_secs:.3f} s + {duration_secs:.3f} s",
            expected=f"a part of {frames / rate:.3f} s",
            reason="bad_times",
        )
    start = round(offset_secs * rate)
    return start, min(round(duration_secs * rate), frames - start)


def _mono16(wave: np.ndarray, path: str, found_rate: int, rate: int) -> np.ndarray:
    """Samples (S,) or (S, C) as float, averaged over channels, at `rate` Hz, as int16 (S,)."""
    import soxr

    mono = wave.mean(axis=1) if wave.ndim == 2 else wave
    if not np.isfinite(mono).all():
        raise UnusableAudioError("audio holds values that are not finite", path=path)
    if found_rate != rate:
        mono = soxr.resample(mono, found_rate, rate)
    return np.clip(np.rint(mono * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


@functools.lru_cache(maxsize=1)  # segments of one recording follow each other
def _decode_container(path: str) -> tuple[np.ndarray, int]:
    """All samples (S, C) as float32 of a file that libsndfile cannot read, and their rate."""
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            "audio of this kind needs the package av",
            path=path,
            expected='pip install "vtblender_nemo[corpora]", or WAV files of the same names beside it',
        ) from error
    try:
        with av.open(path) as container:
            rate = container.streams.audio[0].rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise UnusableAudioError(f"audio file cannot be decoded ({error})", path=path) from error
    if not frames:
        raise UnusableAudioError("audio is empty", path=path, reason="audio_too_short")
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T.astype(np.float32), rate
