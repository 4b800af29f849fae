"""What Lightning asks of a model while it trains: losses of micro-batches, and what becomes of their gradients."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vtblender_nemo.common import shards
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.parallel import data_rank
from vtblender_nemo.models.out_of_memory import backward_in_halves, zero_of
from vtblender_nemo.models.speech_llm import SpeechLLM
from vtblender_nemo.models.step_losses import StepLosses

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as Base
else:
    Base = object

logger = logging.getLogger(__name__)


class TrainingSteps(Base):
    """The part of `VTBlenderModel` that trains; beside it stands a `LightningModule`.

    Attributes:
        step_losses: of the micro-batches since the last optimiser step.
        split_when_out_of_memory: compute micro-batches that do not fit into a GPU's memory in two halves.
    """

    speech_llm: SpeechLLM
    step_losses: StepLosses
    split_when_out_of_memory: bool

    def trainable_parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Trainable parameters with their names, by part: encoder, modality_adapter, projection, lora, llm."""
        parts: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.speech_llm.named_parameters():
            if parameter.requires_grad:
                parts.setdefault(_part_of(name), []).append((name, parameter))
        return parts

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The summed loss of a micro-batch; `on_before_optimizer_step` divides by the targets of the whole step."""
        try:
            total = self.summed_loss(batch)
        except torch.OutOfMemoryError as error:
            if not self.split_when_out_of_memory:
                raise
            problem = str(error)  # alone: the error holds the tensors of the forward pass
        else:
            return {"loss": total if total.requires_grad else total + self._nothing()}
        logger.warning("out of memory; the micro-batch of %s is computed in two halves", ", ".join(batch.ids))
        backward_in_halves(
            batch,
            lambda half: self.summed_loss(half) / self.trainer.accumulate_grad_batches,
            audio_locator_id=self.speech_llm.audio_locator_id,
            ranks=self.trainer.strategy.model,
            problem=problem,
        )
        return {"loss": zero_of([p for named in self.trainable_parts().values() for _, p in named])}

    def summed_loss(self, batch: Batch) -> Tensor:
        """The loss of a micro-batch or of a part of one, which counts in the step's `step_losses`."""
        loss = self.speech_llm(batch)
        self.step_losses.add(batch, loss)
        return loss.sum

    def _nothing(self) -> Tensor:
        """0 with a gradient path: text alone trains nothing where the LLM is frozen and has no LoRA."""
        return 0.0 * self.speech_llm.perception.proj.bias.sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turns gradients of summed losses into those of the mean over all target tokens of all ranks and micro-batches.

        Lightning has divided by the micro-batches of the step, and data-parallel training has averaged over ranks.
        """
        totals = self.step_losses.totals(self.device)
        _, ranks = data_rank()
        factor = self.trainer.accumulate_grad_batches * ranks / max(totals.targets, 1)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for some in shards.by_kind(parameters):
            torch._foreach_mul_([p.grad for p in some], factor)
        shards.average_replicated(parameters)
        if totals.targets:
            self._log_losses(totals.loss / totals.targets)
        self.step_losses.clear()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        by_norm = gradient_clip_val and gradient_clip_algorithm in (None, "norm")
        if by_norm and any(shards.is_parted(parameter) for parameter in parameters):
            shards.clip_gradients(parameters, float(gradient_clip_val or 0))
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device) if isinstance(batch, Batch) else batch

    def _log_losses(self, mean: float) -> None:
        """Not by `log`, which would repeat the last loss of a source in steps that have none of its rows."""
        self.log("train_loss", mean, prog_bar=True, logger=False, batch_size=1)
        step = self.trainer.global_step
        if (step + 1) % self.trainer.log_every_n_steps == 0:
            for own in self.trainer.loggers:
                own.log_metrics({"train_loss": mean, **self.step_losses.means()}, step)


def _part_of(name: str) -> str:
    if name.startswith("llm."):
        return "lora" if ".lora_" in name else "llm"
    if name.startswith("perception.encoder"):
        return "encoder"
    return "modality_adapter" if name.startswith("perception.modality_adapter") else "projection"
