"""The data of a training run: an endless blend, ordered validation sets, and a state in every checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningDataModule
from omegaconf import DictConfig

from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.conversation import Conversation
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.parallel import data_rank, layout, tensor_rank
from vtblender_nemo.data.augment import Augmenter
from vtblender_nemo.data.augment_config import read_augment
from vtblender_nemo.data.blend import Blend, Encoder, Limits
from vtblender_nemo.data.buckets import BucketPlanner, Planner, RoundRobinPlanner
from vtblender_nemo.data.collate import Collator
from vtblender_nemo.data.config import BatchConfig, TrainConfig, ValidationConfig
from vtblender_nemo.data.redeal import redeal
from vtblender_nemo.data.skips import Skip, SkipLog, reason_of
from vtblender_nemo.data.train_loader import TrainLoader
from vtblender_nemo.data.typed import mapping, plain, read_config
from vtblender_nemo.data.weighted import Weighted, read_sources

logger = logging.getLogger(__name__)

_KEYS = ("train_ds", "validation_ds")


class BlendDataModule(LightningDataModule):
    """Training and validation data from `data.train_ds` and `data.validation_ds`.

    Args:
        cfg: the configuration `data`; see `vtblender_nemo.data.config` for its keys.
        chat_format: turns to token ids.
        token_equivalent_duration: seconds of audio that one position of the LLM stands for.
        sampling_rate: Hz of the model's audio.
        skipped_path: JSONL file that lists the rows left out; other ranks and validation sets add their name to the
            file's.
        extra_frames: positions that the model adds to every audio, as one for a separator.
        twins: whether micro-batches of the training hold the twins of conversations that have one.

    Raises:
        ConfigError: unknown keys, missing files, values out of range.
    """

    def __init__(
        self,
        cfg: DictConfig | dict[str, Any],
        chat_format: ChatFormat,
        token_equivalent_duration: float,
        sampling_rate: int,
        skipped_path: Path | None = None,
        *,
        extra_frames: int = 0,
        twins: bool = False,
    ) -> None:
        super().__init__()
        values = plain(cfg)
        for key in values:
            if key not in _KEYS:
                raise ConfigError("unknown key", value=key, expected=f"one of {', '.join(_KEYS)}", knob=f"data.{key}")
        self._train = _section(TrainConfig, values, "train_ds")
        self._validation = _section(ValidationConfig, values, "validation_ds")
        self._encoder = Encoder(chat_format, token_equivalent_duration, sampling_rate, extra_frames)
        self._twins = twins
        self._skipped_path = None if skipped_path is None else Path(skipped_path)
        self._loader: TrainLoader | None = None
        self._resumed: dict[str, Any] | None = None

    @property
    def validation_names(self) -> list[str]:
        """Names of the validation sets, in the order of `val_dataloader`."""
        return list(self._validation.sets) if self._validation else []

    def train_dataloader(self) -> TrainLoader:
        """The endless loader of this rank; the same object each time.

        Raises:
            ConfigError: no `data.train_ds`, or sources that cannot be opened.
        """
        if self._loader is None:
            if self._train is None:
                raise ConfigError(
                    "no training data", expected="input_cfg and a bound of micro-batches", knob="data.train_ds"
                )
            self._loader = self._make_loader(self._train)
            if self._resumed is not None:
                self._loader.load_state(self._resumed)
        return self._loader

    def val_dataloader(self) -> list[ValidationLoader]:
        """One finite loader for every validation set, each of lists of conversations that end with the answer."""
        config = self._validation
        if config is None:
            return []
        return [
            ValidationLoader(name, config, self._encoder, skipped_path=_own_file(self._skipped_path, name))
            for name in config.sets
        ]

    def shares(self) -> dict[str, dict[str, float]]:
        """Wanted and seen shares of this rank; see `TrainLoader.shares`. Empty before training."""
        return self._loader.shares() if self._loader is not None else {}

    def skipped(self) -> dict[str, int]:
        """Training rows left out on this rank, by `source/knob`."""
        counts = self._loader.skip_log.counts if self._loader is not None else {}
        return {f"{source}/{knob}": count for (source, knob), count in counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of every rank after the last batch that it handed out; to be called on all ranks together."""
        own = self._resumed if self._loader is None else self._loader.state_dict_after_last_batch()
        _, world_size = _rank()
        states = [own]
        if world_size > 1:
            states = [None] * world_size
            dist.all_gather_object(states, own, group=layout().data_group)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a state; of another number of ranks, with its rows dealt anew.

        Raises:
            ConfigError: the state is of another seed or blend.
        """
        rank, world_size = _rank()
        states = state_dict["ranks"]
        self._resumed = states[rank] if len(states) == world_size else None
        if len(states) != world_size and all(state is not None for state in states):
            logger.warning(
                "going on with %d ranks in place of %d: the rows that are left are dealt anew, and a step has other ones "
                "than it would have had",
                world_size,
                len(states),
            )
            self._resumed = redeal(states, rank, world_size)
        if self._loader is not None and self._resumed is not None:
            self._loader.load_state(self._resumed)

    def _make_loader(self, config: TrainConfig) -> TrainLoader:
        collator = Collator(self._encoder.chat_format.audio_locator_id, self._encoder.sampling_rate)
        return TrainLoader(
            make_planner(config, replace(self._encoder, twins=self._twins)),
            collator,
            SkipLog(_own_file(self._skipped_path), keep=self._resumed is not None),
            num_workers=config.num_workers,
            worker_timeout_secs=config.worker_timeout_secs,
            stop_at_bad_row=config.on_bad_row == "error",
            max_bad_share=config.max_bad_share,
            weights_count="rows" if config.fusion == "rows" else "batches",
        )


def make_planner(config: TrainConfig, encoder: Encoder) -> Planner:
    """What plans the micro-batches of a training.

    Raises:
        ConfigError: sources, samplers or augmentations that cannot be opened.
    """
    augmenter = _make_augmenter(config, encoder.sampling_rate)
    if config.fusion == "rows":
        return _make_buckets(config, config, encoder, "data.train_ds", augmenter)
    planners: dict[str, BucketPlanner] = {}
    for name, values in config.samplers.items():
        place = f"data.train_ds.samplers.{name}"
        shared = {field.name: getattr(config, field.name) for field in fields(BatchConfig) if field.name != "input_cfg"}
        own = read_config(BatchConfig, {**shared, **mapping(values, place)}, place)
        own.check(place)
        planners[name] = _make_buckets(own, config, encoder, place, augmenter)
    return RoundRobinPlanner(planners, config.sampler_weights, seed=config.seed)


def _make_augmenter(config: TrainConfig, sampling_rate: int) -> Augmenter | None:
    place = "data.train_ds.augment"
    effects = read_augment(config.augment, place)
    return Augmenter(effects, sampling_rate, place) if any(vars(effects).values()) else None


def _make_buckets(
    batch: BatchConfig, config: TrainConfig, encoder: Encoder, place: str, augmenter: Augmenter | None
) -> BucketPlanner:
    sources = read_sources(
        batch.input_cfg,
        sampling_rate=encoder.sampling_rate,
        temperature=config.temperature,
        place=f"{place}.input_cfg",
    )
    limits = Limits(
        config.min_duration, config.max_duration, config.max_tokens, batch.batch_tokens, batch.quadratic_length
    )
    rank, world_size = _rank()
    blend = Blend(
        sources,
        encoder,
        limits,
        seed=config.seed,
        shuffle=config.shuffle,
        rank=rank,
        world_size=world_size,
        stop_at_bad_row=config.on_bad_row == "error",
        augmenter=augmenter,
    )
    return BucketPlanner(
        blend,
        batch_size=batch.batch_size,
        num_buckets=batch.num_buckets,
        bins=batch.bucket_bins,
        bucket_sizes=batch.bucket_batch_size,
        buffer_size=batch.buffer_size,
    )


class ValidationLoader:
    """One validation set, once and in its order; rank r of W takes rows r, r + W, ...

    A rank that has nothing to give (fewer rows than ranks, or bad rows alone) gives one empty batch: Lightning would
    leave out its whole validation, while the other ranks wait for it where they gather their scores.

    Args:
        name: the set's name.
        config: `data.validation_ds`.
        encoder: lengths in positions, for `max_tokens`.
        skipped_path: JSONL file for rows that are left out, written anew on each pass.
    """

    def __init__(
        self, name: str, config: ValidationConfig, encoder: Encoder, *, skipped_path: Path | None = None
    ) -> None:
        place = f"data.validation_ds.sets.{name}"
        entry = plain(config.sets[name])
        self.name, self._config, self._encoder, self._skipped_path = name, config, encoder, skipped_path
        if not isinstance(entry, dict) or set(entry) != {"input_cfg"}:
            raise ConfigError(
                "validation set of the wrong shape", value=entry, expected="{input_cfg: [...]}", knob=place
            )
        self._sources = read_sources(
            entry["input_cfg"], sampling_rate=encoder.sampling_rate, place=f"{place}.input_cfg"
        )
        self._limits = Limits(config.min_duration, config.max_duration, config.max_tokens)

    def __len__(self) -> int:
        """Batches of this rank, before bad rows are left out; at least 1."""
        return max(1, -(-len(self._own_rows()) // self._config.batch_size))

    def __iter__(self) -> Iterator[list[Conversation]]:
        rows, given = self._own_rows(), False
        skip_log = SkipLog(self._skipped_path)
        for start in range(0, len(rows), self._config.batch_size):
            batch = [self._read(*row, skip_log) for row in rows[start : start + self._config.batch_size]]
            kept = [conversation for conversation in batch if conversation is not None]
            if kept:
                yield kept
                given = True
        if not given:
            yield []

    def _own_rows(self) -> list[tuple[Weighted, int]]:
        rank, world_size = _rank()
        rows = [(entry, index) for entry in self._sources for index in range(len(entry.source))]
        return rows[: self._config.max_rows][rank::world_size]

    def _read(self, entry: Weighted, index: int, skip_log: SkipLog) -> Conversation | None:
        source = entry.source
        try:
            conversation = source.conversation(index, source.rng(self._config.seed, index))
            _, length = self._encoder.encode(conversation)
        except DataError as error:
            if self._config.on_bad_row == "error":
                raise
            broken: tuple[str, str] | None = ("on_bad_row", reason_of(error))
        else:
            broken = self._limits.broken(conversation, length)
        if broken is None:
            return conversation
        path, line = source.place(index)
        skip_log.add([Skip(f"{self.name}/{source.name}", str(path), line, *broken, first_pass=True)])
        return None


def _section(kind: type[Any], values: dict[str, Any], key: str) -> Any:
    if values.get(key) is None:
        return None
    config = read_config(kind, values[key], f"data.{key}")
    config.check(f"data.{key}")
    return config


def _rank() -> tuple[int, int]:
    """This process among those that are given rows of their own, and the number of these."""
    return data_rank()


def _own_file(path: Path | None, *tags: str) -> Path | None:
    """The path with tags before its suffix; ranks after the first add theirs. None where another process reads the same rows."""
    if tensor_rank()[0]:
        return None
    rank, _ = _rank()
    tags = (*tags, f"rank{rank}") if rank else tags
    return path if path is None else path.with_name(".".join([path.stem, *tags]) + path.suffix)
