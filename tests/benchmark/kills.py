"""What stops cost: one training and one synthesis killed (kill -9) at random moments, and the seconds to stop and to go on.

    python tests/benchmark/kills.py [--kills 20]

The results of killed and of undisturbed jobs are compared byte by byte: every weight and every logged number of the
training, every file of the synthesis.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
import typer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.helpers.kills import kill_at_random  # noqa: E402
from tests.helpers.small_run import small_config, write_bases, write_blend  # noqa: E402
from tests.helpers.synthesis_works import run, tree, write_chats  # noqa: E402
from vtblender_nemo.common.stopping import Stopped  # noqa: E402
from vtblender_nemo.training.fit import build_data, build_model, fit  # noqa: E402

STEPS = 60
CHATS = 3000


def train(cfg: Any, *callbacks: pl.Callback) -> None:
    """A training whose last weights are kept as they are."""
    weights = Path(cfg.output_dir) / "weights.pt"
    model = build_model(cfg)
    fit(cfg, model, build_data(cfg, model), callbacks=list(callbacks))
    torch.save(model.state_dict(), weights)


def outcome(cfg: Any) -> tuple[dict[str, torch.Tensor], str]:
    folder = Path(cfg.output_dir)
    return torch.load(folder / "weights.pt", weights_only=True), (folder / "history.jsonl").read_text()


def training_is_the_same(make: Any, folder: Path, kills: int) -> dict[str, Any]:
    calm, killed = make(folder / "calm"), make(folder / "killed")
    started = time.monotonic()
    kill_at_random(partial(train, calm), 0, (0, 0))
    calm_secs = time.monotonic() - started
    done = kill_at_random(partial(train, killed), kills, (1.0, 1.0 + calm_secs / 16), seed=1)
    (weights, history), (other, log) = outcome(calm), outcome(killed)
    same = weights.keys() == other.keys() and all(torch.equal(weights[name], other[name]) for name in weights)
    return {"kills": done, "same_weights": same, "same_history": history == log, "undisturbed_secs": calm_secs}


def synthesis_is_the_same(folder: Path, kills: int) -> dict[str, Any]:
    chats = write_chats(folder / "chats.jsonl", [f"say {number}" for number in range(CHATS)])
    make = partial(run, chats, rows_per_shard=50, batch_rows=10)
    started = time.monotonic()
    kill_at_random(partial(make, folder / "calm"), 0, (0, 0))
    calm_secs = time.monotonic() - started
    done = kill_at_random(partial(make, folder / "killed"), kills, (0.05, calm_secs / 12), seed=2)
    return {
        "kills": done,
        "same_files": tree(folder / "calm") == tree(folder / "killed"),
        "undisturbed_secs": calm_secs,
    }


class Moments(pl.Callback):
    """When the first batch came; and a signal to this process in the middle of a step."""

    def __init__(self, signal_at: int | None = None) -> None:
        self._signal_at = signal_at
        self.first_batch = self.signalled = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.first_batch = self.first_batch or time.monotonic()
        if batch_idx == self._signal_at:
            self.signalled = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)


def seconds_of_a_stop(make: Any, folder: Path) -> dict[str, float]:
    """From the signal to the end of `fit`, and from its start to the first batch: anew, and from a checkpoint."""
    cfg, begun, moments = make(folder / "stopped"), [], []
    for at in (STEPS // 2, None):
        model, moment = build_model(cfg), Moments(at)
        data = build_data(cfg, model)
        begun.append(time.monotonic())
        moments.append(moment)
        try:
            fit(cfg, model, data, callbacks=[moment])
        except Stopped:
            stopped = time.monotonic()
    anew, again = (moment.first_batch - start for moment, start in zip(moments, begun, strict=True))
    return {"stop_secs": stopped - moments[0].signalled, "first_batch_secs": anew, "first_batch_resumed_secs": again}


def main(kills: Annotated[int, typer.Option(help="of the training, and of the synthesis")] = 20) -> None:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        make = partial(small_config, write_bases(folder), write_blend(folder))
        make = partial(
            make,
            checkpoints={"every_n_steps": 1},
            trainer={"max_steps": STEPS, "val_check_interval": 20},
        )
        figures = {
            "synthesis": synthesis_is_the_same(folder, kills),
            "training": training_is_the_same(make, folder, kills),
            "stop": seconds_of_a_stop(make, folder),
        }
    for name, found in figures.items():
        values = [
            f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in found.items()
        ]
        print(name, *values)
    print(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
