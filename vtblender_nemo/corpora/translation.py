"""Translated speech: CoVoST 2 over the clips of Common Voice, and Europarl-ST."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.corpora.recipes import SPLITS, read_table
from vtblender_nemo.corpora.utterance import Found, Refusal, Selection, Utterance, chosen, existing_folder, limited

_COVOST = "covost_v2."
# Parts of CoVoST's `split` column that belong to a split; as in `get_covost_splits.py` of facebookresearch/covost.
_COVOST_PARTS = {"train": ("train", "train_covost"), "dev": ("dev",), "test": ("test",)}
_AUDIO_ENDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")  # in the order in which they are looked for


def read_covost2(selection: Selection) -> Found:
    """CoVoST 2: `covost_v2.<from>_<into>.tsv` beside, or in, the folder of Common Voice's language.

    A table of all splits (`path`, `translation`, `split`) takes its transcripts from Common Voice's `validated.tsv`; the
    tables that CoVoST's own script makes of it, `covost_v2.<from>_<into>.<split>.tsv`, hold them.

    Raises:
        ConfigError: no tables or clips, or splits and languages that are not there.
    """
    root = existing_folder(selection.folder)
    tables: dict[str, list[Path]] = {}
    for path in sorted([*root.glob(f"{_COVOST}*_*.tsv"), *root.glob(f"*/{_COVOST}*_*.tsv")]):
        tables.setdefault("-".join(_covost_pair(path)), []).append(path)
    wanted = [name.replace("_", "-") for name in selection.languages]
    for pair in chosen(wanted, sorted(tables), what="languages", folder=root):
        for split in chosen(selection.splits, SPLITS, what="splits", folder=root):
            yield from limited(_covost_split(root, tables[pair], split), selection.limit)


def _covost_pair(table: Path) -> tuple[str, str]:
    source, _, target = table.name.removeprefix(_COVOST).split(".")[0].partition("_")
    return source, target


def _covost_split(root: Path, tables: Sequence[Path], split: str) -> Found:
    source, target = _covost_pair(tables[0])
    voice = root if (root / "clips").is_dir() else root / source
    existing_folder(voice / "clips")
    for table, row, spoken, number in _covost_rows(tables, split, voice / "validated.tsv"):
        name, place = row["path"], f"{table}:{number}"
        id = Path(name).stem
        if spoken is None:
            yield Refusal(id, place, "transcript_missing", f"{voice / 'validated.tsv'} has no clip {name}")
            continue
        clip = voice / "clips" / (name if Path(name).suffix else f"{name}.mp3")  # releases before 4 leave the end off
        fields = {
            "translation": row["translation"] or "",
            "source_lang": source,
            "target_lang": target,
            "speaker": spoken["client_id"] or "",
        }
        text = spoken["sentence"] or ""
        yield Utterance(id, (str(clip),), text, split, f"{source}-{target}", place, fields=fields)


def _covost_rows(
    tables: Sequence[Path], split: str, validated: Path
) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any] | None, int]]:
    """A split's rows: table, row, the row that holds the transcript if there is one, line."""
    made = next((path for path in tables if path.name.endswith(f".{split}.tsv")), None)
    if made is not None:
        for number, row in _covost_table(made, ("path", "sentence", "translation", "client_id")):
            yield made, row, row, number
        return
    whole = next((path for path in tables if path.name.count(".") == _COVOST.count(".") + 1), None)
    if whole is None:
        raise ConfigError(
            "no table of the split", path=tables[0].parent, value=split, expected=f"*.{split}.tsv", knob="--splits"
        )
    spoken = {row["path"]: row for _, row in _covost_table(validated, ("path", "sentence", "client_id"))}
    for number, row in _covost_table(whole, ("path", "translation", "split")):
        if row["split"] in _COVOST_PARTS[split]:
            yield whole, row, spoken.get(row["path"]), number


def _covost_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise ConfigError("table is missing", path=path, knob="--input")
    for number, row in read_table(path, escape="\\"):
        for column in columns:
            if column not in row:
                raise DataError("table lacks a column", path=path, line=1, value=column, expected=", ".join(columns))
        yield number, row


def read_europarl_st(selection: Selection) -> Found:
    """Europarl-ST: `<from>/<into>/<split>/segments.lst` with `segments.<language>`, and `<from>/audios/<speech>`.

    A line of `segments.lst` is a speech and the seconds of a segment's begin and end; the same line of `segments.<language>`
    is what is said in it. Speeches come as M4A; WAV or FLAC files of the same names are taken before them.

    Raises:
        ConfigError: no segments, or splits and languages that are not there.
        DataError: the lists of a split are not equally long.
    """
    root = existing_folder(selection.folder)
    root = next((folder for folder in (root / "v1.1", root / "v1.0") if folder.is_dir()), root)
    found = sorted({path.parents[1] for path in root.glob("*/*/*/segments.lst")})
    pairs = {f"{folder.parent.name}-{folder.name}": folder for folder in found}
    wanted = [name.replace("_", "-") for name in selection.languages]
    for pair in chosen(wanted, list(pairs), what="languages", folder=root):
        there = sorted(path.parent.name for path in pairs[pair].glob("*/segments.lst"))
        usual = [split for split in SPLITS if split in there]
        for split in chosen(selection.splits or usual, there, what="splits", folder=pairs[pair]):
            yield from limited(_europarl_split(pairs[pair] / split), selection.limit)


def _europarl_split(folder: Path) -> Found:
    source, target, split = folder.parents[1].name, folder.parent.name, folder.name
    listing = folder / "segments.lst"
    segments = _all_lines(listing)
    said, translated = (_all_lines(folder / f"segments.{language}") for language in (source, target))
    if not len(segments) == len(said) == len(translated):
        raise DataError(
            "lists of a split are not equally long",
            path=folder,
            value={"segments.lst": len(segments), source: len(said), target: len(translated)},
            expected="a line for every segment",
        )
    speakers = _europarl_speakers(folder)
    audios: dict[str, Path] = {}
    for number, (segment, text, translation) in enumerate(zip(segments, said, translated, strict=True), start=1):
        place = f"{listing}:{number}"
        try:
            speech, start, end = segment.split()
            start_secs, end_secs = float(start), float(end)
        except ValueError:
            yield Refusal(f"{split}-{number}", place, "bad_line", segment)
            continue
        if speech not in audios:
            audios[speech] = _audio_file(folder.parents[1] / "audios", speech)
        fields = {"translation": translation, "source_lang": source, "target_lang": target}
        if speech in speakers:
            fields["speaker"] = speakers[speech]
        yield Utterance(
            id=f"{speech}_{start}_{end}",
            audio=(str(audios[speech]),),
            text=text,
            split=split,
            language=f"{source}-{target}",
            place=place,
            offset_secs=start_secs,
            duration_secs=end_secs - start_secs,
            fields=fields,
        )


def _all_lines(path: Path) -> list[str]:
    """Lines, also blank ones: files are read beside each other."""
    if not path.is_file():
        raise ConfigError("list is missing", path=path, knob="--input")
    text = path.read_text(encoding="utf-8")
    return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []


def _europarl_speakers(folder: Path) -> dict[str, str]:
    """Speakers by speech, where the release names them."""
    paths = [folder / "speeches.lst", folder / "speakers.lst"]
    if not all(path.is_file() for path in paths):
        return {}
    speeches, speakers = (_all_lines(path) for path in paths)
    if len(speeches) != len(speakers):
        found = {"speeches.lst": len(speeches), "speakers.lst": len(speakers)}
        raise DataError("lists are not equally long", path=folder, value=found, expected="a speaker for every speech")
    return dict(zip(speeches, speakers, strict=True))


def _audio_file(folder: Path, name: str) -> Path:
    """The audio of a name whatever its format; the last one looked for if there is none."""
    paths = [folder / f"{name}{end}" for end in _AUDIO_ENDS]
    return next((path for path in paths if path.is_file()), paths[-1])
