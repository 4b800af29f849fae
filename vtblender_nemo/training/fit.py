"""One training, from a configuration to a `.nemo`: build, resume where it stopped, fit, save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf, open_dict

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.models.vtblender import VTBlenderModel
from vtblender_nemo.training.callbacks import ForgetHistory, HistoryLogger, LogShares, RandomStates

HISTORY_FILE = "history.jsonl"
CONFIG_FILE = "config.yaml"
LOG_DIR = "training"
_FIXED_KEYS = ("model", "data", "seed", "warm_start")  # what makes a run another run


def build_model(cfg: DictConfig) -> VTBlenderModel:
    """The model of `cfg.model`, with random parts drawn from `cfg.seed`."""
    pl.seed_everything(cfg.seed, workers=True)
    return VTBlenderModel(OmegaConf.create(OmegaConf.to_container(cfg.model, resolve=True)))


def build_data(cfg: DictConfig, model: VTBlenderModel) -> BlendDataModule:
    """The blend of `cfg.data`, measured in the model's tokens and frames; skipped rows are listed in the output folder."""
    return BlendDataModule(
        cfg.data,
        chat_format=model.chat_format,
        token_equivalent_duration=model.token_equivalent_duration,
        sampling_rate=model.sampling_rate,
        skipped_path=Path(cfg.output_dir) / "skipped.jsonl",
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
        ConfigError: `output_dir` holds the run of another configuration.
    """
    directory = Path(cfg.output_dir)
    hold_to_config(cfg, directory / CONFIG_FILE)
    trainer = build_trainer(cfg.trainer, [LogShares(data), *(callbacks or [])])
    model.set_trainer(trainer)
    exp_manager(trainer, _exp_manager_config(cfg))
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


def build_trainer(cfg: DictConfig, callbacks: list[pl.Callback] | None = None) -> pl.Trainer:
    """Lightning's trainer. The blend has no end, so the steps of the training bound its one epoch."""
    settings: dict[str, Any] = {
        "logger": False,  # the host's exp_manager adds loggers and checkpoints
        "enable_checkpointing": False,
        "use_distributed_sampler": False,  # the blend deals rows to ranks itself
        "check_val_every_n_epoch": None,
        **OmegaConf.to_container(cfg, resolve=True),
    }
    if settings.get("max_steps", -1) <= 0:
        raise ConfigError(
            "training without end", value=settings.get("max_steps"), expected="> 0", knob="trainer.max_steps"
        )
    micro_batches = settings["max_steps"] * settings.get("accumulate_grad_batches", 1)
    settings.setdefault("limit_train_batches", micro_batches)  # gives the progress bar its end
    if settings.get("val_check_interval", 0) and settings["val_check_interval"] > micro_batches:
        raise ConfigError(
            "validation would never run",
            value=settings["val_check_interval"],
            expected=f"at most {micro_batches} micro-batches",
            knob="trainer.val_check_interval",
        )
    return pl.Trainer(callbacks=[RandomStates(), ForgetHistory(), *(callbacks or [])], **settings)


def hold_to_config(cfg: DictConfig, path: Path) -> None:
    """Keeps a run's configuration beside it, and refuses to go on with another one.

    Raises:
        ConfigError: the kept model, data or seed differ; the first differing key is named.
    """
    wanted = {key: OmegaConf.to_container(cfg[key], resolve=True) if key != "seed" else cfg[key] for key in _FIXED_KEYS}
    if path.exists():
        kept = OmegaConf.to_container(OmegaConf.load(path))
        for key, (old, new) in _differences({k: kept.get(k) for k in _FIXED_KEYS}, wanted).items():
            raise ConfigError(
                f"output_dir holds a run with another {key}",
                path=path,
                value=new,
                expected=repr(old),
                knob="output_dir, or delete the folder",
            )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)), path)


def _differences(old: Any, new: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for name in sorted({*old, *new}):
            found.update(_differences(old.get(name), new.get(name), f"{key}.{name}" if key else name))
        return found
    return {} if old == new else {key: (old, new)}


def _exp_manager_config(cfg: DictConfig) -> DictConfig:
    settings = OmegaConf.create(OmegaConf.to_container(cfg.exp_manager, resolve=True))
    with open_dict(settings):
        # a folder of its own: on every resume the host moves the files it finds there into run_0, run_1, ...
        settings.explicit_log_dir = str((Path(cfg.output_dir) / LOG_DIR).absolute())
        settings.resume_if_exists = True
        settings.resume_ignore_no_checkpoint = True
        settings.seconds_to_sleep = 0
    return settings


def _add_logger(trainer: pl.Trainer, logger: Logger) -> None:
    trainer.loggers = [*trainer.loggers, logger]
