"""Data sources: one reader for every type, found by its name; each gives conversations by index."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.conversation import Conversation
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.config import SourceConfig
from vtblender_nemo.data.order import key_of, mix
from vtblender_nemo.data.rows import WRONG_SHAPE, JsonlRows, Row, expand_paths
from vtblender_nemo.data.typed import read_config

if TYPE_CHECKING:
    from lhotse import CutSet

_COMMON_KEYS = frozenset({"type", "name", "weight", "tags"})
_READERS: dict[str, type[Source]] = {}


class Source(ABC):
    """Rows of one kind, as conversations by index.

    Args:
        config: the source's entry of `input_cfg`.
        sampling_rate: Hz at which cuts are declared whose files are not opened before decoding.

    Attributes:
        name: its name in shares and losses.
        shard_sizes: rows of every shard; one number where rows need not be read shard by shard.
        keys: what its entry may hold, besides type, name, weight and tags.
    """

    keys: frozenset[str] = frozenset()

    def __init__(self, config: SourceConfig, sampling_rate: int) -> None:
        self.config, self.sampling_rate = config, sampling_rate
        self.name = config.name or config.type
        self._key = key_of(self.name)

    @property
    @abstractmethod
    def shard_sizes(self) -> list[int]: ...

    @abstractmethod
    def place(self, index: int) -> tuple[Path, int]:
        """The file and the 1-based line of a row."""

    @abstractmethod
    def _read(self, index: int, rng: random.Random) -> Conversation: ...

    def __len__(self) -> int:
        return sum(self.shard_sizes)

    def conversation(self, index: int, rng: random.Random) -> Conversation:
        """The conversation of a row; the same for the same index and state of `rng`.

        Raises:
            DataError: the row cannot be used; the error names its file and line.
        """
        try:
            return self._read(index, rng)
        except DataError as error:
            if error.line is None:
                path, line = self.place(index)
                raise placed(error, path, line) from error
            raise
        except WRONG_SHAPE as error:  # a field of another type than it should be
            path, line = self.place(index)
            raise DataError(
                f"row has the wrong shape ({type(error).__name__}: {first_line(error)})", path=path, line=line
            ) from error

    def cutset(self, seed: int = 0) -> CutSet:
        """The rows in their own order as a lazy Lhotse `CutSet` of conversations; bad rows raise."""
        from lhotse import CutSet

        return CutSet(_Lazy(self, seed))

    def rng(self, seed: int, position: int) -> random.Random:
        """The random numbers of one visit to a row."""
        return random.Random(mix(seed, self._key, position))


class _Lazy:
    """Iterable of a source's conversations, from the first on each time."""

    def __init__(self, source: Source, seed: int) -> None:
        self._source, self._seed = source, seed

    def __iter__(self) -> Iterator[Conversation]:
        for index in range(len(self._source)):
            yield self._source.conversation(index, self._source.rng(self._seed, index))

    def __len__(self) -> int:
        return len(self._source)


def placed(error: DataError, path: Path, line: int) -> DataError:
    """The same error with the row's place; a file that the error names itself goes into its problem."""
    problem = error.problem if error.path is None else f"{error.problem}: {error.path}"
    return type(error)(problem, path=path, line=line, value=error.value, expected=error.expected, knob=error.knob)


class JsonlSource(Source):
    """A source whose rows are lines of `manifest_filepath`."""

    keys = frozenset({"manifest_filepath"})

    def __init__(self, config: SourceConfig, sampling_rate: int) -> None:
        super().__init__(config, sampling_rate)
        self.rows = JsonlRows(
            expand_paths(config.manifest_filepath, knob="manifest_filepath"), knob="manifest_filepath"
        )

    @property
    def shard_sizes(self) -> list[int]:
        return [len(self.rows)]

    def place(self, index: int) -> tuple[Path, int]:
        return self.rows.place(index)

    def _read(self, index: int, rng: random.Random) -> Conversation:
        row = self.rows[index]
        if self.config.tags:
            row = replace(row, data={**row.data, **self.config.tags})
        return self._convert(row, index, rng)

    @abstractmethod
    def _convert(self, row: Row, index: int, rng: random.Random) -> Conversation: ...

    def _id(self, row: Row, index: int) -> str:
        return str(row.data["id"]) if "id" in row.data else f"{row.path.stem}-{index}"

    def _custom(self, row: Row, used: frozenset[str]) -> dict[str, Any]:
        rest = {key: value for key, value in row.data.items() if key not in used}
        if self.config.task is not None:
            rest.setdefault("task", self.config.task)
        return rest


Reader = TypeVar("Reader", bound=type[Source])


def source_type(name: str) -> Callable[[Reader], Reader]:
    """Registers a reader under its `type`."""

    def register(reader: Reader) -> Reader:
        _READERS[name] = reader
        return reader

    return register


def known_types() -> list[str]:
    """The values that `type` may have."""
    from vtblender_nemo.data import chat_sources, imitation_source, speech_sources  # noqa: F401  (they register themselves)

    return sorted([*_READERS, "group"])


def make_source(entry: dict[str, Any], sampling_rate: int, place: str) -> Source:
    """The reader of an entry of `input_cfg`.

    Raises:
        ConfigError: an unknown type, a key that the type does not take, or files that are missing.
    """
    kind = entry.get("type")
    if kind not in known_types() or kind == "group":
        raise ConfigError(
            "unknown type of source", value=kind, expected=f"one of {', '.join(known_types())}", knob=f"{place}.type"
        )
    config = read_config(SourceConfig, entry, place)
    reader = _READERS[config.type]
    allowed = _COMMON_KEYS | reader.keys
    for key in entry:
        if key not in allowed:
            raise ConfigError(
                f"a source of type {config.type} has no such key",
                value=key,
                expected=f"one of {', '.join(sorted(allowed))}",
                knob=f"{place}.{key}",
            )
    try:
        return reader(config, sampling_rate)
    except ConfigError as error:
        if (error.knob or "").partition(".")[0] not in allowed:
            raise
        raise ConfigError(
            error.problem,
            path=error.path,
            line=error.line,
            value=error.value,
            expected=error.expected,
            knob=f"{place}.{error.knob}",
        ) from error
