"""Loss on target rows only: the head never sees a position that predicts nothing.

Shapes: N target positions, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def target_nll(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], *, chunk_rows: int = 1024) -> Tensor:
    """Negative log-likelihood of each target.

    Rows go through the head in chunks whose logits are recomputed in the backward pass, so that at most `chunk_rows` x V
    logits exist at a time.

    Args:
        hidden: (N, H) the LLM's last hidden states at the positions that predict a target.
        targets: (N,) token ids.
        head: hidden rows -> logits (rows, V).
        chunk_rows: rows of logits in memory at once.

    Returns:
        (N,) float32.
    """

    def chunk_nll(rows: Tensor, ids: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(head(rows).float(), ids, reduction="none")

    if len(hidden) <= chunk_rows:
        return chunk_nll(hidden, targets)
    parts = [
        checkpoint(chunk_nll, rows, ids, use_reentrant=False)
        for rows, ids in zip(hidden.split(chunk_rows), targets.split(chunk_rows), strict=True)
    ]
    return torch.cat(parts)
