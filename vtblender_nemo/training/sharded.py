"""Data-parallel training of LLMs too large to be held by every GPU: each holds a share of every layer (PyTorch's FSDP2)."""

from __future__ import annotations

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.shards import average_over_ranks, is_parted
from vtblender_nemo.models.vtblender import VTBlenderModel
from vtblender_nemo.training.whole_checkpoints import WholeCheckpoints

SHARDED = "sharded"
"""The value of `trainer.strategy`."""


def check_sharding(cfg: DictConfig) -> None:
    """Looks at what does not go with `trainer.strategy=sharded`: whatever passes the LLM on some ranks alone.

    Raises:
        ConfigError: such a setting.
    """
    if cfg.trainer.get("strategy") != SHARDED:
        return
    imitation = cfg.model.get("imitation") or {}
    for found, knob in (
        (imitation.get("kl_weight", 0) > 0, "model.imitation.kl_weight"),
        ((cfg.get("guards") or {}).get("split_when_out_of_memory", False), "guards.split_when_out_of_memory"),
        (cfg.model.get("quantization") is not None, "model.quantization"),
    ):
        if found:
            raise ConfigError(
                f"{knob} does not go with a sharded LLM, whose layers all processes pass together and in full precision",
                value=OmegaConf.select(cfg, knob),
                expected="one of both",
                knob=f"{knob}, or trainer.strategy=auto",
            )


class ShardedStrategy(WholeCheckpoints, DDPStrategy):
    """The LLM's layers, frozen or not, and their LoRA are sharded over all processes; all else is held by each.

    Only a layer at a time is whole on a GPU. Every process passes every layer as often as the others do, so that they meet there:
    batches hold at least one conversation each. Perception is not sharded, as a batch without audio passes it by.
    `DistributedDataParallel` has no part in this: it averages gradients in an order that depends on the batch, between messages
    of the shards that have to come in the same order everywhere. They are averaged after the backward pass.
    """

    def model_to_device(self) -> None:
        """Shards layer by layer on the way, so that the whole LLM is never on one device."""
        assert isinstance(self.lightning_module, VTBlenderModel)
        layers = self.lightning_module.llm.layers
        if not layers:
            raise ConfigError("an LLM whose layers are not found cannot be sharded", knob="trainer.strategy=auto")
        mesh = init_device_mesh(self.root_device.type, (dist.get_world_size(),))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        super().model_to_device()

    def configure_ddp(self) -> None:
        """All processes begin with the first one's values of what each holds."""
        for tensor in _held_by_each(self.lightning_module):
            dist.broadcast(tensor.data, 0)

    def post_backward(self, closure_loss: Tensor) -> None:
        super().post_backward(closure_loss)
        if not self.lightning_module.trainer.fit_loop.epoch_loop._should_accumulate():
            average_over_ranks(self.lightning_module.parameters(), self.root_device)

    def teardown(self) -> None:
        """Leaves the model where it is: what is on the CPU could not be gathered there into a file."""
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


class WholeInValidation(Callback):
    """Holds the whole LLM on every GPU while it answers, since answers differ in length, and so do passes through the layers."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for layer in _sharded(pl_module):
            layer.set_reshard_after_forward(False)
            layer.unshard()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for layer in _sharded(pl_module):
            layer.set_reshard_after_forward(True)
            layer.reshard()


def _held_by_each(module: LightningModule) -> list[Tensor]:
    return [*(p for p in module.parameters() if not is_parted(p)), *module.buffers()]


def _sharded(module: LightningModule) -> list[FSDPModule]:
    return [one for one in module.modules() if isinstance(one, FSDPModule)]
