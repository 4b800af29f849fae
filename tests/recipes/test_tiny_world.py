"""The tiny world at a micro scale: made whole, reused, and continued after a stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import soundfile
import torch

from vtblender_nemo.evaluation.items import read_items
from vtblender_nemo.tiny.config import ContentConfig, EncoderConfig, LanguageModelConfig, TinyConfig
from vtblender_nemo.tiny.jobs import read_jsonl
from vtblender_nemo.tiny.sets import SETS
from vtblender_nemo.tiny.world import TEST_TASKS, prepare

pytestmark = pytest.mark.slow

MICRO = TinyConfig(
    content=ContentConfig(
        spoken_facts=60,
        speech_qa_rows=60,
        mixed_rows=40,
        text_chats=40,
        test_items=8,
        mixed_test_items_per_kind=8,
        text_test_items_per_skill=2,
        validation_items=4,
    ),
    llm=LanguageModelConfig(
        vocabulary=1000, layers=2, hidden=32, heads=2, feed_forward=64, steps=12, tokens_per_batch=600
    ),
    encoder=EncoderConfig(layers=1, width=32, heads=2, subsampling_channels=4, steps=6, frames_per_batch=1200),
    checkpoint_secs=0.0,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    said: list[str] = []
    return prepare(MICRO, tmp_path_factory.mktemp("tiny"), said.append), said


def test_the_language_model_is_an_ordinary_hugging_face_folder(made):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    world, _ = made
    names = {path.name for path in world.llm_dir.iterdir()}
    assert {
        "model.safetensors", "config.json", "generation_config.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    } <= names  # fmt: skip
    model, tokenizer = (kind.from_pretrained(world.llm_dir) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.model_type == "gemma"
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])


def test_the_encoder_is_an_ordinary_nemo_file(made):
    from nemo.collections.asr.models import ASRModel

    world, _ = made
    model = ASRModel.restore_from(str(world.encoder_nemo), map_location="cpu").eval()
    assert type(model).__name__ == "EncDecMultiTaskModel"
    features, frames = model.preprocessor(input_signal=torch.randn(1, 16000), length=torch.tensor([16000]))
    encoded, lengths = model.encoder(audio_signal=features, length=frames)
    assert encoded.shape[1] == 32
    assert lengths.item() == 13  # 1 s at 80 ms a frame
    norms = [module for module in model.encoder.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert [norm.num_batches_tracked.item() for norm in norms] == [MICRO.encoder.steps] * MICRO.encoder.layers


def test_every_row_has_its_speech(made):
    world, _ = made
    for name in ("asr", "ast_de", "ast_es", "speech_qa"):
        for row in read_jsonl(world.sources[name]):
            audio = soundfile.info(world.sources[name].parent / row["audio_filepath"])
            assert (audio.samplerate, audio.channels) == (16000, 1)
            assert row["duration"] == pytest.approx(audio.duration, abs=1e-3)
    for row in read_jsonl(world.sources["mixed"]):
        for turn in row["conversations"]:
            assert turn["type"] == "text" or (world.sources["mixed"].parent / turn["value"]).is_file()


def test_test_items_can_be_read(made):
    world, _ = made
    for task in TEST_TASKS:
        for path in (world.tests[task], world.validations[task]):
            assert all(not item.error for item in read_items(path))
    for name in SETS:
        assert len(read_items(world.tests[name])) >= 100
        assert all(not item.error for item in read_items(world.tests[name]))


def test_the_report_tells_what_was_made(made):
    world, _ = made
    report = json.loads((world.directory / "report.json").read_text())
    assert report == world.report
    assert set(report["llm"]["accuracy_by_skill"]) >= {"qa", "qa_two", "sum", "sort"}
    assert {"wer", "wer_new_accent", "wer_known_accent", "seconds"} <= set(report["encoder"])
    assert all(report[stage]["seconds"] > 0 for stage in ("content", "tokenizer", "llm", "encoder"))


def test_a_second_run_makes_nothing(made):
    world, _ = made
    times = {path: path.stat().st_mtime_ns for path in (world.encoder_nemo, *world.llm_dir.iterdir())}
    said: list[str] = []
    again = prepare(MICRO, world.directory, said.append)
    assert again == world
    assert sorted(line.split(",")[0] for line in said) == [
        "content: reused", "language model: reused", "speech encoder: reused",
    ]  # fmt: skip
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_other_settings_of_one_part_make_only_that_part_anew(made, tmp_path):
    world, _ = made
    said: list[str] = []
    other = prepare(replace(MICRO, llm=replace(MICRO.llm, steps=13)), world.directory, said.append)
    assert "speech encoder: reused" in said
    assert any(line.startswith("language model: step 13 of 13") for line in said)
    assert other.report["encoder"] == world.report["encoder"]


def test_a_killed_run_continues(tmp_path):
    """Killed in mid-training, children and all; the next run starts from the checkpoints."""
    config = replace(MICRO, llm=replace(MICRO.llm, steps=400), encoder=replace(MICRO.encoder, steps=4))
    script = (
        "import json, sys; from pathlib import Path; from vtblender_nemo.tiny.world import prepare;"
        "from vtblender_nemo.tiny.config import config_from;"
        "prepare(config_from(json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    first = subprocess.Popen([sys.executable, "-c", script, json.dumps(asdict(config)), str(tmp_path)])
    checkpoint = tmp_path / "training.llm" / "checkpoint.pt"
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert checkpoint.exists()
    said: list[str] = []
    world = prepare(config, tmp_path, said.append)
    assert any(line.startswith("content: reused") for line in said)
    assert any(line.startswith("language model: continues from step") for line in said)
    assert world.llm_dir.is_dir()
