"""Hostile and broken audio is refused, and nothing else happens."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from tests.helpers.models import speech
from tests.helpers.serving import wav_bytes
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.errors import AudioError
from vtblender_nemo.serving.uploads import AudioLimits, decode_upload

LIMITS = AudioLimits(max_secs=20.0)
RATE = 16000


def tone(rate: int, secs: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * secs)) / rate)).astype(np.float32)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_formats_and_rates(kind: str, subtype: str | None, rate: int) -> None:
    """A tone of 440 Hz is one afterwards."""
    audio = decode_upload(wav_bytes(tone(rate), rate, kind, subtype), LIMITS, RATE)
    samples = load_samples(audio.cut, RATE)
    assert audio.duration_secs == pytest.approx(1.0, abs=0.15)  # MP3 pads
    middle = samples[4000:12000]
    assert np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * RATE / len(middle) == pytest.approx(
        440, abs=3
    )
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


def test_samples_at_the_models_rate_stay_as_they_are() -> None:
    samples = speech(1.3)
    audio = decode_upload(wav_bytes(samples, RATE, "WAV", "FLOAT"), LIMITS, RATE)
    np.testing.assert_array_equal(load_samples(audio.cut, RATE), samples)


def test_channels_are_averaged() -> None:
    stereo = np.stack([tone(RATE), np.zeros(RATE, np.float32)], axis=1)
    samples = load_samples(decode_upload(wav_bytes(stereo, subtype="FLOAT"), LIMITS, RATE).cut, RATE)
    np.testing.assert_allclose(samples, tone(RATE) / 2, atol=1e-6)


def test_ids_follow_from_bytes() -> None:
    one, other = wav_bytes(speech(0.5, 1)), wav_bytes(speech(0.5, 2))
    ids = [decode_upload(data, LIMITS, RATE).cut.id for data in (one, other, one)]
    assert ids[0] == ids[2] != ids[1]


def claiming(data: bytes, data_bytes: int) -> bytes:
    """A WAV whose header claims another length."""
    place = data.index(b"data") + 4
    return (
        data[:4]
        + struct.pack("<I", data_bytes + 36)
        + data[8:place]
        + struct.pack("<I", data_bytes)
        + data[place + 4 :]
    )


def with_rate(data: bytes, rate: int) -> bytes:
    return data[:24] + struct.pack("<II", rate, rate * 2 % 2**32) + data[32:]


WAV = wav_bytes(speech(1.0))
HOSTILE = {
    "nothing": (b"", "cannot be decoded"),
    "no audio": (b"#!/bin/sh\nrm -rf /\n" * 50, "cannot be decoded"),
    "half a header": (WAV[:20], "cannot be decoded"),
    "header alone": (WAV[:44], "too short"),
    "NaN": (wav_bytes(np.full(RATE, np.nan, np.float32), subtype="FLOAT"), "not finite"),
    "infinite": (wav_bytes(np.full(RATE, np.inf, np.float32), subtype="FLOAT"), "not finite"),
    "1 Hz": (with_rate(WAV, 1), "sampling rate"),
    "4 GHz": (with_rate(WAV, 2**32 - 1), "sampling rate|cannot be decoded"),
    "400 channels": (wav_bytes(np.zeros((400, 400), np.float32)), "too many channels"),
    "too long": (wav_bytes(np.zeros(21 * RATE, np.float32)), "too long"),
    "an hour of silence in a few kilobytes": (wav_bytes(np.zeros(3600 * RATE, np.float32), kind="FLAC"), "too long"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    data, said = HOSTILE[name]
    with pytest.raises(AudioError, match=said):
        decode_upload(data, LIMITS, RATE)


def test_a_header_that_claims_gigabytes_costs_none() -> None:
    tracemalloc.start()
    try:
        audio = decode_upload(claiming(WAV, 2**32 - 100), AudioLimits(max_secs=1e9), RATE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert audio.duration_secs == pytest.approx(1.0, abs=0.01)
    assert peak < 2**21


def test_a_truncated_file_is_what_is_left_of_it() -> None:
    audio = decode_upload(WAV[: len(WAV) // 2], LIMITS, RATE)
    assert audio.duration_secs == pytest.approx(0.5, abs=0.01)
