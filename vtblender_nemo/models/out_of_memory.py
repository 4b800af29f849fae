"""A micro-batch that does not fit into a GPU's memory, computed in two halves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from torch import Tensor, nn

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.errors import TrainingError


def backward_in_halves(
    batch: Batch, loss_of: Callable[[Batch], Tensor], *, audio_locator_id: int, ranks: nn.Module | None, problem: str
) -> None:
    """Forward and backward passes of both halves; their gradients are those of the whole, but for batch statistics.

    Args:
        batch: what did not fit.
        loss_of: the scalar of a part, as it is to be differentiated; without a gradient path where nothing is trained.
        audio_locator_id: the token id whose place an audio takes.
        ranks: what adds up gradients over ranks in backward passes, as `DistributedDataParallel`: not in these, since the other
            ranks have one.
        problem: what was said of the whole.

    Raises:
        TrainingError: a single conversation does not fit.
    """
    if len(batch) == 1:
        raise TrainingError(
            f"one conversation alone does not fit into the GPU's memory ({problem})",
            value=batch.ids,
            knob="data.train_ds.max_tokens, data.train_ds.max_duration, model.recompute",
        )
    no_sync = getattr(ranks, "no_sync", nullcontext)
    with no_sync():
        for half in batch.halves(audio_locator_id):
            loss = loss_of(half)
            if loss.requires_grad:
                loss.backward()
            del loss  # before the other half needs its memory


def zero_of(parameters: list[nn.Parameter]) -> Tensor:
    """0 with a path to every parameter: in its backward pass ranks add up the gradients that are there."""
    return sum((0.0 * parameter.sum() for parameter in parameters[1:]), start=0.0 * parameters[0].sum())
