"""A folder that one job fills over several runs: one process at a time, and never two jobs."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError

logger = logging.getLogger(__name__)

JOB = "job.json"
_MISSING = object()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds a folder against other processes; the lock ends with this process, however it ends.

    Raises:
        ConfigError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError("another process is at work in this folder", path=folder, knob="--output-dir") from None
    except OSError as error:  # some network file systems have no locks
        logger.warning("%s cannot be locked (%s): start no second command on it", folder, error.strerror)


def is_begun(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether `job.json` says that this very job was begun here; False if no job was.

    Raises:
        ConfigError: another job was; the first setting that differs is named.
    """
    path = folder / JOB
    if not path.is_file():
        return False
    before = json.loads(path.read_text(encoding="utf-8"))
    for key, old, new in _differences(before, json.loads(json.dumps(settings))):
        raise ConfigError(
            f"the folder holds another job: {key} was {_short(old)} and is {_short(new)}",
            path=path,
            expected="the settings that it was begun with, or an empty folder",
            knob=f"{key}, or --output-dir",
        )
    return True


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys, written `a.b`, whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{key}.{name}" if key else name
            yield from _differences(old.get(name, _MISSING), new.get(name, _MISSING), inner)
    elif old != new:
        yield key, old, new


def _short(value: Any) -> str:
    text = "not set" if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."
