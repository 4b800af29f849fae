"""What Lhotse's recipes are shown: a folder of links in their own layout with only what they can read.

The recipes stop at the first file that cannot be opened and at the first line without text, read every language and split
that they find, and some want splits that were not asked for. A view holds the lines that are wanted and whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.progress import progress_bar
from vtblender_nemo.corpora.utterance import Refusal


@dataclass(frozen=True)
class Line:
    """A line of a corpus's own list, whose audio has not been opened.

    Attributes:
        key: the id that the recipe gives to its supervision or recording.
        audio: the file that it speaks of.
        language: the code that rows carry.
        raw: the line as the recipe reads it.
    """

    key: str
    audio: Path
    text: str
    split: str
    language: str
    place: str
    raw: Any

    @property
    def subset(self) -> str:
        """The folder of its language and split."""
        return f"{self.language}/{self.split}"


def screen(lines: Sequence[Line], workers: int) -> tuple[list[Line], list[Refusal]]:
    """Parts lines with text and audio that can be opened from the others; reads headers only."""
    paths = list(dict.fromkeys(line.audio for line in lines))
    problems: dict[Path, tuple[str, str]] = {}
    with ThreadPoolExecutor(workers) as pool, progress_bar(len(paths), unit="file", label="opening files") as bar:
        for path, problem in zip(paths, pool.map(_problem, paths), strict=True):
            problems[path] = problem
            bar.update()
    kept: list[Line] = []
    refused: list[Refusal] = []
    known: set[tuple[str, str]] = set()
    for line in lines:
        reason, detail = _reason(line, problems[line.audio], known)
        if reason:
            refused.append(Refusal(line.key, line.place, reason, detail))
        else:
            known.add((line.split, line.key))
            kept.append(line)
    return kept, refused


def _reason(line: Line, problem: tuple[str, str], known: set[tuple[str, str]]) -> tuple[str, str]:
    if not line.text.strip():
        return "empty_transcript", ""
    if (line.split, line.key) in known:
        return "duplicate_id", line.key
    return problem


def _problem(path: Path) -> tuple[str, str]:
    """Why a file's header cannot be read: a reason and its detail, both empty if it can."""
    import soundfile

    if not path.is_file():
        return "audio_missing", str(path)
    try:
        soundfile.info(path)
    except soundfile.SoundFileError as error:
        return "audio_unreadable", str(error)
    return "", ""


def link(target: Path, name: Path) -> None:
    """A symbolic link, with its folder; one that is there already stays."""
    name.parent.mkdir(parents=True, exist_ok=True)
    if not name.is_symlink():
        name.symlink_to(target.resolve())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A UTF-8 text file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def with_stand_ins(lines: Sequence[Line], splits: Sequence[str]) -> dict[str, list[Line]]:
    """Lines by split, none of them empty: a recipe that wants every split is shown the first line where there is none."""
    by_split = {split: [line for line in lines if line.split == split] for split in splits}
    return {split: own or [lines[0]] for split, own in by_split.items()}
