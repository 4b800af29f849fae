"""Data-parallel training in which every process holds a whole model."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class ReplicatedStrategy(DDPStrategy):
    """Lightning's DDP, which bears batches without audio, and sends nothing but gradients while it trains.

    A training step reads no running statistics; `SameStatistics` sends them where they are read.

    Args:
        timeout: how long a process waits for the others before it ends the training.
    """

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(find_unused_parameters=True, broadcast_buffers=False, timeout=timeout)


class SameStatistics(Callback):
    """Gives all processes the first one's running statistics, which are those that files hold, before a validation reads them."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            send_statistics(pl_module)


def send_statistics(module: nn.Module) -> None:
    """From the first process to all; to be called by all together."""
    for norm in module.modules():
        if isinstance(norm, _NormBase):
            for statistic in norm.buffers(recurse=False):
                dist.broadcast(statistic, 0)
