"""One training step on this rank's share of four conversations; run by `test_ddp.py`, alone or under torchrun.

python -m tests.recipes.ddp_step LLM_FOLDER CANARY_FILE OUTPUT SHARES      # SHARES: rows of each rank, as 0,1/2,3
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.helpers.models import assistant, audio_part, model_config, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.models.generation import collate

ROWS = [
    [user("hello"), assistant("a longer answer than the others have")],
    [user("one"), assistant("two"), user("three"), assistant("4")],
    [user("Transcribe:", audio_part(1.1, 1)), assistant("yes")],
    [user(audio_part(0.5, 2), "and", audio_part(0.8, 3)), assistant("no")],
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
        if trainer.is_global_zero:
            grads = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            torch.save(grads, self.path)


def main() -> None:
    llm, canary, output, shares = sys.argv[1:]
    of_ranks = [[int(row) for row in share.split(",")] for share in shares.split("/")]
    pl.seed_everything(0)
    model = VTBlenderModel(model_config(Path(llm), Path(canary), optim={"sched": {"warmup_steps": 0}})).eval()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=len(of_ranks),
        strategy="ddp_find_unused_parameters_true" if len(of_ranks) > 1 else "auto",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[KeepGradients(Path(output))],
    )
    trainer.fit(model, DataLoader(Share(model, of_ranks[trainer.global_rank]), batch_size=None))


if __name__ == "__main__":
    main()
