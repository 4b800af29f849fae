"""The processes that hold one model together find each other."""

from __future__ import annotations

import atexit

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.parallel import Layout, launcher, layout, set_layout

_KNOB = "model.tensor_parallel"


def join(size: int) -> None:
    """Groups the processes that a launcher has started by `size`; does nothing where they are grouped so already.

    Raises:
        ConfigError: this process was started alone, their number is no multiple of `size`, or they are grouped otherwise.
    """
    if parallel_state.model_parallel_is_initialized():
        if layout().tensor_size != size:
            raise ConfigError(
                "one process is part of one tensor group",
                value=size,
                expected=f"{layout().tensor_size}, as for the model before",
                knob=_KNOB,
            )
        return
    _connect()
    processes = dist.get_world_size()
    if processes % size:
        raise ConfigError(
            "the number of processes is no multiple of those that hold one model",
            value=size,
            expected=f"a divisor of {processes}",
            knob=_KNOB,
        )
    parallel_state.initialize_model_parallel(size, create_gloo_process_groups=False)
    set_layout(Layout(size, parallel_state.get_tensor_model_parallel_group(), parallel_state.get_data_parallel_group()))


def leave() -> None:
    """Takes the grouping back; models that were made in it cannot be used any more."""
    parallel_state.destroy_model_parallel()
    set_layout(Layout())


def _connect() -> None:
    """Lightning finds the connection made: a model is built before a trainer is."""
    if dist.is_initialized():
        return
    kind = launcher()
    if kind is None:
        raise ConfigError(
            "tensor parallelism needs all of its processes from the start",
            value="a process that was started alone",
            expected="torchrun --nproc-per-node=N, or srun",
            knob=f"{_KNOB}=1, or the command",
        )
    found = kind()
    if torch.cuda.is_available():
        torch.cuda.set_device(found.local_rank())
    # the address as the launcher told it; CPU tensors need gloo on machines with GPUs too, as a model is built on the CPU
    address = f"tcp://{found.main_address}:{found.main_port}" if not _is_elastic() else "env://"
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, init_method=address, rank=found.global_rank(), world_size=found.world_size())
    atexit.register(_disconnect)


def _is_elastic() -> bool:
    return dist.is_torchelastic_launched()


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
