"""Parameters of which every process holds a part, beside those that all of them hold alike.

A parameter that is parted over a tensor group carries megatron-core's marks: `tensor_model_parallel` is true, and
`partition_dim` is the axis along which it is cut into equal parts. One that is parted over all processes, for its memory alone,
is a `DTensor`, as are its gradient and its optimiser's state. Files hold whole tensors, so that they do not depend on how many
processes wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vtblender_nemo.common.parallel import layout, tensor_rank


def mark(parameter: Tensor, axis: int) -> None:
    """Notes that this process holds a part of the parameter, cut along `axis`."""
    parameter.tensor_model_parallel, parameter.partition_dim = True, axis


def axis_of(parameter: Tensor) -> int | None:
    """The axis that a parameter is cut along; None where this process holds all of it."""
    return parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None


def is_parted(parameter: Tensor) -> bool:
    """Whether this process holds a part of it."""
    return isinstance(parameter, DTensor) or axis_of(parameter) is not None


def parted(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that are parted, by their names in the module's state dict."""
    return {name: one for name, one in module.named_parameters(remove_duplicate=False) if is_parted(one)}


def by_kind(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Parameters in lists of one kind each, since operations on lists do not mix `DTensor` with others; no empty list."""
    parameters = list(parameters)
    kinds = ([p for p in parameters if isinstance(p, DTensor) == sharded] for sharded in (False, True))
    return [kind for kind in kinds if kind]


def joined(part: Tensor, parameter: Tensor) -> Tensor:
    """The whole of a parted parameter, or of its gradient or optimiser state; all that have a part call this together."""
    if isinstance(part, DTensor):
        return part.detach().full_tensor()
    axis = axis_of(parameter)
    assert axis is not None, "the parameter is parted"
    return whole(part, axis)


def part_of(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The reverse of `joined`, from a whole that every process has."""
    if isinstance(parameter, DTensor):
        tensor = tensor.to(parameter.device)
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    axis = axis_of(parameter)
    assert axis is not None, "the parameter is parted"
    return own_part(tensor, axis)


def numel(parameter: Tensor) -> int:
    """Numbers in a parameter, and in the other processes' parts of it."""
    return parameter.numel() * (1 if axis_of(parameter) is None else tensor_rank()[1])  # a `DTensor` counts its whole


def axes(module: nn.Module) -> dict[str, int]:
    """By name in the module's state dict, the axes of the parameters that are parted over a tensor group."""
    found = {name: axis_of(parameter) for name, parameter in parted(module).items()}
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
    """A module's state with whole tensors; to be called by all processes together where there are parted ones.

    Args:
        state: some of what the module's `state_dict` holds.
        module: where it is from.
        keep: false joins in, and returns nothing.
    """
    of_parts, found = parted(module), {}
    for name, value in state.items():
        all_of_it = joined(value, of_parts[name]).cpu() if name in of_parts else value
        if keep:
            found[name] = all_of_it
    return found


def own_state(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """A state with whole tensors as this process's module holds them; those that are parted already stay as they are."""
    of_parts = parted(module)

    def own(name: str, value: Tensor) -> Tensor:
        parameter = of_parts.get(name)
        is_whole = isinstance(parameter, DTensor) or (parameter is not None and value.shape != parameter.shape)
        return part_of(value, parameter) if is_whole and not isinstance(value, DTensor) else value

    return {name: own(name, value) for name, value in state.items()} if of_parts else state


def whole_optimizer_state(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """An optimiser's state dict with whole tensors; to be called by all processes together where there are parted ones.

    Args:
        state: of one optimiser, or of several under `optimizers`.
        parameters: the parameters in the order of the optimiser's groups.
    """
    return _converted(state, parameters, lambda value, parameter: joined(value, parameter).cpu())


def own_optimizer_state(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """The reverse of `whole_optimizer_state`."""
    return _converted(state, parameters, part_of)


def average_replicated(parameters: Iterable[Tensor]) -> None:
    """Makes gradients of parameters that are not parted the same in all processes of a tensor group, to the last bit.

    All of them have computed the same already, but for the order in which a device may have added.
    """
    if layout().tensor_size == 1:
        return
    _average([p.grad for p in parameters if p.grad is not None and axis_of(p) is None], layout().tensor_group)


def average_over_ranks(parameters: Iterable[Tensor], device: torch.device) -> None:
    """Averages gradients of parameters that are not parted over all processes; some may have none, which counts as 0.

    Parameters that no process has a gradient of keep none, so that optimisers pass over them.

    Args:
        parameters: the same on all processes.
        device: of the processes' messages.
    """
    alike = [p for p in parameters if p.requires_grad and not is_parted(p)]
    used = torch.tensor([p.grad is not None for p in alike], dtype=torch.int32, device=device)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    of_some = [p for p, is_used in zip(alike, used.tolist(), strict=True) if is_used]
    for parameter in of_some:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    _average([p.grad for p in of_some], None)


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients of the whole model, in which what all processes hold alike counts once.

    To be called by all processes together where there are parted parameters.
    """
    parameters = [p for p in parameters if p.grad is not None]
    alike = [p.grad for p in parameters if not is_parted(p)]
    square = torch.nn.utils.get_total_norm(alike).float().square()
    for parts, group in (
        ([p.grad for p in parameters if axis_of(p) is not None], layout().tensor_group),
        ([p.grad.to_local() for p in parameters if isinstance(p, DTensor)], None),
    ):
        if parts:
            own = torch.nn.utils.get_total_norm(parts).float().square()
            dist.all_reduce(own, group=group)
            square = square.to(own) + own
    return square.sqrt()


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales gradients down to a norm over the whole model; see `gradient_norm`.

    Returns:
        The norm before.
    """
    parameters = [p for p in parameters if p.grad is not None]
    norm = gradient_norm(parameters)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as in torch.nn.utils
    for some in by_kind(parameters):
        torch._foreach_mul_([p.grad.to_local() if isinstance(p, DTensor) else p.grad for p in some], factor)
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
        parameter = parameters[number]
        converted[number] = {
            key: convert(value, parameter)
            if is_parted(parameter) and isinstance(value, Tensor) and value.dim()
            else value
            for key, value in values.items()
        }
    return {**state, "state": converted}


def _average(gradients: Iterable[Tensor], group: Any) -> None:
    for bucket in _buckets(list(gradients)):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size(group)
        for gradient, averaged in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(averaged.view_as(gradient))


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
