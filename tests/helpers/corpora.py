"""Small public corpora in their own layouts, with noise of known samples for speech."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.corpora.utterance import Found, Refusal, Selection, Utterance
from vtblender_nemo.data.config import read_input_cfg
from vtblender_nemo.data.sources import make_source

RATE = 16_000


def noise(seed: int, secs: float = 0.3, rate: int = RATE) -> np.ndarray:
    """int16 samples (S,) that no other seed gives."""
    return np.random.default_rng(seed).integers(-8000, 8000, round(secs * rate)).astype(np.int16)


def tone(level: float, secs: float = 0.5, rate: int = RATE) -> np.ndarray:
    """float32 samples (S,) of 440 Hz that lossy codecs keep; its level tells which it is."""
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(secs * rate)) / rate)).astype(np.float32)


def write_audio(path: Path, samples: np.ndarray, rate: int = RATE, **how: str) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples, rate, **how)
    return samples


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def librispeech(root: Path, parts: Sequence[str] = ("train-clean-5", "dev-clean-2"), rows: int = 3) -> dict[str, Any]:
    """Parts of one speaker with `rows` utterances each; gives their samples by id."""
    samples = {}
    for number, part in enumerate(parts):
        chapter = root / part / f"{100 + number}" / "7"
        ids = [f"{100 + number}-7-{row:04}" for row in range(rows)]
        write_lines(chapter / f"{100 + number}-7.trans.txt", [f"{id} HELLO NUMBER {id[-1]}" for id in ids])
        for row, id in enumerate(ids):
            samples[id] = write_audio(chapter / f"{id}.flac", noise(100 * number + row, 0.2 + 0.1 * row))
    return samples


def common_voice(root: Path, rows: Mapping[str, Sequence[tuple[str, str]]], columns: Sequence[str]) -> None:
    """Tables of (clip, sentence) by split, and clips of rising levels beside them."""
    levels = iter(np.arange(0.1, 1.0, 0.1))
    for split, lines in rows.items():
        values = {"client_id": "speaker1", "gender": "female"}
        table = [{**values, "path": clip, "sentence": text} for clip, text in lines]
        made = ["\t".join(row.get(column, "") for column in columns) for row in table]
        write_lines(root / f"{split}.tsv", ["\t".join(columns), *made])
        for clip, _ in lines:
            write_audio(root / "clips" / clip, tone(next(levels), rate=32_000), 32_000)


def gzip_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def found_of(found: Found) -> tuple[dict[str, Utterance], dict[str, str]]:
    """Utterances by id, and the reasons of refusals by id."""
    items = list(found)
    taken = {item.id: item for item in items if isinstance(item, Utterance)}
    return taken, {item.id: item.reason for item in items if isinstance(item, Refusal)}


def selection(folder: Path, **wanted: Any) -> Selection:
    return Selection(folder, **wanted)


def read_back(config: Path) -> dict[str, dict[str, Any]]:
    """Every row of a file of entries through the data room's sources: by source and id, what was asked, answered, heard."""
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(read_input_cfg(config, "input_cfg")):
        source = make_source(entry, RATE, f"input_cfg[{number}]")
        for index in range(len(source)):
            row = source.conversation(index, random.Random(index))
            heard = [load_samples(audio.cut, RATE) for audio in row.audios]
            found[f"{source.name}/{row.id}"] = {
                "asked": " ".join(part.text for part in row.turns[0].parts if hasattr(part, "text")),
                "answer": row.reference,
                "secs": row.audio_secs,
                "samples": np.rint(heard[0] * 32768).astype(np.int16) if heard else None,
                "custom": dict(row.custom),
            }
    return found


def die(*_: Any) -> None:
    """Ends this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def rejected(output: Path) -> dict[str, str]:
    lines = (output / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file's bytes by its path in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
