"""Rows answered by several processes: the output is that of one, and what one had answered is found by another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.listener import write_tone
from tests.helpers.models import talking_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    talking_model(tmp_path).save_to(str(tmp_path / "model.nemo"))
    for number in range(5):
        write_tone(tmp_path / f"many/{number}.wav", 10 * number + 10, secs=0.5 + 0.2 * number)
    (tmp_path / "many/none.wav").write_text("no audio")
    return tmp_path


def generate(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    paths = ["--model", folder / "model.nemo", "--input", folder / "many", "--output", folder / "out/out.jsonl"]
    command = [sys.executable, ROOT / "examples/generate_vtb.py", *paths, "--max-new-tokens", "5", "--device", "cpu"]
    return subprocess.run([*map(str, command), *flags], cwd=ROOT, capture_output=True, text=True, check=False)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/out.jsonl").read_text().splitlines()]


def test_several_workers_give_the_same_as_one(folder: Path) -> None:
    done = generate(folder, "--workers", "2")
    assert done.returncode == 1, done.stderr
    rows = rows_of(folder)
    assert [row["audio_filepath"] for row in rows] == [*(f"{n}.wav" for n in range(5)), "none.wav"]
    assert "cannot be opened" in rows[-1]["error"]
    kept = sorted((folder / "out").glob(".out.jsonl.journal*"))
    assert [path.name for path in kept] == [".out.jsonl.journal.0", ".out.jsonl.journal.1"]
    assert sum(len(path.read_text().splitlines()) for path in kept) == 5
    kept[1].unlink()  # what the second worker had answered is answered anew, by one process
    write_tone(folder / "many/none.wav", 60)
    done = generate(folder)
    assert done.returncode == 0, done.stderr
    assert [row["prediction"] for row in rows_of(folder)][:5] == [row["prediction"] for row in rows][:5]
    assert [path.name for path in (folder / "out").iterdir()] == ["out.jsonl"]
    assert "more workers than rows" in generate(folder, "--workers", "7").stderr
