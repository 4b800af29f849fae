"""Engines, voices and pieces of the tiny world's speech, and the tests that are said by others."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vtblender_nemo.common.errors import ConfigError, DataError, MissingDependencyError
from vtblender_nemo.evaluation.items import read_items
from vtblender_nemo.synthesis.espeak import Utterance, Voice
from vtblender_nemo.tiny import speakers as speaking
from vtblender_nemo.tiny.config import ContentConfig, TinyConfig, VoicesConfig, config_from, decisive
from vtblender_nemo.tiny.digits import plan_digits, write_digits
from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.other_tests import read_real_items, said_by_engines, write_real_items
from vtblender_nemo.tiny.speakers import Speakers, trimmed
from vtblender_nemo.tiny.speech import Piece, SpeechPlan, Spoken
from vtblender_nemo.tiny.splits import hold_out, spoken_digits
from vtblender_nemo.tiny.stages import Stage
from vtblender_nemo.tiny.voices import FliteVoice, voice_of
from vtblender_nemo.tiny.world import _stages, prepare

CONF = Path(__file__).parents[2] / "conf"
BOTH = VoicesConfig(engines={"espeak": 1, "flite": 3})
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="apt install flite")


def training_voices(voices, count=400):
    plan = SpeechPlan("train", voices, seed=0)
    return [plan.say(f"Text {index}.").voice for index in range(count)]


def test_voices_of_espeak_alone_are_what_they_always_were():
    """Drawn once by the code that knew no other engine."""
    rng, voices = random.Random("voices-train-0"), VoicesConfig()
    drawn = Voice(
        rng.choice(voices.accents),
        rng.choice(voices.variants),
        rng.randint(*voices.rate_wpm),
        rng.randint(*voices.pitch),
    )
    spoken = SpeechPlan("train", voices, 0).say("The king.")
    assert spoken.voice == drawn
    assert list(spoken.row()) == ["name", "text", "voice", "file"]
    assert list(spoken.row()["voice"]) == ["accent", "variant", "rate_wpm", "pitch"]


def test_engines_speak_by_their_weights():
    voices = training_voices(BOTH)
    of_flite = [voice for voice in voices if isinstance(voice, FliteVoice)]
    assert 0.69 < len(of_flite) / len(voices) < 0.81
    assert {voice.flite for voice in of_flite} == {"awb", "kal16", "rms"}
    assert all(0.75 <= voice.stretch <= 1.4 for voice in of_flite)
    assert all(isinstance(voice, FliteVoice) for voice in training_voices(VoicesConfig(engines={"flite": 1}), 20))


def test_test_voices_do_not_depend_on_training_voices():
    one = VoicesConfig(
        accents=("en-us",), variants=("m1",), rate_wpm=(180, 180), pitch=(50, 50), test_engines=("espeak", "flite")
    )
    many = VoicesConfig(engines={"flite": 1}, test_engines=("espeak", "flite"))
    plans = [SpeechPlan("test", voices, 0) for voices in (one, many)]
    for plan in plans:
        for index in range(50):
            plan.say(f"Text {index}.")
    assert plans[0].utterances == plans[1].utterances
    items = [Item("asr_0000", "asr", ("Repeat:", plans[0].utterances[0]), "Text 0.", "repeat")] * 30
    said = [said_by_engines(items, voices, 0) for voices in (one, many)]
    assert said[0] == said[1]
    assert {item.spoken[0].voice.flite for item in said[0]["asr_flite"]} == {"slt"}
    assert {item.spoken[0].voice.variant for item in said[0]["asr_espeak"]} == set(one.held_out_variants)
    first = said[0]["asr_flite"][0]
    assert (first.id, first.task, first.parts[0]) == ("asr_flite_0000", "asr_flite", "Repeat:")
    assert first.spoken[0].name == "flite_00000"


def test_a_voice_comes_back_from_its_row():
    for voice in (Voice("en-us", "m1", 170, 40), FliteVoice("awb", 1.05)):
        assert voice_of(Spoken("train_00000", "Nine.", voice).row()["voice"]) == voice


@pytest.mark.parametrize(
    ("voices", "message"),
    [
        ({"engines": {"festival": 1}}, r"unknown one.*festival.*espeak, flite.*tiny\.voices\.engines"),
        ({"engines": {}}, r"no engine.*tiny\.voices\.engines"),
        ({"engines": {"flite": 0}}, r"weight of flite.*> 0"),
        ({"test_engines": ["klatt"]}, r"klatt.*tiny\.voices\.test_engines"),
        (
            {"engines": {"flite": 1}, "test_engines": ["flite"], "flite_voices": ["awb", "slt"]},
            r"slt.*tiny\.voices\.held_out_flite_voices",
        ),
    ],
)
def test_faulty_engines_are_refused(voices, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        config_from({"voices": voices})


def test_without_flite_the_world_tells_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    config = TinyConfig(content=ContentConfig(spoken_facts=5, test_items=2), voices=BOTH)
    with pytest.raises(MissingDependencyError, match="apt install flite"):
        prepare(config, tmp_path / "world", log=lambda _: None)


def test_worlds_of_before_stay_valid(tmp_path):
    """Settings that are null are not in notes, and voices do not decide what is only read."""
    settings = decisive(json.loads(json.dumps(_stages(TinyConfig(), tmp_path)["encoder"].settings)))
    assert set(settings["voices"]) == {
        *("accents", "held_out_accents", "variants", "held_out_variants", "rate_wpm", "pitch", "processes")
    }
    assert not {"augment", "copies", "mel_warp", "dropout"} & set(settings["encoder"])
    assert "digit_strings" not in settings["content"]
    old = {"version": 2, "seed": 0, "voices": settings["voices"], "vocabulary": 1700, "content": settings["content"]}
    stage = Stage(tmp_path, "tokenizer", old)
    stage.begin()
    stage.partial.write_text("made")
    stage.finish({"by": "before"})
    spoken_otherwise = replace(TinyConfig(), voices=BOTH)
    assert _stages(spoken_otherwise, tmp_path)["tokenizer"].made() == {"by": "before"}
    assert Stage(tmp_path, "tokenizer", {**old, "seed": 1}).made() is None
    assert _stages(spoken_otherwise, tmp_path)["encoder"].settings["voices"]["engines"] == {"espeak": 1, "flite": 3}


def test_strings_of_digits_leave_out_those_of_the_tests(tmp_path):
    held_out = hold_out(600, 50, seed=0)
    digits = plan_digits(300, held_out, BOTH, seed=0)
    held = [text for fact in held_out.test + held_out.validation if (text := spoken_digits(fact))]
    assert len(held) > 50
    for one in digits:
        words = one.text.lower().rstrip(".")
        assert not any(text in words for text in held)
        assert 2 <= len(words.split()) <= 7
    apart = [one for one in digits if one.pieces]
    assert 0.5 < len(apart) / len(digits) < 0.7
    for one in apart:
        assert " ".join(piece.text for piece in one.pieces) == one.text.lower().rstrip(".")
        assert len({(piece.voice.accent, piece.voice.variant) for piece in one.pieces}) == 1
    assert len({piece.voice for one in apart for piece in one.pieces}) > len(apart)
    write_digits(digits[:1], {digits[0].name: 1.23456}, tmp_path / "digits.jsonl")
    row = json.loads((tmp_path / "digits.jsonl").read_text())
    assert row == {"audio_filepath": f"../{digits[0].file}", "duration": 1.2346, "text": digits[0].text}
    assert digits[0].file == "speech/train/train_digits_00000.wav"


def test_pieces_are_joined_with_their_levels_and_pauses(monkeypatch):
    spoken = Utterance(np.full(100, 0.1, np.float32), 16000, ())
    monkeypatch.setattr(speaking, "synthesize_with_times", lambda text, voice: spoken)
    voice = Voice()
    pieces = (Piece("nine", voice, 20.0, 0.01), Piece("one", voice, -20.0, 0.0))
    samples = Speakers().say(Spoken("train_00000", "Nine one.", voice, pieces).row())
    expected = np.concatenate([np.full(100, 1.0), np.zeros(160), np.full(100, 0.01)])
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    assert samples.dtype == np.float32


def test_noise_lies_over_words_and_not_between_them(monkeypatch):
    spoken = Utterance(np.full(1000, 0.1, np.float32), 16000, ())
    monkeypatch.setattr(speaking, "synthesize_with_times", lambda text, voice: spoken)
    pieces = (Piece("nine", Voice(), 0.0, 0.05, snr_db=20.0), Piece("one", Voice(), 0.0, 0.0))
    row = Spoken("train_00000", "Nine one.", Voice(), pieces).row()
    samples = Speakers().say(row)
    np.testing.assert_array_equal(samples, Speakers().say(row))
    noisy, silence = samples[:-1800], samples[-1800:-1000]
    assert not silence.any()
    assert 1000 <= len(noisy) < 1000 + 2 * 1600
    assert np.count_nonzero(noisy) == len(noisy)


def test_silence_is_trimmed():
    samples = np.concatenate([np.zeros(8000), np.full(100, 0.5), np.full(8000, 0.001)]).astype(np.float32)
    assert len(trimmed(samples)) == 800 + 100 + 1600
    assert len(trimmed(np.zeros(50, np.float32))) == 50


@needs_flite
def test_flite_speaks_like_itself_each_time():
    row = Spoken("train_00000", "Nine one four.", FliteVoice("awb", 1.2)).row()
    samples = Speakers().say(row)
    np.testing.assert_array_equal(samples, Speakers().say(row))
    faster = Speakers().say(Spoken("train_00000", "Nine one four.", FliteVoice("awb", 0.8)).row())
    assert 1.3 < len(samples) / len(faster) < 1.6


def manifest(folder, *rows):
    soundfile.write(folder / "one.wav", np.zeros(1600, np.float32), 8000)
    (folder / "real.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "real.jsonl"


def test_real_recordings_become_test_items(tmp_path):
    rows = [{"audio_filepath": "one.wav", "duration": 0.2, "text": "nine one", "speaker": "ann"}]
    write_real_items(read_real_items(manifest(tmp_path, *rows)), tmp_path / "items.jsonl")
    (item,) = read_items(tmp_path / "items.jsonl")
    assert not item.error
    assert (item.id, item.task, item.reference) == ("real_digits_0000", "real_digits", "nine one")
    assert item.custom == {"kind": "ann", "transcript": ["nine one"]}
    assert len(item.conversation.audios) == 1


def test_real_recordings_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)real\.jsonl.*tiny\.real_items"):
        prepare(TinyConfig(real_items=str(tmp_path / "real.jsonl")), tmp_path / "world", log=lambda _: None)
    with pytest.raises(DataError, match=r"(?s)audio file is missing.*gone\.wav"):
        read_real_items(manifest(tmp_path, {"audio_filepath": "gone.wav", "text": "one"}))
    with pytest.raises(DataError, match=r"without text"):
        read_real_items(manifest(tmp_path, {"audio_filepath": "one.wav", "text": " "}))
    with pytest.raises(ConfigError, match="no rows"):
        read_real_items(manifest(tmp_path))


@pytest.mark.parametrize("variant", sorted(path.stem for path in (CONF / "experiment" / "tts").glob("*.yaml")))
def test_variants_of_the_sweep_are_worlds(variant):
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("experiment/tts", overrides=[f"experiment/tts={variant}", "real_items=real.jsonl"])
    values = OmegaConf.to_container(cfg.tiny, resolve=True)
    assert values.pop("directory") == f"results/tiny_world_{variant}"
    config = config_from(values)
    assert config.voices.test_engines == ("espeak", "flite")
    assert config.real_items == "real.jsonl"
    assert bool(config.voices.heard_of_flite()) == (variant in ("both", "flite"))
    tested = [path for task in cfg.evaluation.tasks.values() for path in task["items"]]
    for name in ("asr_espeak", "asr_flite", "real_digits"):
        assert f"results/tiny_world_{variant}/content/tests/{name}.jsonl" in tested


def test_the_robust_configuration_is_a_world():
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("vtb_tiny_robust", overrides=["+tests=real_digits", "real_items=real.jsonl"])
        plain = compose("vtb_tiny_robust")
    values = OmegaConf.to_container(cfg.tiny, resolve=True)
    del values["directory"]
    config = config_from(values)
    assert config.voices.heard_of_flite() == ("awb", "kal16", "rms", "slt")
    assert config.content.digit_strings
    assert config.real_items == "real.jsonl"
    assert "real_digits" in cfg.evaluation.tasks
    assert "real_digits" not in plain.evaluation.tasks
    assert plain.tiny.real_items is None
