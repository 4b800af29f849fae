"""What is inspected: lists of sources, or a whole training configuration with its validation sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.blend import Limits
from vtblender_nemo.data.buckets import BucketPlanner, Planner, RoundRobinPlanner
from vtblender_nemo.data.config import DEFAULT_LOCATOR_TAG, TrainConfig, ValidationConfig, read_input_cfg
from vtblender_nemo.data.typed import check_file, mapping, read_config, read_yaml
from vtblender_nemo.data.weighted import read_sources
from vtblender_nemo.inspection.scan import Part

_SOURCES = re.compile(r"data\.train_ds\.input_cfg(?:\[(?P<number>\d+)\])?(?P<rest>.*)")


@dataclass(frozen=True)
class Subject:
    """A blend to be inspected.

    Attributes:
        name: the files that it was read from.
        train: how it would be trained on.
        files: see `naming_files`.
        validation: its validation sets, or None.
        batches_assumed: the micro-batches' bounds are this command's, not the user's.
        locator_tag: the text that stands for an audio in the LLM's vocabulary.
        extra_frames: positions that the model adds to every audio.
    """

    name: str
    train: TrainConfig
    files: Mapping[Path, int | None] = field(default_factory=dict)
    validation: ValidationConfig | None = None
    batches_assumed: bool = False
    locator_tag: str = DEFAULT_LOCATOR_TAG
    extra_frames: int = 0


@dataclass(frozen=True)
class Batching:
    """Bounds of micro-batches for lists of sources, which have none of their own."""

    batch_tokens: int = 8000
    num_buckets: int = 8
    max_duration: float = 40.0
    max_tokens: int | None = 4096


def open_subject(paths: Sequence[Path], overrides: Sequence[str] = (), batching: Batching = Batching()) -> Subject:
    """Reads what is to be inspected.

    Args:
        paths: YAML files, each a list of sources (or a mapping with `input_cfg`), which together make one blend; or one
            training configuration, with or without Hydra's `defaults`.
        overrides: `key=value` for a training configuration, as its training takes them.
        batching: bounds of micro-batches for lists of sources.

    Raises:
        ConfigError: files that are missing, are neither, or do not go together.
    """
    for path in paths:
        check_file(path, "--input", "file")
    contents = [read_yaml(path, "--input") for path in paths]
    trainings = [path for path, content in zip(paths, contents, strict=True) if _is_training(content)]
    if trainings and len(paths) > 1:
        raise ConfigError(
            "a training configuration stands alone", path=trainings[0], expected="one --input", knob="--input"
        )
    if trainings:
        with naming_files({paths[0]: None}):
            return _training(paths[0], contents[0], overrides)
    if overrides:
        raise ConfigError("a list of sources has no keys to set", value=list(overrides), knob="--set")
    lists = {path: read_input_cfg(path, "--input") for path in paths}
    entries = [entry for path in paths for entry in lists[path]]
    train = TrainConfig(
        input_cfg=entries,
        batch_tokens=batching.batch_tokens,
        num_buckets=batching.num_buckets,
        max_duration=batching.max_duration,
        max_tokens=batching.max_tokens,
    )
    train.check("--input")
    files = {path: len(own) for path, own in lists.items()}
    return Subject(", ".join(map(str, paths)), train, files, batches_assumed=True)


@contextmanager
def naming_files(files: Mapping[Path, int | None]) -> Iterator[None]:
    """Has errors about what stands in files name the file that the user gave, and a source's number in it.

    Args:
        files: those that were given, with the number of sources that each lists; None for a training configuration.
    """
    try:
        yield
    except ConfigError as error:
        if error.knob is None or error.knob.startswith("--") or not files:
            raise
        raise type(error)(**{**vars(error), "knob": _in_file(error.knob, files)}) from error


def _in_file(knob: str, files: Mapping[Path, int | None]) -> str:
    """A key of the blend as a key of the file that has it, or of all files if it is no single source's."""
    found = None if None in files.values() else _SOURCES.fullmatch(knob)
    if found is not None and found["number"]:
        number = int(found["number"])
        for path, count in files.items():
            if number < (count or 0):
                return f"[{number}]{found['rest']} in {path}"
            number -= count or 0
    own = knob if found is None else found["rest"].removeprefix(".")
    return f"{own} in {', '.join(map(str, files))}".strip()


def open_parts(subject: Subject, planner: Planner, sampling_rate: int) -> list[Part]:
    """The sources of the blend, with those of the validation sets.

    Raises:
        ConfigError: sources that cannot be opened.
    """
    parts = [
        Part(source, one.blend.limits) for one in bucket_planners(planner).values() for source in one.blend.sources
    ]
    config = subject.validation or ValidationConfig()
    for name, values in config.sets.items():
        place = f"data.validation_ds.sets.{name}"
        entries = mapping(values, place).get("input_cfg")
        limits = Limits(config.min_duration, config.max_duration, config.max_tokens)
        weighted = read_sources(entries, sampling_rate=sampling_rate, place=f"{place}.input_cfg")
        parts += [Part(entry.source, limits, role=name) for entry in weighted]
    return parts


def bucket_planners(planner: Planner) -> dict[str, BucketPlanner]:
    """The planners of a round robin by name; a lone one has an empty name."""
    if isinstance(planner, RoundRobinPlanner):
        return planner.planners
    assert isinstance(planner, BucketPlanner)
    return {"": planner}


def _is_training(content: Any) -> bool:
    return isinstance(content, dict) and bool({"data", "train_ds", "defaults"} & content.keys())


def _training(path: Path, content: dict[str, Any], overrides: Sequence[str]) -> Subject:
    cfg = _compose(path, overrides) if "defaults" in content else _merge(content, overrides, path)
    cfg = cfg if "data" in cfg else OmegaConf.create({"data": cfg})
    try:
        data = mapping(cfg.data, "data")
        model = mapping(OmegaConf.to_container(cfg.get("model") or OmegaConf.create({}), resolve=True), "model")
    except OmegaConfBaseException as error:
        raise ConfigError(f"values cannot be resolved ({str(error).splitlines()[0]})", path=path) from error
    if data.get("train_ds") is None:
        raise ConfigError("no training data", path=path, expected="data.train_ds", knob="--input")
    train = read_config(TrainConfig, data["train_ds"], "data.train_ds")
    train.check("data.train_ds")
    validation = None
    if data.get("validation_ds") is not None:
        validation = read_config(ValidationConfig, data["validation_ds"], "data.validation_ds")
        validation.check("data.validation_ds")
    perception = model.get("perception") or {}
    return Subject(
        str(path),
        train,
        {path: None},
        validation,
        locator_tag=model.get("audio_locator_tag") or DEFAULT_LOCATOR_TAG,
        extra_frames=int(bool(perception.get("separator"))),
    )


def _compose(path: Path, overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    try:
        with initialize_config_dir(config_dir=str(path.resolve().parent), version_base=None):
            return compose(config_name=path.stem, overrides=list(overrides))
    except HydraException as error:
        raise ConfigError(
            f"configuration cannot be composed ({str(error).splitlines()[0]})", path=path, knob="--set"
        ) from error


def _merge(content: dict[str, Any], overrides: Sequence[str], path: Path) -> DictConfig:
    try:
        merged = OmegaConf.merge(OmegaConf.create(content), OmegaConf.from_dotlist(list(overrides)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"values cannot be set ({str(error).splitlines()[0]})", path=path, knob="--set") from error
    assert isinstance(merged, DictConfig)
    return merged
