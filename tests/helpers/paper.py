"""The published shapes of the paper's two pretrained models."""

from __future__ import annotations

from typing import Any

CANARY_1B: dict[str, Any] = {
    "model_defaults": {"asr_enc_hidden": 1024},
    "preprocessor": {"features": 128},
    "encoder": {
        "feat_in": 128,
        "n_layers": 24,
        "d_model": 1024,
        "subsampling_conv_channels": 256,
        "ff_expansion_factor": 4,
        "n_heads": 8,
        "xscaling": False,
        "untie_biases": True,
        "conv_kernel_size": 9,
    },
}
GEMMA_2B: dict[str, Any] = {
    "vocab_size": 256_000,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
}
