"""Checkpoints of whole models, written by processes that hold parts of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer

from vtblender_nemo.common.shards import own_optimizer_state, whole_optimizer_state
from vtblender_nemo.models.vtblender import VTBlenderModel

if TYPE_CHECKING:
    from lightning.pytorch.strategies import DDPStrategy as Base
else:
    Base = object


class WholeCheckpoints(Base):
    """The part of a strategy that reads and writes checkpoints: any number of processes goes on with those of any other."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert isinstance(self.lightning_module, VTBlenderModel)
        return self.lightning_module.checkpoint_state()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer._optimizer
        return whole_optimizer_state(optimizer.state_dict(), _parameters(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = [
            own_optimizer_state(state, _parameters(optimizer))
            for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True)
        ]
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
