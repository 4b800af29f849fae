"""A manifest in, the same rows with predictions out: the work behind `examples/generate_vtb.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.rows import Row
from vtblender_nemo.evaluation.items import Item, conversation_to_answer
from vtblender_nemo.evaluation.journal import Journal
from vtblender_nemo.evaluation.jsonl import read_rows, write_rows
from vtblender_nemo.evaluation.runner import Answerer, Decoding, Prediction, predict

TRANSCRIPTION_PROMPT = "Transcribe:"
"""The default prompt; the audio follows it. One of the wordings that the embedded default is trained with."""


@dataclass(frozen=True)
class ManifestRow:
    """A row as it was read, and the item made of it; a line that is no JSON object has an empty row."""

    row: Mapping[str, Any]
    item: Item


@dataclass(frozen=True)
class Written:
    """How many rows were written, and how many of them without a prediction."""

    rows: int
    failed: int


def check_paths(manifest: Path, output: Path) -> None:
    """To be called before a model is loaded, which takes longer.

    Raises:
        ConfigError: output and manifest are one file, or the output is a folder.
    """
    if manifest.resolve() == output.resolve():
        raise ConfigError(
            "the output would replace the manifest", path=output, expected="another file", knob="--output"
        )
    if output.is_dir():
        raise ConfigError("the output is a folder", path=output, expected="a JSONL file", knob="--output")


def read_manifest(path: Path, *, prompt: str = TRANSCRIPTION_PROMPT) -> list[ManifestRow]:
    """Reads rows of one of two forms; a faulty row becomes an item with an error.

    `{"audio_filepath": ..., "offset"?: s, "duration"?: s}` is asked `prompt` and then hears its audio; `{"messages":
    [...]}` is a conversation that ends with a user turn. Relative paths start from the manifest's folder. Other fields
    are kept.

    Raises:
        DataError: the file is missing, or has no rows.
    """
    return [_item_of(line, row, prompt) for line, row in enumerate(read_rows(path), start=1)]


def answer_manifest(
    model: Answerer,
    rows: list[ManifestRow],
    output: Path,
    *,
    decoding: Decoding = Decoding(),
    model_id: str = "",
    progress: bool = True,
) -> Written:
    """Writes the rows in their order, each with `prediction`, or with `prediction` null and `error`.

    The output appears when all is done. What is done before a stop is kept beside it (`.OUTPUT.journal`) for the next
    run of the same model and rows, as it is when rows failed, so that only those are tried again.
    """
    journal = Journal(output.with_name(f".{output.name}.journal"))
    items = [row.item for row in rows]
    answers = predict(model, items, decoding=decoding, journal=journal, model_id=model_id, progress=progress)
    write_rows((_output_row(row.row, answer) for row, answer in zip(rows, answers, strict=True)), output)
    failed = sum(answer.text is None for answer in answers)
    if not failed:
        journal.remove()
    return Written(len(rows), failed)


def file_id(path: Path) -> str:
    """A name for a file that changes when the file does: path, size and time of change."""
    stat = path.stat()
    return f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"


def _item_of(line: int, row: Row | DataError, prompt: str) -> ManifestRow:
    id = f"line {line}"
    if isinstance(row, DataError):
        return ManifestRow({}, Item(id, "", None, error=str(row)))
    try:
        conversation = conversation_to_answer(_messages(row.data, prompt), id=id, base_dir=row.path.parent)
    except DataError as error:
        return ManifestRow(row.data, Item(id, "", None, error=str(error)))
    return ManifestRow(row.data, Item(id, "", conversation))


def _messages(row: Mapping[str, Any], prompt: str) -> Any:
    if ("messages" in row) == ("audio_filepath" in row):
        found = "both" if "messages" in row else sorted(row)
        raise DataError("row without one clear input", value=found, expected="either audio_filepath or messages")
    if "messages" in row:
        return row["messages"]
    span = {name: row[name] for name in ("offset", "duration") if row.get(name) is not None}
    audio = {"type": "audio", "audio": row["audio_filepath"], **span}
    return [{"role": "user", "content": [{"type": "text", "text": prompt}, audio]}]


def _output_row(row: Mapping[str, Any], answer: Prediction) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in ("prediction", "error")}
    return kept | {"prediction": answer.text} | ({"error": answer.error} if answer.text is None else {})
