"""Small models of the real classes, with random weights, made in a second."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.helpers.tokenizer import make_tokenizer

HIDDEN = 32
SAMPLING_RATE = 16000
TEXT = "what is the weather today hello how are you the quick brown fox jumps over the lazy dog wie geht es ihnen guten tag"
FAMILIES: dict[str, type[PretrainedConfig]] = {
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,
    "gemma3": Gemma3TextConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "llama": LlamaConfig,
    "cohere": CohereConfig,
    "granite": GraniteConfig,
}


def llm_folder(directory: Path, family: str = "gemma", **overrides: Any) -> Path:
    """A Hugging Face folder of a causal LM with two layers and the byte tokenizer."""
    tokenizer = make_tokenizer()
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "initializer_range": 0.3,  # far from uniform predictions, so that wrong ids show
    }
    if family == "granite":
        values["logits_scaling"] = 4.0
    if family in ("cohere", "granite", "llama"):
        values.pop("head_dim")
    torch.manual_seed(0)
    folder = directory / family
    AutoModelForCausalLM.from_config(FAMILIES[family](**{**values, **overrides})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def canary_file(directory: Path, **overrides: Any) -> Path:
    """A `.nemo` of NeMo's `EncDecMultiTaskModel`, as Canary's, with an encoder of two layers unless `overrides` say otherwise."""
    from nemo.collections.asr.models import EncDecMultiTaskModel
    from nemo.collections.common.tokenizers.canary_tokenizer import CanaryTokenizer
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model

    path = directory / "canary.nemo"
    (directory / "text").write_text("\n".join(TEXT.split() * 20))
    tasks = ["translate", "transcribe", "en", "de", "es", "fr", "startofcontext", "emo:undefined", "itn", "noitn"]
    CanaryTokenizer.build_special_tokenizer(
        [*tasks, "timestamp", "notimestamp", "diarize", "nodiarize"], str(directory / "special"), force_rebuild=True
    )
    for language in ("en", "de"):
        create_spt_model(
            str(directory / "text"),
            vocab_size=64,
            sample_size=-1,
            do_lower_case=False,
            output_dir=str(directory / language),
            character_coverage=1.0,
            remove_extra_whitespaces=True,
        )
    torch.manual_seed(0)
    model = EncDecMultiTaskModel(OmegaConf.merge(_canary_config(directory), overrides))
    model.save_to(str(path))
    return path


def model_config(llm: Path, canary: Path, **overrides: Any) -> DictConfig:
    """The `model` section of `conf/base.yaml`, shrunk."""
    base = OmegaConf.load(Path(__file__).parents[2] / "conf" / "base.yaml").model
    small = {
        "pretrained_llm": str(llm),
        "pretrained_asr": str(canary),
        "llm_dtype": "float32",
        "llm_overrides": {},
        "lora": {"r": 4, "lora_alpha": 4},
        "perception": {"modality_adapter": {"d_model": HIDDEN, "n_heads": 4, "ff_expansion_factor": 2}},
        "optim": {"lr": 1e-3, "sched": {"warmup_steps": 1}},
        "validation": {"max_new_tokens": 8},
    }
    return OmegaConf.merge(base, OmegaConf.create(small), OmegaConf.create(overrides))


def speech(secs: float, seed: int = 0) -> np.ndarray:
    """Noise that a model can take for speech, float32 (S,)."""
    return (np.random.default_rng(seed).standard_normal(int(SAMPLING_RATE * secs)) * 0.1).astype(np.float32)


def audio_part(secs: float, seed: int = 0) -> dict[str, Any]:
    """An audio in the chat format."""
    return {"type": "audio", "audio": speech(secs, seed), "sampling_rate": SAMPLING_RATE}


def user(*parts: str | dict[str, Any]) -> dict[str, Any]:
    """A user turn in the chat format."""
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def assistant(text: str) -> dict[str, Any]:
    """An assistant turn in the chat format."""
    return {"role": "assistant", "content": text}


def quiet() -> None:
    """Keeps NeMo's long notes out of test output."""
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)


def _canary_config(directory: Path) -> DictConfig:
    asr = "nemo.collections.asr"
    languages = {name: {"dir": str(directory / name), "type": "bpe"} for name in ("en", "de")}
    transformer = {"hidden_size": HIDDEN, "num_attention_heads": 4}
    return OmegaConf.create(
        {
            "sample_rate": SAMPLING_RATE,
            "label_smoothing": 0.0,
            "prompt_format": "canary2",
            "log_prediction": False,
            "restore_timestamps_model": False,  # it is looked for in whatever archive the process restored before
            "model_defaults": {"asr_enc_hidden": HIDDEN, "lm_enc_hidden": HIDDEN, "lm_dec_hidden": HIDDEN},
            "tokenizer": {
                "dir": None,
                "type": "agg",
                "langs": {"spl_tokens": {"dir": str(directory / "special"), "type": "bpe"}, **languages},
                "custom_tokenizer": {
                    "_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer",
                    "tokenizers": None,
                },
            },
            "preprocessor": {
                "_target_": f"{asr}.modules.AudioToMelSpectrogramPreprocessor",
                "sample_rate": SAMPLING_RATE,
                "normalize": "per_feature",
                "window_size": 0.025,
                "window_stride": 0.01,
                "features": 80,
                "n_fft": 512,
                "dither": 1e-5,
                "pad_to": 0,
            },
            "encoder": {
                "_target_": f"{asr}.modules.ConformerEncoder",
                "feat_in": 80,
                "n_layers": 2,
                "d_model": HIDDEN,
                "subsampling": "dw_striding",
                "subsampling_factor": 8,
                "subsampling_conv_channels": 16,
                "ff_expansion_factor": 2,
                "self_attention_model": "rel_pos",
                "n_heads": 4,
                "xscaling": False,
                "conv_kernel_size": 9,
                "dropout": 0.1,
            },
            "transf_encoder": {
                "_target_": f"{asr}.modules.transformer.transformer_encoders.TransformerEncoder",
                "num_layers": 0,
                "inner_size": HIDDEN,
                **transformer,
            },
            "transf_decoder": {
                "_target_": f"{asr}.modules.transformer.get_nemo_transformer",
                "model_name": None,
                "pretrained": False,
                "encoder": None,
                "config_dict": {"max_sequence_length": 64, "inner_size": HIDDEN, "num_layers": 1, "vocab_size": "None"}
                | transformer,
            },
            "head": {
                "_target_": f"{asr}.parts.submodules.token_classifier.TokenClassifier",
                "hidden_size": HIDDEN,
                "num_classes": "None",
                "log_softmax": True,
            },
            "decoding": {"strategy": "beam", "beam": {"beam_size": 1}},
            "loss": {
                "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
                "label_smoothing": 0.0,
                "pad_id": None,
            },
        }
    )
