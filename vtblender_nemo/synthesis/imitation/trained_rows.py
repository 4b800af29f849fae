"""What was asked in training, read from the rows that `examples/synthesize_imitation.py` has made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.config import read_input_cfg
from vtblender_nemo.data.rows import JsonlRows, expand_paths
from vtblender_nemo.synthesis.engine.synthesize import ENTRY
from vtblender_nemo.synthesis.imitation.wording_distance import Trained

_FLAG = "--trained-on"


def read_trained(paths: Sequence[Path]) -> Trained:
    """Tasks and wordings of all rows.

    Args:
        paths: output folders of jobs, or YAML files of imitation sources, as the `input_cfg.yaml` in such a folder.

    Raises:
        ConfigError: a file is missing, or names sources of another kind.
        DataError: a row that does not tell what was asked; names file and line.
    """
    return Trained.of(asked for path in paths for asked in _asked(path / ENTRY if path.is_dir() else path))


def _asked(path: Path) -> Iterator[tuple[str, str]]:
    for entry in read_input_cfg(path, _FLAG):
        if entry.get("type") != "imitation":
            raise ConfigError(
                "a source that does not tell what was asked",
                path=path,
                value=entry,
                expected="type imitation; several such files by repeating the flag",
                knob=_FLAG,
            )
        yield from _of_rows(JsonlRows(expand_paths(entry.get("manifest_filepath"), knob=_FLAG), knob=_FLAG))


def _of_rows(rows: JsonlRows) -> Iterator[tuple[str, str]]:
    for index in range(len(rows)):
        row = rows[index]
        task, prompt = (_text(row.data.get(name)) for name in ("task", "prompt"))
        if not task or not prompt:
            raise DataError(
                "row does not tell what was asked",
                path=row.path,
                line=row.line,
                value={name: row.data.get(name) for name in ("task", "prompt")},
                expected="texts in task and prompt",
                knob=_FLAG,
            )
        yield task, prompt


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
