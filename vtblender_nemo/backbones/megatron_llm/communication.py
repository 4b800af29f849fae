"""What the processes of a tensor group tell each other inside a computation, with gradients.

megatron-core's own functions leave tensors that are not contiguous unreduced, and gather on CUDA alone.

Shapes: N rows, W width of a process's part.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vtblender_nemo.common.parallel import layout


def copy_to_group(x: Tensor) -> Tensor:
    """The same tensor, which every process goes on with in its own way; their gradients are added up."""
    return _Copy.apply(x)


def sum_over_group(x: Tensor) -> Tensor:
    """The sum of all processes' tensors, with which all of them go on alike."""
    return _Sum.apply(x)


def gather_last(x: Tensor) -> Tensor:
    """Parts (..., W) of all processes behind each other, with which all of them go on alike."""
    return _Gather.apply(x)


def reduced(x: Tensor, how: Any = dist.ReduceOp.SUM) -> Tensor:
    """A new tensor, reduced over the group; without gradient."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, how, group=layout().tensor_group)
    return x


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return reduced(gradient)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return reduced(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        group = layout().tensor_group
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        group = layout().tensor_group
        return gradient.chunk(group.size(), -1)[group.rank()].contiguous()
