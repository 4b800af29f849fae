"""Low-rank adapters on a frozen LLM, by peft, initialised as in VoiceTextBlender."""

from __future__ import annotations

from typing import Any

from torch import nn

from vtblender_nemo.common.errors import ConfigError


def add_lora(llm: nn.Module, config: dict[str, Any]) -> nn.Module:
    """Wraps `llm` in a `peft.PeftModel` whose A matrices are drawn by Xavier's rule and whose B matrices are zero.

    Args:
        llm: a Hugging Face causal LM; its weights are frozen here.
        config: arguments of `peft.LoraConfig` (`r`, `lora_alpha`, `lora_dropout`, `target_modules`, ...).

    Raises:
        ConfigError: an argument that peft does not know, or `target_modules` that match nothing.
    """
    from peft import LoraConfig, get_peft_model

    try:
        wrapped = get_peft_model(llm, LoraConfig(task_type="CAUSAL_LM", **config))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"LoRA cannot be added ({error})", value=config, knob="model.lora") from error
    for name, parameter in wrapped.named_parameters():
        if "lora_A" in name and not parameter.is_meta:
            nn.init.xavier_normal_(parameter)
    return wrapped
