"""GPU memory of weights, gradients and optimiser states for every LLM in `conf/llm`, computed from shapes on empty weights.

    python -m tests.benchmark.memory

Activations come on top: they depend on the length of conversations. Shapes are those of the published models.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from omegaconf import OmegaConf
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from vtblender_nemo.backbones.llm_loading import build_llm
from vtblender_nemo.backbones.transformers_llm import TransformersLLM

CONF = Path(__file__).parents[2] / "conf"
SPEECH = 609_321_984 + 51_465_216  # Canary-1B's encoder and the adapter, without the projection
ADAPTER_WIDTH = 1024
BYTES_TRAINED = 16  # float32 weight, gradient, and AdamW's two moments
BYTES_FROZEN = 2  # bfloat16
BYTES_FROZEN_4BIT = 0.5 + 4 / 64 * 0.254  # NF4, and a scale for 64 weights, itself quantised
GIB = 2**30


def shape(
    kind: type[PretrainedConfig],
    vocab: int,
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    kv: int,
    head: int,
    tied: bool,
) -> PretrainedConfig:
    values = {"head_dim": head} if kind is not Qwen2Config else {}
    return kind(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        tie_word_embeddings=tied,
        **values,
    )


SHAPES = {
    "gemma3_1b": shape(Gemma3TextConfig, 262_144, 1152, 6912, 26, 4, 1, 256, True),
    "llama3.2_1b": shape(LlamaConfig, 128_256, 2048, 8192, 16, 32, 8, 64, True),
    "qwen2.5_1.5b": shape(Qwen2Config, 151_936, 1536, 8960, 28, 12, 2, 128, True),
    "gemma_2b": shape(GemmaConfig, 256_000, 2048, 16_384, 18, 8, 1, 256, True),
    "gemma2_2b": shape(Gemma2Config, 256_000, 2304, 9216, 26, 8, 4, 256, True),
    "llama3.2_3b": shape(LlamaConfig, 128_256, 3072, 8192, 28, 24, 8, 128, True),
    "qwen3_4b": shape(Qwen3Config, 151_936, 2560, 9728, 36, 32, 8, 128, True),
    "qwen2.5_7b": shape(Qwen2Config, 152_064, 3584, 18_944, 28, 28, 4, 128, False),
    "llama3.1_8b": shape(LlamaConfig, 128_256, 4096, 14_336, 32, 32, 8, 128, False),
    "gemma2_9b": shape(Gemma2Config, 256_000, 3584, 14_336, 42, 16, 8, 256, True),
    "llama2_13b": shape(LlamaConfig, 32_000, 5120, 13_824, 40, 40, 40, 128, False),
}


def measure(config: PretrainedConfig, lora: dict[str, object]) -> dict[str, float]:
    """Parameters, and GiB with the frozen LLM in bfloat16 and in 4 bits."""
    with torch.device("meta"):
        causal_lm = build_llm(config, "bfloat16")
        frozen = sum(p.numel() for p in causal_lm.parameters())
        embeddings = sum({id(m.weight): m.weight.numel() for m in _ends(causal_lm)}.values())
        llm = TransformersLLM(causal_lm, lora=lora)
    trained = sum(p.numel() for p in llm.parameters() if p.requires_grad)
    trained += SPEECH + (ADAPTER_WIDTH + 1) * config.hidden_size
    in_4bit = (frozen - embeddings) * BYTES_FROZEN_4BIT + embeddings * BYTES_FROZEN
    return {
        "llm_billions": frozen / 1e9,
        "trained_millions": trained / 1e6,
        "gib_bf16": (frozen * BYTES_FROZEN + trained * BYTES_TRAINED) / GIB,
        "gib_4bit": (in_4bit + trained * BYTES_TRAINED) / GIB,
    }


def _ends(causal_lm: torch.nn.Module) -> list[torch.nn.Module]:
    return [causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()]


def main() -> None:
    lora = OmegaConf.to_container(OmegaConf.load(CONF / "base.yaml").model.lora)
    assert SHAPES.keys() == {path.stem for path in (CONF / "llm").glob("*.yaml")}
    found = {name: measure(config, lora) for name, config in SHAPES.items()}
    print("| `llm=` | LLM | trained | GiB, LLM in bfloat16 | GiB, LLM in 4 bits |\n|---|---|---|---|---|")
    for name, row in found.items():
        sizes = f"{row['llm_billions']:.2f} B | {row['trained_millions']:.0f} M"
        print(f"| {name} | {sizes} | {row['gib_bf16']:.1f} | {row['gib_4bit']:.1f} |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
