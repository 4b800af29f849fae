"""When a checkpoint is written: by the clock, around validations, at the end, and before a stop that was asked for."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from vtblender_nemo.common.errors import ModelFileError
from vtblender_nemo.common.stopping import RUN_AGAIN, Stopped
from vtblender_nemo.training.checkpoints.config import CheckpointConfig
from vtblender_nemo.training.checkpoints.files import CheckpointFiles, checkpoint_name, checkpoints_in

logger = logging.getLogger(__name__)


class CheckpointKeeper(Checkpoint):
    """Writes the checkpoints that a training goes on from, and stops it when it is asked to.

    `ResumingLoop` calls it after every optimiser step, and after the validation that follows one. All ranks act alike: whatever
    one of them has noticed (a signal, its clock, a write that failed) is told to all after the step.

    Args:
        config: the section `checkpoints`.
        folder: where they are written.
        files: what writes them.
        clock: seconds since some moment; for tests.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        folder: Path,
        files: CheckpointFiles,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config.check()
        self._config, self._folder, self._files, self._clock = config, folder, files, clock
        self._last_save = clock()
        self._stop_at = None
        if config.stop_after_secs is not None:
            age = time.time() - psutil.Process().create_time()
            self._stop_at = clock() + config.stop_after_secs - age
        self._asked_by = 0
        self._over = threading.Event()
        self._handlers: dict[int, Any] = {}
        self._newest: Path | None = None

    # Signals ----------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_save = self._clock()
        for name in self._config.stop_signals:
            number = signal.Signals[name]
            self._handlers[number] = signal.signal(number, self._on_signal)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._put_back()

    def _put_back(self) -> None:
        self._over.set()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._asked_by:
            return
        self._asked_by = number
        threading.Thread(target=self._give_up_in_time, daemon=True).start()

    def _give_up_in_time(self) -> None:
        """Ends the process when the step, or the validation, does not end in time; what was saved before is whole."""
        if self._over.wait(self._config.stop_within_secs):
            return
        logger.error(
            "the step that ran did not end within %g s of the signal and is given up; %s goes on before it",
            self._config.stop_within_secs,
            self._newest or "the same command",
        )
        self._files.wait(self._config.stop_within_secs)
        os._exit(RUN_AGAIN)

    # After a step -----------------------------------------------------------------------------------------------------

    def after_step(self, trainer: Trainer, *, validation_follows: bool) -> None:
        """Writes a checkpoint where one is due, and stops where that was asked for.

        Raises:
            Stopped: everything is saved.
            ModelFileError: a checkpoint could not be written, and `on_failure` says stop.
        """
        step, last = trainer.global_step, trainer.global_step >= trainer.max_steps
        every = self._config.every_n_steps
        due = self._clock() - self._last_save >= self._config.every_secs or (every is not None and step % every == 0)
        out_of_time = self._stop_at is not None and self._clock() >= self._stop_at
        asked_by, due, out_of_time, failed = _of_any_rank(trainer, self._asked_by, due, out_of_time, self._files.failed)
        if failed:
            self._tell_of_failure(stop=self._config.on_failure == "stop")
        stop = bool(asked_by or out_of_time) and not last
        # after the last step nothing goes on but the validation, which is made again from a checkpoint before that step
        if stop or (validation_follows and not last) or ((due or last) and not validation_follows):
            self._save(trainer, validated=False)
        if stop:
            self._stop(trainer, signal.Signals(asked_by).name if asked_by else "checkpoints.stop_after_secs")

    def after_validation(self, trainer: Trainer) -> None:
        """Writes a checkpoint that knows the validation's scores."""
        self._save(trainer, validated=True)

    def _save(self, trainer: Trainer, *, validated: bool) -> None:
        for own in trainer.loggers:
            own.save()
        path = self._folder / checkpoint_name(trainer.global_step, validated=validated)
        trainer.save_checkpoint(path)
        self._newest, self._last_save = path, self._clock()
        if trainer.is_global_zero:
            others = [one for one in checkpoints_in(self._folder) if one != path]
            for one in others[: max(0, len(others) + 1 - self._config.keep)]:
                self._files.remove_checkpoint(one)

    def _stop(self, trainer: Trainer, why: str) -> None:
        self._files.wait()
        if any(_of_any_rank(trainer, self._files.failed)):
            self._tell_of_failure(stop=True)
        raise Stopped(
            f"stopped by {why} after step {trainer.global_step} of {trainer.max_steps}; "
            f"{self._newest} holds it, and the same command goes on"
        )

    def _tell_of_failure(self, *, stop: bool) -> None:
        failure = self._files.take_failure() or ModelFileError("another rank could not write a checkpoint")
        if stop:
            raise failure
        logger.error("%s; training goes on", failure)


def _of_any_rank(trainer: Trainer, *values: int) -> list[int]:
    """The largest of each value over all ranks."""
    if trainer.world_size == 1:
        return list(values)
    together = torch.tensor(values, dtype=torch.int64, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MAX)
    return together.tolist()
