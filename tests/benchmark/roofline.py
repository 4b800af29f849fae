"""How much of the machine's matmul peak a training step achieves.

    python tests/benchmark/roofline.py [--batch-tokens 2000]

Forward, backward and AdamW in float32 at the shape of `shapes.py`, packed, on the blend of `training_sides.py`. FLOPs are
counted as `flops.step_flops` says (4 for frozen, 6 for trained parameters, nothing for recomputation, attention's products
and convolutions), the peak is measured beside it. Prints where a step's time goes and, as the last line, `matmul_share`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from tests.benchmark.flops import matmul_peak, median_seconds, step_flops
from tests.benchmark.training_sides import make_model, ours, write_blend
from tests.helpers.models import quiet

BATCHES = 4
SHOWN = 12


def measure(batch_tokens: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, manifest = make_model(folder), write_blend(folder)
        side = ours(model, manifest, batch_tokens=batch_tokens, buckets=5, count=BATCHES)
        optimizer = side.optimizer()
        shares = []
        for batch in side.batches:
            positions, _, targets = side.size(batch)
            frames = positions - int(batch.input_lens.sum()) + len(batch.audio_lens)
            needed = step_flops(model, positions=positions, targets=targets, frames=frames)
            seconds = median_seconds(partial(side.train_on, batch, optimizer), rounds=3)
            peak = matmul_peak(torch.float32)  # beside each step, as the machine is shared
            shares.append(needed / seconds / peak)
            print(f"{positions} positions, {frames} frames: {seconds:.2f} s, {needed / 1e9:.0f} GFLOP", end="; ")
            print(f"{needed / seconds / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s: {shares[-1]:.2f}", flush=True)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            side.train_on(side.batches[0], optimizer)
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    for row in rows[:SHOWN]:
        print(f"{row.key:60} {100 * row.self_cpu_time_total / total:5.1f} %")
    return {"matmul_share": statistics.median(shares)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-tokens", type=int, default=2000)
    arguments = parser.parse_args()
    quiet()
    print(json.dumps(measure(arguments.batch_tokens)))


if __name__ == "__main__":
    main()
