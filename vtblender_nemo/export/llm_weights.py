"""The weights of an LLM by the names that Hugging Face has for them, with LoRA inside or left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PretrainedConfig

from vtblender_nemo.backbones.llm_loading import config_from_dict, torch_dtype
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from vtblender_nemo.models.vtblender import VTBlenderModel

_LORA_WEIGHTS = (".lora_A.default.weight", ".lora_B.default.weight")
_LORA_KEYS = frozenset({"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "init_lora_weights"})


def check_not_quantized(model: VTBlenderModel) -> None:
    """
    Raises:
        ConfigError: the LLM's weights are packed by a quantisation, so that they are no matrices.
    """
    if kind := model.cfg.get("quantization"):
        raise ConfigError(
            "the LLM was loaded quantised, and its own weights are not at hand",
            value=kind,
            expected="--format peft or encoder, which do without them",
            knob="model.quantization",
        )


def check_frames(model: VTBlenderModel) -> None:
    """
    Raises:
        ConfigError: the LLM reads soft tokens, which other programs do not make of frames.
    """
    if model.perception.token_ctc is not None:
        raise ConfigError(
            "other programs give frames to the LLM, and this one has learned soft tokens",
            value=True,
            expected="--format merged, peft or encoder, or a model without them",
            knob="model.perception.soft_tokens",
        )


def check_plain_lora(model: VTBlenderModel) -> None:
    """
    Raises:
        ConfigError: LoRA in a form that is not one pair of matrices, scaled by alpha / r, beside each layer.
    """
    lora = OmegaConf.to_container(model.cfg.lora, resolve=True) if model.cfg.get("lora") else {}
    assert isinstance(lora, dict)
    for key in sorted(set(lora) - _LORA_KEYS):
        if lora[key] and lora[key] != "none":
            raise ConfigError(
                "this form of LoRA cannot be written here",
                value=lora[key],
                expected="plain LoRA, or --format peft or merged",
                knob=f"model.lora.{key}",
            )


def own_weights(llm: TransformersLLM) -> dict[str, Tensor]:
    """The LLM's weights without LoRA, by Hugging Face's names."""
    state = llm.causal_lm.state_dict()
    return {name.replace(".base_layer.", "."): weight for name, weight in state.items() if ".lora_" not in name}


def merged_weights(llm: TransformersLLM, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The LLM's weights with LoRA added to them in float32, by Hugging Face's names.

    Args:
        llm: with or without LoRA; it is not changed.
        dtype: of the result; that of the weights if None.

    Raises:
        ConfigError: LoRA in a form that is no sum (DoRA, bias), or on layers that are not linear.
    """
    layers = {name: layer for name, layer in llm.causal_lm.named_modules() if isinstance(layer, LoraLinear)}
    _check_sums(llm, layers)
    weights = own_weights(llm)
    for name, layer in layers.items():
        weight = weights[f"{name}.weight"]
        total = weight.float()
        for adapter in layer.active_adapters:
            total = total + layer.get_delta_weight(adapter).float()
        weights[f"{name}.weight"] = total.to(dtype or weight.dtype)
    return {name: weight.to(dtype) if dtype else weight for name, weight in weights.items()}


def _check_sums(llm: TransformersLLM, layers: dict[str, Any]) -> None:
    known = {name + part for name in layers for part in _LORA_WEIGHTS}
    unknown = sorted({name for name in llm.causal_lm.state_dict() if ".lora_" in name} - known)
    if unknown or any(layer.lora_variant for layer in layers.values()):
        raise ConfigError(
            "this form of LoRA cannot be merged into the weights",
            value=unknown[:3] or "a variant of LoRA",
            expected="LoRA of linear layers; or --format peft",
            knob="model.lora",
        )


def hf_config(model: VTBlenderModel) -> PretrainedConfig:
    """The LLM's Hugging Face config, as it was before it became part of a model."""
    config = config_from_dict(OmegaConf.to_container(model.cfg.llm_config, resolve=True))
    config.architectures = [type(model.llm.causal_lm).__name__]
    return config


def merged_llm(model: VTBlenderModel, dtype: str | None = None) -> PreTrainedModel:
    """The LLM with LoRA inside its weights, as a Hugging Face model.

    Args:
        model: it shares what LoRA did not change.
        dtype: of the weights, "float32" or "bfloat16"; that of the LLM if None.

    Raises:
        ConfigError: see `check_not_quantized` and `merged_weights`.
    """
    check_not_quantized(model)
    kind = torch_dtype(dtype or model.cfg.llm_dtype)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(hf_config(model), dtype=kind, trust_remote_code=False)
    plain.load_state_dict(merged_weights(model.llm, kind), assign=True)
    plain.tie_weights()
    plain.generation_config = generation_config(model)
    return plain.eval()


def generation_config(model: VTBlenderModel) -> GenerationConfig:
    """Greedy answers that end where ours do."""
    tokenizer, stop_ids = model.tokenizer, list(model.chat_format.stop_ids)
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop_ids,
        pad_token_id=stop_ids[0] if pad is None else pad,
    )


def own_tokenizer(model: VTBlenderModel) -> PreTrainedTokenizerBase:
    """The LLM's own tokenizer anew, without a locator tag that the vocabulary lacked."""
    return AutoTokenizer.from_pretrained(model.tokenizer_folder, trust_remote_code=False)
