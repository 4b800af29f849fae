"""Causal LMs of Hugging Face: their configuration, and their weights from a folder, the hub, or drawn at random."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError, ModelFileError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def llm_config(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> PretrainedConfig:
    """The Hugging Face config of a folder or hub name, with some values replaced (for example `attention_dropout`).

    Raises:
        ModelFileError: nothing there that transformers can read.
        ConfigError: an override that the config does not have.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreadable(name_or_path, error) from error
    _check_attention(config, name_or_path)
    for key, value in (overrides or {}).items():
        if not hasattr(config, key):
            raise ConfigError(
                f"the LLM's config has no value {key!r}", value=name_or_path, knob=f"model.llm_overrides.{key}"
            )
        setattr(config, key, value)
    return config


def config_from_dict(values: Mapping[str, Any]) -> PretrainedConfig:
    """A Hugging Face config from its dictionary, of a model type that transformers itself knows."""
    model_type = values.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ModelFileError(
            "unknown LLM type in the model file", value=model_type, expected="a type known to transformers"
        )
    try:
        config = CONFIG_MAPPING[model_type].from_dict(_without_code(values))
    except (TypeError, ValueError, LookupError, AttributeError, ImportError) as error:
        raise ModelFileError(
            f"the LLM's configuration cannot be used ({error})", value=model_type, knob="llm_config"
        ) from error
    _check_attention(config, "llm_config")
    return config


def _without_code(values: Any) -> Any:
    """A configuration without what names the code of a repository, which is never run here."""
    if isinstance(values, Mapping):
        return {
            key: _without_code(value) for key, value in values.items() if key not in ("auto_map", "custom_pipelines")
        }
    return values


def _check_attention(config: PretrainedConfig, place: str) -> None:
    """Transformers loads kernels, which are code, from hub repositories that a configuration names."""
    named = getattr(config, "_attn_implementation_internal", None) or getattr(config, "_attn_implementation", None)
    if "/" in str(named):
        raise ModelFileError(
            "the LLM's configuration asks for code of others",
            path=place,
            value=named,
            expected="no attn_implementation from the hub",
            knob="attn_implementation",
        )


def build_llm(config: PretrainedConfig, dtype: str, *, attention: str | None = None) -> PreTrainedModel:
    """An LLM with random weights, to be overwritten or for measuring."""
    return AutoModelForCausalLM.from_config(
        config, dtype=torch_dtype(dtype), trust_remote_code=False, attn_implementation=attention
    )


def load_llm(
    name_or_path: str,
    config: PretrainedConfig,
    dtype: str,
    *,
    attention: str | None = None,
    quantization: str | None = None,
) -> PreTrainedModel:
    """Pretrained weights from a folder or the hub.

    Args:
        name_or_path: folder or hub name.
        config: from `llm_config`.
        dtype: "float32" or "bfloat16".
        attention: transformers' `attn_implementation`, as "sdpa" or "flash_attention_2"; None leaves the choice to it.
        quantization: None, or "4bit" for an NF4 base by bitsandbytes (CUDA only).

    Raises:
        ModelFileError: weights that are missing or do not fit the config.
        ConfigError: an unknown `quantization`, or 4-bit weights without CUDA.
    """
    extra: dict[str, Any] = {}
    if quantization is not None:
        device = int(os.environ.get("LOCAL_RANK", "0"))
        extra = {"quantization_config": _quantization(quantization), "device_map": {"": device}}
    try:
        causal_lm, loaded = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            config=config,
            dtype=torch_dtype(dtype),
            trust_remote_code=False,
            attn_implementation=attention,
            output_loading_info=True,
            **extra,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(name_or_path, error) from error
    absent = sorted({*loaded["missing_keys"], *(entry[0] for entry in loaded["mismatched_keys"])})
    if absent:
        raise ModelFileError(
            "the LLM's files lack weights, which would be left at random",
            path=name_or_path,
            value=absent[:5],
            expected="every weight of the model that its config describes",
            knob="model.pretrained_llm",
        )
    return causal_lm


def torch_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(
            "unknown type of weights", value=name, expected=f"one of {', '.join(DTYPES)}", knob="model.llm_dtype"
        )
    return DTYPES[name]


def _quantization(kind: str) -> Any:
    if kind != "4bit":
        raise ConfigError("unknown quantization", value=kind, expected="null or 4bit", knob="model.quantization")
    if not torch.cuda.is_available():
        raise ConfigError("4-bit weights need a CUDA device", value=kind, knob="model.quantization=null")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "4-bit weights need bitsandbytes", knob='pip install "vtblender_nemo[quant]"'
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )


def _unreadable(name_or_path: str, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"the LLM cannot be loaded ({error})",
        value=name_or_path,
        expected="a Hugging Face folder or hub name of a causal LM",
        knob="model.pretrained_llm",
    )
