"""Where bfloat16 pays."""

from __future__ import annotations


def bf16_is_fast(accelerator: str) -> bool:
    """True on GPUs, and on processors that multiply bfloat16 in hardware; elsewhere fp32 is faster.

    Args:
        accelerator: Lightning's name of it; a GPU that is there does not count under `cpu`.
    """
    import torch

    on_gpu = torch.cuda.is_available() and accelerator != "cpu"
    return on_gpu or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
