"""Where models of synthesis run: a GPU that is asked for has to be there, and nothing falls to the CPU without a word."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vtblender_nemo.common.errors import ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def open_device(wanted: str, who: str, knob: str) -> torch.device:
    """The device for a model.

    Args:
        wanted: "cpu", "cuda", "cuda:1"; "auto" takes a GPU where one is visible, and otherwise the CPU, which is logged.
        who: the model, as `the LLM`.
        knob: the setting that `wanted` comes from.

    Raises:
        ConfigError: no such device, or a GPU that is not visible.
    """
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        logger.warning("no GPU is visible: %s runs on the CPU (%s cpu says that it shall)", who, knob)
        return torch.device("cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError("no such device", value=wanted, expected="auto, cpu, cuda or cuda:N", knob=knob) from error
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(
            f"no such GPU for {who}", value=wanted, expected=f"one of {count} that are visible", knob=knob
        )
    return device


def check_gpus(workers: int, gpus_per_worker: int) -> None:
    """
    Raises:
        ConfigError: this machine shows fewer GPUs than all its workers together shall have.
    """
    if not gpus_per_worker:
        return
    import torch

    present = torch.cuda.device_count()  # asks the driver, and starts nothing on a GPU
    if workers * gpus_per_worker > present:
        raise ConfigError(
            "too few GPUs are visible on this machine",
            value=f"{workers} workers with {gpus_per_worker} each",
            expected=f"at most {present} GPUs together",
            knob="--workers, --gpus-per-worker, CUDA_VISIBLE_DEVICES",
        )
