"""The whole main job at a micro scale, by its command: world, training, report, model; then again, and with the contrasts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MICRO = [
    "tiny.content.spoken_facts=60",
    "tiny.content.speech_qa_rows=60",
    "tiny.content.mixed_rows=40",
    "tiny.content.text_chats=40",
    "tiny.content.test_items=6",
    "tiny.content.mixed_test_items_per_kind=6",
    "tiny.content.text_test_items_per_skill=1",
    "tiny.content.validation_items=4",
    "tiny.llm.vocabulary=1000",
    "tiny.llm.layers=2",
    "tiny.llm.hidden=32",
    "tiny.llm.heads=2",
    "tiny.llm.feed_forward=64",
    "tiny.llm.steps=12",
    "tiny.llm.tokens_per_batch=600",
    "tiny.encoder.layers=1",
    "tiny.encoder.width=32",
    "tiny.encoder.heads=2",
    "tiny.encoder.subsampling_channels=4",
    "tiny.encoder.steps=6",
    "tiny.encoder.frames_per_batch=1200",
    "model.perception.modality_adapter.d_model=32",
    "model.lora.r=2",
    "model.optim.sched.warmup_steps=1",
    "model.validation.max_new_tokens=4",
    "data.train_ds.batch_tokens=400",
    "warm_start.steps=2",
    "warm_start.optim.sched.warmup_steps=1",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "evaluation.max_new_tokens=6",
]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("main_job")


@pytest.fixture(scope="module")
def arguments(folder: Path) -> list[str]:
    return [f"output_dir={folder / 'micro'}", f"tiny.directory={folder / 'world'}", *MICRO]


@pytest.fixture(scope="module")
def report(folder: Path, arguments: list[str]) -> dict[str, Any]:
    done = run("train_vtb.py", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Scores, 0 to 100" in done.stdout
    return json.loads((folder / "micro" / "report.json").read_text())


def test_the_report_has_the_keys_that_stay(report: dict[str, Any]) -> None:
    for task, score in (("asr", "wer"), ("ast", "bleu"), ("sqa", "exact_match"), ("mixed_modal", "exact_match")):
        assert report[task][score] >= 0
        assert len(report[task]["interval"]) == 2
    assert {"blind"} <= report["sqa"].keys() & report["mixed_modal"].keys()
    assert {"accuracy", "base_accuracy"} <= report["text"].keys()
    assert report["seconds"].keys() == {"world", "warm_start", "training", "evaluation"}
    assert set(report["trained_parameters"]) == {"encoder", "modality_adapter", "projection", "lora"}
    wanted = {name: source["weight_wanted"] for name, source in report["sources"].items()}
    assert wanted.keys() == {"text", "asr", "ast_de", "ast_es", "speech_qa", "mixed_modal"}
    assert sum(wanted.values()) == pytest.approx(1)


def test_plots_model_and_lists_lie_beside_it(report: dict[str, Any], folder: Path) -> None:
    names = {path.name for path in (folder / "micro").iterdir()}
    assert {"micro.nemo", "loss.png", "progress.png", "scores.png", "history.jsonl", "config.yaml"} <= names
    assert report["about"]["warm_start_steps"] == 2


def test_again_it_says_that_it_is_finished(report: dict[str, Any], arguments: list[str]) -> None:
    done = run("train_vtb.py", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Finished before" in done.stdout
    assert "Scores, 0 to 100" in done.stdout


def test_another_seed_needs_another_folder(report: dict[str, Any], arguments: list[str]) -> None:
    done = run("train_vtb.py", *arguments, "seed=5")
    assert done.returncode == 1
    assert "ConfigError" in done.stderr
    assert "output_dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_contrasts_stand_in_the_report(report: dict[str, Any], arguments: list[str], folder: Path) -> None:
    done = run("train_vtb.py", *arguments, "contrast=true")
    assert done.returncode == 0, done.stderr[-3000:]
    contrast = json.loads((folder / "micro" / "report.json").read_text())["contrast"]
    assert contrast.keys() == {"speech_only_lora", "speech_only_unfrozen"}
    for scores in contrast.values():
        assert {"text_accuracy", "asr_wer"} <= scores.keys()


def test_the_model_answers_a_manifest(report: dict[str, Any], folder: Path) -> None:
    speech = next((folder / "world" / "content" / "speech" / "test").glob("*.wav"))
    rows = [
        {"audio_filepath": str(speech)},
        {"messages": [{"role": "user", "content": "What is two plus two?"}]},
        {"audio_filepath": "missing.wav"},
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(
        "generate_vtb.py",
        *("--model", str(folder / "micro" / "micro.nemo"), "--manifest", str(folder / "in.jsonl")),
        *("--output", str(folder / "out.jsonl"), "--max-new-tokens", "4"),
    )
    assert done.returncode == 1, done.stderr[-3000:]
    answers = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [answer["prediction"] is None for answer in answers] == [False, False, True]
    assert "missing.wav" in answers[2]["error"]
