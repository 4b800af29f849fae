"""What the micro-batches of one optimiser step have lost, kept on the device until somebody asks.

Shapes: B conversations of a micro-batch, N its target positions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.parallel import data_rank, layout
from vtblender_nemo.models.target_loss import TargetLoss


@dataclass(frozen=True)
class StepTotals:
    """Of all ranks and micro-batches of a step."""

    loss: float
    """Sum over the targets; the mean is `loss / targets`."""
    targets: int


@dataclass(frozen=True)
class _Part:
    """One micro-batch: what is summed, by conversation (B,) and by kind of loss (1,)."""

    names: list[str]
    sums: Tensor
    counts: Tensor


class StepLosses:
    """Adds up losses, from the first micro-batch of a step to the last one; `clear` begins the next."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._parts: list[_Part] = []
        self._sum: Tensor | float = 0.0
        self._targets = 0
        self._totals: StepTotals | None = None

    def add(self, batch: Batch, loss: TargetLoss) -> None:
        """Adds a micro-batch."""
        self._totals = None
        values = loss.values.detach()
        self._sum = self._sum + values.sum()
        self._targets += loss.targets
        zeros = values.new_zeros(len(batch))
        sums = zeros.index_add(0, loss.conversation, values)
        counts = zeros.index_add(0, loss.conversation, torch.ones_like(values))
        self._parts.append(_Part([f"train_loss/{source}" for source in batch.sources], sums, counts))
        if batch.twin is not None:  # the losses that the sum is made of, each over the targets that have it
            for name, part in (("train_ce", loss.nll), ("train_kl", loss.kl)):
                if part is not None:
                    self._parts.append(_Part([name], part.detach().sum()[None], values.new_tensor([part.numel()])))

    def totals(self, device: torch.device) -> StepTotals:
        """The sums of all ranks, which call this together; those that hold one model count once. Asked again, no rank is asked.

        Args:
            device: of the collective operation.
        """
        if self._totals is not None:
            return self._totals
        together = torch.stack(
            [torch.as_tensor(v, dtype=torch.float64, device=device) for v in (self._sum, self._targets)]
        )
        if data_rank()[1] > 1:
            torch.distributed.all_reduce(together, group=layout().data_group)
        loss, targets = together.tolist()
        self._totals = StepTotals(loss, int(targets))
        return self._totals

    def means(self) -> dict[str, float]:
        """The mean over the targets of every source on this rank, and of every kind of loss where there are twins."""
        sums: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for part in self._parts:
            for name, value, count in zip(part.names, part.sums.tolist(), part.counts.tolist(), strict=True):
                sums[name] += value
                counts[name] += count
        return {name: sums[name] / counts[name] for name in sorted(sums) if counts[name]}
