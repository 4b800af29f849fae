"""Audio in and out of Lhotse cuts: opened lazily, checked, mono, at the rate that the encoder wants."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile as sf

from vtblender_nemo.common.errors import AudioError
from vtblender_nemo.common.files import is_file

if TYPE_CHECKING:
    from lhotse.cut import Cut

SHORTEST_SECS = 0.01
_LONGEST_SAYING = 200  # characters; decoders dump whole tracebacks of each of their backends


# Lhotse hands the paths of such files to a shell: as they are, or in single quotes.
_SAFE_IN_SHELL = {".sph": re.compile(r"(?!-)[\w./+@%=:,-]*"), ".opus": re.compile(r"[^']*")}
LONGEST_SECS = 1e6  # eleven days: nobody's recording


def check_audio_path(path: str | Path) -> None:
    """
    Raises:
        AudioError: a name that would be run as a command when its file is decoded.
    """
    name = str(path)
    safe = next((pattern for end, pattern in _SAFE_IN_SHELL.items() if name.lower().endswith(end)), None)
    if safe is not None and not safe.fullmatch(name):
        raise AudioError(
            "audio file's path is not safe to hand to its decoder",
            value=name,
            expected="letters, digits and ./+@%=:,-_ in the path of a .sph file, no quote in that of an .opus file",
            knob="the file's name",
        )


def cut_from_file(path: str | Path, *, offset_secs: float = 0.0, duration_secs: float | None = None) -> Cut:
    """A cut over a file or a part of it; reads the header only.

    The cut's id is its path and span: file names alone are not unique across folders.

    Raises:
        AudioError: the file is missing, has no readable header, or is shorter than the part asked for.
    """
    from lhotse import Recording

    path = Path(path)
    check_audio_path(path)
    if not is_file(path):
        raise AudioError("audio file is missing", path=path, expected="an audio file that is there")
    try:
        recording = Recording.from_file(path, recording_id=str(path))
    except Exception as error:  # every backend of Lhotse raises errors of its own
        raise AudioError(f"audio file cannot be opened ({first_line(error)})", path=path) from error
    return cut_span(recording.to_cut(), offset_secs, duration_secs, path)


def cut_span(cut: Cut, offset_secs: float, duration_secs: float | None, path: str | Path) -> Cut:
    """The part of `cut` that starts at `offset_secs` and lasts `duration_secs` (default: to its end)."""
    tolerance = 0.02  # manifests round durations
    numbers = isinstance(offset_secs, int | float) and isinstance(duration_secs, int | float | NoneType)
    if not numbers or abs(offset_secs) > LONGEST_SECS or abs(duration_secs or 0.0) > LONGEST_SECS:
        raise _no_part(cut, offset_secs, duration_secs, path)
    end = cut.duration if duration_secs is None else offset_secs + duration_secs
    if not (offset_secs >= 0 and end <= cut.duration + tolerance and end - offset_secs >= SHORTEST_SECS):  # NaN too
        raise _no_part(cut, offset_secs, duration_secs, path)
    end = min(end, cut.duration)
    span = (
        cut
        if offset_secs == 0 and end == cut.duration
        else cut.truncate(offset=offset_secs, duration=end - offset_secs)
    )
    return span.with_id(f"{path}@{offset_secs:.3f}+{end - offset_secs:.3f}")


def _no_part(cut: Cut, offset_secs: Any, duration_secs: Any, path: str | Path) -> AudioError:
    return AudioError(
        "the part asked for does not lie in the audio",
        path=path,
        value={"offset": offset_secs, "duration": duration_secs},
        expected=f"a part of {cut.duration:.3f} s",
        knob="offset and duration",
    )


def cut_from_array(samples: np.ndarray, sampling_rate: int, *, id: str | None = None) -> Cut:
    """A cut over samples in memory.

    Args:
        samples: float, or int16 (full scale 32768), (S,) or (channels, S); two-dimensional arrays with more rows than
            columns are refused.
        sampling_rate: Hz, a positive whole number.
        id: of the cut; None for one that follows from the samples.

    Raises:
        AudioError: wrong shape or dtype, no samples, values that are not finite, or a rate that is none.
    """
    from lhotse import Recording

    if not _is_rate(sampling_rate):
        raise AudioError(
            "sampling rate of an audio array is none",
            value=sampling_rate,
            expected="a positive whole number of Hz",
            knob="sampling_rate",
        )
    wave = np.atleast_2d(np.asarray(samples))
    if wave.ndim != 2 or wave.shape[1] == 0 or wave.shape[0] > wave.shape[1]:
        raise AudioError("audio array of a wrong shape", value=np.shape(samples), expected="(S,) or (channels, S)")
    if wave.dtype != np.int16 and wave.dtype.kind != "f":
        raise AudioError(
            "audio array of a wrong dtype", value=str(wave.dtype), expected="float samples in -1 to 1, or int16"
        )
    if wave.dtype == np.int16:
        wave = wave / np.float32(32768)
    wave = wave.astype(np.float32)
    if not np.isfinite(wave).all():
        raise AudioError("audio array with NaN or infinite values", value=id or "array", expected="finite samples")
    buffer = io.BytesIO()
    sf.write(buffer, wave.T, int(sampling_rate), format="WAV", subtype="FLOAT")
    content = buffer.getvalue()
    return Recording.from_bytes(content, recording_id=id or hashlib.sha256(content).hexdigest()).to_cut()


def _is_rate(value: object) -> bool:
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        return False
    return bool(np.isfinite(value) and value > 0 and value == int(value))


def first_line(error: BaseException) -> str:
    """What an error says in its first line, shortened to 200 characters; a line that announces another takes it along."""
    backend = re.search(r"Exception #\d+ \(<class '[\w.]+'>\): <class '[\w.]+'>: (\S.*)", str(error))
    if backend is not None:  # Lhotse has asked one decoder after another; the first is the one for most files
        return backend[1][:_LONGEST_SAYING]
    lines = [line.strip() for line in str(error).split("[extra info]")[0].splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    said = re.sub(r"<_io\.\w+ [^>]*>", "a file in memory", " ".join(lines[:2]) if lines[0].endswith(":") else lines[0])
    return said if len(said) <= _LONGEST_SAYING else said[: _LONGEST_SAYING - 3] + "..."


def load_samples(cut: Cut, sampling_rate: int) -> np.ndarray:
    """Decodes a cut to mono at `sampling_rate` Hz.

    Returns:
        float32 samples (S,); channels are averaged.

    Raises:
        AudioError: the audio cannot be decoded, is empty, or holds values that are not finite.
    """
    try:
        # A mix loses what Lhotse does to the whole of it (`transforms`) when it is resampled, even to its own rate.
        samples = (cut if cut.sampling_rate == sampling_rate else cut.resample(sampling_rate)).load_audio()
    except Exception as error:  # every backend of Lhotse raises errors of its own
        raise _undecodable(cut, error) from error
    if samples.ndim == 2:  # a mean over one channel would cost as much as over two
        samples = samples[0] if len(samples) == 1 else samples.mean(axis=0)
    if samples.size == 0 or not np.isfinite(samples).all():
        found = f"{samples.size} samples, {int(np.sum(~np.isfinite(samples)))} of them not finite"
        raise AudioError(
            "audio is empty or holds values that are not finite", path=cut.id, value=found, expected="finite samples"
        )
    return np.ascontiguousarray(samples, dtype=np.float32)


def _undecodable(cut: Cut, error: BaseException) -> AudioError:
    """An error without Lhotse's dump of the cut; one of ours, raised below Lhotse, says it best itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AudioError) and "[extra info]" not in cause.problem:
            return AudioError(
                cause.problem, path=cause.path, value=cause.value, expected=cause.expected, knob=cause.knob
            )
        cause = cause.__cause__ or cause.__context__
    return AudioError(
        f"audio cannot be decoded ({type(error).__name__}: {first_line(error)})",
        path=cut.id,
        expected="an undamaged file, as WAV, FLAC, MP3, Ogg or Opus",
    )
