"""The paper's full shape on one GPU beside the host's stock SALM: training and answering. Without one, a small shape on the CPU.

    python tests/benchmark/gpu.py [--shape full|small] [--batch-tokens 8000] [--rounds 3]

Random weights, the length spread of `training_sides.py`, bfloat16 on a GPU (ours: frozen LLM in bfloat16, trained parts in
float32 under autocast; SALM: all in bfloat16, as its recipes have it) and float32 on a CPU. Prints tokens/s, peak memory and
audio seconds transcribed per second with 3 forced tokens per audio second, at batch 1, 16 and 64. The last line is one
JSON object: `mfu` (FLOPs of `flops.step_flops` against the measured matmul peak), `speedup_vs_salm` (target tokens/s) and
`rtfx_b64`. canary-qwen-2.5b's published RTFx is 418, on another GPU.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from tests.benchmark.flops import matmul_peak, step_flops
from tests.benchmark.shapes import full_shape, small_gemma_proportions
from tests.benchmark.training_sides import Side, make_model, ours, salm, write_blend
from tests.helpers.models import audio_part, quiet, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.models.generation import as_conversations, collate

SHAPES = {"full": full_shape, "small": small_gemma_proportions}
BATCHES, BUCKETS = 6, 5
TOKENS_A_SECOND = 3
BATCH_SIZES = (1, 16, 64)
SPOKEN = (4, 16)  # seconds, shortest and longest recording


def precision(device: str) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()


def moved(batch: Any, device: str) -> Any:
    if isinstance(batch, Batch):
        return batch.to(device)
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def seconds_of(work: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def train(side: Side, device: str, rounds: int, context: Callable[[str], Any]) -> dict[str, float]:
    """Positions that hold something per second, and the peak of GPU memory (0 on a CPU)."""
    side.batches = [moved(batch, device) for batch in side.batches]
    optimizer = side.optimizer()

    def one_round() -> None:
        for batch in side.batches:
            with context(device):
                loss = side.step(batch)
            (loss / side.size(batch)[2]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    one_round()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(seconds_of(one_round, device) for _ in range(rounds))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    held = sum(side.size(batch)[0] for batch in side.batches)
    return {"positions_per_second": held / seconds, "seconds": seconds, "peak_gib": peak}


def flops_of_round(model: VTBlenderModel, side: Side) -> float:
    total = 0.0
    for batch in side.batches:
        positions, _, targets = side.size(batch)
        frames = positions - int(batch.input_lens.sum()) + len(batch.audio_lens)
        total += step_flops(model, positions=positions, targets=targets, frames=frames)
    return total


def rtfx(model: VTBlenderModel, size: int, device: str) -> float:
    """Audio seconds per second of wall time for a batch of recordings."""
    rng = random.Random(0)
    secs = [rng.uniform(*SPOKEN) for _ in range(size)]
    chats = [[user("Transcribe:", audio_part(length, number))] for number, length in enumerate(secs)]
    batch = collate(as_conversations(chats), model.chat_format, model.sampling_rate).to(device)
    tokens = round(TOKENS_A_SECOND * sum(secs) / size)

    @torch.inference_mode()
    def answer() -> None:
        with precision(device):
            embeds, mask = model.speech_llm.prompt_embeds(batch)
            model.llm.generate(
                embeds, mask, stop_ids=model.chat_format.stop_ids, max_new_tokens=tokens, min_new_tokens=tokens
            )

    answer()
    return sum(secs) / statistics.median(seconds_of(answer, device) for _ in range(3))


def measure(shape: str, device: str, batch_tokens: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, manifest = make_model(folder, SHAPES[shape]), write_blend(folder)
        options = {"batch_tokens": batch_tokens, "buckets": BUCKETS, "count": BATCHES}
        mine, theirs = ours(model, manifest, **options), salm(model, manifest, **options)
    model.to(device)
    found = {"ours": train(mine, device, rounds, precision)}
    peak = matmul_peak(
        torch.bfloat16 if device == "cuda" else torch.float32, device, 8192 if device == "cuda" else 2048
    )
    mfu = flops_of_round(model, mine) / found["ours"]["seconds"] / peak
    model.eval()
    transcribed = {f"rtfx_b{size}": rtfx(model, size, device) for size in BATCH_SIZES}
    model.to("cpu")
    theirs.module.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    found["salm"] = train(theirs, device, rounds, lambda _: nullcontext())
    for side, one in found.items():
        print(side, {key: round(value, 2) for key, value in one.items()}, flush=True)
    print(f"matmul peak {peak / 1e12:.2f} TFLOP/s")
    return {
        "shape": shape,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "mfu": mfu,
        "speedup_vs_salm": found["ours"]["positions_per_second"] / found["salm"]["positions_per_second"],
        "peak_gib": found["ours"]["peak_gib"],
        "salm_peak_gib": found["salm"]["peak_gib"],
        **transcribed,
    }


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="full" if device == "cuda" else "small")
    parser.add_argument("--batch-tokens", type=int, default=8000 if device == "cuda" else 1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    quiet()
    print(json.dumps(measure(arguments.shape, device, arguments.batch_tokens, arguments.rounds)))


if __name__ == "__main__":
    main()
