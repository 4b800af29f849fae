"""LoRA by peft on layers that are cut over a tensor group; weights have the names that they have on whole layers.

Beside a layer cut by outputs B is cut alike and A is whole; beside one cut by inputs A is cut and B is whole. Peft 0.21 by itself
cannot put its class on megatron-core's layers: a test tells when it can.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.tp_layer import LoraParallelLinear
from torch import Tensor, nn

from vtblender_nemo.backbones.megatron_llm.layers import ColumnLinear, RowLinear
from vtblender_nemo.common.shards import own_part, take_first

_LAYERS = SimpleNamespace(ColumnParallelLinear=ColumnLinear, RowParallelLinear=RowLinear)


class ParallelLora(LoraParallelLinear):
    """LoRA on a `ColumnLinear` or `RowLinear`."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> None:
        kwargs = {key: value for key, value in kwargs.items() if key not in ("megatron_config", "backend")}
        # a copy, as peft sets its type of weights
        super().__init__(
            base_layer, adapter_name, config, backend=_LAYERS, megatron_config=copy.copy(base_layer.config), **kwargs
        )

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any) -> None:
        self.lora_bias[adapter_name] = False  # read when weights are drawn
        kwargs.setdefault("megatron_config", copy.copy(self.get_base_layer().config))  # not given for a second adapter
        kwargs.setdefault("init_method", kwargs["megatron_config"].init_method)
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)

    @torch.no_grad()
    def draw_xavier(self, adapter_name: str) -> None:
        """Draws A by Xavier's rule as a whole, in the first process, and keeps this process's part."""
        weight = self.lora_A[adapter_name].weight
        drawn = nn.init.xavier_normal_(weight.new_empty(weight.shape[0], self.in_features))
        take_first(drawn)
        weight.copy_(own_part(drawn, 1) if self.is_parallel_a else drawn)

    def get_delta_weight(self, adapter: str) -> Tensor:
        return super().get_delta_weight(adapter).to(self.get_base_layer().weight.dtype)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        return _with_lora(self, x, self.get_base_layer()(x))


class ReplicatedLora(LoraLinear):
    """LoRA on a `ReplicatedLinear`: whole on every process, and cut with the layer's outputs."""

    @torch.no_grad()
    def draw_xavier(self, adapter_name: str) -> None:
        """As `ParallelLora.draw_xavier`; no process has a part."""
        weight = self.lora_A[adapter_name].weight
        nn.init.xavier_normal_(weight)
        take_first(weight.data)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        base = self.get_base_layer()
        return base.own(_with_lora(self, x, nn.functional.linear(x, base.weight, base.bias)))


def _with_lora(layer: Any, x: Tensor, result: Tensor) -> Tensor:
    """A layer's result and what its active adapters add to it."""
    if layer.disable_adapters or layer.merged:
        return result
    dtype = result.dtype
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            down, up = layer.lora_A[adapter], layer.lora_B[adapter]
            inner = layer.lora_dropout[adapter](layer._cast_input_dtype(x, down.weight.dtype))
            result = result + up(down(inner)) * layer.scaling[adapter]
    return result.to(dtype)
