"""What every reader of a corpus gives: utterances that were found, and why others were not taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vtblender_nemo.common.errors import ConfigError


@dataclass(frozen=True)
class Utterance:
    """Speech with its text; its audio has not been decoded yet.

    Attributes:
        id: unique in its language and split.
        audio: paths of files whose samples follow each other.
        text: what is said.
        split: the corpus's own name of the part, as `train` or `dev-clean`.
        language: what is spoken, as `en`; of translated speech also into what, as `en-de`.
        place: file and line in the corpus's own lists.
        offset_secs: where it begins in its one file; None takes whole files.
        duration_secs: how long it is from there on.
        clip: the name its audio is stored under; rows of one clip share it. By default the id.
        fields: what else a row holds, as `translation`, `source_lang`, `speaker`.
    """

    id: str
    audio: tuple[str, ...]
    text: str
    split: str
    language: str
    place: str
    offset_secs: float | None = None
    duration_secs: float | None = None
    clip: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subset(self) -> str:
        """The folder of its language and split."""
        return f"{self.language}/{self.split}"


@dataclass(frozen=True)
class Refusal:
    """A line of the corpus that gave no utterance.

    Attributes:
        reason: a short, fixed name that is counted, as `empty_transcript`.
        detail: the value that was found wrong.
    """

    id: str
    place: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Selection:
    """What is wanted of a corpus.

    Attributes:
        folder: the unpacked corpus.
        splits: names of its parts; empty means those it trains and tests with.
        languages: codes, or pairs as `en-de` for translated speech; empty means all that are there.
        limit: most lines of every language and split, from the first on.
        workers: how many may read at the same time.
    """

    folder: Path
    splits: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    limit: int | None = None
    workers: int = 1


Found = Iterator[Utterance | Refusal]


def existing_folder(path: Path, knob: str = "--input") -> Path:
    """
    Raises:
        ConfigError: there is no such folder.
    """
    if not path.is_dir():
        raise ConfigError("folder of the corpus is missing", path=path, knob=knob)
    return path


def chosen(wanted: Sequence[str], there: Sequence[str], *, what: str, folder: Path) -> list[str]:
    """The wanted names, or all that are there.

    Args:
        wanted: names that were asked for.
        there: names that the folder holds.
        what: `splits` or `languages`, for errors.
        folder: where they were looked for.

    Raises:
        ConfigError: a wanted name is not there, or nothing is.
    """
    for name in wanted:
        if name not in there:
            raise ConfigError(
                f"corpus has none of these {what}",
                path=folder,
                value=name,
                expected=f"one of {', '.join(there)}" if there else "a folder in the corpus's own layout",
                knob=f"--{what}",
            )
    if not there:
        raise ConfigError(
            f"no {what} of the corpus are in the folder",
            path=folder,
            expected="the corpus as it is unpacked (conf/data/CORPORA.md)",
            knob="--input",
        )
    return list(wanted or there)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file without their ends, numbered from 1; blank ones are passed over."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line.rstrip("\r\n")


class OfSubset(Protocol):
    """Whatever belongs to a language and split."""

    @property
    def subset(self) -> str:
        """The folder of its language and split."""


Item = TypeVar("Item", bound=OfSubset)


def limited(items: Iterable[Item | Refusal], limit: int | None) -> Iterator[Item | Refusal]:
    """The first `limit` items of every language and split; refusals among them are kept."""
    seen: dict[str, int] = {}
    for item in items:
        if limit is not None and not isinstance(item, Refusal):
            seen[item.subset] = seen.get(item.subset, 0) + 1
            if seen[item.subset] > limit:
                continue
        yield item
