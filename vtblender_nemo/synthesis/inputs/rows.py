"""What every reader of synthesis inputs shares: rows by index, ids that are unique, and a digest of the content."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.rows import WRONG_SHAPE
from vtblender_nemo.synthesis.work import InputRow

_CHUNK_BYTES = 1 << 20


class InputRows(ABC):
    """Rows of the input by index, read from disk one at a time; it is pickled to every process.

    Args:
        names: of the files, by which rows are named that have no id of their own.
    """

    def __init__(self, names: Sequence[str]) -> None:
        stems = [Path(name).name.split(".")[0] for name in names]
        unique = len(set(stems)) == len(stems)
        self._stems = stems if unique else [f"{number}-{stem}" for number, stem in enumerate(stems)]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def position(self, index: int) -> tuple[int, str, int]:
        """The number of a row's file, that file, and the 1-based line in it."""

    @abstractmethod
    def _read(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        """A row's own id, or None, and its fields."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Changes when the content of the input does; moving the files changes nothing."""

    @property
    def shard_sizes(self) -> list[int] | None:
        """Rows of the shards that the output has to keep (an input tar's rows stay together); None: cut anywhere."""
        return None

    def entry(self, manifests: str) -> dict[str, Any] | None:
        """How the rows are read again.

        Args:
            manifests: the path, or the numbered pattern, of output manifests whose rows kept their audio fields.

        Returns:
            An entry of `input_cfg`, or None for rows without audio.
        """
        return None

    def place(self, index: int) -> str:
        """The file and line of a row."""
        _, path, line = self.position(index)
        return f"{path}:{line}"

    def made_up_id(self, index: int) -> str:
        """What a row is called that has no id."""
        file, _, line = self.position(index)
        return f"{self._stems[file]}-{line}"

    def __getitem__(self, index: int) -> InputRow:
        """
        Raises:
            DataError: the row cannot be read; the error names its file and line.
        """
        try:
            id, data = self._read(index)
        except DataError as error:
            raise _at(error, self.position(index)) from error
        except WRONG_SHAPE as error:  # a field of another type than it should be
            _, path, line = self.position(index)
            problem = f"row has the wrong shape ({type(error).__name__}: {first_line(error)})"
            raise DataError(problem, path=path, line=line) from error
        own = id is not None and id != "" and not isinstance(id, bool) and isinstance(id, str | int)
        name = str(id) if own else self.made_up_id(index)
        return InputRow(name, self.place(index), {**data, "id": name})

    def check_ids(self, seen: Iterable[int] | None = None) -> None:
        """Reads every row once; rows that cannot be read are passed over.

        Args:
            seen: the indices 0, 1, ..., for a caller that shows progress.

        Raises:
            DataError: two rows of one id; it names both places.
        """
        known = np.zeros(len(self), dtype=np.uint64)  # hashes: ten million ids as text would take a gigabyte
        for index in range(len(self)) if seen is None else seen:
            known[index] = _hash(self._id_or_place(index))
        order = np.argsort(known, kind="stable")
        twins = np.flatnonzero(known[order][1:] == known[order][:-1])
        for first, second in ((int(order[twin]), int(order[twin + 1])) for twin in twins):
            if self._id_or_place(first) == self._id_or_place(second):
                raise DataError(
                    f"two rows have one id, the other at {self.place(second)}",
                    path=self.place(first),
                    value=self._id_or_place(first),
                    expected="an id for every row that no other row of the input has",
                    knob="the field id of the rows, or --input",
                )

    def _id_or_place(self, index: int) -> str:
        try:
            return self[index].id
        except DataError:
            return f"\0{index}"  # no id of a row that can be read


def _at(error: DataError, position: tuple[int, str, int]) -> DataError:
    """The same error with the row's place, where it names none."""
    if error.line is not None:
        return error
    _, path, line = position
    problem = error.problem if error.path is None else f"{error.problem}: {error.path}"
    return type(error)(problem, path=path, line=line, value=error.value, expected=error.expected, knob=error.knob)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def digest_of(parts: Iterable[str | Path]) -> str:
    """SHA-256 over texts, and over the content of files in their order."""
    total = hashlib.sha256()
    for part in parts:
        own = hashlib.sha256()
        for chunk in _chunks(part):
            own.update(chunk)
        total.update(own.digest())
    return total.hexdigest()


def _chunks(part: str | Path) -> Iterator[bytes]:
    if isinstance(part, str):
        yield part.encode("utf-8", "surrogatepass")
        return
    with part.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def existing(paths: Sequence[str | Path], *, knob: str = "--input") -> list[Path]:
    """Paths that are there, numbered patterns written out.

    Raises:
        ConfigError: no path, or one that is missing.
    """
    from vtblender_nemo.data.rows import expand_paths

    return expand_paths(list(paths), knob=knob)


def one_kind(kinds: Mapping[Path, str], *, expected: str) -> str:
    """The kind that all files are of.

    Raises:
        ConfigError: they are of several.
    """
    if len(set(kinds.values())) > 1:
        found = {str(path): kind for path, kind in kinds.items()}
        raise ConfigError("inputs of several kinds", value=found, expected=expected, knob="--input")
    return next(iter(kinds.values()))
