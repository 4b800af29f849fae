"""One tiny world for all runs that want the same: made by the first that needs it while the others wait."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.tiny.config import TinyConfig, config_from
from vtblender_nemo.tiny.jobs import CONFIG_NAME
from vtblender_nemo.tiny.world import prepare

logger = logging.getLogger(__name__)

_TAKEN_OVER = ("content", "tokenizer", "llm", "encoder.nemo", "imitation")
"""What one world may have of another. Making a world looks at the settings of each, and makes anew what does not fit."""


def shared_world(cfg: DictConfig, take_from: str | None = None) -> dict[str, Any]:
    """Makes the tiny world of `cfg`, or waits for the process that makes it, or finds it made.

    Args:
        cfg: the section `tiny`.
        take_from: another world, whose parts are linked where this one has none yet.

    Returns:
        What its language model and encoder can do.

    Raises:
        ConfigError: the folder holds a world of other settings, which other runs may be using.
        StageError: a training process failed.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    directory = Path(values.pop("directory"))
    config = config_from(values)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _held(directory):
        _check_same(config, directory)
        if take_from is not None and Path(take_from).resolve() != directory.resolve():
            with _held(Path(take_from)):
                _take_over(Path(take_from), directory)
        return prepare(config, directory).report


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Keeps other processes from making the same world; the lock ends with this process, however it ends."""
    path = directory.with_name(f"{directory.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Waiting for another run that makes {directory}.", flush=True)  # noqa: T201 (into the log)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have no locks
        logger.warning("%s cannot be locked (%s): make the world before the sweep, by one run", directory, error)


def _check_same(config: TinyConfig, directory: Path) -> None:
    path = directory / CONFIG_NAME
    if path.exists() and _deciding(config_from(json.loads(path.read_text()))) != _deciding(config):
        raise ConfigError(
            "the folder holds a tiny world of other settings, which other runs may use",
            path=path,
            expected="a folder for every world",
            knob="tiny.directory, or delete the folder",
        )


def _deciding(config: TinyConfig) -> dict[str, Any]:
    settings = asdict(config)
    del settings["checkpoint_secs"], settings["voices"]["processes"]
    return settings


def _take_over(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in _TAKEN_OVER:
        note = f"{name}.made.json"
        if not (source / note).exists() or (target / note).exists():
            continue
        partial = target / f"taken.{name}"
        for old in (partial, target / name):
            _remove(old)
        if (source / name).is_dir():
            shutil.copytree(source / name, partial, copy_function=_link)
        else:
            _link(source / name, partial)
        partial.replace(target / name)
        _link(source / note, target / note)


def _link(source: Any, target: Any) -> Any:
    """A second name for the same file where the file system allows it: stages replace files and never write into them."""
    try:
        os.link(source, target)
        return target
    except OSError:
        return shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
