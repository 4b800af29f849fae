"""Losses on target rows only: the head never sees a position that predicts nothing.

Rows go through the head in chunks, so that few logits exist at a time; on CUDA cross-entropy takes Liger's kernel, where it is
installed.

Shapes: N target positions, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

_CHUNK_LOGITS = 2**21  # 8 MiB in float32
_MIN_CHUNK_ROWS = 64  # fewer would read the head's weight more often than they compute with it


@dataclass(frozen=True)
class Head:
    """Hidden rows (..., H) -> logits (..., V): a linear map, scaled, then bent by softcap x tanh(logits / softcap).

    Attributes:
        weight: (V, H).
        bias: (V,) or None.
        scale: factor on the logits (Cohere, Granite).
        softcap: bound of the logits (Gemma 2), or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        return self.bent(torch.nn.functional.linear(rows, self.weight, self.bias))

    def bent(self, products: Tensor) -> Tensor:
        """Products of rows and weight (..., V) -> logits (..., V)."""
        logits = products if self.scale == 1.0 else products * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def nll(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Negative log-likelihoods (N,) float32 of ids (N,) after hidden rows (N, H)."""
        return torch.nn.functional.cross_entropy(self(rows).float(), ids, reduction="none")

    def divergence(self, rows: Tensor, teacher_rows: Tensor, temperature: float, top_k: int | None) -> Tensor:
        """Divergences (N,) float32 of a student's rows (N, H) from a teacher's, who get no gradient; see `target_kl`."""
        student = self(rows).float() / temperature
        with torch.no_grad():
            teacher = self(teacher_rows).float() / temperature
        if top_k is not None and top_k < teacher.shape[-1]:
            teacher, likely = teacher.topk(top_k, dim=-1)
            student = student.gather(-1, likely)
        expected, found = teacher.log_softmax(-1), student.log_softmax(-1)
        return temperature**2 * (expected.exp() * (expected - found)).sum(-1)


def target_nll(hidden: Tensor, targets: Tensor, head: Head, *, chunk_rows: int | None = None) -> Tensor:
    """Negative log-likelihood of each target.

    Args:
        hidden: (N, H) the LLM's last hidden states at the positions that predict a target.
        targets: (N,) token ids.
        head: of the LLM.
        chunk_rows: rows of logits in memory at once; by default as many as make 8 MiB, and 64 at least.

    Returns:
        (N,) float32.
    """
    if _has_fused_kernel(hidden, head):
        return _fused_nll(hidden, targets, head)
    return _in_chunks(head.nll, head, chunk_rows, hidden, targets)


def target_kl(
    hidden: Tensor,
    teacher_hidden: Tensor,
    head: Head,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of the student's distribution from the teacher's at each target position.

    Args:
        hidden: (N, H) the student's last hidden states.
        teacher_hidden: (N, H) the teacher's, of the same positions; they get no gradient.
        head: of both, as student and teacher are one LLM.
        temperature: divides the logits of both; the result is multiplied by its square (Hinton et al., 2015).
        top_k: compare the teacher's most likely tokens alone, both distributions renormalised over them; None compares all.
        chunk_rows: rows of logits in memory at once; by default as many as make 8 MiB, and 64 at least.

    Returns:
        (N,) float32, nats.
    """

    def divergence(rows: Tensor, teacher_rows: Tensor) -> Tensor:
        return head.divergence(rows, teacher_rows, temperature, top_k)

    return _in_chunks(divergence, head, chunk_rows, hidden, teacher_hidden.detach())


RowFunction = Callable[[Tensor, Tensor], Tensor]


def _in_chunks(function: RowFunction, head: Head, chunk_rows: int | None, rows: Tensor, others: Tensor) -> Tensor:
    """A value for each row, of which few chunks' logits exist at a time.

    A value depends on its own row alone. So with a frozen head each row's gradient is known, but for a factor, as soon as its
    value is, and nothing has to be computed again. A trained head's chunks are computed again in the backward pass.
    """
    chunk_rows = chunk_rows or max(_MIN_CHUNK_ROWS, _CHUNK_LOGITS // len(head.weight))
    if not (torch.is_grad_enabled() and head.weight.requires_grad):
        return _RowByRow.apply(rows, others, function, chunk_rows)
    parts = [
        checkpoint(function, *part, use_reentrant=False)
        for part in zip(rows.split(chunk_rows), others.split(chunk_rows), strict=True)
    ]
    return torch.cat(parts)


class _RowByRow(torch.autograd.Function):
    """`function` of rows (N, H) and others (N, ...), chunk by chunk -> (N,); only rows get a gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, others: Tensor, function: RowFunction, chunk_rows: int) -> Tensor:
        values, gradients = [], []
        for some, of_some in zip(rows.split(chunk_rows), others.split(chunk_rows), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                leaf = some.detach().requires_grad_(ctx.needs_input_grad[0])
                value = function(leaf, of_some)
                if ctx.needs_input_grad[0]:
                    gradients += torch.autograd.grad(value.sum(), leaf)
            values.append(value.detach())
        ctx.save_for_backward(*gradients)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = torch.cat(ctx.saved_tensors)
        return gradient * upstream[:, None].to(gradient.dtype), None, None, None


def _has_fused_kernel(hidden: Tensor, head: Head) -> bool:
    is_whole = type(head) is Head  # others have losses of their own
    return (
        hidden.is_cuda and len(hidden) > 0 and is_whole and head.bias is None and find_spec("liger_kernel") is not None
    )


def _fused_nll(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else head.weight.dtype
    rows = (hidden * head.scale).to(dtype)
    nll = liger_fused_linear_cross_entropy(rows, head.weight.to(dtype), targets, reduction="none", softcap=head.softcap)
    return nll.float()
