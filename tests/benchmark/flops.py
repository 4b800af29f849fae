"""What a training step has to compute at least, and what the machine can: the two sides of a roofline."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from vtblender_nemo import VTBlenderModel

FROZEN, TRAINED = 4, 6  # FLOPs a parameter and row: forward 2, gradient of the input 2, gradient of the weight 2


def step_flops(model: VTBlenderModel, *, positions: int, targets: int, frames: int) -> float:
    """FLOPs of the linear layers of a step.

    Frozen weights count 4 and trained ones 6 for every row that passes them: positions of the LLM, targets for its head, frames
    for encoder and adapter. Attention's products, convolutions of the subsampling, and whatever is computed twice count
    nothing.
    """
    head = model.llm.causal_lm.get_output_embeddings()
    llm = frozen_and_trained(model.llm.causal_lm.base_model)
    perception = sum(frozen_and_trained(part)[1] for part in _framewise(model))
    of_llm = (FROZEN * llm[0] + TRAINED * llm[1]) * positions
    return of_llm + FROZEN * head.weight.numel() * targets + TRAINED * perception * frames


def frozen_and_trained(module: nn.Module) -> tuple[int, int]:
    """Weights of matrices, embeddings aside."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in module.parameters() if p.ndim >= 2 and id(p) not in embeddings]
    trained = sum(p.numel() for p in matrices if p.requires_grad)
    return sum(p.numel() for p in matrices) - trained, trained


def _framewise(model: VTBlenderModel) -> list[nn.Module]:
    """What computes once a frame: all of encoder and adapter but the subsampling, which works at higher rates."""
    perception = model.perception
    return [perception.encoder.layers, perception.modality_adapter.layers, perception.proj]


def matmul_peak(dtype: torch.dtype, device: str = "cpu", size: int = 2048, rounds: int = 7) -> float:
    """FLOP/s of the machine's own product of square matrices: the best of what was measured."""
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(rounds):
        _wait(device)
        started = time.perf_counter()
        for _ in range(4):
            left @ right
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 4 * 2 * size**3 / min(seconds)


def median_seconds(work: Callable[[], object], device: str = "cpu", rounds: int = 5) -> float:
    """Median seconds of a call, after one that does not count."""
    work()
    seconds = []
    for _ in range(rounds):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
