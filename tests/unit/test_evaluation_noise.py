from __future__ import annotations

import numpy as np
import pytest

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.evaluation.noise import SAMPLING_RATE, SOUNDS, NoiseConfig, make_sound, noise_items


def power_between(samples: np.ndarray, low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
    return float(power[(frequencies >= low_hz) & (frequencies < high_hz)].sum())


@pytest.mark.parametrize("sound", SOUNDS)
def test_sounds_have_length_level_and_repeat(sound):
    samples = make_sound(sound, 1.5, level_dbfs=-30, seed=[1])
    assert (samples.shape, samples.dtype) == ((24000,), np.float32)
    rms = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    assert rms == pytest.approx(0 if sound == "silence" else 10 ** (-30 / 20), rel=1e-3)
    assert np.array_equal(samples, make_sound(sound, 1.5, level_dbfs=-30, seed=[1]))
    if sound != "silence":
        assert not np.array_equal(samples, make_sound(sound, 1.5, level_dbfs=-30, seed=[2]))


def test_colours_of_noise():
    white, pink = (make_sound(sound, 20, level_dbfs=-30, seed=[0]) for sound in ("white", "pink"))
    # an octave higher is twice as wide: white noise has twice the power there, pink noise as much as below
    assert power_between(white, 1000, 2000) / power_between(white, 500, 1000) == pytest.approx(2, rel=0.1)
    assert power_between(pink, 1000, 2000) / power_between(pink, 500, 1000) == pytest.approx(1, rel=0.1)


def test_hum_lies_at_the_mains_and_its_overtones():
    hum = make_sound("hum", 2, level_dbfs=-30, seed=[0])
    tones = sum(power_between(hum, 50 * n - 1, 50 * n + 1) for n in range(1, 9))
    assert tones / power_between(hum, 0, 8000) > 0.999
    assert power_between(hum, 49, 51) / power_between(hum, 99, 101) == pytest.approx(4, rel=0.01)


def test_items_are_every_sound_length_and_repeat():
    config = NoiseConfig(sounds=["white", "silence"], secs=[0.5, 1.0], repeats=2)
    items = noise_items(config, prompt="Transcribe:", task="noise")
    assert len(items) == 8
    assert [item.custom["noise"] for item in items] == ["white"] * 4 + ["silence"] * 4
    assert {item.reference for item in items} == {""}
    assert len({item.id for item in items}) == 8
    assert items[0].conversation.turns[0].parts[0].text == "Transcribe:"
    heard = [load_samples(item.conversation.audios[0].cut, SAMPLING_RATE) for item in items]
    assert [len(samples) for samples in heard] == [8000, 8000, 16000, 16000] * 2
    assert not np.array_equal(heard[0], heard[1])
    assert np.array_equal(
        heard[0], load_samples(noise_items(config, prompt="", task="n")[0].conversation.audios[0].cut, 16000)
    )
    assert not heard[4].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sounds": ["brown"]}, "found 'brown'; expected one of silence, white, pink, hum.*noise.sounds"),
        ({"sounds": []}, "no sounds"),
        ({"secs": [0.0]}, "lengths out of range"),
        ({"secs": [float("nan")]}, "lengths out of range"),
        ({"level_dbfs": 0.0}, "level out of range"),
        ({"repeats": 0}, "too few repeats"),
    ],
)
def test_wrong_settings(change, message):
    with pytest.raises(ConfigError, match=message):
        NoiseConfig(**change).check("tasks.noise.noise")
