"""Processes that train together, where Lightning does not connect them: before the trainer is there, and after it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from vtblender_nemo.common.parallel import launcher

logger = logging.getLogger(__name__)

_PAUSE_SECS = 1.0
_TOLD_EVERY_SECS = 60.0


def is_launched() -> bool:
    """Whether torchrun, SLURM, LSF or MPI started this process, perhaps as one of several, and watches over all of them."""
    return launcher() is not None


def launched_processes() -> int | None:
    """How many processes torchrun or srun started, on all nodes together; None where neither did."""
    if TorchElasticEnvironment.detect():
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ["SLURM_NTASKS"]) if SLURMEnvironment.detect() else None


def is_batch_script() -> bool:
    """Whether this is SLURM's batch script itself, which takes the place of the first of several tasks, and not `srun` in it."""
    inside = TorchElasticEnvironment.detect() or "SLURM_STEP_ID" in os.environ
    return SLURMEnvironment.detect() and not inside


def is_first() -> bool:
    """Whether this process makes what is made once: rank 0, or what will be."""
    # until a trainer is there, the main process of every node that its user started by hand counts as rank 0
    return not rank_zero_only.rank and not int(os.environ.get("NODE_RANK", "0"))


def wait_for_first(made: Callable[[], bool], place: Path, pause: Callable[[float], None] = time.sleep) -> None:
    """Waits until the first process has made something. If that fails, the launcher ends those that wait.

    Files tell it: there is no connection between the processes yet, or any more, and what is made is read by all.

    Args:
        made: whether it is there.
        place: where; it is told every minute.
        pause: sleeps for so many seconds.
    """
    waited = 0.0
    while not made():
        pause(_PAUSE_SECS)
        waited += _PAUSE_SECS
        if waited % _TOLD_EVERY_SECS == 0:
            logger.warning(
                "waiting for %.0f s for %s, which the first process makes; all nodes have to see the same folder",
                waited,
                place,
            )
