"""What can be wrong in a run's configuration, found before any model is loaded and told together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.distributed.constants import default_pg_timeout

from vtblender_nemo.common.chat import PromptIds
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.nemo_archive import check_archive
from vtblender_nemo.common.parallel import check_tensor_parallel, launcher
from vtblender_nemo.common.trusted_classes import VTBLENDER
from vtblender_nemo.data.blend import Encoder
from vtblender_nemo.data.config import TrainConfig, ValidationConfig
from vtblender_nemo.data.loader import ValidationLoader, make_planner
from vtblender_nemo.data.typed import mapping, read_config
from vtblender_nemo.data.weighted import read_sources
from vtblender_nemo.modules.soft_tokens import check_soft_tokens
from vtblender_nemo.training.imitation_checks import check_twins, read_imitation
from vtblender_nemo.training.optim import check_schedule
from vtblender_nemo.training.ranks import is_batch_script, is_launched, launched_processes

CHECKPOINTS = ("auto", "best", "last")


def check_config(cfg: DictConfig, made: str | None = None) -> None:
    """Looks at everything that can be judged without the models: settings, devices, files, every source of the blend.

    Args:
        cfg: the whole configuration.
        made: a folder that the run makes first; files in it are not looked for.

    Raises:
        ConfigError: what is wrong, all of it.
    """
    checks: list[Callable[[DictConfig], object]] = [
        _check_missing,
        lambda cfg: check_schedule(cfg.model.optim.sched, cfg.trainer.max_steps),
        lambda cfg: saved_checkpoint(cfg.save_checkpoint, validated=_is_validated(cfg)),
        lambda cfg: steps_between_validations(cfg.trainer, validated=_is_validated(cfg)),
        lambda cfg: longest_wait(cfg.trainer),
        _check_devices,
        _check_quantization,
        _check_tensor_parallel,
        lambda cfg: _check_imitation(cfg, made),
        lambda cfg: _check_models(cfg, made),
        lambda cfg: _check_training_data(cfg, made),
        lambda cfg: _check_validation_data(cfg, made),
        lambda cfg: _check_warm_start(cfg, made),
        _check_soft_tokens,
    ]
    problems = [problem for check in checks for problem in _problems(check, cfg)]
    if len(problems) > 1:
        lines = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(problems, 1))
        raise ConfigError(f"{len(problems)} things are wrong in the configuration:{lines}")
    if problems:
        raise problems[0]


def longest_wait(trainer: Mapping[str, Any] | DictConfig) -> timedelta:
    """How long a process waits for the others before it ends the training; PyTorch's own time where none is given.

    Raises:
        ConfigError: not a time.
    """
    secs = trainer.get("timeout_secs")
    if secs is None:
        return default_pg_timeout
    if isinstance(secs, bool) or not isinstance(secs, int | float) or not secs > 0:
        raise ConfigError("no time to wait", value=secs, expected="seconds, more than 0", knob="trainer.timeout_secs")
    return timedelta(seconds=secs)


def saved_checkpoint(choice: str, *, validated: bool) -> str:
    """Which weights a training keeps: `best` or `last`.

    Args:
        choice: `save_checkpoint`; `auto` is the best where there are validation sets, else the last.
        validated: whether there are validation sets.

    Raises:
        ConfigError: an unknown choice, or the best of what is never scored.
    """
    if choice not in CHECKPOINTS:
        raise ConfigError(
            "unknown choice", value=choice, expected=f"one of {', '.join(CHECKPOINTS)}", knob="save_checkpoint"
        )
    if choice == "best" and not validated:
        raise ConfigError(
            "without validation sets no checkpoint is the best",
            expected="sets in data.validation_ds, or the last checkpoint",
            knob="data.validation_ds.sets, or save_checkpoint=last",
        )
    return choice if choice != "auto" else "best" if validated else "last"


def steps_between_validations(cfg: Any, *, validated: bool) -> int:
    """Optimiser steps from one validation, and checkpoint, to the next.

    Args:
        cfg: `trainer`, with `max_steps` and `val_check_interval` (null: at the end).
        validated: whether there are validation sets; without, checkpoints alone are made so, the last at the end.

    Raises:
        ConfigError: no end, or no validation before the end.
    """
    steps = cfg.get("max_steps", -1)
    if steps <= 0:
        raise ConfigError("training without end", value=steps, expected="> 0", knob="trainer.max_steps")
    interval = int(cfg.get("val_check_interval") or steps)
    if interval > steps and validated:
        raise ConfigError(
            "validation would never run",
            value=interval,
            expected=f"at most {steps} steps",
            knob="trainer.val_check_interval",
        )
    return min(interval, steps)


def _problems(check: Callable[[DictConfig], object], cfg: DictConfig) -> Iterator[ConfigError]:
    try:
        check(cfg)
    except ConfigError as error:
        yield error


def _check_missing(cfg: DictConfig) -> None:
    keys = OmegaConf.missing_keys(cfg)
    if cfg.data.train_ds.get("fusion", "rows") == "rows":
        keys = {key for key in keys if not key.startswith("data.train_ds.samplers.")}
    if keys:
        raise ConfigError("values have to be given", knob=" ".join(f"{key}=..." for key in sorted(keys)))


def _check_devices(cfg: DictConfig) -> None:
    trainer = cfg.trainer
    nodes = trainer.get("num_nodes", 1)
    if is_launched():
        _check_launched(trainer, nodes)
        return
    if {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
        return  # a user told this node its place, or Lightning started this process
    if nodes > 1:
        raise ConfigError(
            "several nodes need a launcher on each: alone, this process would wait for the others for ever",
            value=f"trainer.num_nodes={nodes}, and no variables of torchrun, SLURM or MPI in the environment",
            expected="srun or torchrun, or one node",
            knob="hardware=one_machine (or gpu_80gb, gpu_24gb), or trainer.num_nodes=1 trainer.devices=auto",
        )
    wanted, found = _count(trainer.get("devices", "auto")), _devices_here(trainer.get("accelerator", "auto"))
    if found is not None and (found == 0 or (wanted or 0) > found):
        raise ConfigError(
            "this machine has not so many devices",
            value={"trainer.accelerator": trainer.get("accelerator"), "trainer.devices": trainer.get("devices")},
            expected=f"at most {found}" if found else "a GPU, or trainer.accelerator=cpu",
            knob="hardware=one_machine, or trainer.devices, trainer.accelerator",
        )


def _check_launched(trainer: DictConfig, nodes: int) -> None:
    """Processes that nobody counts on would each train alone, into one folder; those that are not there are waited for."""
    started = launched_processes()
    if started is None:
        return
    if started > 1 and is_batch_script():
        raise ConfigError(
            "this process is SLURM's batch script, and would wait for its other tasks for ever",
            value=f"{started} tasks, and none of them started by srun",
            expected="srun before the command, as in examples/slurm/train.sbatch",
        )
    devices = _count(trainer.get("devices", "auto"))
    if devices is None:  # Lightning's own choice
        devices = torch.cuda.device_count() if trainer.get("accelerator", "auto") != "cpu" else 0
    if nodes * max(devices, 1) != started:
        raise ConfigError(
            "the launcher started another number of processes than the trainer has devices",
            value=f"{started} processes; trainer.num_nodes={nodes}, {max(devices, 1)} devices on each",
            expected="one process a device, and every process sees all devices of its node",
            knob="trainer.num_nodes, trainer.devices, or torchrun --nnodes --nproc-per-node, srun --nodes --ntasks-per-node",
        )


def _count(devices: Any) -> int | None:
    """How many devices are asked for; None for as many as there are."""
    if OmegaConf.is_list(devices):
        return len(devices)
    try:
        count = int(devices)
    except ValueError:
        return None if devices == "auto" else len(str(devices).split(","))
    return None if count < 0 else count


def _devices_here(accelerator: str) -> int | None:
    """How many devices this machine has; None where that is not known."""
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return None if torch.backends.mps.is_available() else torch.cuda.device_count()
    return os.cpu_count() if accelerator == "cpu" else None


def _check_quantization(cfg: DictConfig) -> None:
    kind = cfg.model.get("quantization")
    if kind not in (None, "4bit"):
        raise ConfigError("unknown quantization", value=kind, expected="null or 4bit", knob="model.quantization")
    if kind and (cfg.trainer.accelerator == "cpu" or not torch.cuda.is_available()):
        raise ConfigError(
            "4-bit weights need a CUDA device", value=kind, knob="model.quantization=null, or another hardware=..."
        )


def _check_tensor_parallel(cfg: DictConfig) -> None:
    check_tensor_parallel(cfg.model)
    size = cfg.model.get("tensor_parallel", 1)
    if size == 1:
        return
    kind = launcher()
    processes = None if kind is None else kind().world_size()
    if processes is None or processes % size:
        raise ConfigError(
            "tensor parallelism takes its processes from a launcher, and their number is a multiple of it",
            value=f"{size}, and {'no launcher' if processes is None else f'{processes} processes'}",
            expected=f"torchrun --nproc-per-node={size} (or a multiple of {size}) examples/train_vtb.py ..., or srun",
            knob="model.tensor_parallel=1, or the command",
        )
    if (cfg.get("warm_start") or {}).get("steps"):
        raise ConfigError(
            "a warm start is made in one process, and its LLM is whole",
            value=f"warm_start.steps={cfg.warm_start.steps} with model.tensor_parallel={size}",
            expected="one of both",
            knob="warm_start.steps=0, or model.tensor_parallel=1",
        )
    check_parallel_trainer(cfg.trainer)


def check_parallel_trainer(trainer: Any) -> None:
    """Looks at what in the `trainer` section does not go with tensor parallelism.

    Raises:
        ConfigError: another strategy than its own, or mixed precision on a CPU.
    """
    if trainer.get("strategy", "auto") != "auto":
        raise ConfigError(
            "tensor parallelism has a strategy of its own",
            value=trainer.get("strategy"),
            expected="auto",
            knob="trainer.strategy",
        )
    precision = str(trainer.get("precision", "auto"))
    if runs_on_cpu(trainer.get("accelerator", "auto")) and precision not in ("auto", "32-true", "32"):
        raise ConfigError(
            "megatron-core's layers have no mixed precision on a CPU: their backward pass would mix types",
            value=precision,
            expected="32-true",
            knob="trainer.precision",
        )


def runs_on_cpu(accelerator: str) -> bool:
    """Whether Lightning's accelerator of this name is a CPU."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


def _check_imitation(cfg: DictConfig, made: str | None) -> None:
    settings, train_ds = read_imitation(cfg.model), cfg.data.train_ds
    if not lies_in(train_ds, made) and not OmegaConf.missing_keys(train_ds):
        check_twins(settings, train_ds)


def _check_models(cfg: DictConfig, made: str | None) -> None:
    """Files and folders alone: names of the hub are looked up when models are loaded."""
    for key in ("pretrained_llm", "pretrained_asr", "init_from"):
        path = "" if OmegaConf.is_missing(cfg.model, key) else cfg.model.get(key) or ""
        is_path = path.startswith(("/", ".", "~")) or path.endswith(".nemo")
        if is_path and not lies_in(path, made) and not Path(path).exists():
            raise ConfigError("no such file or folder", path=path, knob=f"model.{key}")


def _check_training_data(cfg: DictConfig, made: str | None) -> None:
    config = read_config(TrainConfig, cfg.data.train_ds, "data.train_ds")
    if config.fusion == "randomized_round_robin" and config.input_cfg is not None:
        raise ConfigError(
            "input_cfg beside samplers would not be read",
            value=config.input_cfg,
            expected="--config-name vtb_blend, which draws from one blend by rows; or input_cfg inside each of samplers",
            knob="data.train_ds.input_cfg",
        )
    config.check("data.train_ds")
    if not lies_in([config.input_cfg, config.samplers], made) and not OmegaConf.missing_keys(cfg.data.train_ds):
        make_planner(config, _ENCODER)


def _check_validation_data(cfg: DictConfig, made: str | None) -> None:
    if not _is_validated(cfg):
        return
    config = read_config(ValidationConfig, cfg.data.validation_ds, "data.validation_ds")
    config.check("data.validation_ds")
    for name, values in config.sets.items():
        if not lies_in(values, made):
            ValidationLoader(name, config, _ENCODER)


def _check_warm_start(cfg: DictConfig, made: str | None) -> None:
    warm = cfg.get("warm_start")
    if warm and warm.steps and not lies_in(warm.input_cfg, made):
        sources = read_sources(warm.input_cfg, sampling_rate=_ENCODER.sampling_rate, place="warm_start.input_cfg")
        for name in [one.source.name for one in sources if one.source.config.interleave is not None]:
            raise ConfigError(
                "a warm start hears all of its transcripts",
                value=name,
                expected="sources without interleave",
                knob="warm_start.input_cfg",
            )


def _check_soft_tokens(cfg: DictConfig) -> None:
    check_soft_tokens(cfg.model)
    if not cfg.model.perception.get("soft_tokens", False):
        return
    start = cfg.model.get("init_from")
    if start and Path(start).is_file():
        if not (check_archive(start, VTBLENDER).get("perception") or {}).get("soft_tokens", False):
            raise ConfigError(
                "the model to start from has no soft tokens",
                value=start,
                expected="one with them",
                knob="model.init_from",
            )
    elif not (cfg.get("warm_start") or {}).get("steps"):
        raise ConfigError(
            "soft tokens have to be learned from transcripts before an LLM can read them",
            value="no warm start, and no model to start from",
            expected="one of both",
            knob="warm_start.steps, or model.init_from",
        )


def _is_validated(cfg: DictConfig) -> bool:
    return bool((cfg.data.get("validation_ds") or {}).get("sets"))


def lies_in(value: Any, folder: str | None) -> bool:
    """Whether a path, or one anywhere in a list of sources, lies in a folder (None: in none)."""
    if folder is None:
        return False
    if isinstance(value, dict) or OmegaConf.is_dict(value):
        return any(lies_in(item, folder) for item in mapping(value, "").values())
    if isinstance(value, list) or OmegaConf.is_list(value):
        return any(lies_in(item, folder) for item in value)
    return isinstance(value, str) and Path(value).is_relative_to(folder)


class _NoTokens:
    """Stands for the chat format while sources are opened: no row is read."""

    audio_locator_id = -1

    def encode(self, turns: Any) -> PromptIds:
        raise AssertionError("no row is encoded before the tokenizer is there")


_ENCODER = Encoder(_NoTokens(), token_equivalent_duration=0.08, sampling_rate=16000)
