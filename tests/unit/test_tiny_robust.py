"""What the tiny encoder hears in rooms, through noise and by other throats."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.waveforms import LowerRate
from vtblender_nemo.tiny import heard as hearing
from vtblender_nemo.tiny.encoder import set_dropout
from vtblender_nemo.tiny.heard import Listener, Warp, heard_features
from vtblender_nemo.tiny.noise import coloured_noise, with_noise, write_noises

SETTINGS = {"speed": {"prob": 1.0, "factors": [0.8]}, "noise": {"prob": 1.0, "snr": [10, 10]}}


def tone(path, secs=0.5, hz=440.0):
    samples = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(secs * 16000)) / 16000)
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "noise"
    write_noises(folder, seed=0)
    return folder


def test_noises_differ_and_are_the_same_for_one_seed(noises, tmp_path):
    files = sorted(noises.iterdir())
    assert len(files) == 24
    first, second = (soundfile.read(file)[0] for file in files[:2])
    assert len(first) == 160_000
    assert 0.8 < np.abs(first).max() < 1
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    write_noises(tmp_path / "again", seed=0)
    assert (tmp_path / "again" / files[0].name).read_bytes() == files[0].read_bytes()


def test_noise_has_the_level_and_the_colour_asked_for():
    rng = np.random.default_rng(0)
    speech = np.ones(16000)
    added = with_noise(rng, speech, 20.0, 0.0) - speech
    assert np.mean(added**2) == pytest.approx(0.01, rel=1e-6)
    power = np.abs(np.fft.rfft(coloured_noise(rng, 160_000, 2.0))) ** 2
    low, high = power[5_000:10_000].mean(), power[20_000:40_000].mean()  # 0.5 to 1 kHz, 2 to 4 kHz
    assert low / high == pytest.approx(16, rel=0.1)  # two octaves of 6 dB


def test_every_copy_is_heard_another_way_and_the_same_again(noises, tmp_path):
    file, listener = tone(tmp_path / "tone.wav"), Listener(SETTINGS, noises, seed=0)
    one, other = listener.hear(file, 0), listener.hear(file, 1)
    assert one.dtype == torch.float32
    assert len(one) == 10_000  # 0.5 s at 0.8 of the speed
    assert not torch.equal(one, other)
    assert torch.equal(one, Listener(SETTINGS, noises, seed=0).hear(file, 0))
    spectrum = np.abs(np.fft.rfft(one.numpy()))
    assert np.argmax(spectrum) * 16000 / len(one) == pytest.approx(352, abs=3)  # 440 Hz at 0.8 of the speed


def test_effects_that_training_would_not_take_are_refused(noises):
    with pytest.raises(ConfigError, match=r"tiny\.encoder\.augment.*echo"):
        Listener({"echo": {"prob": 1.0}}, noises, seed=0)


def test_features_come_file_after_file(monkeypatch, tmp_path):
    monkeypatch.setattr(hearing, "_CHUNK", 2)
    monkeypatch.setattr(hearing, "features_of", lambda _, audios: [torch.tensor([len(audio)]) for audio in audios])
    files = [tone(tmp_path / f"{index}.wav", secs=0.1 * (index + 1)) for index in range(3)]
    listener = Listener({}, tmp_path, seed=0)
    made = [[int(one) for one in copies] for copies in heard_features(torch.nn.Identity(), files, 2, listener)]
    assert made == [[1600, 1600], [3200, 3200], [4800, 4800]]


def test_no_warp_leaves_features_as_they_are():
    features, frames = torch.randn(2, 80, 64), torch.tensor([64, 40])
    features[1, :, 40:] = 0
    warped, warped_frames = Warp(0.0, 0.0)(features, frames)
    torch.testing.assert_close(warped, features, atol=1e-4, rtol=0)
    assert warped_frames.tolist() == [64, 40]


def test_a_warp_moves_bands_and_frames(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda count: torch.ones(count))  # the largest change
    features = torch.arange(80.0)[:, None] + 100 * torch.arange(32.0)
    features = torch.nn.functional.pad(features, (0, 32))[None]
    warped, frames = Warp(float(np.log(2)), float(np.log(1.5)))(features, torch.tensor([32]))
    assert frames.tolist() == [48]
    assert warped[0, 10, 0].item() == pytest.approx(20, abs=0.01)  # band 10 takes what was in band 20
    assert warped[0, 60, 0].item() == pytest.approx(79, abs=0.01)  # there is nothing above the last band
    assert warped[0, 0, 30].item() == pytest.approx(2000, abs=0.1)  # frame 30 was frame 20
    assert not warped[0, :, 48:].any()


def test_a_warp_never_leaves_its_batch(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda count: torch.ones(count))
    _, frames = Warp(0.0, 1.0)(torch.zeros(1, 80, 64), torch.tensor([60]))
    assert frames.tolist() == [64]


def test_dropout_is_set_in_the_layers_alone():
    encoder = torch.nn.Module()
    encoder.layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.0))
    encoder.before = torch.nn.Dropout(0.3)
    set_dropout(encoder, 0.1)
    assert (encoder.layers[1].p, encoder.before.p) == (0.1, 0.3)


def test_a_lower_rate_keeps_what_lies_below_half_of_it():
    time = np.arange(16000) / 16000
    low, high = np.sin(2 * np.pi * 1000 * time), np.sin(2 * np.pi * 6000 * time)
    narrow = LowerRate(8000)((low + high)[None].astype(np.float32), 16000)[0]
    assert narrow.shape == low.shape
    spectrum = np.abs(np.fft.rfft(narrow)) / 8000
    assert spectrum[1000] == pytest.approx(1, abs=0.02)
    assert spectrum[6000] < 0.01
    same = np.ones((1, 10), np.float32)
    assert LowerRate(16000)(same, 16000) is same
