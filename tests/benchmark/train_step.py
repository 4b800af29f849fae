"""A training step beside the host's stock SALM: same weights, same blend, each with its own loader and bucketing.

    python tests/benchmark/train_step.py [--batch-tokens 2000] [--rounds 3]

Prints target tokens/s, padding and the peak memory of a step, and one JSON object as the last line: `speedup_vs_salm` (target
tokens/s, ours over SALM's), `peak_memory_vs_salm` (memory of steps beyond the loaded model, each side in a process of its own)
and `padding_share` (ours, of the LLM's positions). SALM is compared at the faster of its numbers of buckets. Ours runs twice:
with its defaults, and with `model.perception.recompute=layers`. float32, forward, backward and AdamW; batch norm as in
training, no dropout. All sides are timed by the positions that hold something, and these are turned into targets by the
blend's share of targets, as by chance the batches of a side may hold more or fewer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmark.training_sides import Side, make_model, ours, padding_share, peak_above, salm, write_blend
from tests.helpers.models import quiet

OURS, LESS_MEMORY = "ours", "ours, encoder again"
SIDES = {  # name -> what makes it, buckets, and what of the encoder is computed again in the backward pass
    OURS: (ours, 5, "cheap"),
    LESS_MEMORY: (ours, 5, "layers"),
    "salm, 5 buckets": (salm, 5, "none"),
    "salm, 10 buckets": (salm, 10, "none"),
}
BATCHES = 6


def one_round(side: Side, optimizer: Any) -> float:
    """Positions that hold something, per second, in a step on each batch."""
    started = time.perf_counter()
    for batch in side.batches:
        side.train_on(batch, optimizer)
    return sum(side.size(batch)[0] for batch in side.batches) / (time.perf_counter() - started)


def rates(sides: dict[str, Side], rounds: int) -> dict[str, float]:
    """Target tokens/s of each side: the median of some rounds, in which the sides take turns."""
    optimizers = {name: side.optimizer() for name, side in sides.items()}
    for name, side in sides.items():
        one_round(side, optimizers[name])  # kernels are made for every shape that is new
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(one_round(side, optimizers[name]))
    sizes = [side.size(batch) for side in sides.values() for batch in side.batches]
    targets = sum(size[2] for size in sizes) / sum(size[0] for size in sizes)
    return {name: targets * statistics.median(values) for name, values in found.items()}


def step_memory(name: str, batch_tokens: int) -> float:
    """MiB that a round over a side's batches takes beyond the loaded model, AdamW's state included."""
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        side = make_side(name, Path(folder), batch_tokens)
        optimizer = side.optimizer()
        return peak_above(lambda: one_round(side, optimizer))


def alone(name: str, batch_tokens: int) -> float:
    """`step_memory` in a process of its own, where what is freed goes back at once."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(step_memory, name, batch_tokens).result()


def make_side(name: str, folder: Path, batch_tokens: int) -> Side:
    """One of `SIDES` with a model of its own."""
    kind, buckets, degree = SIDES[name]
    model, manifest = make_model(folder, perception={"recompute": degree}), write_blend(folder)
    return kind(model, manifest, batch_tokens=batch_tokens, buckets=buckets, count=BATCHES)


def measure(batch_tokens: int, rounds: int) -> dict[str, Any]:
    """Rates of all sides, and memory of ours and of the fastest SALM."""
    sides: dict[str, Side] = {}
    for name in SIDES:
        with tempfile.TemporaryDirectory() as folder:
            sides[name] = make_side(name, Path(folder), batch_tokens)
    speed = rates(sides, rounds)
    padding = {name: padding_share(side) for name, side in sides.items()}
    for name, rate in speed.items():
        print(f"{name:24} {rate:8.1f} target tokens/s, padding {100 * padding[name]:.1f} %", flush=True)
    best = max((name for name in sides if name.startswith("salm")), key=speed.__getitem__)
    memory = {name: alone(name, batch_tokens) for name in (OURS, LESS_MEMORY, best)}
    for name, mib in memory.items():
        print(f"{name:24} {mib:8.0f} MiB above the model", flush=True)
    return {
        "speedup_vs_salm": speed[OURS] / speed[best],
        "peak_memory_vs_salm": memory[OURS] / memory[best],
        "padding_share": padding[OURS],
        "salm_padding_share": padding[best],
        "salm": best,
        "less_memory": {"speedup": speed[LESS_MEMORY] / speed[best], "peak_memory": memory[LESS_MEMORY] / memory[best]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    quiet()
    print(json.dumps(measure(arguments.batch_tokens, arguments.rounds)))


if __name__ == "__main__":
    main()
