"""A trained model from its file, on the device that a flag means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.host import quiet_host

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel


def load_model(path: Path, device: str) -> VTBlenderModel:
    """Restores a model, ready to answer.

    Raises:
        ModelFileError: the file is no model, or is damaged.
    """
    import torch

    from vtblender_nemo.models.vtblender import VTBlenderModel

    quiet_host()
    return VTBlenderModel.restore_from(str(path), map_location=torch.device(device)).eval()


def pick_device(name: str) -> str:
    """The device that a flag means.

    Raises:
        ConfigError: no such device, or a GPU where there is none.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(
            "unknown device", value=name, expected="auto, cpu, cuda or cuda:N", knob="--device"
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no GPU that torch can use", value=name, expected="auto or cpu", knob="--device")
    return name
