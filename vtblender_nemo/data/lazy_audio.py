"""Lhotse cuts over audio that has not been opened: the manifest's word is taken for the duration until decoding."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import AudioSource, Recording
from lhotse.audio.backend import read_audio
from lhotse.augmentation.torchaudio import get_or_create_resampler
from lhotse.cut import Cut, MonoCut

from vtblender_nemo.common.audio import (
    LONGEST_SECS,
    SHORTEST_SECS,
    check_audio_path,
    cut_from_file,
    first_line,
)
from vtblender_nemo.common.errors import AudioError
from vtblender_nemo.common.files import is_file
from vtblender_nemo.data.rows import Member, read_span

# How much shorter than its manifest says audio may be; manifests round durations, some to a tenth of a second.
TOLERANCE_SECS = 0.1


@dataclass
class LazySource(AudioSource):
    """A part of an audio file, or of a file inside a tar, decoded at a declared rate.

    Declared with one channel, a file of several is averaged, or one of them is taken.

    Attributes:
        source: path of the file or of the tar.
        start_secs: where the part begins in the file.
        duration_secs: how long it is.
        sampling_rate: Hz of the samples returned, whatever the file's rate is.
        member: the file's place inside a tar.
        is_whole: no part was asked for, so that the file should be as long as its manifest says, and no longer.
        channel_share: which channel of a file of several is taken, from 0 (the first) up to, but not, 1; None averages.
            A share of their number, as that is not known before the file is opened.
    """

    start_secs: float = 0.0
    duration_secs: float = 0.0
    sampling_rate: int = 16000
    member: Member | None = None
    is_whole: bool = False
    channel_share: float | None = None

    def load_audio(
        self, offset: float = 0.0, duration: float | None = None, force_opus_sampling_rate: int | None = None
    ) -> np.ndarray:
        """Samples of the part, float32 (S,), or (channels, S) where several channels are declared.

        Raises:
            AudioError: the file is missing or shorter than its manifest says.
        """
        wanted = self.duration_secs - offset if duration is None else duration
        samples, rate = read_audio(
            self._handle(),
            offset=self.start_secs + offset,
            duration=wanted,
            force_opus_sampling_rate=force_opus_sampling_rate,
        )
        samples = self._one_channel(np.atleast_2d(samples)) if len(self.channels) == 1 else samples
        if rate != self.sampling_rate:
            resample = get_or_create_resampler(rate, self.sampling_rate)
            samples = resample(torch.from_numpy(samples.astype(np.float32))).numpy()
        return self._fit(samples, wanted)

    def _one_channel(self, samples: np.ndarray) -> np.ndarray:
        if self.channel_share is not None:
            return samples[int(self.channel_share * len(samples))]
        return samples[0] if len(samples) == 1 else samples.mean(axis=0)

    def _fit(self, samples: np.ndarray, duration: float) -> np.ndarray:
        wanted, found = round(duration * self.sampling_rate), samples.shape[-1]
        if wanted - found > TOLERANCE_SECS * self.sampling_rate:
            raise AudioError(
                "audio is shorter than its manifest says",
                path=self.source,
                value=f"{found / self.sampling_rate:.3f} s from {self.start_secs:.3f} s on",
                expected=f"{duration:.3f} s",
                knob="duration and offset of the row",
            )
        if wanted > found:
            samples = np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, wanted - found)])
        return samples[..., :wanted].astype(np.float32, copy=False)

    def _handle(self) -> str | io.BytesIO:
        if self.member is not None:
            return io.BytesIO(read_span(self.source, self.member.start, self.member.size))
        check_audio_path(self.source)
        if not is_file(self.source):
            raise AudioError(
                "audio file is missing",
                path=self.source,
                expected="a path from the manifest's folder or audio_dir on, or an absolute one",
                knob="the row's path, or audio_dir",
            )
        return self.source

    def _get_format(self) -> str:
        return Path(self.member.name if self.member else self.source).suffix[1:]


def lazy_cut(
    path: str | Path,
    *,
    duration_secs: float | None,
    offset_secs: float | None = None,
    sampling_rate: int,
    member: Member | None = None,
    channel_share: float | None = None,
) -> Cut:
    """A cut over a part of an audio file that is opened only to decode it; without a duration its header is read.

    Args:
        path: the audio file, or the tar that holds it.
        duration_secs: the part's length, as the manifest states it.
        offset_secs: where the part begins; None for the whole file.
        sampling_rate: Hz at which the cut is declared, and to which it is resampled in decoding.
        member: the place inside the tar.
        channel_share: see `LazySource`; a cut without duration averages.

    Returns:
        A cut whose id is the path and the span: file names alone are not unique across folders.

    Raises:
        AudioError: a span that is not one; without a duration, also a file that is missing or cannot be opened.
    """
    is_whole, offset_secs = offset_secs is None, offset_secs or 0.0
    _check_numbers(path, offset_secs, duration_secs)
    if duration_secs is None:
        if member is None:
            return cut_from_file(path, offset_secs=offset_secs)
        duration_secs = _member_duration(path, member) - offset_secs
    if not 0 <= offset_secs <= LONGEST_SECS or not SHORTEST_SECS <= duration_secs <= LONGEST_SECS:
        raise _no_span(path, offset_secs, duration_secs)
    name = f"{path}/{member.name}" if member else str(path)
    samples = round(duration_secs * sampling_rate)
    source = LazySource(
        "file",
        [0],
        str(path),
        start_secs=offset_secs,
        duration_secs=duration_secs,
        sampling_rate=sampling_rate,
        member=member,
        is_whole=is_whole,
        channel_share=channel_share,
    )
    recording = Recording(name, [source], sampling_rate, samples, samples / sampling_rate, channel_ids=[0])
    id = f"{name}@{offset_secs:.3f}+{duration_secs:.3f}"
    return MonoCut(id=id, start=0.0, duration=recording.duration, channel=0, recording=recording)


def _check_numbers(path: str | Path, *secs: Any) -> None:
    if not all(one is None or (isinstance(one, int | float) and not isinstance(one, bool)) for one in secs):
        raise _no_span(path, *secs)


def _no_span(path: str | Path, offset_secs: Any, duration_secs: Any) -> AudioError:
    return AudioError(
        "the part asked for is no span",
        path=path,
        value={"offset": offset_secs, "duration": duration_secs},
        expected=f"offset >= 0 s, duration >= {SHORTEST_SECS} s, neither above {LONGEST_SECS:.0f} s",
        knob="offset and duration of the row",
    )


def _member_duration(path: str | Path, member: Member) -> float:
    try:
        return Recording.from_bytes(read_span(path, member.start, member.size), recording_id=member.name).duration
    except Exception as error:  # every backend of Lhotse raises errors of its own
        raise AudioError(f"audio file cannot be opened ({first_line(error)})", path=f"{path}/{member.name}") from error


def lazy_recording(placeholder: Recording, tar: Path, member: Member) -> Recording:
    """A recording of Lhotse's shar whose samples are read from its tar, at its own rate, when they are decoded."""
    rate, duration = placeholder.sampling_rate, placeholder.duration
    source = LazySource(
        "file",
        placeholder.channel_ids,
        str(tar),
        duration_secs=duration,
        sampling_rate=rate,
        member=member,
        is_whole=True,
    )
    return Recording(placeholder.id, [source], rate, placeholder.num_samples, duration, placeholder.channel_ids)
