"""Changes to a blend by the names of its sources: left out, another share, less speech."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import write_text
from vtblender_nemo.data.config import read_input_cfg
from vtblender_nemo.data.rows import JsonlRows, expand_paths

Entry = dict[str, Any]
PLACE = "data.train_ds.input_cfg"
_ONE_AUDIO = ("nemo", "speech_qa", "imitation")
_SEVERAL_AUDIOS = ("multimodal_conversation",)
_NO_AUDIO = ("text_chat", "share_gpt")

Recording = tuple[str, float]
"""Path and offset in seconds."""


def leave_out(entries: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """The sources without those of these names or types; a group that is left empty goes too.

    Raises:
        ConfigError: a name that no source has, or nothing is left.
    """
    matched: set[str] = set()

    def kept(level: Sequence[Entry]) -> Iterator[Entry]:
        for entry in level:
            if hits := _labels(entry) & set(names):
                matched.update(hits)
            elif entry.get("type") == "group":
                if inner := list(kept(read_input_cfg(entry["input_cfg"], PLACE))):
                    yield {**entry, "input_cfg": inner}
            else:
                yield entry

    left = list(kept(entries))
    if unknown := sorted(set(names) - matched):
        raise ConfigError(
            "no source of this name or type", value=unknown, expected=_known(entries), knob="variant.leave_out"
        )
    if not left:
        raise ConfigError("no source is left", value=list(names), expected=_known(entries), knob="variant.leave_out")
    return left


def with_shares(entries: Sequence[Entry], percent: Mapping[str, float]) -> list[Entry]:
    """Gives sources of the blend's first level a share of all rows; the other sources keep their proportions.

    Args:
        entries: all with weights.
        percent: by name or type; several sources of one type keep their proportions, too. 0 leaves them out.

    Raises:
        ConfigError: a name that no source has, sources without weights, or shares that leave nothing for the others.
    """
    named = {key: [n for n, entry in enumerate(entries) if key in _labels(entry)] for key in percent}
    chosen = [number for numbers in named.values() for number in numbers]
    for key, numbers in named.items():
        if not numbers:
            raise ConfigError(
                "no source of this name or type on the first level",
                value=key,
                expected=_known(entries),
                knob="variant.share_percent",
            )
    total = sum(percent.values())
    if len(set(chosen)) < len(chosen) or min(percent.values()) < 0 or total >= 100 or len(chosen) == len(entries):
        raise ConfigError(
            "shares that cannot be",
            value=dict(percent),
            expected="every source once, 0 or more each, less than 100 together, and sources left for the rest",
            knob="variant.share_percent",
        )
    for entry in entries:
        if not isinstance(entry.get("weight"), int | float):
            raise ConfigError("a share needs weights", value=entry.get("name"), expected="a weight", knob=PLACE)
    rest = sum(entry["weight"] for number, entry in enumerate(entries) if number not in chosen)
    weights: dict[int, float] = {}
    for key, numbers in named.items():
        own = sum(entries[number]["weight"] for number in numbers)
        wanted = percent[key] / (100 - total) * rest
        weights |= {number: entries[number]["weight"] / own * wanted for number in numbers}
    changed = [{**entry, "weight": weights.get(number, entry["weight"])} for number, entry in enumerate(entries)]
    return [entry for entry in changed if entry["weight"] > 0]


def draw_speech(entries: Sequence[Entry], minutes: float) -> set[Recording]:
    """So many minutes of the recordings that sources have, drawn by a hash of their names: more minutes keep what fewer had.

    Args:
        entries: sources of JSONL files; groups are searched too, also those in files of their own.
        minutes: of different recordings, together.

    Raises:
        ConfigError: a source of another type, recordings without duration, or less speech than that.
    """
    secs: dict[Recording, float] = {}
    for entry in _speech_sources(_written_out(entries)):
        for row, base, _ in _rows(entry):
            secs |= _recordings(row, base, entry)
    return _draw(secs, 60 * minutes)


def hear_only(entries: Sequence[Entry], heard: set[Recording], folder: Path) -> list[Entry]:
    """The same sources without the rows that have other recordings; text sources stay as they are.

    Args:
        entries: see `draw_speech`.
        heard: what it has drawn; a row of several recordings stays if all are among them.
        folder: where the shorter files are written.

    Raises:
        ConfigError: a source of another type, recordings without duration, or a source without rows.
    """
    entries = _written_out(entries)
    files = {id(entry): _write(entry, heard, folder) for entry in _speech_sources(entries)}

    def shortened(level: Sequence[Entry]) -> list[Entry]:
        return [
            {**entry, "input_cfg": shortened(entry["input_cfg"])}
            if entry.get("type") == "group"
            else {**entry, "manifest_filepath": str(files[id(entry)])}
            if id(entry) in files
            else entry
            for entry in level
        ]

    return shortened(entries)


def _written_out(entries: Sequence[Entry]) -> list[Entry]:
    """The sources with those of groups in place of the files that hold them."""
    return [
        {**entry, "input_cfg": _written_out(read_input_cfg(entry["input_cfg"], PLACE))}
        if entry.get("type") == "group"
        else entry
        for entry in entries
    ]


def _labels(entry: Entry) -> set[str]:
    return {label for label in (entry.get("name"), entry.get("type")) if label is not None}


def _known(entries: Sequence[Entry]) -> str:
    def labels(level: Sequence[Entry]) -> Iterator[str]:
        for entry in level:
            yield from (entry[key] for key in ("name", "type") if entry.get(key))
            if isinstance(entry.get("input_cfg"), list):
                yield from labels(entry["input_cfg"])

    return f"among {', '.join(dict.fromkeys(labels(entries)))}"


def _speech_sources(entries: Sequence[Entry]) -> Iterator[Entry]:
    for entry in entries:
        kind = entry.get("type")
        if kind == "group":
            yield from _speech_sources(entry["input_cfg"])
        elif kind in _ONE_AUDIO + _SEVERAL_AUDIOS and not entry.get("tarred_audio_filepaths"):
            yield entry
        elif kind not in _NO_AUDIO:
            raise ConfigError(
                "a source whose speech cannot be shortened",
                value=entry.get("name") or kind,
                expected=f"files without tars of type {', '.join(_ONE_AUDIO + _SEVERAL_AUDIOS)}, or text",
                knob="variant.speech_minutes",
            )


def _rows(entry: Entry) -> Iterator[tuple[dict[str, Any], Path, Path]]:
    """Rows with the folder that their audio paths start from, and their file."""
    for path in expand_paths(entry["manifest_filepath"], knob="manifest_filepath"):
        rows = JsonlRows([path], knob="manifest_filepath")
        base = Path(entry["audio_dir"]) if entry.get("audio_dir") else path.parent
        for number in range(len(rows)):
            yield dict(rows[number].data), base, path


def _audios(row: dict[str, Any], entry: Entry) -> list[tuple[dict[str, Any], str]]:
    """The objects of a row that name an audio, and the field that holds its path."""
    if entry["type"] in _ONE_AUDIO:
        return [(row, "audio_filepath")]
    return [(turn, "value") for turn in row["conversations"] if turn.get("type") == "audio"]


def _key(audio: Mapping[str, Any], field: str, base: Path) -> Recording:
    return str((base / audio[field]).resolve()), float(audio.get("offset") or 0.0)


def _recordings(row: dict[str, Any], base: Path, entry: Entry) -> dict[Recording, float]:
    found = {}
    for audio, field in _audios(row, entry):
        if not isinstance(audio.get("duration"), int | float):
            raise ConfigError(
                "a recording without duration",
                value=audio.get(field),
                expected="seconds in the field `duration`",
                knob="variant.speech_minutes",
            )
        found[_key(audio, field, base)] = float(audio["duration"])
    return found


def _draw(secs: Mapping[Recording, float], wanted_secs: float) -> set[Recording]:
    total = sum(secs.values())
    if total < wanted_secs:
        raise ConfigError(
            "the blend has not so much speech",
            value=f"{wanted_secs / 60:g} minutes",
            expected=f"at most {total / 60:.1f}",
            knob="variant.speech_minutes",
        )
    heard: set[Recording] = set()
    for recording in sorted(secs, key=_hash):
        if secs[recording] > wanted_secs:
            break
        wanted_secs -= secs[recording]
        heard.add(recording)
    return heard


def _hash(recording: Recording) -> str:
    """Does not depend on where the data lie."""
    path, offset = recording
    return hashlib.sha256(f"{'/'.join(Path(path).parts[-2:])} {offset}".encode()).hexdigest()


def _write(entry: Entry, heard: set[Recording], folder: Path) -> Path:
    lines = []
    for row, base, _ in _rows(entry):
        if _recordings(row, base, entry).keys() <= heard:
            for audio, field in _audios(row, entry):
                audio[field] = _key(audio, field, base)[0]
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    name = entry.get("name") or entry["type"]
    if not lines:
        raise ConfigError(
            f"no row of the source {name} is left",
            value=f"{len(heard)} recordings",
            expected="more speech, or the source left out",
            knob="variant.speech_minutes, variant.leave_out",
        )
    path = folder / f"{name}.jsonl"
    write_text("".join(lines), path)
    return path
