"""A run's configuration, kept beside it: what decides the result may not change between a stop and going on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.models.target_loss import Imitation

# What decides the result. Validation, workers, devices and logging may change from one start to the next.
_SECTIONS = ("seed", "tiny", "model", "warm_start", "save_checkpoint")
_TRAINER_KEYS = ("max_steps", "accumulate_grad_batches", "precision", "gradient_clip_val")
_FREE = (
    "model.validation",
    "model.tensor_parallel",
    "tiny.directory",
    "tiny.checkpoint_secs",
    "data.train_ds.num_workers",
    "data.train_ds.worker_timeout_secs",
    "data.train_ds.max_bad_share",
    "warm_start.accelerator",
    "warm_start.keep_in",
    "tiny.sets.multi_turn",
    "tiny.sets.novel_",
    "tiny.sets.several_turns",
    "tiny.sets.spoken_requests",
    "tiny.sets.voices",
    "tiny.sets.generalisation",
)
_NEW = {"tiny.sets": None, "model.imitation": vars(Imitation()), "model.perception.soft_tokens": False}
"""Keys that runs of before lack, and what they would have held to come to the same results; None: whatever they hold."""


def hold_to_config(cfg: DictConfig, path: Path) -> None:
    """Keeps a run's configuration, and refuses to go on with another one.

    Args:
        cfg: the whole configuration.
        path: where it is kept.

    Raises:
        ConfigError: a value that decides the result differs; the first such key is named.
    """
    check_same_run(cfg, path)
    if not path.exists():
        _write(OmegaConf.to_container(cfg, resolve=True), path)


def check_same_run(cfg: DictConfig, path: Path) -> None:
    """Refuses another configuration than the one that is kept, if one is; see `hold_to_config`."""
    if not path.exists():
        return
    wanted = OmegaConf.to_container(cfg, resolve=True)
    kept = OmegaConf.to_container(OmegaConf.load(path))
    for key, (old, new) in _differences(_deciding(kept), _deciding(wanted)).items():
        if not (key.startswith(_FREE) or (old is None and _is_as_before(key, new))):
            raise ConfigError(
                f"output_dir holds a run with another {key}",
                path=path,
                value=new,
                expected=repr(old),
                knob="output_dir, or delete the folder",
            )


def _is_as_before(key: str, new: Any) -> bool:
    return key in _NEW and _NEW[key] in (None, new)


def _deciding(config: Any) -> dict[str, Any]:
    trainer = config.get("trainer", {})
    return {
        **{key: config.get(key) for key in _SECTIONS},
        "data": {"train_ds": config.get("data", {}).get("train_ds")},
        "trainer": {key: trainer.get(key) for key in _TRAINER_KEYS},
    }


def _differences(old: Any, new: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for name in sorted({*old, *new}):
            found.update(_differences(old.get(name), new.get(name), f"{key}.{name}" if key else name))
        return found
    return {} if old == new else {key: (old, new)}


@rank_zero_only
def _write(config: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    OmegaConf.save(OmegaConf.create(config), unfinished)
    unfinished.replace(path)
