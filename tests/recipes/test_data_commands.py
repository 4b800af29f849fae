"""From folders of recordings and chats to a training, by the commands of `examples/` alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.chat_server import ChatServer
from tests.helpers.corpora import noise, write_audio, write_lines
from vtblender_nemo import VTBlenderModel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SENTENCES = [
    "THE KING BOUGHT {} RED BOATS IN THE OLD TOWN",
    "ON MONDAY THE DOCTOR SOLD {} GREEN LAMPS AT NOON",
    "MY SISTER FOUND {} SMALL KEYS BEHIND THE BLUE DOOR",
]
NUMBERS = ["TWO", "THREE", "FOUR", "FIVE"]


def command(script: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of `examples/`; its exit code has to be 0."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def librispeech(root: Path) -> None:
    """LibriSpeech's layout: one speaker and chapter, twelve utterances of noise."""
    texts = [sentence.format(number) for sentence in SENTENCES for number in NUMBERS]
    chapter = root / "train-clean-5" / "19" / "198"
    write_lines(chapter / "19-198.trans.txt", [f"19-198-{row:04} {text}" for row, text in enumerate(texts)])
    for row in range(len(texts)):
        write_audio(chapter / f"19-198-{row:04}.flac", noise(row, 1.0 + 0.1 * row))


def ask_about(request: dict[str, Any]) -> str:
    """Plays the LLM: asks how many, which the prompt's transcript tells."""
    prompt = request["messages"][-1]["content"].upper()
    number = next(number for number in NUMBERS if f" {number} " in prompt)
    return json.dumps({"pairs": [{"question": "How many things are named?", "answer": number.lower()}]})


def test_four_commands_make_a_blend_that_is_clean_and_trains(tmp_path: Path, bases: tuple[Path, Path]) -> None:
    librispeech(tmp_path / "LibriSpeech")
    chats = [
        {
            "id": f"c{number}",
            "messages": [
                {"role": "user", "content": f"I have {number} apples. My friend takes one. How many are left?"},
                {"role": "assistant", "content": f"You have {number - 1} left."},
            ],
        }
        for number in range(3, 9)
    ]
    write_lines(tmp_path / "chats" / "chats.jsonl", [json.dumps(chat) for chat in chats])
    made = {name: tmp_path / "data" / name for name in ("asr", "text", "sqa", "mixed")}

    command(
        "prepare_corpus.py", "--corpus=librispeech", "--input", tmp_path / "LibriSpeech", "--output-dir", made["asr"]
    )
    command("prepare_corpus.py", "--corpus=chats", "--input", tmp_path / "chats", "--output-dir", made["text"])
    with ChatServer(ask_about) as server:
        command(
            "synthesize_sqa.py",
            *("--input", made["asr"] / "input_cfg.yaml"),
            *("--output-dir", made["sqa"], "--model", "m", "--base-url", server.url),
            OPENAI_API_KEY="none",
        )
    command("synthesize_mixed_modal.py", "--input", tmp_path / "chats/chats.jsonl", "--output-dir", made["mixed"])

    entries = [option for folder in made.values() for option in ("--input", folder / "input_cfg.yaml")]
    seen = command("inspect_blend.py", *entries, "--audio=decode", "--json", tmp_path / "blend.json")
    assert json.loads((tmp_path / "blend.json").read_text()), seen.stdout
    blend = tmp_path / "blend.yaml"
    groups = [{"type": "group", "weight": 0.25, "input_cfg": f"data/{name}/input_cfg.yaml"} for name in made]
    blend.write_text(json.dumps(groups))  # JSON is YAML
    llm, canary = bases
    done = command(
        "train_vtb.py",
        *("--config-name", "vtb_blend", f"data.train_ds.input_cfg={blend}", f"output_dir={tmp_path / 'mine'}"),
        *(f"model.pretrained_llm={llm}", f"model.pretrained_asr={canary}", "trainer.accelerator=cpu"),
        *("trainer.max_steps=2", "trainer.accumulate_grad_batches=1"),
        *("data.train_ds.batch_tokens=600", "model.perception.modality_adapter.d_model=32"),  # seconds, not minutes
    )
    path = tmp_path / "mine" / "mine.nemo"
    assert f"Trained: {path}" in done.stdout
    assert VTBlenderModel.restore_from(path)
    shares = json.loads((tmp_path / "mine" / "facts.json").read_text())["sources"]
    assert len(shares) == 4
    assert all(share["weight"] == pytest.approx(0.25) for share in shares.values())
    assert not (tmp_path / "mine" / "skipped.jsonl").exists()
