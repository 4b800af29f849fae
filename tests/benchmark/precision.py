"""Whether bfloat16 pays on this machine's processor: `bf16_is_fast` says what training takes it for.

    python tests/benchmark/precision.py --world results/tiny_world [--steps 6] [--rounds 3]

Prints CPU seconds of matrix products and of steps of the tiny world's training (forward, backward, clipping, optimiser) in both
precisions, which take turns on the same batches with one thread; other work changes them less than the clock's. The
last line is one JSON object: `step_bf16_over_float32` and `products_bf16_over_float32`, above 1 where float32 is faster.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from vtblender_nemo.common.host import quiet_host  # noqa: E402
from vtblender_nemo.common.precision import bf16_is_fast  # noqa: E402

PRODUCTS = ((2600, 192, 512), (2000, 1024, 1024), (2048, 2048, 2048))
"""Rows, inputs and outputs: a layer of the tiny LLM, and larger ones."""
PRECISIONS = {"float32": False, "bf16": True}


def in_turns(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, after a first call that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, call in work.items():
            started = time.process_time()
            call()
            if number:
                found[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in found.items()}


def products(rounds: int) -> float:
    ratios = []
    for rows, inputs, outputs in PRODUCTS:
        a, b = torch.randn(rows, inputs), torch.randn(inputs, outputs)
        c, d = a.bfloat16(), b.bfloat16()
        secs = in_turns({"float32": lambda a=a, b=b: a @ b, "bf16": lambda c=c, d=d: c @ d}, 5 * rounds)  # type: ignore[misc]
        ratios.append(secs["bf16"] / secs["float32"])
        print(f"{rows} x {inputs} x {outputs}: " + ", ".join(f"{name} {1e3 * s:.2f} ms" for name, s in secs.items()))
    return statistics.median(ratios)


def steps(world: Path, count: int, rounds: int) -> float:
    from vtblender_nemo.training.fit import build_data, build_model
    from vtblender_nemo.training.optim import build_optimizer

    with TemporaryDirectory() as folder:
        with initialize_config_dir(str(ROOT / "conf"), version_base=None):
            cfg = compose("vtb_tiny", overrides=[f"tiny.directory={world.resolve()}", f"output_dir={folder}"])
        model = build_model(cfg)
        found = iter(build_data(cfg, model).train_dataloader())
        batches = [next(found) for _ in range(count)]
        optimizer = build_optimizer(model.trainable_parts(), cfg.model.optim)

        def train(bf16: bool) -> None:
            for batch in batches:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                    loss = model.speech_llm(batch)
                (loss.sum / max(loss.targets, 1)).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

        secs = in_turns({name: lambda bf16=bf16: train(bf16) for name, bf16 in PRECISIONS.items()}, rounds)  # type: ignore[misc]
    print("a step of the tiny training: " + ", ".join(f"{name} {s / count:.2f} s" for name, s in secs.items()))
    return secs["bf16"] / secs["float32"]


def main(
    world: Annotated[Path, typer.Option(exists=True, file_okay=False, help="A tiny world that was made.")],
    steps_a_round: Annotated[int, typer.Option("--steps", min=1)] = 6,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Whether bfloat16 pays on this machine's processor."""
    torch.set_num_threads(1)
    quiet_host()
    of_products, of_steps = products(rounds), steps(world, steps_a_round, rounds)
    found = {
        "bf16_is_fast": bf16_is_fast("cpu"),
        "step_bf16_over_float32": round(of_steps, 2),
        "products_bf16_over_float32": round(of_products, 2),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
