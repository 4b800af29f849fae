"""Parameters of which every process of a tensor group holds a part, beside those that all of them hold alike.

A parameter that is parted carries megatron-core's marks: `tensor_model_parallel` is true, and `partition_dim` is the axis along
which it is cut into equal parts. Files hold whole tensors, so that they do not depend on how many processes wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vtblender_nemo.common.parallel import layout, tensor_rank


def mark(parameter: Tensor, axis: int) -> None:
    """Notes that this process holds a part of the parameter, cut along `axis`."""
    parameter.tensor_model_parallel, parameter.partition_dim = True, axis


def axis_of(parameter: Tensor) -> int | None:
    """The axis that a parameter is cut along; None where this process holds all of it."""
    return parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None


def numel(parameter: Tensor) -> int:
    """Numbers in a parameter, and in the other processes' parts of it."""
    return parameter.numel() * (1 if axis_of(parameter) is None else tensor_rank()[1])


def axes(module: nn.Module) -> dict[str, int]:
    """By name in the module's state dict, the axes of the parameters that are parted."""
    found = {name: axis_of(parameter) for name, parameter in module.named_parameters(remove_duplicate=False)}
    return {name: axis for name, axis in found.items() if axis is not None}


def whole(part: Tensor, axis: int) -> Tensor:
    """The whole of which this process holds a part; to be called by all processes of a tensor group together."""
    group = layout().tensor_group
    part = part.detach().contiguous()
    parts = [torch.empty_like(part) for _ in range(group.size())]
    dist.all_gather(parts, part, group=group)
    return torch.cat(parts, axis)


def own_part(tensor: Tensor, axis: int) -> Tensor:
    """This process's part of a whole, contiguous, as fused optimisers misread states that are not."""
    rank, size = tensor_rank()
    return tensor.chunk(size, axis)[rank].contiguous()


def whole_state(state: Mapping[str, Tensor], module: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """A module's state with whole tensors; to be called by all processes of a tensor group together.

    Args:
        state: some of what the module's `state_dict` holds.
        module: where it is from.
        keep: false joins in, and returns nothing.
    """
    parted, found = axes(module), {}
    for name, value in state.items():
        joined = whole(value, parted[name]).cpu() if name in parted else value
        if keep:
            found[name] = joined
    return found


def own_state(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """A state with whole tensors as this process's module holds them; those that are parted already stay as they are."""
    parted = axes(module)
    if not parted:
        return state
    sizes = {name: parameter.shape for name, parameter in module.named_parameters(remove_duplicate=False)}
    return {
        name: own_part(value, parted[name]) if name in parted and value.shape != sizes[name] else value
        for name, value in state.items()
    }


def whole_optimizer_state(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """An optimiser's state dict with whole tensors; to be called by all processes of a tensor group together.

    Args:
        state: of one optimiser, or of several under `optimizers`.
        parameters: the parameters in the order of the optimiser's groups.
    """
    return _converted(state, parameters, lambda value, axis: whole(value, axis).cpu())


def own_optimizer_state(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """The reverse of `whole_optimizer_state`."""
    return _converted(state, parameters, own_part)


def average_replicated(parameters: Iterable[Tensor]) -> None:
    """Makes gradients of parameters that are not parted the same in all processes of a tensor group, to the last bit.

    All of them have computed the same already, but for the order in which a device may have added.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and axis_of(p) is None]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat, group=layout().tensor_group)
        flat /= layout().tensor_size
        for gradient, averaged in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(averaged.view_as(gradient))


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales gradients down to a norm over the whole model, in which what all processes hold alike counts once.

    Returns:
        The norm before.
    """
    parameters = [p for p in parameters if p.grad is not None]
    parted = [p.grad for p in parameters if axis_of(p) is not None]
    alike = [p.grad for p in parameters if axis_of(p) is None]
    squares = [torch.nn.utils.get_total_norm(some).square() for some in (parted, alike)]
    device = parameters[0].device if parameters else None
    of_parts = squares[0].to(device=device, dtype=torch.float32)
    dist.all_reduce(of_parts, group=layout().tensor_group)
    norm = (of_parts + squares[1].to(of_parts)).sqrt()
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


@torch.no_grad()
def broadcast_replicated(module: nn.Module) -> None:
    """Gives all processes of a tensor group the first one's values of what they hold alike."""
    for value in [*module.parameters(), *module.buffers()]:
        if axis_of(value) is None:
            take_first(value.data)


def take_first(value: Tensor) -> None:
    """Writes the value of the first process of a tensor group into that of all."""
    group = layout().tensor_group
    dist.broadcast(value, dist.get_global_rank(group, 0), group=group)


def _converted(state: dict[str, Any], parameters: list[Tensor], convert: Any) -> dict[str, Any]:
    if "optimizers" in state:
        found, start = [], 0
        for one in state["optimizers"]:
            count = sum(len(group["params"]) for group in one["param_groups"])
            found.append(_converted(one, parameters[start : start + count], convert))
            start += count
        return {**state, "optimizers": found}
    converted = {}
    for number, values in state["state"].items():
        axis = axis_of(parameters[number])
        converted[number] = {
            key: convert(value, axis) if axis is not None and isinstance(value, Tensor) and value.dim() else value
            for key, value in values.items()
        }
    return {**state, "state": converted}


def _buckets(tensors: list[Tensor], most: int = 2**25) -> Iterable[list[Tensor]]:
    """Tensors of one type, so many of them together that a message is worth its while."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or sum(one.numel() for one in bucket) + tensor.numel() > most):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
