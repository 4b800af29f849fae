"""Trainings on two ranks, with the LLM's layers sharded; run by `test_sharded.py`.

python -m tests.recipes.sharded_run FOLDER        # which holds the blend and the bases, and gets the runs
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from tests.helpers.kills import KillAt, Killed
from tests.helpers.ranks import run_ranks
from tests.helpers.small_run import small_config
from vtblender_nemo.models.vtblender import VTBlenderModel
from vtblender_nemo.training.fit import build_data, build_model, fit, load_best


def train(cfg: Any, *callbacks: pl.Callback, best: bool = False) -> VTBlenderModel:
    model = build_model(cfg)
    trainer = fit(cfg, model, build_data(cfg, model), callbacks=list(callbacks))
    if best:
        load_best(trainer, model)
    model.save_to(Path(cfg.output_dir) / "model.nemo")
    return model


def stopped(cfg: Any) -> None:
    """A training that ends in its last step."""
    try:
        train(cfg, KillAt(3))
    except Killed:
        return
    raise AssertionError("it was to be killed")


def whole(cfg: Any, folder: Path) -> None:
    """A training to its end, and which of its parameters are sharded."""
    model = train(cfg, best=True)
    sharded = [name for name, parameter in model.named_parameters() if isinstance(parameter, DTensor)]
    if dist.get_rank() == 0:
        (folder / "sharded.json").write_text(json.dumps(sharded))


def main() -> None:
    folder = Path(sys.argv[1])
    given = json.loads((folder / "given.json").read_text())
    trainer = {"devices": 2, "strategy": "sharded", "max_steps": 4, "val_check_interval": 2}
    make = partial(
        small_config,
        (Path(given["llm"]), Path(given["canary"])),
        given["blend"],
        checkpoints={"every_n_steps": 1},
        trainer=trainer,
    )
    run_ranks(whole, 2, make(folder / "whole"), folder)
    for name, strategy in (("killed", "sharded"), ("other", "auto")):
        cfg = make(folder / name)
        run_ranks(stopped, 2, cfg)
        cfg.trainer.strategy = strategy
        run_ranks(train, 2, cfg)


if __name__ == "__main__":
    main()
