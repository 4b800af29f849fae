"""Random access to rows on disk: lines of JSONL files and members of tar shards.

Files are indexed by byte offsets, in memory and at first use; a row is read with one `pread`.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import tarfile
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from vtblender_nemo.common.errors import ConfigError, DataError

_CHUNK_BYTES = 1 << 24
_MOST_UNPACKED, _SMALL_BYTES = 200, 64 << 20  # times its size, or bytes, that a gzipped file may unpack to
_MOST_FILES = 1_000_000  # of a numbered pattern

WRONG_SHAPE = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    OSError,
)
"""What readers of a row raise when a field is of another type or size than it should be."""
_MAX_OPEN_FILES = 64


def expand_paths(value: Any, *, knob: str) -> list[Path]:
    """Paths of a configuration value: one, a list, or a pattern of numbered shards.

    Args:
        value: a path, a list of paths (nested lists are flattened), with bash braces (`shard_{0..3}.json`) or NeMo's
            spelling of them (`shard__OP_0..3_CL_.json`).
        knob: the key that holds it, for errors.

    Raises:
        ConfigError: no path, or a file that is missing.
    """
    from braceexpand import braceexpand

    values = [value] if isinstance(value, str | Path) else list(value or [])
    paths: list[Path] = []
    for item in values:
        if isinstance(item, str | Path):
            pattern = str(item).replace("_OP_", "{").replace("_CL_", "}")
            _check_pattern(pattern, knob)
            try:
                paths.extend(Path(path) for path in braceexpand(pattern))
            except ValueError as error:
                raise ConfigError(
                    f"no numbered pattern ({error})", value=str(item), expected="part_{0..7}.json", knob=knob
                ) from error
        else:
            paths.extend(expand_paths(item, knob=knob))
    if not paths:
        raise ConfigError(
            "no file is given", value=value, expected="a path, a list of paths or a numbered pattern", knob=knob
        )
    for path in paths:
        _check_readable(path, knob)
    return paths


def _check_pattern(pattern: str, knob: str) -> None:
    """A pattern of few letters can stand for more files than there is memory for their names."""
    count = 1
    for group in re.findall(r"\{([^{}]*)\}", pattern):
        numbers = re.match(r"-?(\d{1,18})\.\.-?(\d+)", group)
        count *= abs(int(numbers[2][:18])) + int(numbers[1]) + 1 if numbers else group.count(",") + 1
    if count > _MOST_FILES:
        raise ConfigError("pattern of too many files", value=pattern, expected=f"at most {_MOST_FILES}", knob=knob)


def _check_readable(path: Path, knob: str) -> None:
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ConfigError("file is missing", path=path, expected="a path that is there", knob=knob) from error
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # devices and pipes have no end, or no beginning
        raise ConfigError("neither a file nor a folder", path=path, expected="a plain file", knob=knob)


class LineFile:
    """The lines of one text file, read by number; a gzipped file is unpacked into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = _unpacked(path) if path.suffix == ".gz" else None
        ends = _newlines(self._bytes if self._bytes is not None else path)
        size = len(self._bytes) if self._bytes is not None else path.stat().st_size
        if size and (not len(ends) or ends[-1] != size):
            ends = np.append(ends, size)
        self._ends = np.concatenate([[0], ends]).astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        start, end = int(self._ends[number]), int(self._ends[number + 1])
        return self._bytes[start:end] if self._bytes is not None else read_span(self.path, start, end - start)


def _unpacked(path: Path) -> bytes:
    """
    Raises:
        DataError: the file is damaged, or unpacks to more than rows of text can.
    """
    most = max(_SMALL_BYTES, _MOST_UNPACKED * path.stat().st_size)
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"file cannot be unpacked ({error})", path=path, expected="gzip") from error
    if len(content) > most:
        raise DataError("file unpacks to more than rows can", path=path, expected=f"at most {most} bytes")
    return content


def _newlines(content: bytes | Path) -> np.ndarray:
    """Offsets just after each newline."""
    if isinstance(content, bytes):
        return np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == 10) + 1
    found, start = [np.zeros(0, dtype=np.int64)], 0
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            found.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 10) + start + 1)
            start += len(chunk)
    return np.concatenate(found)


_open_files: dict[tuple[int, str], int] = {}


def read_span(path: Path | str, start: int, size: int) -> bytes:
    """Reads `size` bytes from `start`; files stay open, at most 64 of them.

    Raises:
        DataError: the file is missing or ends before.
    """
    key = (os.getpid(), str(path))  # a forked worker opens its own
    if key not in _open_files:
        if len(_open_files) >= _MAX_OPEN_FILES:
            for (owner, _), descriptor in _open_files.items():
                if owner == key[0]:
                    os.close(descriptor)
            _open_files.clear()
        try:
            _open_files[key] = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"file cannot be opened ({error.strerror})", path=path) from error
    found = os.pread(_open_files[key], size, start)
    if len(found) != size:
        raise DataError("file is shorter than when it was indexed", path=path, expected=f"{size} bytes at {start}")
    return found


@dataclass(frozen=True)
class Row:
    """A JSON object and where it stands: 1-based line, 0-based number of its file among the source's."""

    data: dict[str, Any]
    path: Path
    line: int
    file: int = 0


class JsonlRows:
    """The lines of several JSONL files as one sequence; a line that is no JSON object raises when it is read."""

    def __init__(self, paths: Sequence[Path], *, knob: str) -> None:
        for path in paths:
            if path.is_dir():
                raise ConfigError("a folder in place of a file", path=path, expected="a JSONL file", knob=knob)
        self.files = [LineFile(path) for path in paths]
        self.sizes = [len(file) for file in self.files]
        self._starts = list(accumulate(self.sizes, initial=0))
        if not len(self):
            raise ConfigError("no rows", path=paths[0], expected="one JSON object a line", knob=knob)

    def __len__(self) -> int:
        return self._starts[-1]

    def locate(self, index: int) -> tuple[int, int]:
        """The number of the file and of the line in it, both 0-based."""
        file = bisect_right(self._starts, index) - 1
        return file, index - self._starts[file]

    def place(self, index: int) -> tuple[Path, int]:
        """The path and the 1-based line of a row."""
        file, line = self.locate(index)
        return self.files[file].path, line + 1

    def __getitem__(self, index: int) -> Row:
        """
        Raises:
            DataError: the line is blank, or not a JSON object.
        """
        file, line = self.locate(index)
        path = self.files[file].path
        text = self.files[file][line].strip()
        if not text:
            raise DataError("blank line", path=path, line=line + 1, expected="a JSON object")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
            raise DataError(
                f"line is not JSON ({error})",
                path=path,
                line=line + 1,
                value=text.decode(errors="replace"),
                expected="a JSON object",
            ) from error
        if not isinstance(data, dict):
            raise DataError("line is not a JSON object", path=path, line=line + 1, value=data, expected="{...}")
        return Row(data, path, line + 1, file)


@dataclass(frozen=True)
class Member:
    """A file inside a tar: where its bytes stand."""

    name: str
    start: int
    size: int


_SUB = re.compile(r"-sub\d+(?=(\.\w+)?$)")


def recording_name(audio_filepath: str) -> str:
    """The file that a manifest row's audio is part of: NeMo stores one that several rows cut from once in a tar, and numbers the
    rows as `-sub1`, `-sub2` before the extension.
    """
    return _SUB.sub("", audio_filepath)


class TarFile:
    """The members of an uncompressed tar, by name and in order; scanned at first use. An empty file has none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members: list[Member] | None = None
        self._by_name: dict[str, Member] = {}

    @property
    def members(self) -> list[Member]:
        """
        Raises:
            DataError: the file is no tar, is cut off, or is compressed.
        """
        if self._members is None:
            try:
                self._members = _scan(self.path)
            except (tarfile.TarError, OSError, ValueError) as error:
                raise DataError(
                    f"tar cannot be read ({error})", path=self.path, expected="an uncompressed tar"
                ) from error
            self._by_name = {member.name.removeprefix("./"): member for member in self._members}
        return self._members

    def find(self, name: str) -> Member:
        """
        Raises:
            DataError: the tar has no such member.
        """
        _ = self.members
        try:
            return self._by_name[name.removeprefix("./")]
        except KeyError:
            raise DataError(
                "tar has no such file", path=self.path, value=name, expected="the name of a member"
            ) from None


def _scan(path: Path) -> list[Member]:
    if path.stat().st_size == 0:  # a shard that nothing was written to
        return []
    with tarfile.open(path, "r:") as tar:
        return [Member(info.name, info.offset_data, info.size) for info in tar if info.isfile() and not info.issparse()]


class TarShards:
    """The tars of a source: one for every manifest in the same order, or rows that name theirs by `shard_id`.

    Args:
        value: paths of the tars, as in a configuration.
        rows: the manifests' rows.

    Raises:
        ConfigError: missing files, or tars and manifests that do not match.
    """

    def __init__(self, value: Any, rows: JsonlRows) -> None:
        self._tars = [TarFile(path) for path in expand_paths(value, knob="tarred_audio_filepaths")]
        self._by_manifest = len(rows.files) == len(self._tars)
        if not self._by_manifest and len(rows.files) != 1:
            raise ConfigError(
                "manifests and tars do not match",
                value={"manifests": len(rows.files), "tars": len(self._tars)},
                expected="one manifest for every tar, or one for all",
                knob="tarred_audio_filepaths",
            )

    def of(self, row: Row) -> TarFile:
        """The tar that holds a row's audio.

        Raises:
            DataError: the row does not name one of the tars.
        """
        if self._by_manifest:
            return self._tars[row.file]
        shard = row.data.get("shard_id")
        if not isinstance(shard, int) or isinstance(shard, bool) or not 0 <= shard < len(self._tars):
            raise DataError("row without its shard", value=shard, expected=f"shard_id from 0 to {len(self._tars) - 1}")
        return self._tars[shard]
