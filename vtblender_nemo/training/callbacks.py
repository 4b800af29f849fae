"""What training remembers besides weights: random states, and a history that plots are drawn from."""

from __future__ import annotations

import json
import logging
import math
import os
import random
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from vtblender_nemo.common.parallel import data_rank, layout
from vtblender_nemo.data.loader import BlendDataModule

logger = logging.getLogger(__name__)


class RandomStates(Callback):
    """Keeps every random state in the checkpoint, so that a resumed run draws what the run never stopped would have drawn.

    SpecAugment has generators of its own inside the model; they are found and kept too. The states are put back just before
    the first batch: what happens between loading a checkpoint and that batch may draw numbers.
    """

    def __init__(self) -> None:
        self._to_restore: dict[str, Any] | None = None
        self._model: nn.Module | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._model = pl_module

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": _of_all_ranks(self._own_states())}

    def _own_states(self) -> dict[str, Any]:
        numpy_state: Any = np.random.get_state(legacy=False)
        return {
            "tensor_parallel": layout().tensor_size,
            "device": _device(),
            "python": random.getstate(),
            "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "modules": {name: module._rng.getstate() for name, module in self._own_generators()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ranks = state_dict["ranks"]
        size = ranks[0].get("tensor_parallel", 1)
        # ranks that hold one model draw the same numbers, so that one of them stands for all however many there are
        rank = _rank() if size == layout().tensor_size else data_rank()[0] * size
        # on more ranks than were saved, those that are new go on from their own seeds
        self._to_restore = ranks[rank] if rank < len(ranks) else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ranks that hold one model start with the same random states."""
        if layout().tensor_size == 1 or self._to_restore is not None:
            return
        states = [self._own_states()]
        group = layout().tensor_group
        torch.distributed.broadcast_object_list(states, torch.distributed.get_global_rank(group, 0), group=group)
        self._restore(states[0])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._to_restore is None:
            return
        state, self._to_restore = self._to_restore, None
        self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        random.setstate(_as_tuples(state["python"]))
        kept = state["numpy"]
        np.random.set_state(
            {**kept, "state": {**kept["state"], "key": np.array(kept["state"]["key"], dtype=np.uint32)}}
        )
        torch.set_rng_state(state["torch"])
        if state["cuda"] and state.get("device", _device()) == _device():
            torch.cuda.set_rng_state_all(state["cuda"])
        elif state["cuda"]:
            torch.cuda.set_rng_state(state["cuda"][state["device"]])
        for name, module in self._own_generators():
            if name in state["modules"]:
                module._rng.setstate(_as_tuples(state["modules"][name]))

    def _own_generators(self) -> list[tuple[str, Any]]:
        modules = self._model.named_modules() if self._model is not None else []
        return [(name, module) for name, module in modules if isinstance(getattr(module, "_rng", None), random.Random)]


class HistoryLogger(Logger):
    """Appends every logged number to a JSONL file: `{"step": ..., "name": ..., "value": ...}`.

    Args:
        path: the file; a resumed run goes on writing to it, after the rows since its checkpoint were taken out.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Configurations are kept elsewhere."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        rows = [{"step": step, "name": name, "value": value} for name, value in metrics.items() if name != "epoch"]
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    @rank_zero_only
    def save(self) -> None:
        """Has the rows on the disk, before a checkpoint says that they are there."""
        if self.path.exists():
            with self.path.open("a") as file:
                os.fsync(file.fileno())

    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    @rank_zero_only
    def cut(self, size: int) -> None:
        """Takes out what was written after `size` bytes: it comes again."""
        if self.size() > size:
            os.truncate(self.path, size)


class LogShares(Callback):
    """Logs what every source has given so far, and warns at the end where that is not what its weight asked for.

    Args:
        data: the blend.
    """

    def __init__(self, data: BlendDataModule) -> None:
        self._data = data

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shares = {f"share/{name}": row["seen"] for name, row in self._data.shares().items()}
        for own in trainer.loggers:
            own.log_metrics(shares, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for warning in share_warnings(self._data.shares()):
            logger.warning(warning)


def share_warnings(shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What is to be said of sources that gave more or less than their weight asked for.

    Args:
        shares: see `TrainLoader.shares`.
    """
    rows = sum(row["rows_seen"] for row in shares.values())
    found = []
    for name, row in shares.items():
        wanted = row["weight"]
        chance = 4 * math.sqrt(wanted * (1 - wanted) / max(rows, 1)) + 0.01  # and rows that wait in open batches
        if abs(row["seen"] - wanted) > chance:
            found.append(
                f"source {name} gave a share of {row['seen']:.3f} where its weight asked for {wanted:.3f}; "
                "skipped.jsonl lists rows that were left out"
            )
    return found


class ResumeHistory(Callback):
    """Makes the history go on from the row that training resumes at."""

    def __init__(self) -> None:
        self._size = 0
        self._trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        return {"size": sum(own.size() for own in self._histories())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._size = state_dict["size"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for own in self._histories():
            own.cut(self._size)

    def _histories(self) -> list[HistoryLogger]:
        """The one that `fit` adds; none where a trainer is used without it."""
        loggers = self._trainer.loggers if self._trainer is not None else []
        return [own for own in loggers if isinstance(own, HistoryLogger)]


def _device() -> int:
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def _rank() -> int:
    return (
        torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
    )


def _of_all_ranks(own: dict[str, Any]) -> list[dict[str, Any]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    gathered: list[dict[str, Any]] = [own] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
