"""What a training logs of a micro-batch's loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.models.target_loss import TargetLoss


def means(batch: Batch, loss: TargetLoss) -> Iterator[tuple[str, Tensor, int]]:
    """Names, means over targets, and how many conversations or targets they are of: of all, by source, by part of the loss."""
    if not loss.targets:
        return
    values = loss.values.detach()
    sums = values.new_zeros(len(batch)).index_add(0, loss.conversation, values)
    counts = values.new_zeros(len(batch)).index_add(0, loss.conversation, torch.ones_like(values))
    yield "train_loss", values.mean(), len(batch)
    for source in sorted(set(batch.sources)):
        of_source = torch.tensor([name == source for name in batch.sources], device=values.device)
        if counts[of_source].sum() > 0:
            yield f"train_loss/{source}", sums[of_source].sum() / counts[of_source].sum(), int(of_source.sum())
    if batch.twin is not None:
        for name, part in (("train_ce", loss.nll), ("train_kl", loss.kl)):
            if part is not None and part.numel():
                yield name, part.detach().mean(), part.numel()
