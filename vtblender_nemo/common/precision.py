"""Where bfloat16 pays."""

from __future__ import annotations


def bf16_is_fast(accelerator: str) -> bool:
    """True on GPUs, and on processors with tiles for bfloat16 (AMX); elsewhere float32 is faster.

    The older instructions for it, AVX512_BF16, do not make it fast: on a Xeon that has them and no AMX, matrix products have half
    the speed of float32, and steps of the tiny world's training 0.7 of it (`tests/benchmark/precision.py`).

    Args:
        accelerator: Lightning's name of it; a GPU that is there does not count under `cpu`.
    """
    import torch

    on_gpu = torch.cuda.is_available() and accelerator != "cpu"
    return on_gpu or torch.cpu._is_amx_tile_supported()
