"""LoRA inside the weights for as long as an answer is generated: one matrix product for a linear layer in place of three."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


@dataclass
class _Merged:
    """What a merged weight was made of, and the weight."""

    base: tuple[int, int]
    factors: list[Tensor]
    weight: nn.Parameter


class MergedLora:
    """Merged copies of weights, put in the place of the pretrained ones and taken out again.

    The pretrained weights themselves are never written to, so that they come back bit by bit. The copies, as large as the layers
    that bear LoRA, are kept for the next answer until `drop`. A copy is made anew when its LoRA or the weight below has changed.

    Only float32 weights are merged: sums in bfloat16 would round LoRA's share away and change answers.

    Args:
        model: holds peft's LoRA layers, or none.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLinear)}
        self._merged: dict[str, _Merged] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """LoRA stands inside the weights as long as the context lasts."""
        with ExitStack() as stack:
            for name, layer in self._layers.items():
                if _can_merge(layer):
                    stack.enter_context(_in_place_of(layer, self._weight(name, layer)))
            yield

    @property
    def copies(self) -> int:
        """How many merged weights are held."""
        return len(self._merged)

    def drop(self) -> None:
        """Frees the copies."""
        self._merged.clear()

    def _weight(self, name: str, layer: LoraLinear) -> nn.Parameter:
        weight = layer.base_layer.weight
        base = (weight.data_ptr(), weight._version)
        factors = _factors(layer)
        known = self._merged.get(name)
        # Factors are compared by value: writes through `.data` leave no trace in version counters.
        if known is None or known.base != base or not all(map(_same, known.factors, factors)):
            with torch.inference_mode(False), torch.no_grad():
                delta = sum((layer.get_delta_weight(adapter) for adapter in layer.active_adapters), torch.zeros(()))
                merged = nn.Parameter(weight + delta.to(weight), requires_grad=False)
                known = _Merged(base, [factor.detach().clone() for factor in factors], merged)
            self._merged[name] = known
        return known.weight


def _factors(layer: LoraLinear) -> list[Tensor]:
    return [part[name].weight for name in layer.active_adapters for part in (layer.lora_A, layer.lora_B)] + [
        torch.tensor([layer.scaling[name] for name in layer.active_adapters])
    ]


def _same(known: Tensor, factor: Tensor) -> bool:
    return known.device == factor.device and torch.equal(known, factor)


def _can_merge(layer: LoraLinear) -> bool:
    """Whether the layer is plain LoRA on a plain float32 weight, switched on and not merged by anyone yet."""
    weight: Any = getattr(layer.base_layer, "weight", None)
    if type(layer.base_layer) is not nn.Linear or type(weight) is not nn.Parameter:
        return False  # quantised, or sharded over ranks
    switched_on = not layer.disable_adapters and not layer.merged
    adapters = [name for name in layer.active_adapters if name in layer.lora_A]
    is_vanilla = len(adapters) == len(layer.active_adapters) > 0 and not any(
        name in layer.lora_variant or layer.lora_bias[name] for name in adapters
    )
    return switched_on and is_vanilla and weight.dtype == torch.float32 and not weight.is_meta


@contextmanager
def _in_place_of(layer: LoraLinear, merged: nn.Parameter) -> Iterator[None]:
    own = layer.base_layer.weight
    layer.base_layer.weight = merged
    layer.merged_adapters.extend(layer.active_adapters)  # peft's own sign to leave the factors out
    try:
        yield
    finally:
        layer.base_layer.weight = own
        layer.merged_adapters.clear()
