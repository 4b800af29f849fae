"""A manifest in, the same rows with predictions out: the work behind `examples/generate_vtb.py`."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.files import write_json, write_text
from vtblender_nemo.common.subtitles import Segment, subtitles
from vtblender_nemo.common.wordings import TRANSCRIPTION_PROMPT
from vtblender_nemo.data.rows import Row
from vtblender_nemo.evaluation.answer_parts import part_items
from vtblender_nemo.evaluation.items import Item, conversation_to_answer
from vtblender_nemo.evaluation.journal import Journal
from vtblender_nemo.evaluation.jsonl import read_rows, write_rows
from vtblender_nemo.evaluation.runner import Answerer, Decoding, Prediction, predict


class Listener(Answerer, Protocol):
    """An answerer that tells at which rate (Hz) it hears."""

    sampling_rate: int


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


def read_manifest_rows(rows: Sequence[Mapping[str, Any]], folder: Path, prompt: str) -> list[ManifestRow]:
    """Rows as those of a manifest that lies in a folder."""
    place = folder / "rows"
    return [_item_of(line, Row(dict(row), place, line), prompt) for line, row in enumerate(rows, start=1)]


def answer_manifest(
    model: Listener,
    rows: list[ManifestRow],
    output: Path,
    *,
    decoding: Decoding = Decoding(),
    model_id: str = "",
    part_secs: float | None = None,
    subtitle_dir: Path | None = None,
    progress: bool = True,
) -> Written:
    """Writes the rows in their order, each with `prediction`, or with `prediction` null and `error`.

    The output appears when all is done. What is done before a stop is kept beside it (`.OUTPUT.journal`) for the next
    run of the same model and rows, as it is when rows failed, so that only those are tried again.

    Args:
        model: answers.
        rows: to be answered.
        output: JSONL; or JSON, one list, where its name ends so.
        decoding: batch sizes and limits.
        model_id: names the model in the journal.
        part_secs: longer audio is asked about part by part; rows then have `segments`, with the seconds of each part.
        subtitle_dir: gets an SRT file of every row with audio.
        progress: show a bar.
    """
    journal = Journal(journal_of(output), also=journals_of(output))
    answers = answer_rows(
        model, rows, journal, decoding=decoding, model_id=model_id, part_secs=part_secs, progress=progress
    )
    written = write_answers(rows, answers, output, with_segments=part_secs is not None, subtitle_dir=subtitle_dir)
    if not written.failed:
        remove_journals(output)
    return written


def journal_of(output: Path, worker: int | None = None) -> Path:
    """Where answers are kept until all are there: one file, or one for each worker."""
    return output.with_name(f".{output.name}.journal" + ("" if worker is None else f".{worker}"))


def journals_of(output: Path) -> list[Path]:
    """All such files that there are, whoever made them."""
    return sorted(output.parent.glob(f"{glob.escape(journal_of(output).name)}*"))


def remove_journals(output: Path) -> None:
    """To be called when all is answered and written."""
    for path in journals_of(output):
        path.unlink()


RowAnswer: TypeAlias = tuple[Prediction, list[Segment]]
"""The answer to a row, and to each part of its audio; no parts where it failed."""


def answer_rows(
    model: Listener,
    rows: Sequence[ManifestRow],
    journal: Journal,
    *,
    decoding: Decoding,
    model_id: str,
    part_secs: float | None,
    progress: bool,
    title: str = "generate",
) -> list[RowAnswer]:
    """The answers to rows, in their order."""
    parts = part_items([row.item for row in rows], part_secs, model.sampling_rate)
    answers = predict(
        model, parts.items, decoding=decoding, journal=journal, model_id=model_id, progress=progress, title=title
    )
    return parts.join(answers)


def write_answers(
    rows: Sequence[ManifestRow],
    answers: Sequence[RowAnswer],
    output: Path,
    *,
    with_segments: bool,
    subtitle_dir: Path | None,
) -> Written:
    """Writes rows with their answers, whole or not at all, and subtitles."""
    written = [
        _output_row(row.row, answer, segments if with_segments else [])
        for row, (answer, segments) in zip(rows, answers, strict=True)
    ]
    if subtitle_dir is not None:
        for name, (_, segments) in zip(_names(rows), answers, strict=True):
            if name and segments:
                write_text(subtitles(segments, "srt"), subtitle_dir / f"{name}.srt")
    if output.suffix == ".json":
        write_json(written, output)
    else:
        write_rows(written, output)
    return Written(len(rows), sum(answer.text is None for answer, _ in answers))


def _names(rows: Sequence[ManifestRow]) -> list[str]:
    """A file's name for every row with audio; those that would be the same are numbered."""
    stems = []
    for row in rows:
        path = row.row.get("audio_filepath") or row.row.get("id") or row.item.id
        has_audio = row.item.conversation is not None and row.item.conversation.audios
        stems.append(re.sub(r"[^\w.-]+", "_", str(Path(str(path)).with_suffix(""))).strip("_.") if has_audio else "")
    counts = Counter(stems)
    taken = {stem for stem, times in counts.items() if times == 1}
    return [stem if not stem or counts[stem] == 1 else _unused(stem, taken) for stem in stems]


def _unused(stem: str, taken: set[str]) -> str:
    """The stem with the first number that makes a new name, which is then taken."""
    name = next(name for number in count(1) if (name := f"{stem}_{number}") not in taken)
    taken.add(name)
    return name


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


def _output_row(row: Mapping[str, Any], answer: Prediction, segments: Sequence[Segment]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in ("prediction", "error", "segments")}
    timed = [{"start": round(one.start_secs, 3), "end": round(one.end_secs, 3), "text": one.text} for one in segments]
    made = {"prediction": answer.text} | ({"segments": timed} if timed else {})
    return kept | made | ({"error": answer.error} if answer.text is None else {})
