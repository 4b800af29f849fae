"""Memory for time in the backward pass: what can be computed again need not be kept.

Two degrees. "cheap" forgets what takes much memory and little time: the products of the LLM's gated MLPs, and of a Conformer
the subsampling, the activations and the weights of attention. "layers" forgets all but the inputs of layers.

Shapes: P rows, I the inner width of an MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vtblender_nemo.common.errors import ConfigError

Degree = Literal["none", "cheap", "layers"]


def check_degree(degree: str, knob: str) -> None:
    """
    Raises:
        ConfigError: not one of the degrees.
    """
    if degree not in get_args(Degree):
        raise ConfigError("unknown choice", value=degree, expected=f"one of {', '.join(get_args(Degree))}", knob=knob)


def recompute(module: nn.Module) -> None:
    """Makes a module keep its inputs alone while it is trained; weights keep their names, and batch statistics count once."""
    module.forward = partial(_checkpointed, module, module.forward)


def _checkpointed(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not (module.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, module), **kwargs)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _kept_statistics(module)


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norm would take the second computation for another batch."""
    buffers = [buffer for part in module.modules() if isinstance(part, _BatchNorm) for buffer in part.buffers()]
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)


def recompute_conformer(conformer: nn.Module, degree: Degree) -> None:
    """Makes the layers of one of NeMo's Conformers, and its subsampling if it has one, keep less while they are trained."""
    if degree == "none":
        return
    if not isinstance(conformer.pre_encode, nn.Linear):
        recompute(conformer.pre_encode)
    for layer in conformer.layers:
        if degree == "layers":
            recompute(layer)
            continue
        attention = layer.self_attn
        attention.forward_attention = partial(_checkpointed, attention, attention.forward_attention)
        for half in (layer.feed_forward1, layer.feed_forward2):
            half.forward = partial(_feed_forward, half)


def _feed_forward(module: nn.Module, x: Tensor) -> Tensor:
    """A Conformer's feed-forward module; its second product, the last that recomputation needs an input of, is not repeated."""
    return _checkpointed(
        module, lambda inner: module.linear2(module.dropout(module.activation(inner))), module.linear1(x)
    )


def recompute_products(llm: nn.Module) -> int:
    """Makes gated MLPs keep gate and up alone, not the activation nor its product; returns how many were found.

    A gated MLP is one of `gate_proj`, `up_proj`, `act_fn` and `down_proj` which computes down(act(gate(x)) * up(x)); others are
    left as they are.
    """
    found = [module for module in llm.modules() if _is_gated(module)]
    for module in found:
        module.forward = partial(_gated_forward, module, module.forward)
    return len(found)


@torch.no_grad()
def _is_gated(module: nn.Module) -> bool:
    if not all(hasattr(module, part) for part in ("gate_proj", "up_proj", "act_fn", "down_proj")):
        return False
    weight = next(module.gate_proj.parameters())
    if weight.is_meta or not weight.is_floating_point():
        return False
    rows = torch.linspace(-1, 1, 2 * module.gate_proj.in_features, device=weight.device, dtype=weight.dtype)
    rows = rows.view(2, -1)
    gated = module.down_proj(module.act_fn(module.gate_proj(rows)) * module.up_proj(rows))
    return torch.equal(module(rows), gated)


def _gated_forward(module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x)
    gate, up = module.gate_proj(x), module.up_proj(x)
    inputs = _GateAndUp(gate.detach(), up.detach(), module.act_fn)
    product = _Gated.apply(gate, up, inputs)
    place, size = product.data_ptr(), product.numel()

    def pack(saved: Tensor) -> Tensor | torch.Size:
        is_product = saved.data_ptr() == place and saved.numel() == size
        return saved.shape if is_product else saved

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        return kept if isinstance(kept, Tensor) else inputs.product().view(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return module.down_proj(product)


class _GateAndUp:
    """What is kept of a gated MLP; the activation lives from its first use in a backward pass to the last."""

    def __init__(self, gate: Tensor, up: Tensor, act: Callable[[Tensor], Tensor]) -> None:
        self._gate, self._up, self.act = gate, up, act
        self._activated: tuple[Tensor, Tensor] | None = None

    def product(self) -> Tensor:
        return self._activation()[1].detach() * self._up

    def gradients(self, of_product: Tensor) -> tuple[Tensor, Tensor]:
        """Of gate and up; the activation is forgotten."""
        gate, activated = self._activation()
        self._activated = None
        (of_gate,) = torch.autograd.grad(activated, gate, of_product * self._up)
        return of_gate, of_product * activated.detach()

    def _activation(self) -> tuple[Tensor, Tensor]:
        if self._activated is None:
            with torch.enable_grad():
                gate = self._gate.detach().requires_grad_()
                self._activated = gate, self.act(gate)
        return self._activated


class _Gated(torch.autograd.Function):
    """act(gate) * up, both (..., I)."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor, inputs: _GateAndUp) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.inputs, ctx.act = inputs, inputs.act
        return inputs.act(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        # a loss may outlive its backward pass, and with it this node: what it holds besides autograd's own is let go here
        inputs, ctx.inputs = ctx.inputs or _GateAndUp(gate, up, ctx.act), None
        return *inputs.gradients(gradient), None
