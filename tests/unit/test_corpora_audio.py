"""Audio of every kind as FLAC: what is kept exactly, what is converted, and what is refused."""

from __future__ import annotations

import builtins
import io

import numpy as np
import pytest
import soundfile as sf

from tests.helpers.corpora import RATE, noise, tone, write_audio
from vtblender_nemo.common.errors import MissingDependencyError
from vtblender_nemo.corpora.audio import UnusableAudioError, flac_of


def decoded(content: bytes) -> np.ndarray:
    samples, rate = sf.read(io.BytesIO(content), dtype="int16")
    assert rate == RATE
    assert sf.info(io.BytesIO(content)).format == "FLAC"
    return samples


@pytest.mark.parametrize("end", ["wav", "flac"])
def test_samples_of_16_bits_stay(tmp_path, end):
    extremes = np.array([-32768, 32767, 0, 1, -1] * 100, np.int16)
    samples = write_audio(tmp_path / f"a.{end}", np.concatenate([extremes, noise(1)]))
    content, count = flac_of([str(tmp_path / f"a.{end}")], RATE)
    np.testing.assert_array_equal(decoded(content), samples)
    assert count == len(samples)


def test_a_part_and_several_files(tmp_path):
    first, second = (write_audio(tmp_path / f"{n}.wav", noise(n, 1.0)) for n in (1, 2))
    content, count = flac_of([str(tmp_path / "1.wav")], RATE, offset_secs=0.25, duration_secs=0.5)
    np.testing.assert_array_equal(decoded(content), first[4000:12000])
    assert count == 8000
    content, _ = flac_of([str(tmp_path / "1.wav"), str(tmp_path / "2.wav")], RATE)
    np.testing.assert_array_equal(decoded(content), np.concatenate([first, second]))


def test_channels_are_averaged_and_rates_changed(tmp_path):
    stereo = np.stack([tone(0.4, 1.0, 48_000), np.zeros(48_000, np.float32)], axis=1)
    write_audio(tmp_path / "a.wav", stereo, 48_000, subtype="FLOAT")
    content, count = flac_of([str(tmp_path / "a.wav")], RATE)
    assert count == 16_000
    heard = decoded(content) / 32768
    np.testing.assert_allclose(heard[500:-500], tone(0.2, 1.0)[500:-500], atol=1e-3)


@pytest.mark.parametrize(
    "how", [{"format": "MP3"}, {"format": "OGG", "subtype": "VORBIS"}, {"format": "OGG", "subtype": "OPUS"}]
)
def test_lossy_files(tmp_path, how):
    write_audio(tmp_path / "a.any", tone(0.5, 1.0), **how)
    content, count = flac_of([str(tmp_path / "a.any")], RATE)
    assert abs(count - RATE) <= 0.1 * RATE
    middle = decoded(content)[4000:12000] / 32768
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), abs=0.03)


def write_m4a(path, samples: np.ndarray) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def test_m4a_as_europarl_st_has_it(tmp_path):
    write_m4a(tmp_path / "a.m4a", np.concatenate([tone(0.1, 1.0), tone(0.5, 1.0)]))
    quiet, _ = flac_of([str(tmp_path / "a.m4a")], RATE, offset_secs=0.2, duration_secs=0.6)
    loud, count = flac_of([str(tmp_path / "a.m4a")], RATE, offset_secs=1.2, duration_secs=0.6)
    assert count == 9600
    assert np.abs(decoded(quiet)).max() / 32768 == pytest.approx(0.1, abs=0.03)
    assert np.abs(decoded(loud)).max() / 32768 == pytest.approx(0.5, abs=0.05)
    (tmp_path / "b.m4a").write_bytes(b"no audio")
    with pytest.raises(UnusableAudioError, match="cannot be decoded"):
        flac_of([str(tmp_path / "b.m4a")], RATE)


def test_m4a_without_its_decoder_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "c.m4a").write_bytes(b"any")
    real = builtins.__import__

    def without(name, *rest):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"c\.m4a.*vtblender_nemo\[corpora\]"):
        flac_of([str(tmp_path / "c.m4a")], RATE)


def cut_off(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("end", ["wav", "flac"])
def test_a_file_that_was_cut_off(tmp_path, end):
    """Its header promises more; a FLAC that would be taken as it is must not slip through."""
    path = tmp_path / f"a.{end}"
    write_audio(path, noise(1, 2.0))
    cut_off(path)
    if end == "wav":  # libsndfile goes by the size of the file, so there is nothing to see
        _, count = flac_of([str(path)], RATE)
        assert count < 1.1 * RATE
        return
    with pytest.raises(UnusableAudioError) as error:
        flac_of([str(path)], RATE)
    assert error.value.reason == "audio_unreadable"


@pytest.mark.parametrize(
    ("offset", "duration"), [(0.5, 0.7), (1.05, 0.04), (-0.1, 0.5), (0.2, 0.001), (0.5, -0.2), (float("nan"), 0.2)]
)
def test_parts_that_are_not_there(tmp_path, offset, duration):
    write_audio(tmp_path / "a.wav", noise(1, 1.0))
    with pytest.raises(UnusableAudioError) as error:
        flac_of([str(tmp_path / "a.wav")], RATE, offset_secs=offset, duration_secs=duration)
    assert error.value.reason == "bad_times"


def test_a_part_may_pass_the_end_as_lists_round_times(tmp_path):
    samples = write_audio(tmp_path / "a.wav", noise(1, 1.0))
    content, _ = flac_of([str(tmp_path / "a.wav")], RATE, offset_secs=0.5, duration_secs=0.55)
    np.testing.assert_array_equal(decoded(content), samples[8000:])


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0, np.int16), "audio_too_short"),
        (np.full(4000, np.nan, np.float32), "audio_unreadable"),
        (None, "audio_missing"),
        (b"text", "audio_unreadable"),
    ],
)
def test_refusals(tmp_path, samples, reason):
    path = tmp_path / "a.wav"
    if isinstance(samples, bytes):
        path.write_bytes(samples)
    elif samples is not None:
        write_audio(path, samples, subtype="FLOAT" if samples.dtype == np.float32 else "PCM_16")
    with pytest.raises(UnusableAudioError) as error:
        flac_of([str(path)], RATE)
    assert error.value.reason == reason
    assert str(path) in str(error.value)


def test_errors_keep_their_reason_between_processes(tmp_path):
    import pickle

    with pytest.raises(UnusableAudioError) as error:
        flac_of([str(tmp_path / "gone.wav")], RATE)
    assert pickle.loads(pickle.dumps(error.value)).reason == "audio_missing"
