"""Training steps on ranks that share some conversations; run by `test_ddp.py`.

python -m tests.recipes.ddp_step LLM_FOLDER CANARY_FILE FOLDER     # which gets the gradients of every step in `STEPS`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, IterableDataset

from tests.helpers.models import assistant, audio_part, model_config, user
from tests.helpers.ranks import run_ranks
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.models.generation import collate
from vtblender_nemo.training.replicated import ReplicatedStrategy
from vtblender_nemo.training.sharded import ShardedStrategy

ROWS = [
    [user("hello"), assistant("a longer answer than the others have")],
    [user("one"), assistant("two"), user("three"), assistant("4")],
    [user("Transcribe:", audio_part(1.1, 1)), assistant("yes")],
    [user(audio_part(0.5, 2), "and", audio_part(0.8, 3)), assistant("no")],
    [user("nothing is learned here")],
]


class Share(IterableDataset):
    """The rows of one rank, as one batch."""

    def __init__(self, model: VTBlenderModel, rows: list[int]) -> None:
        self.model, self.rows = model, rows

    def __iter__(self) -> Iterator[Batch]:
        chats = [from_messages(ROWS[row], id=str(row)) for row in self.rows]
        yield collate(chats, self.model.chat_format, self.model.sampling_rate)


class KeepGradients(pl.Callback):
    """Writes the gradients that the optimiser was given."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        grads = {name: whole(p.grad) for name, p in pl_module.named_parameters() if p.grad is not None}
        if trainer.is_global_zero:
            torch.save(grads, self.path)


def whole(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


STEPS = {
    "alone": ("auto", "0,1,2,3"),
    "replicated": ("replicated", "0,1/2,3"),
    "sharded": ("sharded", "0,1/2,3"),
    "sharded_uneven": ("sharded", "0/4/1,2/3"),  # one without audio, one without targets
    "alone_soft": ("auto", "0,1,2,3"),
    "replicated_soft": ("replicated", "0,1/2,3"),
    "sharded_soft": ("sharded", "0,1/2,3"),
}
"""Strategy, and the rows of each rank; those named soft are with soft tokens."""


def make_strategy(name: str) -> Any:
    timeout = timedelta(minutes=5)
    return {"auto": "auto", "replicated": ReplicatedStrategy(timeout), "sharded": ShardedStrategy(timeout=timeout)}[
        name
    ]


def step(llm: str, canary: str, output: Path, strategy: str, shares: str, soft_tokens: bool) -> None:
    """What one rank does."""
    of_ranks = [[int(row) for row in share.split(",")] for share in shares.split("/")]
    pl.seed_everything(0)
    perception = {"soft_tokens": soft_tokens, "separator": not soft_tokens}
    config = model_config(Path(llm), Path(canary), optim={"sched": {"warmup_steps": 0}}, perception=perception)
    model = VTBlenderModel(config).eval()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=len(of_ranks),
        strategy=make_strategy(strategy),
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[KeepGradients(output)],
    )
    trainer.fit(model, DataLoader(Share(model, of_ranks[trainer.global_rank]), batch_size=None))


def main() -> None:
    llm, canary, folder = sys.argv[1:]
    for name, (strategy, shares) in STEPS.items():
        output, soft_tokens = Path(folder) / f"{name}.pt", name.endswith("soft")
        run_ranks(step, shares.count("/") + 1, llm, canary, output, strategy, shares, soft_tokens)


if __name__ == "__main__":
    main()
