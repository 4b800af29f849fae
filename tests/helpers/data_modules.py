"""A small corpus with faults, and the data module over it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from tests.helpers.corpus import FRAME_SECS, RATE, chat_rows, make_encoder, speech_rows, write_jsonl
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.data.loader import BlendDataModule

ENCODER = make_encoder()


def write_corpus(folder: Path) -> Path:
    """20 speech rows, one of them without its file and one whose file is broken, a bad line, and 30 chats."""
    rows = speech_rows(folder, [0.3 + 0.05 * number for number in range(20)])
    (folder / "0003.wav").unlink()
    (folder / "0007.wav").write_bytes(b"RIFF, but not really")
    write_jsonl(folder / "speech.jsonl", [*rows[:10], "no json", *rows[10:]])
    write_jsonl(folder / "chats.jsonl", chat_rows(30, words=8))
    write_jsonl(folder / "good.jsonl", [rows[0], *rows[10:]])
    return folder


def train_ds(corpus: Path, **keys: Any) -> dict[str, Any]:
    chats = {"type": "text_chat", "manifest_filepath": str(corpus / "chats.jsonl"), "weight": 1}
    asr = {
        "type": "nemo",
        "name": "asr",
        "manifest_filepath": str(corpus / "speech.jsonl"),
        "prompts": ["Write.", "{audio} What is said?", "Type it."],
        "audio_position": "random",
        "weight": 2,
    }
    return {"input_cfg": [chats, asr], "batch_tokens": 600, "num_buckets": 3, "buffer_size": 50, "seed": 5, **keys}


def module(
    train: dict[str, Any] | None = None, skipped: Path | None = None, *, twins: bool = False, **sections: Any
) -> BlendDataModule:
    cfg = {"train_ds": train, **sections}
    return BlendDataModule(cfg, ENCODER.chat_format, FRAME_SECS, RATE, skipped, twins=twins)


def take(data: BlendDataModule, count: int) -> list[Batch]:
    return list(itertools.islice(data.train_dataloader(), count))
