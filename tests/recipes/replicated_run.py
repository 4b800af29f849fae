"""Two ranks with a model of one batch norm: `python -m tests.recipes.replicated_run FOLDER`."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException
from torch.utils.data import DataLoader

from tests.helpers.ranks import run_ranks
from vtblender_nemo.training.fit import build_trainer

TIMEOUT_SECS = 3


class Norm(pl.LightningModule):
    """Rank r sees numbers around r; before and in each validation it notes its running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.before: list[float] = []
        self.read: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.norm(batch + self.global_rank).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.before.append(self.mean())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.read.append(self.mean())

    def mean(self) -> float:
        assert self.norm.running_mean is not None
        return self.norm.running_mean.item()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Hangs(Norm):
    """The second rank never comes back from its second step."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_rank == 1 and batch_idx == 1:
            signal.pause()
        return super().training_step(batch, batch_idx)


def trained(model: Norm) -> Norm:
    cfg = OmegaConf.create(
        {
            **{"accelerator": "cpu", "devices": 2, "strategy": "auto", "timeout_secs": TIMEOUT_SECS},
            **{"max_steps": 2, "val_check_interval": 2, "num_sanity_val_steps": 0, "precision": "32-true"},
            **{"enable_progress_bar": False, "enable_model_summary": False},
        }
    )
    data = DataLoader(torch.arange(8.0).reshape(8, 1), batch_size=4)
    build_trainer(cfg).fit(model, data, data)
    return model


def statistics(folder: Path) -> None:
    model = trained(Norm())
    (folder / f"{model.global_rank}.json").write_text(json.dumps({"before": model.before, "read": model.read}))


def hang(folder: Path) -> None:
    try:
        trained(Hangs())
    except RuntimeError as error:
        (folder / f"hung_{os.environ['RANK']}.json").write_text(json.dumps({"error": str(error)}))
        raise


def main() -> None:
    folder = Path(sys.argv[1])
    run_ranks(statistics, 2, folder)
    with suppress(ProcessException):  # the first gives up, which ends the second
        run_ranks(hang, 2, folder)


if __name__ == "__main__":
    main()
