"""Checkpoint files: written whole or not at all, beside their hash; read without running anything that they hold."""

from __future__ import annotations

import hashlib
import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_map

from vtblender_nemo.common.errors import ModelFileError
from vtblender_nemo.common.files import file_sha256, written_whole

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step=(\d+)(-validated)?\.ckpt")


def checkpoint_name(step: int, *, validated: bool) -> str:
    """The name of the checkpoint after an optimiser step: before the validation that follows it, if any, or after it."""
    return f"step={step:08d}{'-validated' if validated else ''}.ckpt"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints to go on from that a folder holds, the oldest first."""
    found = {path: _NAME.fullmatch(path.name) for path in folder.glob("*.ckpt")}
    return sorted((p for p, match in found.items() if match), key=lambda p: (_step(p), "-validated" in p.name))


class CheckpointFiles(CheckpointIO):
    """Lightning's checkpoints as files of tensors and plain values.

    A file is written under another name, synced to the disk, and renamed; `FILE.sha256` beside it is checked before it is read.
    What goes wrong in writing is kept for `take_failure`, and nothing is removed until a write has gone well again: a full disk
    costs no checkpoint that is there.

    Args:
        asynchronous: files are written by a thread, from a copy in main memory; one after the other.
    """

    def __init__(self, *, asynchronous: bool = False) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1) if asynchronous else None
        self._waiting: list[Future[None]] = []
        self._failure: ModelFileError | None = None
        self._last_write_failed = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a file, or begins to; see `take_failure`."""
        assert storage_options is None, "Lightning passes on what its caller gave, and nobody does"
        if self._thread is None:
            self._write(checkpoint, Path(path))
            return
        self.wait()  # one copy at a time
        self._waiting.append(self._thread.submit(self._write, tree_map(_own_copy, checkpoint), Path(path)))

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
        """Reads a file, or the newest whole one of a folder; the first rank chooses it for all.

        Raises:
            ModelFileError: no such file, or it is damaged (of a folder: all are), or holds more than tensors and plain values.
        """
        file = Path(path)
        if file.is_dir():
            file = _same_on_all_ranks(newest_whole, file)
        else:
            verify(file)
        logger.info("going on from %s", file)
        return read(file, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a file and its hash once all that was to be written before is written."""
        if self._thread is None:
            self._remove(Path(path))
        else:
            self._waiting.append(self._thread.submit(self._remove, Path(path)))

    @property
    def failed(self) -> bool:
        """Whether `take_failure` has something to tell."""
        return self._failure is not None

    def take_failure(self) -> ModelFileError | None:
        """What went wrong in writing since the last call."""
        failure, self._failure = self._failure, None
        return failure

    def wait(self, timeout_secs: float | None = None) -> None:
        """Waits until everything is written."""
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            job.result(timeout_secs)

    def teardown(self) -> None:
        """Waits for the thread and ends it."""
        self.wait()
        if self._thread is not None:
            self._thread.shutdown()

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        try:
            write(checkpoint, path)
        except OSError as error:
            self._last_write_failed = True
            self._failure = ModelFileError(
                f"a checkpoint cannot be written ({error.strerror or error})",
                path=path,
                expected="room on the disk; the checkpoints before it are whole",
                knob="output_dir, checkpoints.keep, or checkpoints.on_failure=go_on",
            )
        else:
            self._last_write_failed = False

    def _remove(self, path: Path) -> None:
        if self._last_write_failed:
            return
        path.unlink(missing_ok=True)
        _hash_file(path).unlink(missing_ok=True)


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes tensors and plain values, and their hash beside them.

    Raises:
        OSError: as for a full disk; nothing is left of the file, and one that had its name is whole.
    """
    with written_whole(path, synced=True) as file:
        hashed = _Hashed(file)
        torch.save(checkpoint, hashed)
        with written_whole(_hash_file(path), synced=True) as beside:
            beside.write(f"{hashed.digest.hexdigest()}  {path.name}\n".encode())


def read(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Tensors and plain values of a file.

    Raises:
        ModelFileError: it holds anything else, or cannot be read.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # unpickling and zip errors of many kinds
        raise ModelFileError(
            f"a checkpoint cannot be loaded safely ({error})", path=path, expected="tensors and plain values"
        ) from error


def verify(path: Path) -> None:
    """Holds a file against its hash.

    Raises:
        ModelFileError: one of the two is missing, or they differ.
    """
    for wanted in (path, _hash_file(path)):
        if not wanted.is_file():
            raise ModelFileError("file of a checkpoint not found", path=wanted)
    words = _hash_file(path).read_text(encoding="utf-8", errors="replace").split()
    found = file_sha256(path)
    if not words or words[0] != found:
        raise ModelFileError(
            "checkpoint is damaged", path=path, value=found, expected=f"the hash in {_hash_file(path).name}"
        )


def newest_whole(folder: Path) -> Path:
    """The newest undamaged checkpoint of a folder; damaged ones get the suffix `.damaged`, and are told of.

    Raises:
        ModelFileError: there are checkpoints, and all are damaged.
    """
    found = checkpoints_in(folder)
    for path in reversed(found):
        try:
            verify(path)
        except ModelFileError as error:
            logger.warning("%s; it is set aside, and the one before is used", error)
            path.replace(path.with_name(f"{path.name}.damaged"))
            continue
        return path
    raise ModelFileError(
        "no checkpoint of the run is whole",
        path=folder,
        value=[path.name for path in found],
        expected="at least one",
        knob="delete the folder to train from the beginning, or output_dir",
    )


def _same_on_all_ranks(choose: Any, *arguments: Any) -> Any:
    """What the first rank chooses, or the error that it meets, on all ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return choose(*arguments)
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [choose(*arguments)]
        except ModelFileError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], ModelFileError):
        raise outcome[0]
    return outcome[0]


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _own_copy(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match, "only such names are asked for"
    return int(match[1])
