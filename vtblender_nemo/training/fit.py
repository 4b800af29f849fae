"""One training, from a configuration to a `.nemo`: build, resume where it stopped, fit, save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf, open_dict

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.parallel import data_rank, layout
from vtblender_nemo.common.precision import bf16_is_fast
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.data.typed import read_config
from vtblender_nemo.models.vtblender import VTBlenderModel
from vtblender_nemo.training.callbacks import HistoryLogger, LogShares, RandomStates, ResumeHistory
from vtblender_nemo.training.checkpoints.config import CheckpointConfig
from vtblender_nemo.training.checkpoints.files import CheckpointFiles, checkpoints_in
from vtblender_nemo.training.checkpoints.keeper import CheckpointKeeper
from vtblender_nemo.training.checkpoints.loop import ResumingLoop
from vtblender_nemo.training.checks import (
    check_parallel_trainer,
    longest_wait,
    runs_on_cpu,
    saved_checkpoint,
    steps_between_validations,
)
from vtblender_nemo.training.guards import GuardConfig, StepGuard
from vtblender_nemo.training.imitation_checks import check_answering_llm, check_twins
from vtblender_nemo.training.replicated import ReplicatedStrategy, SameStatistics
from vtblender_nemo.training.run_config import hold_to_config
from vtblender_nemo.training.sharded import SHARDED, ShardedStrategy, WholeInValidation, check_sharding
from vtblender_nemo.training.tensor_parallel import TensorParallelStrategy

HISTORY_FILE = "history.jsonl"
CONFIG_FILE = "config.yaml"
LOG_DIR = "training"
RESUME_DIR = "resume"
BAD_STEPS_FILE = "bad_steps.jsonl"


def build_model(cfg: DictConfig) -> VTBlenderModel:
    """The model of `cfg.model`, with random parts drawn from `cfg.seed`, in train mode."""
    pl.seed_everything(cfg.seed, workers=True)
    model = VTBlenderModel(OmegaConf.create(OmegaConf.to_container(cfg.model, resolve=True))).train()
    seed_for_training(cfg)
    return model


def seed_for_training(cfg: DictConfig) -> None:
    """Gives every rank random numbers of its own, the same at every start; ranks that hold one model have the same."""
    rank = data_rank()[0] if layout().tensor_size > 1 else rank_zero_only.rank or 0
    pl.seed_everything(cfg.seed + rank, workers=True)


def build_data(cfg: DictConfig, model: VTBlenderModel) -> BlendDataModule:
    """The blend of `cfg.data`, as `open_data`, that is known to have what `model.imitation` asks for.

    Raises:
        ConfigError: it has not, or another LLM wrote answers that are to be imitated.
    """
    check_twins(model.speech_llm.imitation, cfg.data.train_ds)
    check_answering_llm(cfg.data.train_ds, model)
    return open_data(cfg, model)


def open_data(cfg: DictConfig, model: VTBlenderModel) -> BlendDataModule:
    """The blend of `cfg.data`, measured in the model's tokens and frames; skipped rows are listed in the output folder."""
    return BlendDataModule(
        cfg.data,
        chat_format=model.chat_format,
        token_equivalent_duration=model.token_equivalent_duration,
        sampling_rate=model.sampling_rate,
        skipped_path=Path(cfg.output_dir) / "skipped.jsonl",
        extra_frames=model.perception.extra_frames,
        twins=model.speech_llm.imitation.needs_twins,
    )


def fit(
    cfg: DictConfig, model: VTBlenderModel, data: BlendDataModule, callbacks: list[pl.Callback] | None = None
) -> pl.Trainer:
    """Trains to `trainer.max_steps`, from the last whole checkpoint in `output_dir` where there is one.

    Args:
        cfg: the whole configuration.
        model: trained in place.
        data: the blend and the validation sets.
        callbacks: beside those that every training has.

    Returns:
        The trainer, which knows the best checkpoint.

    Raises:
        ConfigError: `output_dir` holds the run of another configuration, or this one cannot be run; see `training.checks`.
        ModelFileError: no checkpoint of the run is whole, or one could not be written.
        TrainingError: too many steps in a row whose loss or gradient is no number.
        Stopped: a signal or the time limit ended it before its last step; the same call goes on.
    """
    directory = Path(cfg.output_dir)
    hold_to_config(cfg, directory / CONFIG_FILE)
    validated = bool(data.validation_names)
    saved_checkpoint(cfg.save_checkpoint, validated=validated)
    kept = read_config(CheckpointConfig, cfg.get("checkpoints") or {}, "checkpoints")
    files = CheckpointFiles(asynchronous=kept.asynchronous)
    guard = StepGuard(read_config(GuardConfig, cfg.get("guards") or {}, "guards"), directory / BAD_STEPS_FILE)
    check_sharding(cfg)
    trainer = build_trainer(
        cfg.trainer,
        [guard, LogShares(data), *(callbacks or [])],
        validated=validated,
        tensor_parallel=cfg.model.get("tensor_parallel", 1),
        files=files,
    )
    model.set_trainer(trainer)
    exp_manager(trainer, _exp_manager_config(cfg, scored=validated))
    _add_logger(trainer, HistoryLogger(directory / HISTORY_FILE))
    folder = directory / LOG_DIR / RESUME_DIR
    _refuse_older(directory, folder)
    keeper = CheckpointKeeper(kept, folder.absolute(), files)
    trainer.callbacks.append(keeper)
    trainer.fit_loop.epoch_loop = ResumingLoop(trainer, keeper)
    trainer.fit(model, datamodule=data, ckpt_path=str(folder) if checkpoints_in(folder) else None)
    return trainer


def load_best(trainer: pl.Trainer, model: VTBlenderModel) -> None:
    """Puts back the weights of the checkpoint with the best score.

    Raises:
        ConfigError: no validation has run, so that no checkpoint was scored.
        ModelFileError: the checkpoint is damaged, or could not be written.
    """
    best = next((own for own in trainer.checkpoint_callbacks if isinstance(own, ModelCheckpoint)), None)
    if best is None or not best.best_model_path:
        raise ConfigError(
            "no checkpoint was scored", expected="a validation in time", knob="trainer.val_check_interval"
        )
    model.load_state_dict(trainer.strategy.checkpoint_io.load_checkpoint(best.best_model_path)["state_dict"])


def build_trainer(
    cfg: DictConfig,
    callbacks: list[pl.Callback] | None = None,
    *,
    validated: bool = True,
    tensor_parallel: int = 1,
    files: CheckpointFiles | None = None,
) -> pl.Trainer:
    """Lightning's trainer. The blend has no end, so the steps of the training bound its one epoch.

    Args:
        cfg: arguments of `lightning.pytorch.Trainer`; `val_check_interval` counts optimiser steps, `precision: auto` is
            bf16-mixed where the device is fast in it, else 32-true, `strategy: auto` is `ReplicatedStrategy` for several
            processes, and `sharded` is `ShardedStrategy`; `timeout_secs` is how long a process waits for the others.
        callbacks: beside those that every training has.
        validated: whether there are validation sets.
        tensor_parallel: processes that hold one model.
        files: what writes checkpoints; None for Lightning's own.

    Raises:
        ConfigError: no end, or no validation before the end; a strategy or precision that tensor parallelism does not go with.
    """
    settings: dict[str, Any] = {
        "logger": False,  # the host's exp_manager adds loggers and checkpoints
        "enable_checkpointing": False,
        "use_distributed_sampler": False,  # the blend deals rows to ranks itself
        "check_val_every_n_epoch": None,
        **OmegaConf.to_container(cfg, resolve=True),
    }
    interval = steps_between_validations(settings, validated=validated)
    steps, accumulate = settings["max_steps"], settings.get("accumulate_grad_batches", 1)
    settings["val_check_interval"] = interval * accumulate  # Lightning counts micro-batches
    settings.setdefault("limit_train_batches", steps * accumulate)  # gives the progress bar its end
    settings["precision"] = resolve_precision(
        settings.get("precision", "auto"), settings.get("accelerator", "auto"), tensor_parallel=tensor_parallel
    )
    timeout = longest_wait(settings)
    settings.pop("timeout_secs", None)
    own = [RandomStates(), ResumeHistory(), SameStatistics()]
    if tensor_parallel > 1:
        check_parallel_trainer(settings)
        settings["strategy"] = TensorParallelStrategy(timeout=timeout)
    elif settings.get("strategy") == SHARDED:
        settings["strategy"] = ShardedStrategy(timeout=timeout)
        own.append(WholeInValidation())
    elif settings.get("strategy", "auto") == "auto" and _may_be_distributed(settings):
        settings["strategy"] = ReplicatedStrategy(timeout)
    plugins: list[Any] = [] if files is None else [files]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # the job's script queues it again, on our exit status
    return pl.Trainer(callbacks=[*own, *(callbacks or [])], plugins=plugins, **settings)


def resolve_precision(precision: str, accelerator: str, *, tensor_parallel: int = 1) -> str:
    """`auto` as bf16-mixed where that is fast, else 32-true."""
    if precision != "auto":
        return precision
    if tensor_parallel > 1 and runs_on_cpu(accelerator):
        return "32-true"  # see `check_parallel_trainer`
    return "bf16-mixed" if bf16_is_fast(accelerator) else "32-true"


def _may_be_distributed(settings: dict[str, Any]) -> bool:
    devices = settings.get("devices", "auto")
    if devices == "auto":
        devices = torch.cuda.device_count() if settings.get("accelerator", "auto") != "cpu" else 1
    return settings.get("num_nodes", 1) > 1 or devices not in (0, 1, "1")


def _exp_manager_config(cfg: DictConfig, *, scored: bool) -> DictConfig:
    """The host's settings for this run: it keeps the weights with the best score, where there are scores.

    Raises:
        ConfigError: the host's own time limit, which would end the run without a checkpoint to go on from.
    """
    settings = OmegaConf.create(OmegaConf.to_container(cfg.exp_manager, resolve=True))
    if settings.get("max_time_per_run"):
        raise ConfigError(
            "the host's time limit does not know the checkpoints that a run goes on from",
            value=settings.max_time_per_run,
            expected="seconds in checkpoints.stop_after_secs",
            knob="exp_manager.max_time_per_run=null",
        )
    with open_dict(settings):
        # a folder of its own: the host moves the files that it finds there into run_0, run_1, ...
        settings.explicit_log_dir = str((Path(cfg.output_dir) / LOG_DIR).absolute())
        settings.resume_if_exists = False
        settings.disable_validation_on_resume = False
        settings.create_preemption_callback = False  # it wants a GPU; `CheckpointKeeper` stops on signals
        settings.seconds_to_sleep = 0
        settings.create_checkpoint_callback = scored and settings.get("create_checkpoint_callback", True)
    return settings


def _refuse_older(directory: Path, folder: Path) -> None:
    """Older versions kept one checkpoint to go on from, in the host's folder: without a word, their runs would begin anew."""
    older = sorted((directory / LOG_DIR / "checkpoints").glob("*-last.ckpt"))
    if older and not checkpoints_in(folder):
        raise ConfigError(
            "the run was begun by an older version, whose checkpoints this one does not go on from",
            path=older[-1],
            expected="that version, or a new folder",
            knob="output_dir",
        )


def _add_logger(trainer: pl.Trainer, logger: Logger) -> None:
    trainer.loggers = [*trainer.loggers, logger]
