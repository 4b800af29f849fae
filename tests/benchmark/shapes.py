"""Models that benchmarks measure on: the paper's proportions, shrunk until a CPU can run them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from tests.helpers.models import canary_file, llm_folder, model_config
from tests.helpers.paper import CANARY_1B, GEMMA_2B
from vtblender_nemo import VTBlenderModel

# Gemma 2B's proportions: inner width 8 x hidden, one key/value head for 8 query heads, a head of a fifth of the parameters.
GEMMA: dict[str, Any] = {
    "vocab_size": 20_480,
    "hidden_size": 512,
    "intermediate_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "initializer_range": 0.05,  # spreads logits, so that greedy tokens do not hang on rounding
}
ENCODER_WIDTH = 256
# Canary's proportions beside it.
ENCODER: dict[str, Any] = {
    "model_defaults": {"asr_enc_hidden": ENCODER_WIDTH, "lm_enc_hidden": ENCODER_WIDTH, "lm_dec_hidden": ENCODER_WIDTH},
    "encoder": {
        "n_layers": 8,
        "d_model": ENCODER_WIDTH,
        "n_heads": 4,
        "ff_expansion_factor": 4,
        "subsampling_conv_channels": 64,
        "dropout": 0.0,  # so that losses of both sides can be compared
        "dropout_pre_encoder": 0.0,
        "dropout_att": 0.0,
    },
}
MODEL: dict[str, Any] = {
    "lora": {"r": 8, "lora_alpha": 8},
    "perception": {
        "separator": False,  # the host's SALM has none, and both sides hold the same weights
        "modality_adapter": {"d_model": ENCODER_WIDTH, "n_heads": 4, "ff_expansion_factor": 4},
    },
}


# The paper's own shape: Gemma 2B behind Canary-1B.
FULL_MODEL: dict[str, Any] = {
    "llm_dtype": "bfloat16",
    "lora": {"r": 32, "lora_alpha": 32},
    "perception": {
        "separator": False,
        "modality_adapter": {"d_model": 1024, "n_heads": 8, "ff_expansion_factor": 4},
    },
}


def full_shape(folder: Path, *, model: Mapping[str, Any], tokenizer: Path) -> VTBlenderModel:
    """The paper's model with random weights: 3.2 billion parameters, which are written to `folder` (12 GiB)."""
    made_llm = llm_folder(folder, **{**GEMMA_2B, "max_position_embeddings": 8192, "initializer_range": 0.02})
    shutil.copytree(tokenizer, made_llm, dirs_exist_ok=True)
    encoder = OmegaConf.merge(CANARY_1B, {"encoder": {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0}})
    config = model_config(made_llm, canary_file(folder, **encoder), **FULL_MODEL)
    config.merge_with(dict(model))
    return VTBlenderModel(config).eval()


def small_gemma_proportions(
    folder: Path,
    *,
    llm: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    tokenizer: Path | None = None,
) -> VTBlenderModel:
    """A model of 69 M parameters, most of them in the LLM, with random weights and LoRA that is not zero.

    Args:
        folder: for the LLM's folder and the speech model's file; they have to stay as long as `build_salm` is to be called.
        llm: replaces values of `GEMMA`.
        model: merged over the `model` section.
        tokenizer: folder of one that takes the place of one token a byte.
    """
    made_llm = llm_folder(folder, **{**GEMMA, **(llm or {})})
    if tokenizer is not None:
        shutil.copytree(tokenizer, made_llm, dirs_exist_ok=True)
    config = model_config(made_llm, canary_file(folder, **ENCODER), **MODEL)
    config.merge_with(dict(model or {}))
    made = VTBlenderModel(config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    return made.eval()
