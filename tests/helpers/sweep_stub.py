"""Stands for the training of a sweep: `python -m tests.helpers.sweep_stub FOLDER` scores by its variant and seed.

The environment injects faults: SWEEP_STUB_FAULTS="joint-seed1=exit speech_only-seed2=kill" (or `parent`: the sweep is killed).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from omegaconf import OmegaConf

from vtblender_nemo.experiments.measures import Measured, RunScores, measure, write_run

ITEMS = 200
RIGHT_BY_VARIANT = {"joint": 180, "speech_only": 120}


def accuracy(right: int) -> dict[str, Measured]:
    """Of test items of which so many are answered rightly, the first ones."""
    rows = [{"id": str(n), "prediction": "a" if n < right else "b", "reference": "a"} for n in range(ITEMS)]
    return measure(rows, "exact_match")


def main() -> None:
    folder = Path(sys.argv[1])
    faults = dict(fault.split("=") for fault in os.environ.get("SWEEP_STUB_FAULTS", "").split())
    print(f"training in {folder}")  # noqa: T201 (into the log)
    with (folder.parent.parent / "trained.txt").open("a") as file:
        file.write(f"{folder.name}\n")
    (folder / "threads.txt").write_text(os.environ.get("OMP_NUM_THREADS", "all"))
    match faults.get(folder.name):
        case "exit":
            sys.exit("ModelFileError: no such encoder")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "parent":
            os.kill(os.getppid(), signal.SIGKILL)
            sys.exit(1)
    cfg = OmegaConf.load(folder / "job.yaml")
    right = RIGHT_BY_VARIANT.get(cfg.variant.name, 150) + cfg.seed
    measures = {"text.accuracy": accuracy(right)[""], "text.base_accuracy": accuracy(180)[""]}
    write_run(RunScores(cfg.variant.name, cfg.seed, cfg.variant.x, measures), folder)


if __name__ == "__main__":
    main()
