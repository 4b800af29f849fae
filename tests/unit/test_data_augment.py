"""What augmentation does to waveforms."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.corpus import RATE, write_jsonl
from tests.helpers.waves import augmenter, band_db, heard, hiss, snr_db, spoken, tone, write
from vtblender_nemo.common.conversation import Conversation, Text, Turn
from vtblender_nemo.data.waveforms import RandomRoom, TelephoneLine


@pytest.mark.parametrize("noise_secs", [5.0, 0.3])
@pytest.mark.parametrize("noise_rate", [RATE, 44100])
def test_noise_has_the_drawn_ratio(tmp_path, noise_secs, noise_rate):
    write(tmp_path / "noise" / "a.wav", hiss(noise_secs, noise_rate), noise_rate)
    clean = tone(1.234, 440)
    found = augmenter(noise={"prob": 1.0, "folder": str(tmp_path / "noise"), "snr": [7, 13]})(
        spoken(clean), random.Random(3)
    )
    (mixed,) = heard(found)
    assert mixed.shape == clean.shape
    wanted = found.custom["augment"]["noise"]["snr"]
    assert 7 <= wanted <= 13
    assert snr_db(mixed, clean) == pytest.approx(wanted, abs=0.15)
    end = (mixed - clean)[-2000:]
    assert np.sqrt(np.mean(end**2)) > 0.3 * np.sqrt(np.mean((mixed - clean) ** 2)), "noise lasts to the end"


def test_noise_from_a_manifest_keeps_to_its_part(tmp_path):
    wave = np.concatenate([tone(1, 5000), tone(1, 3000), tone(1, 5000)])
    write(tmp_path / "n.wav", wave)
    rows = [{"audio_filepath": "n.wav", "offset": 1.0, "duration": 1.0}]
    path = write_jsonl(tmp_path / "noise.jsonl", rows)
    clean = tone(0.5, 300)
    effect = augmenter(noise={"prob": 1.0, "manifest_filepath": path, "snr": [0, 0]})
    for seed in range(5):
        (mixed,) = heard(effect(spoken(clean), random.Random(seed)))
        assert band_db(mixed, 2900, 3100) > 20 + band_db(mixed, 4900, 5100)


def test_audios_of_one_conversation_get_one_condition(tmp_path):
    write(tmp_path / "a.wav", hiss(8))
    effect = augmenter(
        noise={"prob": 1.0, "folder": str(tmp_path), "snr": [0, 30]}, speed={"prob": 1.0, "factors": [0.8, 0.9, 1.1]}
    )
    for seed in range(5):
        found = effect(spoken(tone(1, 500), tone(1, 500)), random.Random(seed))
        first, second = heard(found)
        assert len(first) == len(second) == round(RATE / found.custom["augment"]["speed"]["factor"])
        assert not np.array_equal(first, second), "but not the same stretch of noise"


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.37])
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_speed_changes_length_and_pitch(factor, rate):
    found = augmenter(speed={"prob": 1.0, "factors": [factor]})(
        spoken(tone(1.5, 1000, rate=rate), rate=rate), random.Random(0)
    )
    (wave,) = heard(found)
    assert len(wave) == pytest.approx(1.5 * RATE / factor, abs=2)
    assert found.audio_secs == pytest.approx(1.5 / factor, abs=1e-3)
    peak = np.argmax(np.abs(np.fft.rfft(wave))) * RATE / len(wave)
    assert peak == pytest.approx(1000 * factor, abs=2)


def test_reverberation_by_a_recorded_response(tmp_path):
    response = np.zeros(4000, np.float32)
    response[[100, 100 + 1600]] = 1.0, 0.5  # an echo after 0.1 s
    write(tmp_path / "rir" / "r.wav", response)
    click = np.zeros(RATE, np.float32)
    click[5000] = 0.5
    (wave,) = heard(augmenter(reverb={"prob": 1.0, "folder": str(tmp_path / "rir")})(spoken(click), random.Random(0)))
    assert np.argmax(np.abs(wave)) == 5000, "the direct sound stays where it was"
    assert wave[6600] / wave[5000] == pytest.approx(0.5, abs=1e-3)
    rest = wave.copy()
    rest[[5000, 6600]] = 0
    assert np.abs(rest).max() < 1e-3
    assert np.sum(wave**2) == pytest.approx(np.sum(click**2), rel=1e-3), "its energy too"


@pytest.mark.parametrize("t60", [0.2, 0.7])
def test_generated_rooms_decay_as_asked(t60):
    response = RandomRoom(seed=1, t60_secs=t60, direct_to_echo_db=3.0, rate=RATE)()[0]
    assert np.argmax(np.abs(response)) == 0
    assert response[0] == 1.0
    assert 10 * np.log10(1 / np.sum(response[1:] ** 2)) == pytest.approx(3.0, abs=0.2)
    decay = 10 * np.log10(np.cumsum(response[:0:-1] ** 2)[::-1] + 1e-12)  # Schroeder's backward integral
    times = np.arange(len(decay)) / RATE
    middle = (decay < decay[0] - 5) & (decay > decay[0] - 25)
    slope = np.polyfit(times[middle], decay[middle], 1)[0]
    assert -60 / slope == pytest.approx(t60, rel=0.1)


def test_a_generated_room_is_heard():
    burst = np.concatenate([tone(0.3, 700), np.zeros(RATE, np.float32)])
    (wave,) = heard(
        augmenter(reverb={"prob": 1.0, "t60": [0.5, 0.5], "direct_to_echo": [0, 0]})(spoken(burst), random.Random(0))
    )
    assert len(wave) == len(burst)
    after = wave[round(0.35 * RATE) :]
    assert np.sqrt(np.mean(after[: RATE // 10] ** 2)) > 5e-3, "it sounds on after the burst"
    assert np.sqrt(np.mean(after[-RATE // 10 :] ** 2)) < 1e-3, "and falls silent"


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_a_telephone_passes_its_band_alone(rate):
    wave = tone(2.0, 100, 1000, 6000, rate=rate)
    (out,) = heard(augmenter(telephone={"prob": 1.0})(spoken(wave, rate=rate), random.Random(0)))
    (plain,) = heard(spoken(wave, rate=rate))
    assert len(out) == len(plain)
    assert band_db(plain, 4000, 8000) - band_db(out, 4000, 8000) > 30
    assert band_db(plain, 50, 150) - band_db(out, 50, 150) > 20
    assert band_db(out, 900, 1100) == pytest.approx(band_db(plain, 900, 1100), abs=1.0)
    levels = len(np.unique(TelephoneLine()(hiss(1.0, 8000)[None], 8000)))
    assert 100 < levels <= 255, "8 bits"


def on_the_phone(tmp_path: Path, *clean: float, noise: tuple[float, ...], snr: float) -> np.ndarray:
    """What is heard of tones of 1.5 s with tones as noise, in pieces, through a telephone line."""
    write(tmp_path / "a.wav", tone(0.7, *noise))
    effects = {"noise": {"prob": 1.0, "folder": str(tmp_path), "snr": [snr, snr]}, "telephone": {"prob": 1.0}}
    (out,) = heard(augmenter(**effects)(spoken(tone(1.5, *clean)), random.Random(0)))
    return out


def test_the_line_is_the_last_that_is_heard(tmp_path):
    out = on_the_phone(tmp_path, 1000, noise=(100,), snr=0)
    assert band_db(out, 900, 1100) - band_db(out, 50, 150) > 25, "noise outside the band does not come through"


@pytest.mark.parametrize(("noise", "inside_db"), [((2000,), 0.0), ((100, 2000), 3.0), ((2000, 6000), 3.0)])
def test_the_ratio_is_that_before_the_line(tmp_path, noise, inside_db):
    out = on_the_phone(tmp_path, 1000, noise=noise, snr=7)
    ratio_db = band_db(out, 900, 1100) - band_db(out, 1900, 2100)
    assert ratio_db == pytest.approx(7 + inside_db, abs=0.5), "half of the noise is lost in the line"
    assert band_db(out, 300, 3400) - band_db(out, 4000, 8000) > 30


def test_the_line_hears_the_mix_at_once(tmp_path):
    """Its 8 bits are the mix's: those of speech and noise apart would make more levels."""
    write(tmp_path / "a.wav", hiss(2))
    noise, speech = {"prob": 1.0, "folder": str(tmp_path)}, spoken(tone(1, 1000))
    (mixed,) = heard(augmenter(noise=noise)(speech, random.Random(0)))
    (passed,) = heard(augmenter(noise=noise, telephone={"prob": 1.0})(speech, random.Random(0)))
    np.testing.assert_array_equal(passed, TelephoneLine()(mixed[None], RATE)[0])


def test_one_channel_of_a_response_is_drawn(tmp_path):
    left, right = np.zeros(4000, np.float32), np.zeros(4000, np.float32)
    left[[0, 800]], right[[0, 2400]] = (1.0, 0.5), (1.0, 0.5)  # echoes after 0.05 and 0.15 s
    write(tmp_path / "r.wav", np.stack([left, right], 1))
    click = np.zeros(8000, np.float32)
    click[1000] = 0.5
    effect = augmenter(reverb={"prob": 1.0, "folder": str(tmp_path)})
    seen = []
    for seed in range(40):
        (wave,) = heard(effect(spoken(click), random.Random(seed)))
        echo = np.flatnonzero(np.abs(wave) > 0.05 * np.abs(wave).max())
        assert len(echo) == 2, "a response of one channel, not of several"
        assert wave[echo[1]] / wave[1000] == pytest.approx(0.5, abs=1e-3)
        seen.append(int(echo[1] - 1000))
        np.testing.assert_array_equal(heard(effect(spoken(click), random.Random(seed)))[0], wave)
    assert set(seen) == {800, 2400}
    assert 8 <= seen.count(800) <= 32


@given(samples=st.integers(1600, 40_000), factor=st.sampled_from([0.85, 0.9, 1.0, 1.1, 1.23]), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_effects_together_keep_the_length_that_was_said(tmp_path, samples, factor, seed):
    noise = tmp_path / "noise" / "n.wav"
    if not noise.exists():
        write(noise, hiss(0.777))
    effects = {
        "speed": {"prob": 0.7, "factors": [factor]},
        "reverb": {"prob": 0.7},
        "noise": {"prob": 0.7, "folder": str(tmp_path / "noise")},
        "telephone": {"prob": 0.7},
    }
    found = augmenter(**effects)(spoken(hiss(samples / RATE, seed=seed)), random.Random(seed))
    (wave,) = heard(found)
    assert len(wave) == round(found.audios[0].duration_secs * RATE)
    assert np.isfinite(wave).all()


def test_the_share_is_the_probability_and_effects_are_drawn_apart():
    effects = {"telephone": {"prob": 0.3}, "speed": {"prob": 0.5}}
    conversation = spoken(tone(0.2, 500))
    drawn = [augmenter(**effects)(conversation, random.Random(seed)).custom.get("augment", {}) for seed in range(2000)]
    line, speed, both = (
        sum(name in one for one in drawn) / 2000
        if isinstance(name, str)
        else sum(len(one) == 2 for one in drawn) / 2000
        for name in ("telephone", "speed", 2)
    )
    assert line == pytest.approx(0.3, abs=0.05)  # 5 standard deviations
    assert speed == pytest.approx(0.5, abs=0.056)
    assert both == pytest.approx(0.15, abs=0.04)
    alone = [augmenter(telephone={"prob": 0.3})(conversation, random.Random(seed)).custom for seed in range(200)]
    for one, other in zip(drawn, alone, strict=False):
        assert ("telephone" in one) == ("augment" in other), "an effect before it changes nothing of it"


def test_text_alone_stays_as_it_is():
    chat = Conversation("x", (Turn("user", (Text("a"),)), Turn("assistant", (Text("b"),))))
    assert augmenter(telephone={"prob": 1.0})(chat, random.Random(0)) is chat
