"""Every speech engine, and the blend of them."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from scipy.stats import chisquare

from tests.helpers.corpora import librispeech
from tests.helpers.speech_server import SpeechServer, speech_server, tone
from vtblender_nemo.common.errors import ConfigError, MissingDependencyError
from vtblender_nemo.corpora.prepare import Options, prepare
from vtblender_nemo.corpora.shards import Format
from vtblender_nemo.synthesis.llm.endpoint import EndpointError
from vtblender_nemo.synthesis.tts.base import SAMPLE_RATE, Speech, SpeechRequest, resampled
from vtblender_nemo.synthesis.tts.blend import read_blend
from vtblender_nemo.synthesis.tts.espeak import EspeakConfig
from vtblender_nemo.synthesis.tts.flite import FliteConfig
from vtblender_nemo.synthesis.tts.openai_speech import OpenAISpeechConfig
from vtblender_nemo.synthesis.tts.recordings import RecordingsConfig
from vtblender_nemo.synthesis.work import Refused

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="apt install flite")
TEXTS = ["Hello there.", "What is the weather like today?", "One, two, three."]


def requests(texts=TEXTS) -> list[SpeechRequest]:
    return [SpeechRequest(text, seed) for seed, text in enumerate(texts)]


def check_speech(speech: Speech) -> None:
    assert isinstance(speech, Speech), speech
    assert speech.samples.dtype == np.float32
    assert speech.samples.ndim == 1
    assert 0.2 < len(speech.samples) / SAMPLE_RATE < 10
    assert 0.01 < np.abs(speech.samples).max() <= 1


def same(left: list[Speech], right: list[Speech]) -> bool:
    return all(a.voice == b.voice and np.array_equal(a.samples, b.samples) for a, b in zip(left, right, strict=True))


OFFLINE = [
    pytest.param(EspeakConfig(), id="espeak"),
    pytest.param(FliteConfig(), id="flite", marks=needs_flite),
]


@pytest.mark.parametrize("config", OFFLINE)
def test_offline_engines_speak(config):
    engine = config.open("en")
    speeches = engine.speak(requests())
    for speech in speeches:
        check_speech(speech)
    assert len(speeches[1].samples) > 1.3 * len(speeches[0].samples)
    assert engine.model.split()[1][0].isdigit()


@pytest.mark.parametrize("config", OFFLINE)
def test_speech_depends_on_the_request_alone(config):
    engine = config.open("en")
    together = engine.speak(requests())
    backwards = engine.speak(requests()[::-1])[::-1]
    alone = [config.open("en").speak([request])[0] for request in requests()]
    assert same(together, backwards)
    assert same(together, alone)


@pytest.mark.parametrize("config", OFFLINE)
def test_voices_are_drawn(config):
    engine = config.open("en")
    speeches = engine.speak([SpeechRequest("Hello there.", seed) for seed in range(8)])
    assert len({speech.voice for speech in speeches}) > 4
    assert len({speech.voice.split()[0] for speech in speeches}) > 2
    assert len({speech.samples.tobytes() for speech in speeches}) > 4


def test_espeak_draws_within_its_settings():
    config = EspeakConfig(accents=["en-gb"], variants=["f2"], rate_wpm=[180, 180], pitch=[40, 40])
    assert config.open("en").speak(requests())[0].voice == "en-gb+f2 180 wpm, pitch 40"
    assert EspeakConfig().open("de").speak(requests())[0].voice.startswith("de+")


def test_espeak_refuses_what_makes_no_sound():
    assert EspeakConfig().open("en").speak([SpeechRequest("...", 0)])[0].reason == "not_spoken"


@needs_flite
def test_flite_says_texts_that_look_like_options():
    check_speech(FliteConfig().open("en").speak([SpeechRequest("--help", 0)])[0])


@needs_flite
def test_flites_voice_of_8_khz_takes_as_long_as_that_of_16():
    lengths = [
        len(FliteConfig(voices=[voice], stretch=[1.0, 1.0]).open("en").speak(requests()[1:2])[0].samples)
        for voice in ("kal", "kal16")
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.1)


def test_flite_names_its_package_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="apt install flite"):
        FliteConfig().open("en")


@needs_flite
def test_flite_names_the_voices_it_has():
    with pytest.raises(ConfigError, match="slt"):
        FliteConfig(voices=["hal"]).open("en")
    with pytest.raises(ConfigError, match="English"):
        FliteConfig().open("de")


def test_samples_are_resampled_and_kept_in_range():
    time = np.arange(44_100) / 44_100
    made = resampled(1.2 * np.sin(2 * np.pi * 440 * time), 44_100)
    assert len(made) == SAMPLE_RATE
    assert np.abs(made).max() == 1
    spectrum = np.abs(np.fft.rfft(made))
    assert spectrum.argmax() == 440


# A server


@pytest.fixture
def server():
    with speech_server() as running:
        yield running


def openai_engine(server: SpeechServer, **config):
    pytest.importorskip("openai")
    values = {"model": "small-tts", "voices": ["alloy", "nova"], "base_url": server.url, "retries": 3, **config}
    return OpenAISpeechConfig(**values).open("en")


def test_a_server_is_asked_for_speech(server, monkeypatch):
    monkeypatch.setenv("SPEECH_KEY", "secret")
    engine = openai_engine(server, api_key_env="SPEECH_KEY", concurrency=2)
    speeches = engine.speak(requests())
    for request, speech in zip(requests(), speeches, strict=True):
        check_speech(speech)
        np.testing.assert_allclose(speech.samples, resampled(tone(speech.voice, request.text), 24_000), atol=2e-4)
    assert {asked["path"] for asked in server.asked} == {"/v1/audio/speech"}
    assert {asked["model"] for asked in server.asked} == {"small-tts"}
    assert sorted(asked["input"] for asked in server.asked) == sorted(TEXTS)
    assert set(server.keys) == {"Bearer secret"}
    assert engine.model == "small-tts"


def test_a_busy_server_is_asked_again(server):
    server.busy = 2
    for speech in openai_engine(server, concurrency=1).speak(requests()):
        check_speech(speech)
    assert len(server.asked) == 5


def test_a_text_that_the_server_refuses_costs_the_others_nothing(server):
    server.faults = {TEXTS[1]: 400}
    first, second, third = openai_engine(server).speak(requests())
    check_speech(first)
    check_speech(third)
    assert second.reason == "not_spoken"


def test_a_server_that_refuses_every_text_stops_the_job(server):
    texts = [f"text {number}" for number in range(40)]
    server.faults = dict.fromkeys(texts, 400)
    with pytest.raises(EndpointError, match="voices"):
        openai_engine(server).speak(requests(texts))
    engine = openai_engine(server, concurrency=1)
    check_speech(engine.speak(requests())[0])
    assert {refused.reason for refused in engine.speak(requests(texts))} == {"not_spoken"}


def test_an_answer_that_is_no_audio_is_refused(server):
    assert openai_engine(server).speak([SpeechRequest("noise", 0)])[0].reason == "not_spoken"


def test_a_server_that_cannot_be_used_stops_the_job(server):
    server.faults = dict.fromkeys(TEXTS, 401)
    with pytest.raises(EndpointError, match="api_key_env"):
        openai_engine(server).speak(requests())
    with pytest.raises(EndpointError, match="base_url"):
        openai_engine(server, base_url="http://127.0.0.1:9/v1", retries=0).speak(requests())


def test_speed_is_drawn_within_its_range(server):
    openai_engine(server, speed=[0.8, 1.2]).speak([SpeechRequest("Hello.", seed) for seed in range(8)])
    speeds = [asked["speed"] for asked in server.asked]
    assert len(set(speeds)) > 4
    assert all(0.8 <= speed <= 1.2 for speed in speeds)


# Recordings


def write_recordings(folder: Path, rows: list[dict]) -> str:
    for number, row in enumerate(rows):
        if "audio_filepath" not in row:
            row["audio_filepath"] = f"{number}.wav"
            sf.write(folder / f"{number}.wav", np.full(8000, (number + 1) / 100, np.float32), 16_000, subtype="FLOAT")
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(manifest)


def test_recordings_are_found_by_what_is_said(tmp_path):
    manifest = write_recordings(
        tmp_path, [{"text": "it costs twenty dollars"}, {"text": "GOOD MORNING", "speaker": "7"}]
    )
    engine = RecordingsConfig([manifest]).open("en")
    assert engine.selective
    assert engine.knows("Good morning!")
    assert engine.knows("Good morning...")
    assert engine.knows("It costs $20.")
    assert not engine.knows("Good evening.")
    cost, morning, none = engine.speak(requests(["It costs $20.", "Good morning!", "Good evening."]))
    assert cost.samples == pytest.approx(np.full(8000, 0.01, np.float32))
    assert morning.samples == pytest.approx(np.full(8000, 0.02, np.float32))
    assert morning.voice == "7"
    assert morning.provenance == {"recording": {"audio_filepath": "1.wav"}}
    assert none.reason == "no_recording"


def test_of_several_recordings_of_one_text_one_is_drawn(tmp_path):
    manifest = write_recordings(tmp_path, [{"text": "yes"}, {"text": "Yes."}, {"text": "no"}])
    engine = RecordingsConfig([manifest]).open("en")
    speeches = engine.speak([SpeechRequest("Yes!", seed) for seed in range(20)])
    assert {round(float(speech.samples[0]), 2) for speech in speeches} == {0.01, 0.02}
    assert same(speeches, engine.speak([SpeechRequest("Yes!", seed) for seed in range(20)]))


def test_a_recording_is_a_part_of_a_file_where_its_row_says_so(tmp_path):
    sf.write(tmp_path / "long.wav", (np.arange(32_000) / 100_000).astype(np.float32), 16_000, subtype="FLOAT")
    manifest = write_recordings(
        tmp_path, [{"audio_filepath": "long.wav", "offset": 0.5, "duration": 0.25, "text": "part"}]
    )
    (part,) = RecordingsConfig([manifest]).open("en").speak(requests(["part"]))
    assert part.samples == pytest.approx(np.arange(8000, 12_000) / 100_000)
    assert part.provenance == {"recording": {"audio_filepath": "long.wav", "offset": 0.5, "duration": 0.25}}


def test_rows_that_cannot_be_used_are_left_out_of_the_index_and_told(tmp_path, caplog):
    bad = [{"text": "no", "duration": 50.0}, {"text": "..."}, {"audio_filepath": "x.wav"}, {"text": "a", "offset": "1"}]
    manifest = write_recordings(tmp_path, [{"text": "yes"}, *bad])
    with Path(manifest).open("a") as file:
        file.write("{broken\n")
    engine = RecordingsConfig([manifest]).open("en")
    assert engine.knows("yes")
    assert not engine.knows("no")
    assert not engine.knows("a")
    assert "5 of 6 recordings cannot be read, have no text, or are longer than 40.0 s" in caplog.text


def test_recordings_none_of_which_can_be_used(tmp_path):
    with pytest.raises(ConfigError, match=r"no recording can be used; found '2 rows'.*40.0 s.*manifests"):
        RecordingsConfig([write_recordings(tmp_path, [{"text": "no", "duration": 50.0}, {"text": "..."}])]).open("en")


def test_a_recording_whose_audio_is_missing_is_refused(tmp_path):
    manifest = write_recordings(tmp_path, [{"text": "gone", "audio_filepath": "gone.wav", "duration": 1.0}])
    (refused,) = RecordingsConfig([manifest]).open("en").speak(requests(["gone"]))
    assert isinstance(refused, Refused)
    assert refused.reason == "bad_recording"
    assert "manifest.jsonl:1" in refused.detail


def test_recordings_may_lie_in_tars(tmp_path):
    import tarfile

    manifest = write_recordings(tmp_path, [{"text": "in a tar"}])
    with tarfile.open(tmp_path / "audio.tar", "w") as tar:
        tar.add(tmp_path / "0.wav", "0.wav")
    (tmp_path / "0.wav").unlink()
    config = RecordingsConfig([manifest], tars=[str(tmp_path / "audio.tar")])
    config.check("engines[0]")
    (speech,) = config.open("en").speak(requests(["in a tar"]))
    assert speech.samples == pytest.approx(np.full(8000, 0.01, np.float32), abs=1e-4)


@pytest.mark.parametrize("format", list(Format))
def test_recordings_may_be_a_prepared_corpus(tmp_path, format):
    """Several shards of it, whose tars' members have to be found each in its own."""
    samples = librispeech(tmp_path / "corpus", parts=["train-clean-5"])
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options(format=format, rows_per_shard=1))
    config = RecordingsConfig([str(tmp_path / "out/input_cfg.yaml")])
    config.check("engines[0]")
    engine, texts = config.open("en"), [f"Hello, number {id[-1]}!" for id in samples]
    for spoken, text, written in zip(engine.speak(requests(texts)), texts, samples.values(), strict=True):
        assert engine.knows(text)
        assert spoken.samples == pytest.approx(written / 32_768, abs=1e-4)
        assert spoken.provenance["recording"]["duration"] == len(written) / 16_000


def test_recordings_that_cannot_be_opened_name_their_own_flag(tmp_path):
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"id": "a", "messages": []}\n')
    with pytest.raises(ConfigError, match=r"no row of speech.*engines\[1\].manifests, or --recordings"):
        RecordingsConfig([str(chats)]).check("engines[1]")
    manifest = write_recordings(tmp_path, [{"text": "a"}])
    (tmp_path / "a.tar").touch()
    tars = [str(tmp_path / "a.tar")] * 2
    with pytest.raises(ConfigError, match=r"shard_id|engines\[1\].tars"):
        RecordingsConfig([manifest, manifest, manifest], tars).check("engines[1]")


# Blends


def test_engines_of_a_blend_are_drawn_by_weight():
    blend = read_blend([{"type": "espeak", "weight": 3}, {"type": "espeak", "name": "fast", "rate_wpm": [300, 300]}])
    rng = random.Random(0)
    seen = Counter(blend.draw(rng) for _ in range(10_000))
    assert chisquare([seen["espeak"], seen["fast"]], [7500, 2500]).pvalue > 1e-3


def test_settings_of_a_blend_hold_what_decides_the_speech_and_no_more(tmp_path):
    manifest = write_recordings(tmp_path, [{"text": "yes"}])
    blend = read_blend(
        [
            {"type": "openai", "weight": 2, "model": "m", "voices": ["v"], "base_url": "http://here", "retries": 1},
            {"type": "recordings", "manifests": [manifest]},
        ]
    )
    settings = pickle.loads(pickle.dumps(blend)).settings()
    assert settings["openai"] == {"type": "openai", "weight": 2.0, "model": "m", "voices": ["v"], "speed": [1.0, 1.0]}
    digest = settings["recordings"]["manifests_digest"]
    assert set(settings["recordings"]) == {"type", "weight", "max_secs", "manifests_digest"}
    write_recordings(tmp_path, [{"text": "no"}])
    assert blend.settings()["recordings"]["manifests_digest"] != digest
    json.dumps(settings)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "no speech engine"),
        ("espeak", "no list"),
        ([{"type": "gramophone"}], "flite, nemo, openai, recordings"),
        ([{"type": "espeak"}, {"type": "espeak"}], "two engines of one name"),
        ([{"type": "espeak", "weight": 0}], "weight"),
        ([{"type": "espeak", "weight": "much"}], r"engines\[0\].weight"),
        ([{"type": "espeak", "speed": 1}], r"engines\[0\].speed"),
        ([{"type": "espeak", "pitch": [50]}], r"engines\[0\].pitch"),
        ([{"type": "espeak", "rate_wpm": [200, 100]}], r"engines\[0\].rate_wpm"),
        ([{"type": "espeak", "accents": []}], r"engines\[0\].accents"),
        ([{"type": "flite", "voices": []}], r"engines\[0\].voices"),
        ([{"type": "flite", "stretch": [0, 1]}], r"engines\[0\].stretch"),
        ([{"type": "openai"}], r"engines\[0\].model"),
        ([{"type": "openai", "model": "m"}], r"engines\[0\].voices"),
        ([{"type": "openai", "model": "m", "voices": ["v"], "concurrency": 0}], r"engines\[0\].concurrency"),
        ([{"type": "recordings"}], r"engines\[0\].manifests"),
        ([{"type": "recordings", "manifests": ["/none.jsonl"]}], "none.jsonl"),
        ([{"type": "nemo", "batch_size": 0}], r"engines\[0\].batch_size"),
        ([{"type": "nemo", "speakers": []}], r"engines\[0\].speakers"),
    ],
)
def test_a_wrong_blend_is_refused_with_its_place(entries, message):
    with pytest.raises(ConfigError, match=message):
        read_blend(entries)


def test_an_unknown_voice_is_found_when_the_engine_opens():
    with pytest.raises(ConfigError, match="accent"):
        EspeakConfig(accents=["en-us", "en-moon"]).open("en")
    with pytest.raises(ConfigError, match="found 'english'; expected one of af, .* de, .*language"):
        EspeakConfig().open("english")
    with pytest.raises(ConfigError, match="variant"):
        EspeakConfig(variants=["m1", "m99"]).open("en")
