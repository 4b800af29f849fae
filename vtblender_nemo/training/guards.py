"""Steps that would do harm: with a loss or gradient that is no number, or far above all losses before."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.errors import ConfigError, TrainingError

logger = logging.getLogger(__name__)

WINDOW = 100
"""A loss is compared with those of so many steps before it."""
MIN_WINDOW = 20
"""Nothing is called a spike before so many."""


@dataclass
class GuardConfig:
    """What is done about steps that would do harm.

    Attributes:
        max_bad_steps: in a row, whose loss or gradient is no number: each is left out, and its rows are listed; one more
            ends the training. 0 ends it at the first.
        spike_sigmas: a loss that is so many standard deviations above the mean of the steps before it is a spike: told, and
            listed. None looks for none.
        skip_spikes: leave such steps out, too.
        split_when_out_of_memory: compute a micro-batch whose forward pass does not fit into the GPU's memory in two halves,
            and go on; False ends the training.
    """

    max_bad_steps: int = 10
    spike_sigmas: float | None = 8.0
    skip_spikes: bool = False
    split_when_out_of_memory: bool = False

    def check(self) -> None:
        """Raises ConfigError for the first value out of range."""
        for name, low in (("max_bad_steps", 0), ("spike_sigmas", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError("value out of range", value=value, expected=f"at least {low}", knob=f"guards.{name}")


class StepGuard(Callback):
    """Leaves out optimiser steps whose loss or gradient is no number, and tells of spikes.

    A step that is left out changes nothing: neither weights nor the optimiser's state, and running statistics (of batch
    norm) that its forward passes have changed are put back. All ranks leave it out together.

    Args:
        config: the section `guards`.
        path: JSONL with one row for each such step: `{"step", "problem", "loss", "gradient_norm", "rows": [[source, id], ...]}`.
    """

    def __init__(self, config: GuardConfig, path: Path) -> None:
        config.check()
        self._config, self._path = config, path
        self._rows: list[tuple[str, str]] = []
        self._bad_in_a_row = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._statistics: list[Tensor] = []
        self._healthy: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        return {"bad_in_a_row": self._bad_in_a_row, "losses": list(self._losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._bad_in_a_row = state_dict["bad_in_a_row"]
        self._losses.extend(state_dict["losses"])

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.split_when_out_of_memory = self._config.split_when_out_of_memory
        self._statistics = [buffer for buffer in pl_module.buffers() if buffer.is_floating_point()]
        self._healthy = [buffer.clone() for buffer in self._statistics]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if not self._rows:
            _copy(self._statistics, self._healthy)
        self._rows += zip(batch.sources, batch.ids, strict=True)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        totals = pl_module.step_losses.totals(pl_module.device, trainer.world_size)
        loss = totals.loss / max(totals.targets, 1)
        norm = _norm([p.grad for p in parameters]) / max(totals.targets, 1)
        problem = self._problem(loss, norm, trainer)
        rows, self._rows = self._rows, []
        if problem is None:
            self._bad_in_a_row = 0
            if totals.targets:
                self._losses.append(loss)
            return
        spike = problem == "spike"
        self._tell(trainer, problem, loss, norm, rows)
        if spike and not self._config.skip_spikes:
            return
        for parameter in parameters:
            parameter.grad = None  # optimisers pass over parameters without a gradient
        _copy(self._healthy, self._statistics)
        self._bad_in_a_row += not spike
        if self._bad_in_a_row > self._config.max_bad_steps:
            raise TrainingError(
                f"{self._bad_in_a_row} steps in a row had a {problem} that is no number; their rows are listed in {self._path}",
                value=f"loss {loss}, gradient norm {norm}",
                expected="finite numbers",
                knob="model.optim.lr, trainer.precision, or guards.max_bad_steps",
            )

    def _problem(self, loss: float, norm: float, trainer: Trainer) -> str | None:
        """What is wrong, on any rank, or None; the loss is that of all ranks, the gradient where it is sharded this one's."""
        bad = [not math.isfinite(loss), not math.isfinite(norm)]
        if trainer.world_size > 1:
            together = torch.tensor(bad, dtype=torch.int64, device=trainer.strategy.root_device)
            dist.all_reduce(together, dist.ReduceOp.MAX)
            bad = [bool(value) for value in together.tolist()]
        if any(bad):
            return "loss" if bad[0] else "gradient"
        return "spike" if self._is_spike(loss) else None

    def _is_spike(self, loss: float) -> bool:
        sigmas, before = self._config.spike_sigmas, self._losses
        if sigmas is None or len(before) < MIN_WINDOW:
            return False
        mean = math.fsum(before) / len(before)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in before) / len(before))
        return loss > mean + sigmas * deviation

    def _tell(self, trainer: Trainer, problem: str, loss: float, norm: float, rows: list[tuple[str, str]]) -> None:
        gathered: list[Any] = [rows]
        if trainer.world_size > 1:
            gathered = [None] * trainer.world_size
            dist.all_gather_object(gathered, rows)
        left_out = problem != "spike" or self._config.skip_spikes
        logger.warning(
            "step %d: %s; %s, and its rows are listed in %s",
            trainer.global_step,
            f"the loss of {loss:g} is a spike" if problem == "spike" else f"the {problem} is no number",
            "it is left out" if left_out else "it is made",
            self._path,
        )
        if trainer.is_global_zero:
            found = {"step": trainer.global_step, "problem": problem, "loss": loss, "gradient_norm": norm}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**found, "rows": [row for part in gathered for row in part]}) + "\n")


def _norm(gradients: list[Tensor]) -> float:
    if not gradients:
        return 0.0
    total = torch.nn.utils.get_total_norm(gradients)
    return float(total.full_tensor() if hasattr(total, "full_tensor") else total)


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    if source:
        torch._foreach_copy_(target, source)
