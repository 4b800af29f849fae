"""The paper's run, built with empty weights: every part has the size that the paper's parts have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from transformers import GemmaConfig

from tests.helpers.paper import CANARY_1B, GEMMA_2B
from vtblender_nemo.backbones.llm_loading import build_llm
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.modules.perception import Perception, perception_config

CONF = Path(__file__).parents[2] / "conf"

CANARY = OmegaConf.create(
    {
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "window_size": 0.025,
            "window_stride": 0.01,
            **CANARY_1B["preprocessor"],
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "self_attention_model": "rel_pos",
            **CANARY_1B["encoder"],
        },
    }
)


@pytest.fixture(scope="module")
def model_cfg() -> DictConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("vtb_3b").model


def count(module: torch.nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def test_encoder_adapter_and_projection(model_cfg: DictConfig) -> None:
    with init_empty_weights():
        perception = Perception(perception_config(model_cfg.perception, CANARY, output_dim=GEMMA_2B["hidden_size"]))
    assert count(perception.encoder) == 609_321_984
    assert count(perception.modality_adapter) == 51_465_216
    assert count(perception.proj) == 2_099_200
    assert perception.separator is not None
    assert perception.separator.shape == (2048,)
    assert perception.token_equivalent_duration == pytest.approx(0.08)


def test_llm_and_lora(model_cfg: DictConfig) -> None:
    with torch.device("meta"):
        causal_lm = build_llm(GemmaConfig(**GEMMA_2B), "bfloat16")
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
