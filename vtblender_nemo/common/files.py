"""Files that are written whole or not at all: a reader, or a run that continues, never meets half of one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_HASHED_AT_ONCE = 1 << 22


def is_file(path: str | Path) -> bool:
    """Whether a file is there; names that no file can have are none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there; names that no folder can have are none."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def write_text(text: str, path: Path) -> None:
    """Writes UTF-8 text; makes the file's folder."""
    write_bytes(text.encode("utf-8"), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Writes a file; makes its folder."""
    with written_whole(path) as file:
        file.write(content)


@contextmanager
def written_whole(path: Path, *, synced: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to, which gets its name once it is closed without an error; makes its folder.

    Args:
        path: the name; a file that has it is replaced.
        synced: the content and the name are on the disk when this ends: a machine that goes down leaves them there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            yield file
            if synced:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
        if synced:
            _sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(value: Any, path: Path) -> None:
    """Writes one indented JSON value."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASHED_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()
