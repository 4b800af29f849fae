"""Restores NeMo models from files that nobody has to trust: no pickled code, no other classes, nothing outside the archive."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from nemo.utils.app_state import AppState

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import ModelFileError
from vtblender_nemo.common.nemo_archive import CONFIG_FILE, check_archive, check_config, unpack
from vtblender_nemo.common.trusted_classes import Trusted


class SafeConnector(SaveRestoreConnector):
    """The host's connector, which checks what it unpacks, and never unpickles code, whatever the environment says.

    Args:
        trusted: the classes that the file may name.
    """

    def __init__(self, trusted: Trusted) -> None:
        super().__init__()
        self._trusted = trusted

    def _unpack_nemo_file(self, path2file: str, out_folder: str, members: Any = None) -> str:
        """Unpacks, then checks the very configuration that the host reads next."""
        names = None if members is None else {member if isinstance(member, str) else member.name for member in members}
        unpack(path2file, out_folder, names)
        config = Path(out_folder) / CONFIG_FILE
        if config.is_file():
            check_config(config.read_bytes(), self._trusted, path2file)
        return out_folder

    @staticmethod
    def _load_state_dict_from_disk(model_weights: str, map_location: Any = "cpu") -> dict[str, torch.Tensor]:
        return load_weights(Path(model_weights), map_location)


def load_weights(path: Path, map_location: Any = "cpu", *, mmap: bool = False) -> dict[str, torch.Tensor]:
    """A state dict from a file that may hold tensors only.

    Args:
        path: the file.
        map_location: as in `torch.load`.
        mmap: leave weights in the file until they are read, so that a process needs no memory for those that others read.

    Raises:
        ModelFileError: the file holds anything else, is damaged, or is packed more tightly than torch does.
    """
    expected = "tensors saved by torch.save"
    try:
        _check_stored(path)
        weights = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except ModelFileError:
        raise
    except Exception as error:  # unpickling and zip errors of many kinds
        code = re.search(r"GLOBAL (\S+)", str(error))
        said = f"{type(error).__name__}: {first_line(error)}"
        if "Weights only load failed" in str(error):  # torch would tell how to run the code all the same
            said = f"they hold {code[1]}" if code else "they hold more than tensors"
        raise ModelFileError(f"weights cannot be loaded safely ({said})", path=path, expected=expected) from error
    if not isinstance(weights, dict):
        raise ModelFileError(
            "weights are not tensors by name", path=path, value=type(weights).__name__, expected=expected
        )
    return weights


def _check_stored(path: Path) -> None:
    """Torch compresses nothing: a record that is compressed could unpack to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ModelFileError("compressed weights", path=path, value=packed[:3], expected="a file of torch.save")


def restore_nemo(kind: Any, path: str | Path, trusted: Trusted, *, map_location: Any = None, **more: Any) -> Any:
    """A model of NeMo from its file.

    Args:
        kind: NeMo's class; that of the file may be a subclass.
        path: the `.nemo`.
        trusted: the classes that the file may name.
        map_location: the device.
        more: further arguments of NeMo's `restore_from`.

    Raises:
        ModelFileError: see `check_archive` and `load_weights`. Errors of NeMo's pass.
    """
    check_archive(path, trusted)
    with restore_state_kept():
        connector = SafeConnector(trusted)
        return kind.restore_from(str(path), map_location=map_location, save_restore_connector=connector, **more)


def pretrained_nemo(kind: Any, name: str, trusted: Trusted, *, map_location: Any = None) -> Any:
    """A model of NeMo by its public name: it is downloaded, and then restored as any file. Errors of NeMo's pass."""
    with restore_state_kept():
        return kind.from_pretrained(name, map_location=map_location, save_restore_connector=SafeConnector(trusted))


@contextmanager
def restore_state_kept() -> Iterator[None]:
    """Resets the host's global "a model is being restored", which it leaves behind when restoring fails."""
    try:
        yield
    except BaseException:
        AppState().is_model_being_restored = False
        raise
