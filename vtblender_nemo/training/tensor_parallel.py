"""Lightning's data-parallel training where every model is held by several processes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn.parallel import DistributedDataParallel

from vtblender_nemo.common.parallel import data_rank, layout
from vtblender_nemo.common.shards import broadcast_replicated
from vtblender_nemo.training.whole_checkpoints import WholeCheckpoints


class TensorParallelStrategy(WholeCheckpoints, DDPStrategy):
    """Gradients are averaged over processes that hold the same part of a model; checkpoints are those of whole models.

    A batch without audio leaves parts without gradients, which is borne.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"find_unused_parameters": True, "broadcast_buffers": False, **kwargs})

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
