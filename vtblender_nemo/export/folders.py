"""Folders that are written whole or not at all, and never over something else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from vtblender_nemo.common.errors import ConfigError


def check_free(folder: Path) -> None:
    """
    Raises:
        ConfigError: there is a file in the folder's place, or something in it.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise ConfigError(
            "the output folder holds something else",
            path=folder,
            expected="a folder that is empty or not there yet",
            knob="--output-dir",
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which takes its place when the context ends well, and else is gone.

    Raises:
        ConfigError: see `check_free`.
    """
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir()
        yield unfinished
        _open_to_readers(unfinished)
        if folder.exists():
            folder.rmdir()  # empty, or it raises
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """Safetensors are written for their owner alone; files of an export are for whom its folder is for."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors, which wants them apart from each other and in one piece."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, weight in weights.items():
        place = weight.untyped_storage().data_ptr()
        weight = weight.detach().cpu().contiguous()
        apart[name] = weight.clone() if place in seen else weight
        seen.add(place)
    save_file(apart, path, metadata={"format": "pt"})
