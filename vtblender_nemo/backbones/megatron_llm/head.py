"""Losses from logits of which every process has those of some tokens.

Shapes: N target positions, H hidden, V vocabulary, W a process's part of it, K likely tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vtblender_nemo.backbones.megatron_llm.communication import copy_to_group, gather_last, reduced, sum_over_group
from vtblender_nemo.common.parallel import layout
from vtblender_nemo.modules.losses import Head


@dataclass(frozen=True)
class VocabParallelHead(Head):
    """A head whose `weight` (W, H) and `bias` (W,) are this process's part."""

    def __call__(self, rows: Tensor) -> Tensor:
        return gather_last(self.own(rows))

    def own(self, rows: Tensor) -> Tensor:
        """Hidden rows (N, H) -> this process's logits (N, W)."""
        return super().__call__(copy_to_group(rows))

    def nll(self, rows: Tensor, ids: Tensor) -> Tensor:
        if not len(rows):
            return rows.float().sum(-1)
        return vocab_parallel_cross_entropy(self.own(rows).float(), ids)  # writes over the logits

    def divergence(self, rows: Tensor, teacher_rows: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if not len(rows):
            return rows.float().sum(-1)
        student = self.own(rows).float() / temperature
        with torch.no_grad():
            teacher = self.own(teacher_rows).float() / temperature
        if top_k is not None and top_k < teacher.shape[-1] * layout().tensor_size:
            teacher, student = _likely(teacher, student, top_k)
            expected, found = teacher.log_softmax(-1), student.log_softmax(-1)
            return temperature**2 * (expected.exp() * (expected - found)).sum(-1)
        expected, found = _LogSoftmax.apply(teacher), _LogSoftmax.apply(student)
        return temperature**2 * sum_over_group((expected.exp() * (expected - found)).sum(-1))


def _likely(teacher: Tensor, student: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The teacher's K highest logits over all processes and the student's of the same tokens, (N, K) each, for all of them."""
    own, tokens = teacher.topk(min(top_k, teacher.shape[-1]), dim=-1)
    candidates, of_student = gather_last(own), gather_last(student.gather(-1, tokens))
    likely, places = candidates.topk(top_k, dim=-1)
    return likely, of_student.gather(-1, places)


class _LogSoftmax(torch.autograd.Function):
    """Logits (N, W) -> log probabilities (N, W) over all processes' tokens."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor) -> Tensor:
        logits = logits - reduced(logits.amax(-1, keepdim=True), dist.ReduceOp.MAX)
        found = logits - reduced(logits.exp().sum(-1, keepdim=True)).log()
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (found,) = ctx.saved_tensors
        return gradient - found.exp() * reduced(gradient.sum(-1, keepdim=True))
