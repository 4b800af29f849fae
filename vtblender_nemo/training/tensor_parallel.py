"""Lightning's data-parallel training where every model is held by several processes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn.parallel import DistributedDataParallel

from vtblender_nemo.common.parallel import data_rank, layout
from vtblender_nemo.common.shards import broadcast_replicated, own_optimizer_state, whole_optimizer_state
from vtblender_nemo.models.vtblender import VTBlenderModel


class TensorParallelStrategy(DDPStrategy):
    """Gradients are averaged over processes that hold the same part of a model; checkpoints are those of whole models.

    A batch without audio leaves parts without gradients, which is borne.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"find_unused_parameters": True, **kwargs})

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        rank, size = data_rank()
        return {"num_replicas": size, "rank": rank}

    def setup(self, trainer: pl.Trainer) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().setup(trainer)
            return
        # Lightning would give all processes the first one's part
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        self.setup_precision_plugin()

    def _setup_model(self, model: torch.nn.Module) -> DistributedDataParallel:
        broadcast_replicated(model)
        device_ids = self.determine_ddp_device_ids()
        with torch.cuda.stream(torch.cuda.Stream()) if device_ids is not None else nullcontext():
            return DistributedDataParallel(
                model, device_ids=device_ids, process_group=layout().data_group, **self._ddp_kwargs
            )

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
