"""Corpora that Lhotse has recipes for: the common part, LibriSpeech and Common Voice."""

from __future__ import annotations

import csv
import io
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.corpora.utterance import (
    Found,
    Refusal,
    Selection,
    Utterance,
    chosen,
    existing_folder,
    limited,
    numbered_lines,
)
from vtblender_nemo.corpora.view import Line, link, screen, write_lines

if TYPE_CHECKING:
    from lhotse import SupervisionSegment

Supervisions = dict[tuple[str, str], "SupervisionSegment"]  # by split and key
SPLITS = ("train", "dev", "test")


class Recipe(ABC):
    """A corpus with a recipe in Lhotse: its lists are read here, its text and speakers by the recipe."""

    takes_parts = False  # of recordings, as against whole files

    @abstractmethod
    def lines(self, selection: Selection) -> Iterator[Line | Refusal]:
        """The lines of the corpus's lists."""

    @abstractmethod
    def supervisions(self, lines: Sequence[Line], view: Path, workers: int) -> Supervisions:
        """What the recipe makes of a view in an empty folder, of lines of one language that can all be read."""

    def read(self, selection: Selection) -> Found:
        """The utterances of a corpus, language by language.

        Raises:
            ConfigError: no folder, or splits and languages that it does not hold.
            DataError: the recipe failed.
        """
        by_language: dict[str, list[Line]] = {}
        for line in limited(self.lines(selection), selection.limit):
            if isinstance(line, Refusal):
                yield line
            else:
                by_language.setdefault(line.language, []).append(line)
        for lines in by_language.values():
            kept, refused = screen(lines, selection.workers)
            yield from refused
            if kept:
                yield from self._utterances(kept, selection.workers)

    def _utterances(self, lines: Sequence[Line], workers: int) -> Found:
        with tempfile.TemporaryDirectory(prefix="view-") as folder:
            found = self._run(lines, Path(folder), workers)
        for line in lines:
            supervision = found.get((line.split, line.key))
            if supervision is None:
                yield Refusal(line.key, line.place, "left_out_by_recipe", "its part lies outside its recording")
            else:
                yield self._utterance(line, supervision)

    def _run(self, lines: Sequence[Line], view: Path, workers: int) -> Supervisions:
        said = io.StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):  # every recipe draws bars of its own
                return self.supervisions(lines, view, workers)
        except Exception as error:  # recipes raise whatever comes up from below
            raise DataError(
                f"Lhotse's recipe failed ({type(error).__name__}: {error})",
                path=lines[0].audio,
                expected="the corpus as it is unpacked",
                knob="--input",
            ) from error

    def _utterance(self, line: Line, supervision: SupervisionSegment) -> Utterance:
        known = {"speaker": supervision.speaker, "gender": supervision.gender, **(supervision.custom or {})}
        fields = {name: value for name, value in known.items() if value not in (None, "")}
        return Utterance(
            id=line.key,
            audio=(str(line.audio),),
            text=supervision.text.strip(),
            split=line.split,
            language=line.language,
            place=line.place,
            offset_secs=supervision.start if self.takes_parts else None,
            duration_secs=supervision.duration if self.takes_parts else None,
            fields={"source_lang": line.language, **fields},
        )


def by_key(manifests: Mapping[str, Any], *, recording: bool = False) -> Supervisions:
    """Supervisions of a recipe's `{split: {"supervisions": ...}}`."""
    return {
        (split, supervision.recording_id if recording else supervision.id): supervision
        for split, manifest in manifests.items()
        for supervision in manifest["supervisions"]
    }


class LibriSpeech(Recipe):
    """`<part>/<speaker>/<chapter>/` with FLAC files and one `.trans.txt`; the recipe's lower-case text."""

    def lines(self, selection: Selection) -> Iterator[Line | Refusal]:
        root = existing_folder(selection.folder)
        root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
        _check_above_splits(root)
        there = sorted(path.name for path in root.iterdir() if path.is_dir() and _is_part(path))
        for part in chosen(selection.splits, there, what="splits", folder=root):
            listed: set[str] = set()
            for listing in sorted((root / part).rglob("*.trans.txt")):
                for number, raw in numbered_lines(listing):
                    key, _, text = raw.strip().partition(" ")
                    listed.add(key)
                    yield Line(key, listing.with_name(f"{key}.flac"), text, part, "en", f"{listing}:{number}", raw)
            yield from unlisted(root / part, "*/*/*.flac", listed)

    def supervisions(self, lines: Sequence[Line], view: Path, workers: int) -> Supervisions:
        from lhotse.recipes import prepare_librispeech

        parts = sorted({line.split for line in lines})
        for part in parts:
            write_lines(view / part / "lines.trans.txt", (line.raw for line in lines if line.split == part))
        for line in lines:
            link(line.audio, view / line.split / Path(line.key.replace("-", "/")).parent / line.audio.name)
        return by_key(prepare_librispeech(view, dataset_parts=parts, normalize_text="lower", num_jobs=workers))


def _is_part(folder: Path) -> bool:
    """Whether a folder holds lists, or recordings whose lists are missing."""
    return next(folder.rglob("*.trans.txt"), None) is not None or next(folder.glob("*/*/*.flac"), None) is not None


def _check_above_splits(root: Path) -> None:
    """
    Raises:
        ConfigError: the folder is a split or lies in one, so that its speakers or chapters would be taken for splits.
    """
    for above, pattern in enumerate(("*/*/*.trans.txt", "*/*.trans.txt", "*.trans.txt")):
        if next(root.glob(pattern), None) is not None:
            what = "this is a split" if above == 0 else "this lies in what is a split"
            right = root.resolve().parents[above]
            raise ConfigError(f"{what}; give the folder above", path=root, expected=str(right), knob="--input")


class CommonVoice(Recipe):
    """`<language>/<split>.tsv` beside `<language>/clips/`; the folder of one language will do."""

    _columns = ("client_id", "path", "sentence", "age", "gender", "accents", "variant")  # those that the recipe reads

    def lines(self, selection: Selection) -> Iterator[Line | Refusal]:
        root = existing_folder(selection.folder)
        one = (root / "clips").is_dir()
        there = [root.name] if one else sorted(path.parent.name for path in root.glob("*/clips"))
        for language in chosen(selection.languages, there, what="languages", folder=root):
            folder = root if one else root / language
            tables = sorted(path.stem for path in folder.glob("*.tsv"))
            usual = [split for split in SPLITS if split in tables]
            for split in chosen(selection.splits or usual, tables, what="splits", folder=folder):
                yield from self._table(folder, split, language)

    def _table(self, folder: Path, split: str, language: str) -> Iterator[Line | Refusal]:
        path = folder / f"{split}.tsv"
        for number, row in read_table(path):
            name, text = row.get("path") or "", row.get("sentence") or ""
            clip = folder / "clips" / name
            yield Line(Path(name).stem, clip, text, split, language, f"{path}:{number}", row)

    def supervisions(self, lines: Sequence[Line], view: Path, workers: int) -> Supervisions:
        from lhotse.recipes import prepare_commonvoice

        language, splits = lines[0].language, sorted({line.split for line in lines})
        link(lines[0].audio.parent, view / language / "clips")
        for split in splits:
            rows = ([line.raw.get(name) or "" for name in self._columns] for line in lines if line.split == split)
            write_lines(view / language / f"{split}.tsv", map("\t".join, [self._columns, *rows]))
        manifests = prepare_commonvoice(view, view / "manifests", languages=[language], splits=splits, num_jobs=workers)
        return by_key(manifests[language])


def unlisted(folder: Path, pattern: str, listed: Container[str]) -> Iterator[Refusal]:
    """Recordings in a folder that no list of the corpus has, for a list may be missing or cut off."""
    for path in sorted(path for path in folder.glob(pattern) if path.stem not in listed):
        yield Refusal(path.stem, str(path), "audio_without_transcript", "no list has it")


def read_table(path: Path, *, escape: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a tab-separated file without quoting, as Common Voice writes it, with their line numbers from 1."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar=escape)
        for row in reader:
            yield reader.line_num, row
