"""JSONL files: rows with their places in, whole files out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.files import is_file, write_text
from vtblender_nemo.data.rows import JsonlRows, Row


def read_rows(path: Path) -> Iterator[Row | DataError]:
    """The lines of a file, each as a row or as the error that tells why it is none; blank lines at the end are none.

    Raises:
        DataError: the file is missing or holds nothing.
    """
    if not is_file(path):
        raise DataError("file is missing", path=path, expected="a JSONL file")
    if not path.read_bytes().strip():
        raise DataError("file without rows", path=path, expected="at least one JSON object")
    rows = JsonlRows([path], knob="path")
    last = next(number for number in reversed(range(len(rows))) if rows.files[0][number].strip())
    for number in range(last + 1):
        try:
            yield rows[number]
        except DataError as error:
            yield error


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes all rows or nothing: a reader never sees half a file."""
    write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), path)
