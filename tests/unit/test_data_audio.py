"""Audio in and out of cuts, and conversations from messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from tests.helpers.corpus import RATE, write_level, write_ramp
from vtblender_nemo.common.audio import cut_from_array, cut_from_file, first_line, load_samples
from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn, from_messages, merge_same_role
from vtblender_nemo.common.errors import AudioError, DataError
from vtblender_nemo.data.lazy_audio import lazy_cut
from vtblender_nemo.data.rows import Member


def test_a_span_of_a_file_is_right_to_the_sample(tmp_path):
    ramp = write_ramp(tmp_path / "r.wav")
    cut = cut_from_file(tmp_path / "r.wav", offset_secs=0.25, duration_secs=0.5)
    np.testing.assert_array_equal(load_samples(cut, RATE), ramp[4000:12000])
    assert load_samples(cut_from_file(tmp_path / "r.wav", offset_secs=1.5), RATE).shape == (8000,)
    assert cut.id != cut_from_file(tmp_path / "r.wav").id


@pytest.mark.parametrize(
    ("offset", "duration"), [(-0.1, None), (0.0, 2.5), (1.9, 0.2), (2.0, None), (0.0, 0.0), (0.0, float("nan"))]
)
def test_a_span_outside_the_file_is_refused(tmp_path, offset, duration):
    write_ramp(tmp_path / "r.wav")
    with pytest.raises(
        AudioError, match=r"r.wav: the part asked for does not lie in the audio.*expected a part of 2.000 s"
    ):
        cut_from_file(tmp_path / "r.wav", offset_secs=offset, duration_secs=duration)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(AudioError, match=r"nowhere.wav: audio file is missing;"):
        cut_from_file(tmp_path / "nowhere.wav")
    (tmp_path / "b.wav").write_bytes(b"no audio at all")
    with pytest.raises(AudioError, match=r"b.wav: audio file cannot be opened"):
        cut_from_file(tmp_path / "b.wav")


def test_errors_of_decoders_are_one_short_line(tmp_path):
    path = tmp_path / ("long" * 50 + ".wav")
    path.write_bytes(b"no audio at all")
    member = Member("b.wav", 0, 15)
    opened = [
        lambda: cut_from_file(path),
        lambda: load_samples(lazy_cut(path, duration_secs=1.0, sampling_rate=RATE), RATE),
        lambda: lazy_cut(path, duration_secs=None, sampling_rate=RATE, member=member),
    ]
    for broken in opened:
        with pytest.raises(AudioError, match="cannot be") as caught:
            broken()
        assert "\n" not in str(caught.value)
        assert len(caught.value.problem) < 260


@pytest.mark.parametrize(
    ("said", "line"), [("", "ValueError"), ("\n a \nb", "a"), ("x" * 201, "x" * 197 + "..."), ("x" * 200, "x" * 200)]
)
def test_the_first_line_of_an_error(said, line):
    assert first_line(ValueError(said)) == line


def test_a_file_that_is_cut_off_after_its_header(tmp_path):
    sf.write(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    cut = cut_from_file(tmp_path / "a.flac")
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:3000])
    with pytest.raises(AudioError, match=r"a.flac.*audio cannot be decoded") as caught:
        load_samples(cut, RATE)
    assert "extra info" not in str(caught.value)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_any_rate_becomes_the_one_asked_for(tmp_path, rate):
    wave = np.sin(2 * np.pi * 300 * np.arange(rate) / rate)
    sf.write(tmp_path / "s.wav", wave, rate, subtype="FLOAT")
    samples = load_samples(cut_from_file(tmp_path / "s.wav"), RATE)
    assert samples.dtype == np.float32
    assert samples.shape == (RATE,)
    np.testing.assert_allclose(samples[200:-200], np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)[200:-200], atol=5e-3)


def test_channels_are_averaged(tmp_path):
    sf.write(tmp_path / "s.wav", np.stack([np.full(800, 0.2), np.full(800, 0.6)], 1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(load_samples(cut_from_file(tmp_path / "s.wav"), RATE), np.full(800, 0.4), atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0.5, -0.5] * 100), [0.5, -0.5]),
        (np.array([[0.5, 0.0] * 100, [0.0, 0.0] * 100]), [0.25, 0.0]),
        (np.array([16384, -32768] * 100, dtype=np.int16), [0.5, -1.0]),
        (np.array([2.0, -3.0] * 100, dtype=np.float32), [2.0, -3.0]),
    ],
)
def test_arrays(samples, expected):
    np.testing.assert_allclose(load_samples(cut_from_array(samples, RATE), RATE)[:2], expected, atol=1e-6)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((100, 2)), np.zeros((1, 2, 3)), np.array([0.0, np.nan])])
def test_arrays_that_are_no_audio_are_refused(samples):
    with pytest.raises(AudioError, match="audio array"):
        cut_from_array(samples, RATE)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.uint16, np.bool_, np.complex64, np.object_])
def test_arrays_of_other_types_are_not_taken_unscaled(dtype):
    with pytest.raises(
        AudioError, match=rf"wrong dtype; found '{np.dtype(dtype)}'; expected float samples .* or int16"
    ):
        cut_from_array(np.ones(100, dtype=dtype), RATE)


@pytest.mark.parametrize("rate", [0, -16000, None, "16000", True, float("nan"), float("inf"), 0.5])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(AudioError, match="expected a positive whole number of Hz.*sampling_rate"):
        cut_from_array(np.zeros(100), rate)


@pytest.mark.parametrize("rate", [16000.0, np.int64(16000), np.float32(16000)])
def test_a_rate_may_be_any_number_type(rate):
    assert cut_from_array(np.zeros(100), rate).sampling_rate == 16000


def test_messages_with_paths_arrays_and_tensors(tmp_path):
    write_level(tmp_path / "a.wav", 0.25)
    conversation = from_messages(
        [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "t"},
                    {"type": "audio", "audio": "a.wav", "duration": 0.1},
                    {"type": "audio", "audio": np.full(1600, 0.5), "sampling_rate": RATE, "offset": 0.02},
                    {"type": "audio", "audio": torch.full((800,), 0.75), "sampling_rate": RATE},
                ],
            },
        ],
        id="x",
        base_dir=tmp_path,
    )
    waves = [load_samples(audio.cut, RATE) for audio in conversation.audios]
    assert [(len(wave), round(float(wave[0]), 3)) for wave in waves] == [(1600, 0.25), (1280, 0.5), (800, 0.75)]
    assert conversation.audio_secs == pytest.approx(0.23)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "user"}, "without role or content"),
        ({"role": "bot", "content": "x"}, "unknown role.*system, user, assistant"),
        ({"role": "user", "content": 5}, "neither text nor a list"),
        ({"role": "user", "content": [{"type": "image"}]}, "unknown part"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "unknown part"),
        ({"role": "user", "content": [{"type": "audio"}]}, "unknown part"),
        ({"role": "user", "content": [{"type": "audio", "audio": np.zeros(5)}]}, "without its rate"),
        ({"role": "user", "content": [{"type": "audio", "audio": 5}]}, "neither a path nor samples"),
        ({"role": "user", "content": [{"type": "audio", "audio": [0.1, 0.2]}]}, "neither a path nor samples"),
        (
            {"role": "user", "content": [{"type": "audio", "audio": "a.wav", "offset": "1"}]},
            "offset of an audio is no number",
        ),
    ],
)
def test_messages_that_are_none(message, error):
    with pytest.raises(DataError, match=error):
        from_messages([message])


def test_neighbours_of_one_role_are_joined():
    parts = [Text("a"), Audio(cut_from_array(np.zeros(100), RATE)), Text("b")]
    turns = merge_same_role([*(Turn("user", (part,)) for part in parts), Turn("assistant", (Text("c"),))])
    assert turns == (Turn("user", tuple(parts)), Turn("assistant", (Text("c"),)))


def test_the_reference_is_the_last_answer():
    user, answer = Turn("user", (Text("a"),)), Turn("assistant", (Text("b"),))
    assert Conversation("x", (user, answer)).reference == "b"
    for turns in ((user,), ()):
        with pytest.raises(DataError, match="no final answer; found 'x'"):
            _ = Conversation("x", turns).reference


def test_relative_paths_start_from_the_working_directory(tmp_path, monkeypatch):
    write_level(tmp_path / "a.wav", 0.25)
    monkeypatch.chdir(tmp_path)
    messages = [{"role": "user", "content": [{"type": "audio", "audio": Path("a.wav")}]}]
    assert from_messages(messages).audio_secs == 0.5
