"""The paper's run, built with empty weights: every part has the size that the paper's parts have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from transformers import GemmaConfig

from vtblender_nemo.backbones.transformers_llm import TransformersLLM, build_llm
from vtblender_nemo.modules.perception import Perception, perception_config

CONF = Path(__file__).parents[2] / "conf"

# Canary-1B's published encoder
CANARY = OmegaConf.create(
    {
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 128,
            "n_fft": 512,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 128,
            "n_layers": 24,
            "d_model": 1024,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 256,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 8,
            "xscaling": False,
            "untie_biases": True,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
        },
    }
)
# Gemma 2B's published shape
GEMMA = {
    "vocab_size": 256_000,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
}


@pytest.fixture(scope="module")
def model_cfg() -> DictConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("vtb_3b").model


def count(module: torch.nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def test_encoder_adapter_and_projection(model_cfg: DictConfig) -> None:
    with init_empty_weights():
        perception = Perception(perception_config(model_cfg.perception, CANARY, GEMMA["hidden_size"]))
    assert count(perception.encoder) == 609_321_984
    assert count(perception.modality_adapter) == 51_465_216
    assert count(perception.proj) == 2_099_200
    assert perception.separator is not None
    assert perception.separator.shape == (2048,)
    assert perception.token_equivalent_duration == pytest.approx(0.08)


def test_llm_and_lora(model_cfg: DictConfig) -> None:
    with torch.device("meta"):
        causal_lm = build_llm(GemmaConfig(**GEMMA), "bfloat16")
        assert count(causal_lm) == 2_506_172_416
        llm = TransformersLLM(causal_lm, lora=OmegaConf.to_container(model_cfg.lora, resolve=True))
    assert count(llm, trained=True) == 39_223_296
    assert all(".lora_" in name for name, p in llm.named_parameters() if p.requires_grad)


def test_hyperparameters_are_the_papers(model_cfg: DictConfig) -> None:
    optim = model_cfg.optim
    assert (optim.lr, list(optim.betas), optim.weight_decay) == (1e-4, [0.9, 0.98], 1e-3)
    assert (optim.sched.warmup_steps, optim.sched.min_lr) == (2500, 1e-6)
    assert (model_cfg.lora.r, model_cfg.lora.lora_alpha, model_cfg.lora.lora_dropout) == (32, 32, 0.0)
    spec = model_cfg.perception.spec_augment
    assert (spec.freq_masks, spec.freq_width, spec.time_masks, spec.time_width) == (2, 27, 10, 0.05)
