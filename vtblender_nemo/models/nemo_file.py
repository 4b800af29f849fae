"""`.nemo` archives that nobody has to trust: checked before anything is unpacked, loaded without pickle's code."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from nemo.utils.app_state import AppState
from omegaconf import DictConfig, OmegaConf

from vtblender_nemo.common.errors import ModelFileError

CONFIG_FILE = "model_config.yaml"
WEIGHTS_FILE = "model_weights.ckpt"
_TARGET_PREFIX = "vtblender_nemo."


class SafeConnector(SaveRestoreConnector):
    """The host's connector, but weights are never unpickled as code, whatever the environment says."""

    @staticmethod
    def _load_state_dict_from_disk(model_weights: str, map_location: Any = "cpu") -> dict[str, torch.Tensor]:
        return load_weights(Path(model_weights), map_location)


class PartsConnector(SafeConnector):
    """For a process that holds a part of a model: the file's weights stay on the CPU, and of them the part goes to its device."""

    @staticmethod
    def _load_state_dict_from_disk(model_weights: str, map_location: Any = "cpu") -> dict[str, torch.Tensor]:
        return load_weights(Path(model_weights), "cpu", mmap=True)


def load_weights(path: Path, map_location: Any = "cpu", *, mmap: bool = False) -> dict[str, torch.Tensor]:
    """A state dict from a file that may hold tensors only.

    Args:
        path: the file.
        map_location: as in `torch.load`.
        mmap: leave weights in the file until they are read, so that a process needs no memory for those that others read.

    Raises:
        ModelFileError: the file holds anything else, or is damaged.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:  # unpickling and zip errors of many kinds
        raise ModelFileError(
            f"weights cannot be loaded safely ({error})", path=path, expected="tensors saved by torch.save"
        ) from error


def check_archive(path: str | Path) -> dict[str, Any]:
    """Makes sure that a file is a VTBlender's `.nemo` and safe to unpack.

    Returns:
        The model's configuration.

    Raises:
        ModelFileError: no such file, no tar archive, members that lie outside of it or are links or devices, no configuration
            or weights, or the model of another class.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError("model file not found", path=path)
    with _open_tar(path) as archive:
        members = {str(PurePosixPath(member.name)): member for member in archive.getmembers()}
        for name, member in members.items():
            outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
            if outside or not (member.isreg() or member.isdir()):
                raise ModelFileError(
                    "unsafe member in the archive", path=path, value=name, expected="plain files inside it"
                )
        for wanted in (CONFIG_FILE, WEIGHTS_FILE):
            if wanted not in members:
                raise ModelFileError(
                    f"the archive holds no {wanted}", path=path, expected="a .nemo file of a VTBlender"
                )
        content = archive.extractfile(members[CONFIG_FILE])
        assert content is not None, "a regular member has content"
        config = _read_config(path, content.read())
    target = config.get("target", "")
    if not str(target).startswith(_TARGET_PREFIX):
        raise ModelFileError("the file holds another model", path=path, value=target, expected="a VTBlenderModel")
    return config


def extract_weights(path: str | Path, directory: str | Path) -> dict[str, torch.Tensor]:
    """The state dict inside a checked archive, unpacked to `directory`."""
    check_archive(path)
    with _open_tar(Path(path)) as archive:
        name = next(m.name for m in archive.getmembers() if str(PurePosixPath(m.name)) == WEIGHTS_FILE)
        archive.extract(name, directory, filter="data")
    return load_weights(Path(directory) / WEIGHTS_FILE)


def with_changes(config: Any, changes: dict[str, Any]) -> DictConfig:
    """A configuration, or the one in a YAML file, with some values replaced."""
    given = OmegaConf.load(config) if isinstance(config, (str, Path)) else config
    return OmegaConf.merge(given, changes)


@contextmanager
def restore_state_kept() -> Iterator[None]:
    """Resets the host's global "a model is being restored", which it leaves behind when restoring fails."""
    try:
        yield
    except BaseException:
        AppState().is_model_being_restored = False
        raise


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        archive = tarfile.open(path, "r:*")  # noqa: SIM115 (closed below, once opening has gone well)
    except (tarfile.TarError, OSError) as error:
        raise ModelFileError(f"not a .nemo archive ({error})", path=path, expected="a tar file") from error
    with archive:
        yield archive


def _read_config(path: Path, content: bytes) -> dict[str, Any]:
    try:
        config = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ModelFileError(f"{CONFIG_FILE} is no plain YAML ({error})", path=path) from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{CONFIG_FILE} holds no mapping", path=path, value=config)
    return config
