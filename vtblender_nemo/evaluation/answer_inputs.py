"""What is to be answered: manifests, folders of audio, and whatever training reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.item_sets import read_source_items
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.manifest import ManifestRow, read_manifest, read_manifest_rows

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au", ".m4a"})
_NO_ANSWER = "_no_answer"
"""A field that stands for the answer which rows of a source need not have here."""


def read_inputs(path: Path, *, prompt: str) -> list[ManifestRow]:
    """Reads rows to be answered; a faulty row becomes an item with an error.

    Args:
        path: a manifest as `read_manifest` takes it; a folder of audio files, at any depth, in the order of their names; a
            folder of Lhotse shar; Lhotse cuts (JSONL or JSONL.gz); or a YAML file of sources as training has them.
        prompt: what is asked about audio; rows of conversations ask themselves.

    Raises:
        DataError: nothing to be answered, or sources that cannot be read.
        ConfigError: sources that cannot be opened.
    """
    if path.is_dir():
        if any(path.glob("cuts.*.jsonl*")):
            return _of_sources([{"type": "lhotse_shar", "shar_path": str(path)}], prompt, path)
        return _of_folder(path, prompt)
    if path.suffix in (".yaml", ".yml"):
        return _of_sources(str(path), prompt, path)
    if _holds_cuts(path):
        return _of_sources([{"type": "lhotse", "cuts_path": str(path)}], prompt, path)
    return read_manifest(path, prompt=prompt)


def _of_folder(folder: Path, prompt: str) -> list[ManifestRow]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise DataError(
            "no audio in the folder", path=folder, expected=f"files that end in {', '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return read_manifest_rows(
        [{"audio_filepath": file.relative_to(folder).as_posix()} for file in files], folder, prompt
    )


def _holds_cuts(path: Path) -> bool:
    if not path.is_file():
        return False
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            row = json.loads(file.readline())
        except (ValueError, OSError):
            return False
    return isinstance(row, dict) and str(row.get("type", "")).endswith("Cut")


def _of_sources(input_cfg: Any, prompt: str, path: Path) -> list[ManifestRow]:
    from vtblender_nemo.data.config import read_input_cfg

    entries = [_unanswered(entry) for entry in read_input_cfg(input_cfg, str(path))]
    items = read_source_items(entries, task="", prompt=prompt, place=str(path))
    return [ManifestRow(_row_of(item), item) for item in items]


def _unanswered(entry: dict[str, Any]) -> dict[str, Any]:
    """A source whose rows need no answer of their own."""
    if entry.get("type") == "group":
        from vtblender_nemo.data.config import read_input_cfg

        return {**entry, "input_cfg": [_unanswered(one) for one in read_input_cfg(entry.get("input_cfg"), "input_cfg")]}
    if entry.get("type") not in ("nemo", "nemo_tarred", "lhotse", "lhotse_shar"):
        return entry
    return {**entry, "text_field": _NO_ANSWER, "tags": {**entry.get("tags", {}), _NO_ANSWER: "?"}}


def _row_of(item: Item) -> dict[str, Any]:
    hidden = (_NO_ANSWER, "transcript")
    return {"id": item.id, **{name: value for name, value in item.custom.items() if name not in hidden}}
