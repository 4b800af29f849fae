"""Low-rank adapters on a frozen LLM, by peft, initialised as in VoiceTextBlender.

Shapes: P rows, I and O width of a layer's input and output, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from vtblender_nemo.common.errors import ConfigError


def add_lora(
    llm: nn.Module, config: dict[str, Any], layers: Mapping[type[nn.Module], type[nn.Module]] | None = None
) -> nn.Module:
    """Wraps `llm` in a `peft.PeftModel` whose A matrices are drawn by Xavier's rule and whose B matrices are zero.

    Args:
        llm: a Hugging Face causal LM; its weights are frozen here.
        config: arguments of `peft.LoraConfig` (`r`, `lora_alpha`, `lora_dropout`, `target_modules`, ...).
        layers: by kind of layer, what takes its place with LoRA; `FROZEN_LAYERS` if None.

    Raises:
        ConfigError: an argument that peft does not know, or `target_modules` that match nothing.
    """
    try:
        lora = LoraConfig(task_type="CAUSAL_LM", **config)
        layers = FROZEN_LAYERS if layers is None else layers
        kinds = {nn.Linear, *layers}
        if all(type(module) in kinds for module in llm.modules() if isinstance(module, nn.Linear)):
            lora._register_custom_module(dict(layers))  # quantised layers keep peft's own
        wrapped = get_peft_model(llm, lora)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"LoRA cannot be added ({error})", value=config, knob="model.lora") from error
    for name, parameter in wrapped.named_parameters():
        if "lora_A" in name and not parameter.is_meta:
            nn.init.xavier_normal_(parameter)
    return wrapped


class FrozenLoraLinear(LoraLinear):
    """peft's layer, computed in one step where the layer's own weights are frozen and nothing but one plain LoRA is active.

    Peft writes the low-rank part's output, scales it and adds it, each in memory of the layer's output; here it is added as it
    is computed, and the backward pass does alike.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self._is_plain():
            return super().forward(x, *args, **kwargs)
        adapter = self.active_adapters[0]
        base, device = self.get_base_layer(), x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else base.weight.dtype
        bias = None if base.bias is None else base.bias.to(dtype)
        down, up = self.lora_A[adapter].weight.to(dtype), self.lora_B[adapter].weight.to(dtype)
        return _LinearAndLora.apply(x.to(dtype), base.weight.to(dtype), bias, down, up, self.scaling[adapter])

    def _is_plain(self) -> bool:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        adapter, base = self.active_adapters[0], self.get_base_layer()
        if adapter not in self.lora_A or adapter in self.lora_variant or self.lora_B[adapter].bias is not None:
            return False
        dropout = self.lora_dropout[adapter]
        drops = isinstance(dropout, nn.Dropout) and dropout.p > 0 and dropout.training
        return not drops and not any(parameter.requires_grad for parameter in base.parameters())


class _LinearAndLora(torch.autograd.Function):
    """x W' + bias + scaling x A' B', for x (..., I), W (O, I), A (r, I), B (O, r); W and bias get no gradient."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        narrow = rows @ down.t()
        output = nn.functional.linear(rows, weight, bias).addmm_(narrow, up.t(), alpha=scaling)
        ctx.save_for_backward(rows, narrow, weight, down, up)
        ctx.scaling = scaling
        return output.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        rows, narrow, weight, down, up = ctx.saved_tensors
        wide = gradient.reshape(-1, gradient.shape[-1])
        of_narrow = (wide @ up).mul_(ctx.scaling)
        of_rows = None
        if ctx.needs_input_grad[0]:
            of_rows = (wide @ weight).addmm_(of_narrow, down).view(*gradient.shape[:-1], down.shape[1])
        of_up = (narrow.t() @ wide).mul_(ctx.scaling).t()  # this order is the faster one for few columns
        return of_rows, None, None, of_narrow.t() @ rows, of_up, None


FROZEN_LAYERS: Mapping[type[nn.Module], type[nn.Module]] = {nn.Linear: FrozenLoraLinear}
"""What takes the place of layers that are whole."""
