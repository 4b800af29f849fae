"""One training, from a configuration to a `.nemo`: build, resume where it stopped, fit, save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf, open_dict

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.parallel import data_rank, layout
from vtblender_nemo.common.precision import bf16_is_fast
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.models.vtblender import VTBlenderModel
from vtblender_nemo.training.callbacks import ForgetHistory, HistoryLogger, LogShares, RandomStates
from vtblender_nemo.training.checks import (
    check_parallel_trainer,
    runs_on_cpu,
    saved_checkpoint,
    steps_between_validations,
)
from vtblender_nemo.training.imitation_checks import check_answering_llm, check_twins
from vtblender_nemo.training.run_config import hold_to_config
from vtblender_nemo.training.tensor_parallel import TensorParallelStrategy

HISTORY_FILE = "history.jsonl"
CONFIG_FILE = "config.yaml"
LOG_DIR = "training"


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
    """Trains to `trainer.max_steps`, from the last checkpoint in `output_dir` where there is one.

    Args:
        cfg: the whole configuration.
        model: trained in place.
        data: the blend and the validation sets.
        callbacks: beside those that every training has.

    Returns:
        The trainer, which knows the checkpoints.

    Raises:
        ConfigError: `output_dir` holds the run of another configuration, or this one cannot be run; see `training.checks`.
    """
    directory = Path(cfg.output_dir)
    hold_to_config(cfg, directory / CONFIG_FILE)
    validated = bool(data.validation_names)
    saved_checkpoint(cfg.save_checkpoint, validated=validated)
    trainer = build_trainer(
        cfg.trainer,
        [LogShares(data), *(callbacks or [])],
        validated=validated,
        tensor_parallel=cfg.model.get("tensor_parallel", 1),
    )
    model.set_trainer(trainer)
    exp_manager(trainer, _exp_manager_config(cfg, scored=validated))
    _add_logger(trainer, HistoryLogger(directory / HISTORY_FILE))
    trainer.fit(model, datamodule=data, ckpt_path=trainer.ckpt_path)
    return trainer


def load_best(trainer: pl.Trainer, model: VTBlenderModel) -> None:
    """Puts back the weights of the checkpoint with the best score.

    Raises:
        ConfigError: no validation has run, so that no checkpoint was scored.
    """
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path:
        raise ConfigError(
            "no checkpoint was scored", expected="a validation in time", knob="trainer.val_check_interval"
        )
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False)["state_dict"])


def build_trainer(
    cfg: DictConfig, callbacks: list[pl.Callback] | None = None, *, validated: bool = True, tensor_parallel: int = 1
) -> pl.Trainer:
    """Lightning's trainer. The blend has no end, so the steps of the training bound its one epoch.

    Args:
        cfg: arguments of `lightning.pytorch.Trainer`; `val_check_interval` counts optimiser steps, `precision: auto` is
            bf16-mixed where the device is fast in it, else 32-true, and `strategy: auto` bears ranks without audio.
        callbacks: beside those that every training has.
        validated: whether there are validation sets.
        tensor_parallel: processes that hold one model.

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
    if tensor_parallel > 1:
        check_parallel_trainer(settings)
        settings["strategy"] = TensorParallelStrategy()
    elif settings.get("strategy", "auto") == "auto" and _may_be_distributed(settings):
        settings["strategy"] = "ddp_find_unused_parameters_true"  # a batch without audio leaves parts without gradients
    return pl.Trainer(callbacks=[RandomStates(), ForgetHistory(), *(callbacks or [])], **settings)


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
    """The host's settings for this run; without validation sets, checkpoints are made by steps and the last one is kept."""
    settings = OmegaConf.create(OmegaConf.to_container(cfg.exp_manager, resolve=True))
    with open_dict(settings):
        # a folder of its own: on every resume the host moves the files it finds there into run_0, run_1, ...
        settings.explicit_log_dir = str((Path(cfg.output_dir) / LOG_DIR).absolute())
        settings.resume_if_exists = True
        settings.resume_ignore_no_checkpoint = True
        settings.seconds_to_sleep = 0
        if not scored and settings.get("create_checkpoint_callback", True):
            every = steps_between_validations(cfg.trainer, validated=False)
            settings.checkpoint_callback_params.update(
                {"monitor": "train_loss", "mode": "min", "every_n_train_steps": every, "every_n_epochs": None}
            )
    return settings


def _add_logger(trainer: pl.Trainer, logger: Logger) -> None:
    trainer.loggers = [*trainer.loggers, logger]
