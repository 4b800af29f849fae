"""Corpora of many languages that Lhotse has recipes for: MLS, VoxPopuli and FLEURS."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.corpora.recipes import SPLITS, Recipe, Supervisions, by_key, unlisted
from vtblender_nemo.corpora.utterance import Refusal, Selection, chosen, existing_folder, numbered_lines
from vtblender_nemo.corpora.view import Line, link, with_stand_ins, write_lines

_MLS_CODES = {
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "spanish": "es",
    "french": "fr",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
}


class Mls(Recipe):
    """`mls_<language>/<split>/transcripts.txt` and `audio/<speaker>/<book>/<id>.flac`, or `.opus` in `mls_<language>_opus`."""

    def lines(self, selection: Selection) -> Iterator[Line | Refusal]:
        root = existing_folder(selection.folder)
        root = root.parent if root.name.startswith("mls_") else root
        folders = {_mls_code(path): path for path in sorted(root.glob("mls_*")) if (path / "metainfo.txt").is_file()}
        only = [_mls_code(selection.folder)] if root != selection.folder else []
        wanted = [_MLS_CODES.get(name, name) for name in selection.languages] or only
        for language in chosen(wanted, sorted(folders), what="languages", folder=root):
            folder = folders[language]
            there = [split for split in SPLITS if (folder / split / "transcripts.txt").is_file()]
            for split in chosen(selection.splits, there, what="splits", folder=folder):
                yield from self._list(folder, split, language)

    def _list(self, folder: Path, split: str, language: str) -> Iterator[Line | Refusal]:
        path = folder / split / "transcripts.txt"
        end = "opus" if folder.name.endswith("_opus") else "flac"
        listed: set[str] = set()
        for number, raw in numbered_lines(path):
            key, _, text = raw.partition("\t")
            listed.add(key)
            audio = folder / split / "audio" / Path(key.replace("_", "/")).parent / f"{key}.{end}"
            yield Line(key, audio, text, split, language, f"{path}:{number}", raw)
        yield from unlisted(folder / split / "audio", f"*/*/*.{end}", listed)

    def supervisions(self, lines: Sequence[Line], view: Path, workers: int) -> Supervisions:
        from lhotse.recipes import prepare_mls

        source = next(parent for parent in lines[0].audio.parents if parent.name.startswith("mls_"))
        folder = view / f"mls_{lines[0].language}"
        speakers = dict.fromkeys(line.key.partition("_")[0] for line in lines)
        write_lines(folder / "metainfo.txt", _speakers(source / "metainfo.txt", speakers))
        for split, shown in with_stand_ins(lines, SPLITS).items():
            write_lines(folder / split / "transcripts.txt", (line.raw for line in shown))
            for line in shown:
                link(line.audio, folder / split / "audio" / line.audio.name)
        manifests = prepare_mls(view, opus=lines[0].audio.suffix == ".opus", num_jobs=1)
        return by_key(manifests[lines[0].language])


def _mls_code(folder: Path) -> str:
    name = folder.name.removeprefix("mls_").removesuffix("_opus")
    return _MLS_CODES.get(name, name)


def _speakers(metainfo: Path, speakers: dict[str, None]) -> Iterator[str]:
    """Lines of the speakers' table, `speaker | gender | ...`; one that it lacks gets an empty gender."""
    known = {line.partition("|")[0].strip(): line for _, line in numbered_lines(metainfo)}
    for speaker in speakers:
        yield known.get(speaker, f"{speaker} | ")


class VoxPopuli(Recipe):
    """`raw_audios/original/<year>/<session>_original.ogg` (or `raw_audios/<language>/`), cut by `asr_<language>.tsv.gz`.

    The annotations stand in the folder itself or where VoxPopuli's own scripts put them, `transcribed_data/<language>/`;
    the recipe would download them.
    """

    takes_parts = True

    def lines(self, selection: Selection) -> Iterator[Line | Refusal]:
        from lhotse.recipes.voxpopuli import ASR_LANGUAGES

        root = existing_folder(selection.folder)
        found = {_annotated(path): path for pattern in _ANNOTATIONS for path in sorted(root.glob(pattern))}
        tables = {language: path for language, path in found.items() if language in ASR_LANGUAGES}
        for language in chosen(selection.languages, sorted(tables), what="languages", folder=root):
            sessions = _sessions(root, language)
            splits = chosen(selection.splits, SPLITS, what="splits", folder=root)
            with gzip.open(tables[language], "rt", encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file, delimiter="|")
                for row in reader:
                    if row["split"] in splits:
                        place = f"{tables[language]}:{reader.line_num}"
                        yield _segment(row, sessions, language, place)

    def supervisions(self, lines: Sequence[Line], view: Path, workers: int) -> Supervisions:
        from lhotse.recipes import prepare_voxpopuli

        language, output = lines[0].language, view / "manifests"
        for line in lines:
            link(line.audio, view / "raw_audios" / language / f"{line.raw['session_id']}.ogg")
        output.mkdir()
        missing = set(SPLITS) - {line.split for line in lines}
        rows = [line.raw for line in lines] + [{**lines[0].raw, "split": split} for split in sorted(missing)]
        with gzip.open(output / f"asr_{language}.tsv.gz", "wt", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="|")
            writer.writeheader()
            writer.writerows(rows)
        found = by_key(prepare_voxpopuli(view, output, lang=language, num_jobs=1))
        return _renamed(lines, found)


_ANNOTATIONS = ("asr_*.tsv.gz", "transcribed_data/*/asr_*.tsv.gz")


def _annotated(path: Path) -> str:
    return path.name.removeprefix("asr_").removesuffix(".tsv.gz")


def _sessions(root: Path, language: str) -> dict[str, Path]:
    """Recordings by session, as the recipe names them; those of the language's own folder come before the originals."""
    from lhotse.recipes.voxpopuli import RecordingIdFn

    named = RecordingIdFn(language)
    folders = [root / "raw_audios" / name for name in ("original", language)]
    found = {named(path): path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.ogg"))}
    if not found:
        raise ConfigError(
            "no recordings", path=root / "raw_audios", expected=f"OGG files in original/ or {language}/", knob="--input"
        )
    return found


def _segment(row: dict[str, str], sessions: dict[str, Path], language: str, place: str) -> Line | Refusal:
    session = row["session_id"]
    key = f"{session}-{row.get('id_') or row['start_time']}"
    try:
        float(row["start_time"]), float(row["end_time"])
    except (TypeError, ValueError):
        return Refusal(key, place, "bad_line", f"times {row['start_time']!r} to {row['end_time']!r}")
    if session not in sessions:
        return Refusal(key, place, "audio_missing", f"{session}_original.ogg")
    return Line(key, sessions[session], row["normed_text"] or "", row["split"], language, place, row)


def _renamed(lines: Sequence[Line], found: Supervisions) -> Supervisions:
    """Supervisions under the lines' own names: the recipe counts the segments of every session."""
    counts: dict[str, int] = {}
    renamed: Supervisions = {}
    for line in lines:
        session = line.raw["session_id"]
        counts[session] = counts.get(session, 0) + 1
        supervision = found.get((line.split, f"{session}-{counts[session]}"))
        if supervision is not None:
            renamed[(line.split, line.key)] = supervision
    return renamed


_FLEURS_CODES = {"cmn": "zh", "nb": "no"}  # the codes that the wordings' table of languages has
_FLEURS_COLUMNS = 7


class Fleurs(Recipe):
    """FLEURS as its archives unpack, `<language>/<split>.tsv` with `<language>/audio/<split>/*.wav`.

    Lhotse's own download is read too: `metadata/<language>/<split>.tsv` with `<language>/<split>/*.wav`.
    """

    def lines(self, selection: Selection) -> Iterator[Line | Refusal]:
        root = existing_folder(selection.folder)
        root = root / "data" if (root / "data").is_dir() else root
        lists = _fleurs_lists(root)
        there = sorted(lists)
        wanted = [name for code in selection.languages for name in _fleurs_names(code, there)]
        for name in chosen(wanted, there, what="languages", folder=root):
            usual = [split for split in SPLITS if split in lists[name]]
            for split in chosen(selection.splits, usual, what="splits", folder=root / name):
                table, audio = lists[name][split]
                yield from _fleurs_table(table, audio, name, split)

    def supervisions(self, lines: Sequence[Line], view: Path, workers: int) -> Supervisions:
        from lhotse.recipes import prepare_fleurs

        name = lines[0].raw[0]
        for split, shown in with_stand_ins(lines, SPLITS).items():
            write_lines(view / "metadata" / name / f"{split}.tsv", (line.raw[1] for line in shown))
            for line in shown:
                link(line.audio, view / name / split / f"{line.key}.wav")
        manifests = prepare_fleurs(view, view / "manifests", languages=[name], num_jobs=1)
        return by_key(manifests[name], recording=True)


def _fleurs_names(code: str, there: Sequence[str]) -> list[str]:
    """Folders of a language: `de_de` for `de_de` or `de`; what is in none stays as it was asked for."""
    return [name for name in there if code in (name, name.partition("_")[0])] or [code]


def _fleurs_lists(root: Path) -> dict[str, dict[str, tuple[Path, Path]]]:
    """The list and the folder of audio of every language and split."""
    lists: dict[str, dict[str, tuple[Path, Path]]] = {}
    for path in sorted([*root.glob("metadata/*/*.tsv"), *root.glob("*/*.tsv")]):
        name, split = path.parent.name, path.stem
        audio = root / name / split if path.parent.parent.name == "metadata" else path.parent / "audio" / split
        if split in SPLITS:
            lists.setdefault(name, {})[split] = (path, audio)
    return lists


def _fleurs_table(path: Path, audio: Path, name: str, split: str) -> Iterator[Line | Refusal]:
    code, listed = name.partition("_")[0], set[str]()
    for number, raw in numbered_lines(path):
        columns, place = raw.strip().split("\t"), f"{path}:{number}"
        listed.update(Path(column).stem for column in columns[1:2])
        if len(columns) != _FLEURS_COLUMNS or not columns[5].isdigit():
            detail = f"{len(columns)} columns; expected {_FLEURS_COLUMNS}, the sixth a number of samples"
            yield Refusal(f"{name}-{number}", place, "bad_line", detail)
            continue
        key = Path(columns[1]).stem
        yield Line(key, audio / f"{key}.wav", columns[3], split, _FLEURS_CODES.get(code, code), place, (name, raw))
    yield from unlisted(audio, "*.wav", listed)
