"""Linear layers as answers are generated with: LoRA inside the weights, and on a CPU weights in the order in which they are read.

LoRA beside a weight costs three matrix products for one. With 4 to 16 rows, oneDNN's product with its own packed form of a weight
takes 0.6 of the time of a CPU's plain one; with 100 and more as much (measured with 512 and 4096 columns).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

logger = logging.getLogger(__name__)
_SHARE_OF_MEMORY = 0.5  # of what is free; the rest is for keys, values and activations
_ROWS_PACKED_FOR = 16
_FEW_ROWS = 2  # of which the plain product is a tenth faster


@dataclass
class _Copy:
    """A layer's forward, and what its weight was made of."""

    base: tuple[int, int]
    factors: list[Tensor]
    is_packed: bool
    forward: Callable[[Tensor], Tensor]


class DecodingWeights:
    """Copies of weights that make answers faster and leave them the same.

    The model's own weights are not touched: as long as the context lasts, layers compute with the copies. Copies are kept for
    the next answer until `drop`, and made anew when LoRA or the weight below has changed. Nothing is copied where memory is short
    or weights are not float32: sums in bfloat16 would round LoRA's share away and change answers.

    Args:
        model: a causal LM, with or without peft's LoRA layers.
    """

    def __init__(self, model: nn.Module) -> None:
        lora = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLinear)}
        with_lora = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
        inside = {id(part) for layer in with_lora for part in layer.modules() if part is not layer}
        plain = {n: m for n, m in model.named_modules() if type(m) is nn.Linear and id(m) not in inside}
        self._layers: dict[str, nn.Module] = {**lora, **plain}
        self._copies: dict[str, _Copy] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Layers compute with the copies as long as the context lasts."""
        changed: list[nn.Module] = []
        try:
            for name, layer in self._usable().items():
                layer.forward = self._copy(name, layer).forward  # found before the class's own
                changed.append(layer)
            yield
        finally:
            for layer in changed:
                del layer.forward

    def __getstate__(self) -> dict[str, Any]:
        """Without the copies: packed weights can be neither pickled nor copied."""
        return {**vars(self), "_copies": {}}

    @property
    def held(self) -> int:
        """How many layers have a copy."""
        return len(self._copies)

    def drop(self) -> None:
        """Frees the copies."""
        self._copies.clear()

    def _usable(self) -> dict[str, nn.Module]:
        layers = {name: layer for name, layer in self._layers.items() if _is_usable(layer)}
        weights = [_base(layer).weight for name, layer in layers.items() if name not in self._copies]
        needed = sum(weight.nbytes for weight in weights)
        if not needed or needed <= _SHARE_OF_MEMORY * _free_memory(weights[0].device):
            return layers
        logger.info("answers are generated without copies of weights, which need %.1f GiB", needed / 2**30)
        return {}

    def _copy(self, name: str, layer: nn.Module) -> _Copy:
        weight = _base(layer).weight
        base, factors = (weight.data_ptr(), weight._version), _factors(layer)
        known, packs = self._copies.get(name), _packs(weight)
        # Factors are compared by value: writes through `.data` leave no trace in version counters.
        if (
            known is None
            or (known.base, known.is_packed) != (base, packs)
            or not all(map(_same, known.factors, factors))
        ):
            factors = [factor.detach().clone() for factor in factors]
            known = _Copy(base, factors, packs, _forward(layer, packs))
            self._copies[name] = known
        return known


def _base(layer: nn.Module) -> Any:
    return layer.base_layer if isinstance(layer, LoraLinear) else layer


def _factors(layer: nn.Module) -> list[Tensor]:
    if not isinstance(layer, LoraLinear):
        return []
    names = layer.active_adapters
    scaling = torch.tensor([float(layer.scaling[name]) for name in names])
    return [scaling, *(part[name].weight for name in names for part in (layer.lora_A, layer.lora_B))]


def _same(known: Tensor, factor: Tensor) -> bool:
    return known.device == factor.device and torch.equal(known, factor)


def _is_usable(layer: nn.Module) -> bool:
    """Whether the layer is a plain float32 one, with or without plain LoRA, and a copy is of use."""
    base = _base(layer)
    weight: Any = getattr(base, "weight", None)
    if type(base) is not nn.Linear or type(weight) is not nn.Parameter or "forward" in vars(layer):
        return False  # quantised, sharded over ranks, or spoken for already
    if weight.dtype != torch.float32 or weight.is_meta:
        return False
    if not isinstance(layer, LoraLinear) or layer.disable_adapters:
        return not isinstance(layer, LoraLinear) and _packs(weight)
    names = layer.active_adapters
    is_plain = all(n in layer.lora_A and n not in layer.lora_variant and not layer.lora_bias[n] for n in names)
    return is_plain and not layer.merged


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN's packed product takes the place of the plain one."""
    return (
        weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not torch.is_autocast_enabled("cpu")
    )


@torch.inference_mode()
def _forward(layer: nn.Module, packs: bool) -> Callable[[Tensor], Tensor]:
    weight, bias = _base(layer).weight.detach(), _base(layer).bias
    names = layer.active_adapters if isinstance(layer, LoraLinear) else []
    merged = weight
    for name in names:
        merged = merged + layer.get_delta_weight(name).to(weight)
    if not packs:
        return partial(_linear, weight=merged, bias=bias)
    lora = [(layer.lora_A[name].weight.t(), layer.lora_B[name].weight.t() * layer.scaling[name]) for name in names]
    down = torch.cat([a for a, _ in lora], dim=1) if lora else None
    up = torch.cat([b for _, b in lora]) if lora else None
    packed = torch.ops.mkldnn._reorder_linear_weight(merged, _ROWS_PACKED_FOR)
    return partial(_packed_linear, packed=packed, weight=weight, bias=bias, down=down, up=up)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def _packed_linear(
    x: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor | None, up: Tensor | None
) -> Tensor:
    rows = x.shape[:-1].numel()
    if rows > _FEW_ROWS:
        return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    result = torch.nn.functional.linear(x, weight, bias)
    if down is None or up is None:
        return result
    return torch.addmm(result.view(rows, -1), x.reshape(rows, -1) @ down, up).view(result.shape)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
