"""Augmentation, measured on the waveforms that come out of the loader."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.corpus import FRAME_SECS, RATE, chat_rows, make_encoder, write_jsonl, write_tar
from vtblender_nemo.common.audio import cut_from_array, load_samples
from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.augment import Augmenter
from vtblender_nemo.data.blend import Blend, Limits, read_sources
from vtblender_nemo.data.config import read_augment
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.data.waveforms import RandomRoom, TelephoneLine

ENCODER = make_encoder()


def tone(secs: float, *hertz: float, rate: int = RATE, height: float = 0.2) -> np.ndarray:
    time = np.arange(round(secs * rate)) / rate
    return sum(height * np.sin(2 * np.pi * f * time) for f in hertz).astype(np.float32)


def hiss(secs: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return (0.05 * np.random.default_rng(seed).standard_normal(round(secs * rate))).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, wave, rate, subtype="FLOAT")
    return path


def augmenter(**effects: Any) -> Augmenter:
    return Augmenter(read_augment(effects, "augment"), RATE, "augment")


def spoken(*waves: np.ndarray, rate: int = RATE) -> Conversation:
    parts = tuple(Audio(cut_from_array(wave, rate, id=str(n))) for n, wave in enumerate(waves))
    return Conversation("x", (Turn("user", (Text("Hear:"), *parts)), Turn("assistant", (Text("yes"),))))


def heard(conversation: Conversation) -> list[np.ndarray]:
    return [load_samples(audio.cut, RATE) for audio in conversation.audios]


def band_db(wave: np.ndarray, low: float, high: float) -> float:
    """Energy between two frequencies."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
    return 10 * np.log10(power[(hertz >= low) & (hertz < high)].sum() + 1e-12)


def snr_db(mixed: np.ndarray, clean: np.ndarray) -> float:
    return 10 * np.log10(np.mean(clean**2) / np.mean((mixed - clean) ** 2))


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


def test_noise_goes_through_the_line_too(tmp_path):
    write(tmp_path / "a.wav", hiss(4))
    (out,) = heard(
        augmenter(noise={"prob": 1.0, "folder": str(tmp_path), "snr": [0, 0]}, telephone={"prob": 1.0})(
            spoken(tone(1, 1000)), random.Random(0)
        )
    )
    assert band_db(out, 300, 3400) - band_db(out, 4000, 8000) > 30


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


def every_speech_source(folder: Path) -> list[dict[str, Any]]:
    """The same tone of 0.5 s through every reader of speech."""
    from lhotse import CutSet, Recording, SupervisionSegment
    from lhotse.shar import SharWriter

    path = write(folder / "t.wav", tone(0.5, 1000, 6000))
    row = {"audio_filepath": "t.wav", "duration": 0.5, "text": "x", "question": "q?", "answer": "a"}
    manifest = write_jsonl(folder / "m.jsonl", [row])
    tar = write_tar(folder / "t.tar", {"t.wav": path.read_bytes()})
    talk = {
        "id": "m",
        "conversations": [
            {"type": "audio", "from": "User", "value": "t.wav", "duration": 0.5},
            {"type": "text", "from": "Assistant", "value": "yes"},
        ],
    }
    talks = write_jsonl(folder / "talk.jsonl", [talk])
    messages = [
        {"role": "user", "content": [{"type": "audio", "audio": "t.wav"}]},
        {"role": "assistant", "content": "b"},
    ]
    chats = write_jsonl(folder / "chat.jsonl", [{"id": "c", "messages": messages}])
    cut = Recording.from_file(path).to_cut()
    cut.supervisions = [SupervisionSegment("s", "t", 0, 0.5, text="x")]
    CutSet.from_cuts([cut]).to_file(folder / "cuts.jsonl")
    stereo = write(folder / "two.wav", np.stack([tone(0.5, 1000, 6000)] * 2, 1))
    pair = Recording.from_file(stereo).to_cut()
    pair.supervisions = [SupervisionSegment("s", "two", 0, 0.5, text="x")]
    padded = cut.pad(0.7)
    CutSet.from_cuts([pair, padded]).to_file(folder / "others.jsonl")
    (folder / "shar").mkdir()
    with SharWriter(str(folder / "shar"), fields={"recording": "flac"}) as writer:
        writer.write(cut)
    said = {"prompts": ["p"]}
    return [
        {"type": "nemo", "manifest_filepath": manifest, **said},
        {"type": "nemo_tarred", "manifest_filepath": manifest, "tarred_audio_filepaths": tar, **said},
        {"type": "speech_qa", "manifest_filepath": manifest},
        {"type": "lhotse", "cuts_path": str(folder / "cuts.jsonl"), **said},
        {"type": "lhotse", "name": "others", "cuts_path": str(folder / "others.jsonl"), **said},
        {"type": "lhotse_shar", "shar_path": str(folder / "shar"), **said},
        {"type": "multimodal_conversation", "manifest_filepath": talks},
        {"type": "multimodal_conversation", "name": "tar", "manifest_filepath": talks, "tarred_audio_filepaths": tar},
        {"type": "text_chat", "manifest_filepath": chats},
    ]


def test_every_speech_source_is_changed(tmp_path):
    write(tmp_path / "noise" / "n.wav", hiss(3))
    effect = augmenter(
        speed={"prob": 1.0, "factors": [1.1]},
        reverb={"prob": 1.0, "t60": [0.2, 0.2]},
        noise={"prob": 1.0, "folder": str(tmp_path / "noise"), "snr": [10, 10]},
        telephone={"prob": 1.0},
    )
    sources = [entry.source for entry in read_sources(every_speech_source(tmp_path), sampling_rate=RATE)]
    assert len(sources) == 9
    for source in sources:
        for index in range(len(source)):
            plain = source.conversation(index, random.Random(0))
            found = effect(plain, random.Random(0))
            (before,), (after,) = heard(plain), heard(found)
            assert len(after) == pytest.approx(len(before) / 1.1, abs=2), source.name
            assert band_db(before, 4000, 8000) - band_db(after, 4000, 8000) > 20, source.name
            assert band_db(after, 1090, 1110) > band_db(after, 990, 1010) + 6, source.name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("augmented")
    rows = []
    for number in range(12):
        write(folder / f"{number}.wav", tone(0.5 + number / 40, 300 + 50 * number))
        rows.append(
            {"id": f"s{number}", "audio_filepath": f"{number}.wav", "duration": 0.5 + number / 40, "text": "so"}
        )
    write_jsonl(folder / "m.jsonl", rows)
    write_jsonl(folder / "c.jsonl", chat_rows(12))
    write(folder / "noise" / "n.wav", hiss(2))
    return folder


def train_ds(corpus: Path, **keys: Any) -> dict[str, Any]:
    effects = {
        "speed": {"prob": 0.5, "factors": [0.8, 1.25]},
        "reverb": {"prob": 0.5},
        "noise": {"prob": 0.5, "folder": str(corpus / "noise")},
        "telephone": {"prob": 0.5},
    }
    entries = [
        {"type": "nemo", "manifest_filepath": str(corpus / "m.jsonl"), "prompts": ["A", "B", "C"], "weight": 3},
        {"type": "text_chat", "manifest_filepath": str(corpus / "c.jsonl"), "weight": 1},
    ]
    return {"input_cfg": entries, "batch_size": 3, "num_buckets": 2, "buffer_size": 20, "augment": effects, **keys}


def module(train: dict[str, Any], skipped: Path | None = None, **sections: Any) -> BlendDataModule:
    return BlendDataModule({"train_ds": train, **sections}, ENCODER.chat_format, FRAME_SECS, RATE, skipped)


def take(data: BlendDataModule, count: int) -> list[tuple[Any, ...]]:
    batches = itertools.islice(data.train_dataloader(), count)
    return [(batch.ids, batch.input_ids.tolist(), batch.audios.tolist()) for batch in batches]


def test_workers_and_resume_change_nothing(corpus):
    whole = take(module(train_ds(corpus)), 12)
    assert take(module(train_ds(corpus, num_workers=2)), 12) == whole
    first = module(train_ds(corpus))
    begun = take(first, 5)
    torch.manual_seed(99)
    random.seed(99)
    second = module(train_ds(corpus, num_workers=1))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begun + take(second, 7) == whole


def blend(corpus: Path, limits: Limits | None = None, seed: int = 0, **effects: Any) -> Blend:
    entries = train_ds(corpus)["input_cfg"][:1]
    return Blend(
        read_sources(entries, sampling_rate=RATE),
        ENCODER,
        limits or Limits(),
        seed=seed,
        augmenter=augmenter(**effects) if effects else None,
    )


def test_another_visit_is_another_draw_with_the_same_wording(corpus):
    plain, changed = blend(corpus), blend(corpus, reverb={"prob": 1.0}, speed={"prob": 1.0, "factors": [0.9, 1.1]})
    visits: dict[str, set[str]] = {}
    for _ in range(60):
        example, other = plain.draw(), changed.draw()
        assert example.conversation.turns[0].parts[0] == other.conversation.turns[0].parts[0]
        visits.setdefault(other.conversation.id, set()).add(str(other.conversation.custom["augment"]))
    assert all(len(draws) == 5 for draws in visits.values())


def test_lengths_and_limits_are_those_of_the_changed_audio(corpus):
    changed = blend(corpus, speed={"prob": 1.0, "factors": [0.5]})
    example = changed.draw()
    secs = example.conversation.audios[0].duration_secs
    text = len(example.prompt.ids) - 1
    assert example.length == text + -(-secs // FRAME_SECS)
    assert secs >= 1.0
    limited = blend(corpus, Limits(max_duration=1.3), speed={"prob": 1.0, "factors": [0.5]})
    ids = {limited.draw().conversation.id for _ in range(40)}
    assert ids == {f"s{n}" for n in range(7)}, "0.65 s twice as slow are 1.3 s"
    assert {skip.knob for skip in limited.take_skips()} == {"max_duration"}


def test_it_is_off_by_default_and_never_in_validation(corpus):
    entries = train_ds(corpus)["input_cfg"][:1]
    plain = _validation_waves(corpus, None)
    assert _validation_waves(corpus, train_ds(corpus)["augment"]) == plain
    data = module({"input_cfg": entries, "batch_size": 1})
    for batch in itertools.islice(data.train_dataloader(), 12):
        assert batch.audios[0].tolist() == plain[batch.ids[0]]


def _validation_waves(corpus: Path, effects: Any) -> dict[str, list[float]]:
    train = train_ds(corpus, augment=effects)
    sets = {"asr": {"input_cfg": train["input_cfg"][:1]}}
    (loader,) = module(train, validation_ds={"sets": sets}).val_dataloader()
    return {c.id: heard(c)[0].tolist() for conversations in loader for c in conversations}


def test_a_broken_noise_costs_the_row_and_is_named(corpus, tmp_path):
    rows = [{"audio_filepath": "n.wav", "duration": 3.0}]
    write(tmp_path / "n.wav", hiss(3))
    path = write_jsonl(tmp_path / "noise.jsonl", rows)
    effects = {"noise": {"prob": 1.0, "manifest_filepath": path}}
    (tmp_path / "n.wav").write_bytes(b"RIFF, but not really")
    data = module(train_ds(corpus, augment=effects), skipped=tmp_path / "skipped.jsonl")
    assert all(batch[0][0].startswith("c") for batch in take(data, 8)), "the chats stay"
    listed = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert listed
    assert all(str(tmp_path / "n.wav") in entry["reason"] for entry in listed)


@pytest.mark.parametrize(
    ("effects", "message"),
    [
        (
            {"echo": {"prob": 1}},
            r"unknown effect; found 'echo'; expected one of speed, reverb, noise, telephone.*augment.echo",
        ),
        ({"speed": {"prop": 1}}, r"unknown key; found 'prop'.*augment.speed.prop"),
        ({"speed": {"prob": 1.5}}, r"out of range; found 1.5; expected 0 to 1.*augment.speed.prob"),
        ({"speed": {"prob": 1, "factors": [0.9, 3.0]}}, r"speed out of range.*augment.speed.factors"),
        ({"speed": {"prob": 1, "factors": [0.937]}}, r"steps of 0.01.*augment.speed.factors"),
        ({"speed": {"prob": 1, "factors": []}}, r"speed out of range.*augment.speed.factors"),
        ({"noise": {"prob": 1}}, r"noise without recordings.*augment.noise"),
        ({"noise": {"prob": 1, "folder": "nowhere"}}, r"nowhere: folder without audio files.*augment.noise.folder"),
        ({"noise": {"prob": 1, "manifest_filepath": "nowhere"}}, r"file is missing.*noise.manifest_filepath"),
        ({"noise": {"prob": 1, "snr": [20, 5]}}, r"no range of values; found \[20, 5\].*augment.noise.snr"),
        ({"reverb": {"prob": 1, "t60": [0.2]}}, r"no range of values.*augment.reverb.t60"),
        ({"telephone": True}, r"not a mapping.*augment.telephone"),
    ],
)
def test_mistakes_name_their_key(corpus, effects, message):
    with pytest.raises(ConfigError, match=message):
        module(train_ds(corpus, augment=effects)).train_dataloader()


def test_noises_are_opened_when_training_begins(corpus, tmp_path):
    write_jsonl(tmp_path / "n.jsonl", [{"audio_filepath": "gone.wav", "duration": 1.0}])
    effects = {"noise": {"prob": 0.1, "manifest_filepath": str(tmp_path / "n.jsonl")}}
    with pytest.raises(ConfigError, match=r"gone.wav: audio file is missing.*augment.noise.manifest_filepath"):
        module(train_ds(corpus, augment=effects)).train_dataloader()
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    effects = {"reverb": {"prob": 0.1, "folder": str(tmp_path)}}
    with pytest.raises(ConfigError, match=r"bad.wav: audio file cannot be opened.*augment.reverb.folder"):
        module(train_ds(corpus, augment=effects)).train_dataloader()
