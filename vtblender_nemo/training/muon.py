"""Muon (https://kellerjordan.github.io/posts/muon) as PyTorch has it, in the precision that the processor is fast in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.precision import bf16_is_fast


def muon_class(device: torch.device) -> type[Optimizer]:
    """PyTorch's Muon, which computes in bfloat16; on processors that are slow in that, one that does the same in float32.

    Args:
        device: of the parameters.

    Raises:
        ConfigError: torch is too old for Muon.
    """
    try:
        from torch.optim import Muon
    except ImportError as error:
        raise ConfigError(
            "this torch has no Muon", value=torch.__version__, expected="torch 2.9 or newer", knob="model.optim.muon_lr"
        ) from error
    if device.type != "cpu" or bf16_is_fast("cpu"):
        return Muon

    class Float32Muon(Muon):
        """The same groups, state and updates."""

        @torch.no_grad()
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            assert closure is None, "the combined optimiser has called it"
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        _update(parameter, parameter.grad, self.state[parameter], group)

    return Float32Muon


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Newton and Schulz's iteration: the singular vectors stay, the singular values come near 1.

    Args:
        matrix: (rows, columns), float32.
        coefficients: a, b, c of the polynomial a x + b x^3 + c x^5 that each singular value goes through.
        steps: how often.
        eps: the least norm that is divided by.
    """
    a, b, c = coefficients
    is_tall = matrix.size(0) > matrix.size(1)
    wide = matrix.mT if is_tall else matrix
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if is_tall else wide


def _update(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
    momentum = state["momentum_buffer"]
    momentum.lerp_(gradient, 1 - group["momentum"])
    direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
    update = orthogonalised(direction.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.add_(update, alpha=-group["lr"] * _of_shape(parameter.shape, group["adjust_lr_fn"]))


def _of_shape(shape: torch.Size, rule: str | None) -> float:
    """The factor on the rate that gives updates of all shapes one size; rules as PyTorch names them."""
    rows, columns = shape
    if rule == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))
