"""Recognition tests in other voices than the world's own: of every engine, and of real people."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.rows import JsonlRows, Row
from vtblender_nemo.tiny.config import VoicesConfig
from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.skills import WORDINGS
from vtblender_nemo.tiny.speech import Spoken
from vtblender_nemo.tiny.voices import engine_test_voice

REAL_TASK = "real_digits"
_KNOB = "tiny.real_items"


def said_by_engines(items: list[Item], voices: VoicesConfig, seed: int) -> dict[str, list[Item]]:
    """The items of the recognition test once more for every tested engine, as task `asr_ENGINE`.

    Args:
        items: with one spoken part each.
        voices: who may speak.
        seed: draws voices.
    """
    return {f"asr_{engine}": _said_by(engine, items, voices, seed) for engine in voices.test_engines or ()}


def _said_by(engine: str, items: list[Item], voices: VoicesConfig, seed: int) -> list[Item]:
    rng, said = random.Random(f"test-{engine}-{seed}"), []
    for index, item in enumerate(items):
        (first,) = item.spoken
        voice = engine_test_voice(rng, voices, engine, index)
        spoken = Spoken(f"{engine}_{index:05d}", first.text, voice)
        parts = tuple(part if isinstance(part, str) else spoken for part in item.parts)
        task = f"{item.task}_{engine}"
        said.append(replace(item, id=f"{task}_{index:04d}", task=task, parts=parts))
    return said


def read_real_items(manifest: Path) -> list[dict[str, Any]]:
    """Test items of real recordings; they are asked for as those of the recognition test are.

    Args:
        manifest: NeMo manifest, `{"audio_filepath", "duration", "text", ...}`, with paths relative to it or absolute.

    Raises:
        ConfigError: the manifest is missing or has no rows.
        DataError: a row that has no text or names an audio file that is not there.
    """
    if not manifest.is_file():
        raise ConfigError(
            "the manifest of real recordings is missing", path=manifest, expected="a NeMo manifest", knob=_KNOB
        )
    return list(_real_items(manifest.resolve()))


def write_real_items(items: list[dict[str, Any]], path: Path) -> None:
    """Writes what `read_real_items` made, in place of any older file."""
    partial = path.with_name(f"partial.{path.name}")  # the file may be a link to another world's
    partial.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    partial.replace(path)


def _real_items(manifest: Path) -> Iterator[dict[str, Any]]:
    rng, rows = random.Random(REAL_TASK), JsonlRows([manifest], knob=_KNOB)
    for index in range(len(rows)):
        row = rows[index]
        text, name = _text(row, "text"), _text(row, "audio_filepath")
        audio = manifest.parent / name
        if not audio.is_file():
            raise DataError("audio file is missing", path=manifest, line=row.line, value=str(audio), knob=_KNOB)
        wording, part = rng.choice(WORDINGS["repeat"]), {"type": "audio", "audio": str(audio), **_span(row.data)}
        asked = {"type": "text", "text": wording.text}
        yield {
            "id": f"{REAL_TASK}_{index:04d}",
            "task": REAL_TASK,
            "messages": [{"role": "user", "content": [asked, part] if wording.leads else [part, asked]}],
            "reference": text,
            "custom": {"kind": str(row.data.get("speaker", REAL_TASK)), "transcript": [text]},
        }


def _text(row: Row, field: str) -> str:
    value = row.data.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"row without {field}", path=row.path, line=row.line, value=value, expected="a text")
    return value


def _span(row: dict[str, Any]) -> dict[str, float]:
    """Offset and duration, where the manifest asks for a part of the file."""
    return {key: row[key] for key in ("offset", "duration") if row.get("offset") and row.get(key) is not None}
