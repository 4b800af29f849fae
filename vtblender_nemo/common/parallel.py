"""Which of the processes that train together hold one model, and which hold copies of it.

With tensor parallelism N neighbouring ranks hold one model, each a part of the LLM: a tensor group. All of them work on the same
rows. Processes at the same place of all tensor groups are a data group: they hold the same part, and work on rows of their own.
Without it every process holds a whole model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import ClusterEnvironment


@dataclass(frozen=True)
class Layout:
    """How processes are grouped.

    Attributes:
        tensor_size: processes of a tensor group.
        tensor_group: this process's tensor group; None where it is alone.
        data_group: this process's data group; None stands for all processes.
    """

    tensor_size: int = 1
    tensor_group: Any = None
    data_group: Any = None


_layout = Layout()
_KNOB = "model.tensor_parallel"


def layout() -> Layout:
    """How the processes are grouped now."""
    return _layout


def set_layout(new: Layout) -> None:
    """Groups the processes; for whoever makes the groups."""
    global _layout
    _layout = new


def data_rank() -> tuple[int, int]:
    """This process's number among those that work on rows of their own, and how many these are."""
    rank, size = _world()
    return rank // _layout.tensor_size, size // _layout.tensor_size


def tensor_rank() -> tuple[int, int]:
    """This process's number among those that hold one model, and how many these are."""
    return _world()[0] % _layout.tensor_size, _layout.tensor_size


def launcher() -> type[ClusterEnvironment] | None:
    """What started this process as one of several: torchrun, SLURM, LSF or MPI; None if it was started alone."""
    from lightning.fabric.plugins import environments

    kinds = (
        environments.SLURMEnvironment,
        environments.TorchElasticEnvironment,
        environments.LSFEnvironment,
        environments.MPIEnvironment,
    )
    return next((kind for kind in kinds if kind.detect()), None)


def check_tensor_parallel(cfg: Mapping[str, Any]) -> None:
    """Looks at `tensor_parallel` in the `model` section and at what it does not go with.

    Raises:
        ConfigError: not a number of processes, or settings that exclude it.
        MissingDependencyError: megatron-core is not installed.
    """
    size = cfg.get("tensor_parallel", 1)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError("no number of processes", value=size, expected="1 or more", knob=_KNOB)
    if size == 1:
        return
    for knob, what in (("quantization", "a quantised LLM"), ("train_llm", "training the LLM's own weights")):
        if cfg.get(knob):
            raise ConfigError(
                f"{what} does not go with tensor parallelism",
                value={knob: cfg.get(knob), "tensor_parallel": size},
                expected="a frozen LLM in float32 or bfloat16, with LoRA or without",
                knob=f"{_KNOB}=1, or model.{knob}=null",
            )
    if (cfg.get("perception") or {}).get("soft_tokens", False):
        raise ConfigError(
            "soft tokens do not go with tensor parallelism, which parts the token table",
            value={"perception.soft_tokens": True, "tensor_parallel": size},
            expected="a model with soft tokens in one process, or one without them",
            knob=f"{_KNOB}=1",
        )
    if find_spec("megatron") is None or find_spec("megatron.core") is None:
        raise MissingDependencyError(
            "tensor parallelism needs megatron-core", knob='pip install "vtblender_nemo[megatron]"'
        )


def _world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
