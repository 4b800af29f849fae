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
from vtblender_nemo.tiny.canary import build_canary
from vtblender_nemo.tiny.config import EncoderConfig

HIDDEN = 32
STOP = 5  # <end_of_turn>, which ends answers
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


def talking_llm_folder(directory: Path) -> Path:
    """An LLM of random weights whose answers are letters, and often come to an end."""
    folder = llm_folder(directory, "llama", tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = make_tokenizer()
    said = tokenizer.convert_tokens_to_ids(list("abcdefghijkl"))
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        kept = head[[*said, STOP]].clone()
        head[:] = kept.mean(0)  # whose logit no maximum is below
        head[[*said, STOP]] = kept
    model.save_pretrained(folder)
    return folder


def canary_file(directory: Path, **overrides: Any) -> Path:
    """A `.nemo` of NeMo's `EncDecMultiTaskModel`, as Canary's, with an encoder of two layers unless `overrides` say otherwise."""
    path = directory / "canary.nemo"
    small = EncoderConfig(layers=2, width=HIDDEN)
    in_training = {"encoder": {"ff_expansion_factor": 2, "dropout": 0.1}}
    torch.manual_seed(0)
    build_canary(
        small,
        {language: TEXT.split() * 20 for language in ("en", "de")},
        directory,
        pieces=64,
        overrides=OmegaConf.merge(in_training, overrides),
    ).save_to(str(path))
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


def with_loud_lora(model: Any) -> Any:
    """The model with LoRA that is not zero."""
    generator = torch.Generator().manual_seed(5)
    for name, weight in model.llm.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return model


def talking_model(directory: Path) -> Any:
    """A `VTBlenderModel` of random weights whose answers are letters that depend on all that it hears and reads."""
    from vtblender_nemo import VTBlenderModel

    config = model_config(talking_llm_folder(directory), canary_file(directory))
    return with_loud_lora(VTBlenderModel(config).eval())


def most_answered(model: Any, audio: dict[str, Any], new_tokens: int) -> str:
    """A text that, with the audio behind it, a model of random weights has much to say to."""
    texts = ["hello", "what is said?", "go on", "tell me more", "and then", "good day"]
    answers = model.generate([[user(text, audio)] for text in texts], new_tokens)
    return max(zip(answers, texts, strict=True), key=lambda pair: len(pair[0]))[1]


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
    """Keeps NeMo's long notes out of test output; NeMo's own way would also set pytest's handlers, which hear all loggers."""
    import nemo.utils  # noqa: F401  (sets the level itself when it is loaded)

    logging.getLogger("nemo_logger").setLevel(logging.ERROR)
