"""Small corpora in every format, whose audio tells by its level which file it is."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from tests.helpers.tokenizer import make_tokenizer
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.data.blend import Encoder

RATE = 16000
LOCATOR = "<unused0>"
FRAME_SECS = 0.08


def write_level(path: Path, level: float, secs: float = 0.5, rate: int = RATE) -> Path:
    """A file whose every sample is `level`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.full(round(secs * rate), level, np.float32), rate, subtype="FLOAT")
    return path


def write_ramp(path: Path, secs: float = 2.0, rate: int = RATE) -> np.ndarray:
    """A file whose sample number n is n / 100000; returns the samples."""
    samples = (np.arange(round(secs * rate)) / 100_000).astype(np.float32)
    sf.write(path, samples, rate, subtype="FLOAT")
    return samples


def write_jsonl(path: Path, rows: Iterable[dict[str, Any] | str]) -> str:
    """Writes rows; a text is written as it is. Returns the path as configurations hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def chat_rows(count: int, *, prefix: str = "c", words: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{prefix}{number}",
            "messages": [
                {"role": "user", "content": f"say {number} " * (1 + number % words)},
                {"role": "assistant", "content": f"{number}"},
            ],
        }
        for number in range(count)
    ]


def speech_rows(folder: Path, secs: Sequence[float], *, level: float = 0.1) -> list[dict[str, Any]]:
    """Manifest rows with audio files of these lengths in `folder`."""
    rows = []
    for number, duration in enumerate(secs):
        write_level(folder / f"{number:04}.wav", level, duration)
        rows.append(
            {
                "id": f"s{number}",
                "audio_filepath": f"{number:04}.wav",
                "duration": duration,
                "text": f"speech number {number}",
                "translation": f"Rede Nummer {number}",
                "question": f"which {number}?",
                "answer": f"the {number}",
                "source_lang": "en",
                "target_lang": "de",
            }
        )
    return rows


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def wav_bytes(samples: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def make_encoder() -> Encoder:
    return Encoder(ChatFormat(make_tokenizer(), LOCATOR), FRAME_SECS, RATE)
