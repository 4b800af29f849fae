"""What several ranks measure together; run by `test_tensor_parallel.py`.

python -m tests.recipes.tensor_parallel_step FOLDER pair four      # functions of this file; what they return is FOLDER/NAME.pt

Imports take longer than all that is measured, so that ranks are forked from a process that has made them. Under torchrun the
process is one of the ranks. Whole models, to compare with, are in every process.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader

from tests.helpers.kills import KillAt, Killed
from tests.helpers.models import audio_part, model_config, user
from tests.recipes.ddp_step import Share
from tests.recipes.tensor_parallel_llm import compare, everywhere, gradients, llms, of_pair
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.backbones.megatron_llm.groups import join, leave
from vtblender_nemo.common import shards
from vtblender_nemo.common.parallel import data_rank
from vtblender_nemo.training.checkpoints import files
from vtblender_nemo.training.fit import build_data, build_model, fit
from vtblender_nemo.training.tensor_parallel import TensorParallelStrategy

CHAT = [[user("hear", audio_part(0.7))], [user("and now?")]]
Found = dict[str, Any]


def pair(folder: Path) -> Found:
    """Two ranks that hold one model."""
    return {**of_pair(folder), **step(folder, [[0, 1, 2, 3]]), "trained": trained(folder)}


def four(folder: Path) -> Found:
    """Four ranks: all of them hold one model, then two models of two each."""
    found = {name: compare(*llms(folder / name, 4)) for name in ("gemma-2", "gemma-1", "qwen3-2")}
    leave()
    return {"families": found, **step(folder, [[0, 1], [2, 3]]), "drift": drift(folder)}


def step(folder: Path, shares: list[list[int]]) -> Found:
    """Gradients of a step, unclipped and clipped, of the rows that every data rank has a share of."""
    join(2)
    config = model_config(
        folder / "gemma-1", folder / "canary.nemo", optim={"sched": {"warmup_steps": 0}}, tensor_parallel=2
    )
    return {f"step {clip}": one_step(config, shares[data_rank()[0]], clip, folder) for clip in (None, 0.01)}


def one_step(config: DictConfig, rows: list[int], clip: float | None, folder: Path) -> dict[str, Tensor]:
    pl.seed_everything(0)
    model = VTBlenderModel(config)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    many = config.get("tensor_parallel", 1) > 1
    keep = KeepGradients()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=dist.get_world_size() if many else 1,
        strategy=TensorParallelStrategy() if many else "auto",
        max_steps=1,
        gradient_clip_val=clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[keep],
    )
    trainer.fit(model.eval(), DataLoader(Share(model, rows), batch_size=None))
    return keep.kept


class KeepGradients(pl.Callback):
    """Keeps the gradients that the optimiser was given."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.kept = gradients(pl_module)


def trained(folder: Path) -> Found:
    """Whole trainings: one from start to end, one that is stopped, and one that goes on where a whole model stopped."""
    train(folder / "cut.yaml")
    model = train(folder / "stopped_whole.yaml", tensor_parallel=2)
    model.save_to(folder / "cut.nemo")
    model.cfg.save_llm = False
    model.save_to(folder / "lean.nemo")
    answers = model.generate(CHAT, 6)
    restored = VTBlenderModel.restore_from(folder / "whole.nemo", tensor_parallel=2).eval()
    train(folder / "stopped_cut.yaml", kill_at=3)  # at last: the host's telemetry does not forget what was killed
    return {
        "answers": answers,
        "answers of whole": restored.generate(CHAT, 6),
        "size after": model.cfg.tensor_parallel,
        "parameters": model.trained_parameters(),
        "replicated": drift_of(restored),
    }


def train(path: Path, *, kill_at: int | None = None, **changes: Any) -> VTBlenderModel:
    """The training of a configuration, or a part of it."""
    cfg = OmegaConf.load(path)
    cfg.model = OmegaConf.merge(cfg.model, changes)
    model = build_model(cfg)
    with suppress(Killed):
        fit(cfg, model, build_data(cfg, model), callbacks=[] if kill_at is None else [KillAt(kill_at)])
    return model


def drift(folder: Path) -> Found:
    """After some steps of four ranks: who holds the same still holds the same."""
    model = train(folder / "four.yaml")
    random = everywhere(torch.get_rng_state())
    kept = files.read(files.checkpoints_in(folder / "four" / "training" / "resume")[-1])
    return {
        **drift_of(model),
        "ranks with rows": len(kept["BlendDataModule"]["ranks"]),
        "steps": model.trainer.global_step,
        "random states as the first one's": [torch.equal(random[0], state) for state in random],
    }


def drift_of(model: VTBlenderModel) -> Found:
    """The largest difference between ranks in what they should hold alike, and the smallest between parts."""
    _, ranks = data_rank()
    alike, copies, parts = 0.0, 0.0, float("inf")
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        of_ranks = everywhere(weight.detach())
        if shards.axis_of(weight) is None:
            alike = max(alike, *((one - of_ranks[0]).abs().max().item() for one in of_ranks))
        else:
            copies = max([copies, *((of_ranks[2 * n] - of_ranks[0]).abs().max().item() for n in range(ranks))])
            if ".lora_A" in name:
                parts = min(parts, (of_ranks[1] - of_ranks[0]).abs().max().item())
    return {"alike": alike, "copies": copies, "parts": parts}


CHECKS = {"pair": (pair, 2), "four": (four, 4)}


def measure(checks: str, folder: Path) -> None:
    """What one rank does."""
    found = CHECKS[checks][0](folder)
    if dist.get_rank() == 0:
        torch.save(found, folder / f"{checks}.pt")


def as_rank(rank: int, checks: str, port: int, folder: Path) -> None:
    """A forked process with the variables of torchrun."""
    ranks = str(CHECKS[checks][1])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": checks}
    measure(checks, folder)


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    if "RANK" in os.environ:
        measure(names[0], folder)
        return
    for checks in names:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        start_processes(as_rank, (checks, port, folder), nprocs=CHECKS[checks][1], start_method="fork")


if __name__ == "__main__":
    main()
