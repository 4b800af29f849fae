"""Mixed-modal synthesis with neural models of random weights, and the command from end to end."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml

from tests.helpers import models, tts_models
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.synthesis.espeak import Voice, synthesize
from vtblender_nemo.synthesis.mixed_modal.asr_gate import GateConfig, open_gate
from vtblender_nemo.synthesis.mixed_modal.speakable import SpeakableConfig, speakable
from vtblender_nemo.synthesis.mixed_modal.text_normalization import open_normalizer
from vtblender_nemo.synthesis.tts.base import SAMPLE_RATE, Speech, SpeechRequest
from vtblender_nemo.synthesis.tts.fastpitch import FastPitch, FastPitchConfig

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TEXTS = ["Hello there.", "What is the weather like today in the city of London?", "Yes.", "It is raining, is it not?"]


@pytest.fixture(scope="module")
def speakers(tmp_path_factory):
    """The two small models."""
    models.quiet()
    torch.manual_seed(0)
    return tts_models.build_fastpitch(), tts_models.build_hifigan()


def requests(texts=TEXTS) -> list[SpeechRequest]:
    return [SpeechRequest(text, seed) for seed, text in enumerate(texts)]


def engine(pair, **config) -> FastPitch:
    return FastPitch(*pair, FastPitchConfig(**config))


def test_fastpitch_speaks_batches_of_speakers_and_paces(speakers):
    speeches = engine(speakers).speak(requests())
    for speech in speeches:
        assert isinstance(speech, Speech)
        assert speech.samples.dtype == np.float32
        assert np.isfinite(speech.samples).all()
        assert np.abs(speech.samples).max() > 0
    assert len({speech.voice for speech in speeches}) == len(TEXTS)
    assert len(speeches[1].samples) > 3 * len(speeches[2].samples)


def test_its_length_follows_from_frames_pace_and_rate(speakers):
    request = requests()[1:2]
    fastpitch = speakers[0]
    tokens = fastpitch.parse(request[0].text, normalize=False)
    slow, fast = (engine(speakers, pace=[pace, pace], speakers=[2]).speak(request)[0] for pace in (1.0, 2.0))
    with torch.inference_mode():
        frames = fastpitch.generate_spectrogram(tokens=tokens, speaker=2, pace=1.0).shape[2]
    secs = frames * tts_models.HOP / tts_models.RATE
    assert len(slow.samples) / SAMPLE_RATE == pytest.approx(secs, abs=0.01)
    assert len(fast.samples) < 0.7 * len(slow.samples)


def test_alone_it_says_what_nemo_says(speakers):
    """Against NeMo's own calls for one text, but for the last frames, which its models let the padding change."""
    import soxr

    fastpitch, hifigan = speakers
    (request,) = requests()[1:2]
    (speech,) = engine(speakers, pace=[1.0, 1.0], speakers=[3]).speak([request])
    with torch.inference_mode():
        frames = fastpitch.generate_spectrogram(tokens=fastpitch.parse(request.text, normalize=False), speaker=3)
        audio = hifigan.convert_spectrogram_to_audio(spec=frames)[0].numpy()
    expected = soxr.resample(audio, tts_models.RATE, SAMPLE_RATE)
    inner = slice(0, int(0.8 * len(expected)))
    assert abs(len(expected) - len(speech.samples)) <= 1
    np.testing.assert_allclose(speech.samples[inner], expected[inner], atol=1e-4 * np.abs(expected).max() + 1e-7)


def test_one_at_a_time_speech_depends_on_its_text_alone(speakers):
    together = engine(speakers, batch_size=1).speak(requests())
    backwards = engine(speakers, batch_size=1).speak(requests()[::-1])[::-1]
    assert all(np.array_equal(one.samples, other.samples) for one, other in zip(together, backwards, strict=True))


def test_the_same_batch_gives_the_same_bytes_and_neighbours_change_the_end_alone(speakers):
    together, again = (engine(speakers).speak(requests()) for _ in range(2))
    assert all(np.array_equal(one.samples, other.samples) for one, other in zip(together, again, strict=True))
    alone = engine(speakers, batch_size=1).speak(requests())
    for one, other in zip(together, alone, strict=True):
        assert one.voice == other.voice
        assert len(one.samples) == len(other.samples)
        loudest, inner = np.abs(one.samples).max(), slice(0, -SAMPLE_RATE // 10)
        np.testing.assert_allclose(one.samples[inner], other.samples[inner], atol=1e-4 * loudest)
        np.testing.assert_allclose(one.samples, other.samples, atol=0.01 * loudest)


def test_words_that_the_model_would_drop_are_refused(speakers):
    good, bad = engine(speakers).speak(requests(["Good day.", "Добрый day."]))
    assert isinstance(good, Speech)
    assert bad.reason == "not_spoken"
    assert "Добрый" in bad.detail


def test_a_model_of_phonemes_speaks_each_time_the_same(speakers, tmp_path):
    """The released models mix phonemes and letters at random in training; what is spoken is not drawn."""
    model = tts_models.build_fastpitch(tokenizer=tts_models.phonemes(tmp_path))
    config = FastPitchConfig(
        tts_models.save(model, tmp_path / "fastpitch.nemo"),
        tts_models.save(speakers[1], tmp_path / "hifigan.nemo"),
        device="cpu",
    )
    opened = config.open("en")
    one, other = (opened.speak(requests(["Hello there!", "Hello, Zorp.", "Room 5."])) for _ in range(2))
    assert np.array_equal(one[0].samples, other[0].samples)
    assert np.array_equal(one[1].samples, other[1].samples)
    assert one[2].reason == "not_spoken"  # digits have no sounds: text is normalised before
    assert "'5.'" in one[2].detail


def test_models_that_do_not_fit_are_refused(speakers):
    _, hifigan = speakers
    with pytest.raises(ConfigError, match="speakers"):
        engine(speakers, speakers=[tts_models.SPEAKERS])
    hifigan.sample_rate = 44_100
    try:
        with pytest.raises(ConfigError, match="hifigan"):
            engine(speakers)
    finally:
        hifigan.sample_rate = tts_models.RATE


def test_a_model_of_one_speaker_needs_no_number(speakers):
    single = (tts_models.build_fastpitch(speakers=1), speakers[1])
    (speech,) = engine(single).speak(requests(["Hello."]))
    assert speech.voice.startswith("speaker 0")
    with pytest.raises(ConfigError, match="one speaker"):
        engine(single, speakers=[0])


def test_models_are_read_from_nemo_files(speakers, tmp_path):
    config = FastPitchConfig(
        tts_models.save(speakers[0], tmp_path / "fastpitch.nemo"),
        tts_models.save(speakers[1], tmp_path / "hifigan.nemo"),
        device="cpu",
    )
    opened = config.open("en")
    assert opened.model == "fastpitch.nemo + hifigan.nemo"
    expected = engine(speakers).speak(requests())
    for one, other in zip(opened.speak(requests()), expected, strict=True):
        assert np.array_equal(one.samples, other.samples)


def test_a_name_that_nemo_does_not_know_is_refused():
    with pytest.raises(ConfigError, match="tts_en_fastpitch_multispeaker"):
        FastPitchConfig(fastpitch="no_such_model").open("en")


def test_files_of_other_models_are_refused(tmp_path, speakers):
    models.quiet()
    fastpitch = tts_models.save(speakers[0], tmp_path / "fastpitch.nemo")
    with pytest.raises(ConfigError, match="HifiGanModel"):
        FastPitchConfig(fastpitch, fastpitch, device="cpu").open("en")
    with pytest.raises(ModelFileError, match="FastPitchModel'; expected a NeMo"):
        open_gate(GateConfig(fastpitch, device="cpu"), "en")
    broken = tmp_path / "broken.nemo"
    broken.write_bytes(b"no archive")
    with pytest.raises(ModelFileError, match="broken.nemo"):
        open_gate(GateConfig(str(broken), device="cpu"), "en")
    with pytest.raises(ModelFileError, match="broken.nemo"):
        FastPitchConfig(str(broken), fastpitch, device="cpu").open("en")


def test_a_small_canary_listens(tmp_path):
    """Of random weights, it hears nonsense: all that is spoken is refused but under a gate that lets all pass."""
    models.quiet()
    path = models.canary_file(tmp_path)
    gate = open_gate(GateConfig(str(path), device="cpu"), "en")
    heard = gate.hear([models.speech(1.0, 0), models.speech(0.05, 1)], ["good morning", "yes"])
    assert all(isinstance(one.text, str) and one.wer > 0.3 for one in heard)


GREETING, QUESTION = "Good morning to you.", "Where can I buy bread?"


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory) -> Path:
    """A small Conformer with CTC that has learned two sentences of two voices by heart."""
    models.quiet()
    torch.manual_seed(0)
    model = tts_models.build_recogniser()
    spoken = [(text, synthesize(text, voice)[0]) for text in (GREETING, QUESTION) for voice in VOICES]
    tts_models.teach(model, [samples for _, samples in spoken], [text.lower().strip(".?") for text, _ in spoken])
    path = tmp_path_factory.mktemp("recogniser") / "recogniser.nemo"
    model.save_to(str(path))
    return path


VOICES = [Voice("en-us", "m3"), Voice("en-gb", "f2")]


def test_a_recogniser_passes_what_it_hears_and_refuses_the_rest(recogniser):
    gate = open_gate(GateConfig(str(recogniser), device="cpu"), "en")
    right = [synthesize(text, VOICES[0])[0] for text in (GREETING, QUESTION)]
    assert [one.wer for one in gate.hear(right, [GREETING, QUESTION])] == [0.0, 0.0]
    assert all(one.wer > 0.5 for one in gate.hear(right, [QUESTION, GREETING]))


def test_the_command_listens_to_what_it_made(recogniser, tmp_path):
    """The recogniser never heard the third sentence."""
    texts = [GREETING, QUESTION, "Solve it by Friday."]
    rows = [{"id": f"c{number}", "instruction": text, "response": "Gladly."} for number, text in enumerate(texts)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "engines": [
            {"type": "espeak", "accents": ["en-us"], "variants": ["m3"], "rate_wpm": [175, 175], "pitch": [50, 50]}
        ],
        "gate": {"model": str(recogniser), "max_wer": 0.2, "device": "cpu"},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    chats, out, config = (str(tmp_path / name) for name in ("chats.jsonl", "out", "settings.yaml"))
    done = run("--input", chats, "--output-dir", out, "--config", config)
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in (tmp_path / "out/shard_000000/manifest.jsonl").open()]
    assert [(row["provenance"]["source"], row["provenance"]["wer"]) for row in made] == [("c0", 0.0), ("c1", 0.0)]
    (refused,) = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").open()]
    assert (refused["id"], refused["reason"]) == ("c2", "asr_wer")


def test_nemos_grammars_write_text_out_for_speaking():
    normalize = open_normalizer("nemo", "en")
    assert normalize("It costs $5 at 10:30.").lower() == "it costs five dollars at ten thirty."
    assert speakable("**Dr.** Who has 3 kg, i.e. “much”.", normalize, SpeakableConfig()).startswith(
        "doctor Who has three "
    )


# The command


def write_chats(path: Path) -> None:
    texts = [
        "Good morning. I am new in this town. Where can I buy bread?",
        "See www.example.org now.",
        "Tell me a story. Make it short.",
    ]
    rows = [
        {
            "id": f"c{number}",
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Gladly."}],
        }
        for number, text in enumerate(texts * 4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/synthesize_mixed_modal.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in ("manifest.jsonl", "audio.tar", "rejected.jsonl", "input_cfg.yaml")
    }


def test_the_command_makes_rows_that_train_whatever_the_workers(tmp_path):
    write_chats(tmp_path / "chats.jsonl")
    common = [
        "--input",
        str(tmp_path / "chats.jsonl"),
        "--rows-per-shard",
        "4",
        "--normalizer",
        "num2words",
        "--name",
        "n",
    ]
    one = run(*common, "--output-dir", str(tmp_path / "one"), "--batch-rows", "2")
    two = run(*common, "--output-dir", str(tmp_path / "two"), "--batch-rows", "3", "--workers", "2")
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert content(tmp_path / "one") == content(tmp_path / "two")

    rejected = [json.loads(line) for line in (tmp_path / "one/rejected.jsonl").read_text().splitlines()]
    assert {row["reason"] for row in rejected} == {"url", "bad_row"}
    rows = [json.loads(line) for path in sorted(tmp_path.glob("one/*/manifest.jsonl")) for line in path.open()]
    assert {row["provenance"]["engine"] for row in rows} == {"espeak"}
    with tarfile.open(tmp_path / "one/shard_000000/audio.tar") as tar:
        member = tar.getmembers()[0]
        info = sf.info(io.BytesIO(tar.extractfile(member).read()))
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 16_000, 1)

    read = conversations(tmp_path / "one/input_cfg.yaml")
    assert [conversation.id for conversation in read] == [row["id"] for row in rows]
    for conversation, row in zip(read, rows, strict=True):
        spoken = [part for part in row["conversations"] if part["type"] == "audio"]
        assert len(conversation.audios) == len(spoken) == 1
        samples = load_samples(conversation.audios[0].cut, SAMPLE_RATE)
        assert len(samples) == pytest.approx(spoken[0]["duration"] * SAMPLE_RATE, abs=1)
        assert np.abs(samples).max() > 0.01

    salm = nemo_conversations(tmp_path / "one")
    assert [conversation.id for conversation in salm] == [row["id"] for row in rows]
    for theirs, ours in zip(salm, read, strict=True):
        (cut,) = [turn.cut for turn in theirs.turns if hasattr(turn, "cut")]
        assert np.array_equal(cut.load_audio()[0], load_samples(ours.audios[0].cut, SAMPLE_RATE))


def nemo_conversations(folder: Path) -> list:
    """The rows as NeMo's own reader gives them to SALM."""
    from nemo.collections.common.data.lhotse.text_adapters import NeMoMultimodalConversationJsonlAdapter

    manifests, tars = (
        [str(path) for path in sorted(folder.glob(f"*/{name}"))] for name in ("manifest.jsonl", "audio.tar")
    )
    return list(NeMoMultimodalConversationJsonlAdapter(manifests, "<audio>", tarred_audio_filepaths=tars))


def conversations(input_cfg: Path) -> list:
    from vtblender_nemo.data.config import read_input_cfg
    from vtblender_nemo.data.sources import make_source

    (entry,) = read_input_cfg(str(input_cfg), "input_cfg")
    return list(make_source(entry, SAMPLE_RATE, "input_cfg[0]").cutset())


def test_a_configuration_file_and_flags_work_together(tmp_path):
    write_chats(tmp_path / "chats.jsonl")
    settings = {"engines": [{"type": "espeak", "accents": ["en-gb"], "variants": ["f2"]}], "spans": {"variants": 2}}
    (tmp_path / "voices.yaml").write_text(yaml.safe_dump(settings))
    done = run(
        "--input", str(tmp_path / "chats.jsonl"), "--output-dir", str(tmp_path / "out"), "--config",
        str(tmp_path / "voices.yaml"), "--variants", "1", "--whole-turn", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out/shard_000000/manifest.jsonl").open()]
    assert len(rows) == 8
    assert all(row["provenance"]["voice"].startswith("en-gb+f2") for row in rows)
    assert all(row["conversations"][0]["type"] == "audio" for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tts", "gramophone"], "espeak, flite, nemo"),
        (["--turns", "odd"], "spans.turns"),
        (["--recordings", "/none.jsonl"], "/none.jsonl"),
        (["--tokenizer", "/no/such/tokenizer"], "tokenizer"),
    ],
)
def test_users_mistakes_are_told_in_one_line(tmp_path, arguments, said):
    write_chats(tmp_path / "chats.jsonl")
    done = run("--input", str(tmp_path / "chats.jsonl"), "--output-dir", str(tmp_path / "out"), *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_loaded_samples_are_those_that_were_spoken(tmp_path):
    """A spoken text comes back from the tar as the engine gave it, to 16 bits."""
    from vtblender_nemo.data.lazy_audio import lazy_cut
    from vtblender_nemo.data.rows import TarFile

    text = "Good morning."
    chat = {"id": "c", "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Hello."}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    settings = {
        "engines": [
            {"type": "espeak", "accents": ["en-gb"], "variants": ["f2"], "rate_wpm": [170, 170], "pitch": [50, 50]}
        ]
    }
    (tmp_path / "voices.yaml").write_text(yaml.safe_dump(settings))
    done = run(
        "--input", str(tmp_path / "chats.jsonl"), "--output-dir", str(tmp_path / "out"), "--config", str(tmp_path / "voices.yaml")
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tar = TarFile(tmp_path / "out/shard_000000/audio.tar")
    (member,) = tar.members
    samples = load_samples(
        lazy_cut(tar.path, duration_secs=None, sampling_rate=SAMPLE_RATE, member=member), SAMPLE_RATE
    )
    np.testing.assert_allclose(samples, synthesize(text, Voice("en-gb", "f2", 170, 50))[0], atol=1e-4)
