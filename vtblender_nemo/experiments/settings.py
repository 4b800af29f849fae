"""The keys of a sweep in a configuration: `sweep` (what is asked, and how it is told) and `variant` (what one run changes)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.typed import read_config

_NAME = re.compile(r"[A-Za-z]\w*")


@dataclass
class SweepConfig:
    """The keys of `sweep`."""

    name: str
    """Of the sweep, as `forgetting`."""
    directory: str
    """Everything that the sweep writes; the same command again makes only the runs that are missing."""
    keep_in: str | None = None
    """A folder, as of a repository, that gets every finished run and the report; runs that it has already are not made again."""
    question: str = ""
    """What is asked, in a sentence; stands over the report."""
    reference: str | None = None
    """The variant that every other one is compared with, seed by seed and item by item."""
    order: list[str] = field(default_factory=list)
    """Variants in the order of the report; others follow by `variant.x`, then by name."""
    measures: list[str] = field(default_factory=list)
    """What the report shows of every variant, as `asr.wer`; everything else that was measured is in the runs."""
    x_label: str = ""
    """Name of the axis of `variant.x`; with it, plots are lines over that axis."""
    x_log: bool = False
    """A logarithmic axis."""
    claims: list[Any] = field(default_factory=list)
    """`{claim: an inequality of measures (see claims.py), says: the same in words}`."""
    runs_with: str = "vtblender_nemo.experiments.one_run"
    """The module that makes one run: `python -m MODULE FOLDER` reads FOLDER/job.yaml and writes FOLDER/run.json."""


@dataclass
class VariantConfig:
    """The keys of `variant`: the name of a run's variant, and changes that a configuration alone cannot make."""

    name: str
    """Letters, digits and underscores, for claims name it."""
    x: float | None = None
    """The number that the sweep turns, where it is one."""
    line: str = ""
    """What it has in common with variants at other numbers: plots join these by a line."""
    leave_out: list[str] = field(default_factory=list)
    """Sources that are not trained on, by name or type."""
    share_percent: dict[str, float] = field(default_factory=dict)
    """Share of the rows that a source gets, by its name or type; the others keep their proportions."""
    speech_minutes: float | None = None
    """Only so much speech is heard: whole recordings, the same for every source, and more of them for more minutes."""
    remove: list[str] = field(default_factory=list)
    """Keys taken out of the configuration, as `model.optim.lr_scale.lora`; one that may be missing ends in `?`."""
    stages: list[Any] = field(default_factory=list)
    """Trainings one after the other, each from the weights of the last: see `StageConfig`. None: one training."""
    world_from: str | None = None
    """A tiny world whose parts (speech, tokenizer, LLM, encoder) are taken over where they were made with the same settings."""
    ceilings: list[str] = field(default_factory=list)
    """Tasks that the base LLM answers too, given the transcript in place of the audio."""
    levels: dict[str, list[float]] | None = None
    """Levels of validation scores, as `{asr.wer: [20, 10]}`: the steps until each is reached are measured, as
    `asr.steps_to_20`. Of several stages those of the last count."""


@dataclass
class StageConfig:
    """One entry of `variant.stages`."""

    name: str
    """Of the stage; its folder is named so."""
    steps_percent: float
    """Its share of `trainer.max_steps`; those of all stages are 100 together."""
    leave_out: list[str] = field(default_factory=list)
    """Sources that this stage is not trained on, beside those of the variant."""


def read_sweep(cfg: Mapping[str, Any] | DictConfig) -> SweepConfig:
    """
    Raises:
        ConfigError: an unknown key or a value of another type.
    """
    return read_config(SweepConfig, cfg["sweep"], "sweep")


def read_variant(cfg: Mapping[str, Any] | DictConfig) -> VariantConfig:
    """
    Raises:
        ConfigError: an unknown key, a value of another type or out of range, or a name that claims could not use.
    """
    variant = read_config(VariantConfig, cfg["variant"], "variant")
    if not _NAME.fullmatch(variant.name):
        raise ConfigError(
            "a variant of this name cannot be named in claims",
            value=variant.name,
            expected="a letter, then letters, digits and underscores",
            knob="variant.name",
        )
    if variant.speech_minutes is not None and not variant.speech_minutes > 0:
        raise ConfigError("no speech", value=variant.speech_minutes, expected="> 0", knob="variant.speech_minutes")
    return variant


def read_stages(variant: VariantConfig) -> list[StageConfig]:
    """
    Raises:
        ConfigError: an unknown key, two stages of one name, or shares that are not 100 percent together.
    """
    stages = [read_config(StageConfig, stage, f"variant.stages[{n}]") for n, stage in enumerate(variant.stages)]
    if len({stage.name for stage in stages}) < len(stages):
        names = [stage.name for stage in stages]
        raise ConfigError("two stages of one name", value=names, expected="a name for each", knob="variant.stages")
    shares = [stage.steps_percent for stage in stages]
    if stages and (min(shares) <= 0 or abs(sum(shares) - 100) > 1e-6):
        raise ConfigError(
            "stages do not share the steps",
            value=shares,
            expected="positive numbers, 100 together",
            knob="variant.stages[].steps_percent",
        )
    return stages


# What decides no score: where and how fast a run is made, what is shown of it while it is made, and how its sweep is told.
_FREE = (
    "sweep",
    "hydra",
    "output_dir",
    "exp_manager",
    "contrast",
    "seed",
    "variant.line",
    "variant.world_from",
    "tiny.directory",
    "tiny.checkpoint_secs",
    "tiny.voices.processes",
    "model.validation",
    "data.validation_ds",
    "data.train_ds.num_workers",
    "warm_start.accelerator",
    "warm_start.keep_in",
    "evaluation.batch_size",
    "evaluation.batch_tokens",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.timeout_secs",
    "trainer.log_every_n_steps",
    "trainer.val_check_interval",
    "trainer.num_sanity_val_steps",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
)
_OF_CURVES = ("model.validation", "data.validation_ds", "trainer.val_check_interval")
"""Free only where nothing is measured by validations."""


def deciding_settings(cfg: DictConfig) -> dict[str, Any]:
    """Every value of a run's configuration that decides its scores, but for its seed; keys written `a.b.c`.

    The seed and the folder of the tiny world do not count, wherever other values take them over.
    """
    neutral = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    neutral.pop("hydra", None)
    neutral.seed = "SEED"
    if neutral.get("tiny"):
        neutral.tiny.directory = "WORLD"
    values = OmegaConf.to_container(neutral, resolve=True)
    assert isinstance(values, dict)
    flat = dict(_flat(values, ""))
    bound = _OF_CURVES if (cfg.get("variant") or {}).get("levels") else ()
    return {key: value for key, value in sorted(flat.items()) if not _is_among(key, _FREE) or _is_among(key, bound)}


def _is_among(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _flat(values: Mapping[Any, Any], prefix: str) -> Any:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value
