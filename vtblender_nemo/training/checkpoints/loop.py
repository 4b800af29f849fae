"""Lightning's loop over batches, which resumes where it stopped: also between a step and the validation that follows it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from vtblender_nemo.training.checkpoints.keeper import CheckpointKeeper


class ResumingLoop(_TrainingEpochLoop):
    """Calls the keeper where a step is over in every respect: its numbers are logged, and its batch is counted.

    Lightning's own hooks at the end of a step come before both, so that a checkpoint made in one resumes a batch too early; and
    it cannot tell a checkpoint before a validation from one after it.

    Args:
        trainer: the loop's trainer.
        keeper: writes checkpoints.
    """

    def __init__(self, trainer: Trainer, keeper: CheckpointKeeper) -> None:
        super().__init__(trainer, trainer.min_steps, trainer.max_steps)
        self._keeper = keeper
        self._validation_follows = False

    def advance(self, data_fetcher: Any) -> None:
        if not self._validation_follows:
            self._restarting = False  # else the base class would validate, before it trains the next batch
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        resumed, stepped = self.restarting, not self._should_accumulate()
        self._validation_follows = self._should_check_val_fx(data_fetcher)
        if self._validation_follows and stepped and not resumed:
            self._keeper.after_step(self.trainer, validation_follows=True)
        super().on_advance_end(data_fetcher)
        validated, self._validation_follows = self._validation_follows, False
        if validated:
            self._keeper.after_validation(self.trainer)
        elif stepped:
            self._keeper.after_step(self.trainer, validation_follows=False)

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {**super().on_save_checkpoint(), "validation_follows": self._validation_follows}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self._validation_follows = state_dict["validation_follows"]
