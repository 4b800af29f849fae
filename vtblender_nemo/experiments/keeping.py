"""Finished runs of a sweep in a folder that outlives its machine, as one of a repository: later sweeps take them from there.

A run is one file, `runs/VARIANT-seedN.json.gz`: its scores, and the settings that decide them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.files import write_bytes, write_text

RUNS = "runs"
_FILES = ("settings.json", "run.json")


def keep(run: Path, kept: Path) -> None:
    """Keeps a finished run.

    Args:
        run: its folder.
        kept: the folder of the sweep's kept runs and report.
    """
    content = {name: (run / name).read_text(encoding="utf-8") for name in _FILES}
    packed = gzip.compress(json.dumps(content).encode(), mtime=0)  # the same bytes for the same run
    path = _path(run, kept)
    if not path.exists() or path.read_bytes() != packed:
        write_bytes(packed, path)


def take(run: Path, kept: Path) -> bool:
    """Puts a kept run into its folder, as if it had been made there.

    Returns:
        Whether there was one.

    Raises:
        DataError: the kept file is damaged.
    """
    path = _path(run, kept)
    if not path.exists():
        return False
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        texts = [content[name] for name in _FILES]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"a kept run cannot be read ({error})", path=path, expected="a file as sweeps keep it", knob="sweep.keep_in"
        ) from error
    for name, text in zip(_FILES, texts, strict=True):
        write_text(text, run / name)
    return True


def keep_report(sweep: Path, kept: Path) -> None:
    """Keeps a sweep's report and its plots."""
    for path in (*sweep.glob("report.*"), *sweep.glob("*.png")):
        write_bytes(path.read_bytes(), kept / path.name)


def _path(run: Path, kept: Path) -> Path:
    return kept / RUNS / f"{run.name}.json.gz"
