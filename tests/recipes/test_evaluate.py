"""The evaluation command as a user runs it: speech, noise, text and the base LLM, to the report; then again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf
import yaml

from tests.helpers import models
from vtblender_nemo.evaluation.scores import read_scores

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(bases: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vtblender_nemo.models.vtblender import VTBlenderModel

    folder = tmp_path_factory.mktemp("evaluate")
    VTBlenderModel(models.model_config(*bases)).save_to(folder / "model.nemo")
    spoken, written = [], []
    for number in range(6):
        sf.write(folder / f"{number}.wav", models.speech(0.4 + 0.1 * number, number), models.SAMPLING_RATE)
        audio = {"type": "audio", "audio": f"{number}.wav"}
        custom = {"kind": "a" if number % 2 else "b", "transcript": f"number {number}"}
        custom |= {"generalisation": ("known", "prompt", "task")[number % 3], "wording_distance": number / 6}
        messages = [{"role": "user", "content": [audio, {"type": "text", "text": "what?"}]}]
        spoken.append({"id": f"s{number}", "messages": messages, "reference": f"the {number}", "custom": custom})
        text = [{"role": "user", "content": f"say {number}"}]
        written.append({"id": f"t{number}", "messages": text, "reference": f"{number}", "custom": {"kind": "say"}})
    for name, rows in (("spoken", spoken), ("written", written)):
        lines = (json.dumps({"task": name, **row}) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    items = {"items": [str(folder / "spoken.jsonl")], "max_new_tokens": 6}
    tasks = {
        "asr": {"kind": "asr", **items},
        "sqa": {"kind": "sqa", "variants": ["text_twin", "no_audio_shuffle", "base"], **items},
        "new": {"kind": "generalisation", **items},
        "noise": {"kind": "noise", "noise": {"secs": [0.5], "repeats": 1}, "max_new_tokens": 6},
        "text": {
            "kind": "text",
            "tasks": ["tiny_text"],
            "data": str(folder / "written.jsonl"),
            "columns": ["id", "messages", "reference", "custom"],
            "max_gen_toks": 6,
            "measures": [{"name": "exact_match_percent", "metric": "exact_match", "filter": "stripped"}],
        },
    }
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    return folder


def evaluate(folder: Path) -> subprocess.CompletedProcess[str]:
    flags = {"--model": folder / "model.nemo", "--output-dir": folder / "out", "--config": folder / "tasks.yaml"}
    command = [sys.executable, str(ROOT / "examples/evaluate_vtb.py"), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command += [str(text) for pair in flags.items() for text in pair]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_everything_is_measured_and_reported_and_the_second_run_finds_it_done(folder):
    first = evaluate(folder)
    assert first.returncode == 0, first.stderr
    sheet = read_scores(folder / "out")
    found = {(one.task, one.variant) for one in sheet.measures}
    assert {("asr", ""), ("noise", ""), ("sqa", "text_twin"), ("sqa", "minus_base"), ("text", "minus_base")} <= found
    assert {("new", "agreement_with_text_twin"), ("new", "agreement_with_base")} <= found
    assert "new, prompt" in first.stdout
    assert all(one.failed == 0 for one in sheet.measures)
    assert sheet.base
    page = (folder / "out/report.html").read_text()
    assert "<html" in page
    assert "What was never asked in training" in page
    assert list((folder / "out/plots").glob("*.png"))
    predictions = {path.name for path in (folder / "out/predictions").glob("*.jsonl")}
    assert {
        "asr.jsonl",
        "sqa.base.jsonl",
        "sqa.text_twin.jsonl",
        "noise.jsonl",
        "text.jsonl",
        "text.base.jsonl",
    } <= predictions

    second = evaluate(folder)
    assert second.returncode == 0, second.stderr
    assert read_scores(folder / "out").measures == sheet.measures  # RTFx too: nothing was answered again
