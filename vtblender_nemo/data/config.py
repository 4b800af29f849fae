"""The keys of `data.train_ds` and `data.validation_ds`: one typed place owns their defaults and says what they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.augment_config import read_augment
from vtblender_nemo.data.typed import check_file, plain, read_yaml

DEFAULT_LOCATOR_TAG = "<unused0>"
"""`model.audio_locator_tag` where nothing else is known, as in `conf/base.yaml`; files of `conf/llm` may have others."""

FUSIONS = ("rows", "randomized_round_robin")
BAD_ROW = ("skip", "error")


@dataclass
class SourceConfig:
    """One entry of `input_cfg`; which keys a type takes is said by its reader in `sources.py`."""

    type: str
    """Name of the reader, as `nemo` or `text_chat`."""
    name: str | None = None
    """Name in shares and losses; by default the type. No two sources may share one."""
    weight: float | None = None
    """Share of the rows among its siblings; all siblings have one, or none (then every row counts alike)."""
    tags: dict[str, Any] = field(default_factory=dict)
    """Fields given to every row, in place of the row's own, as `target_lang: de`."""
    input_cfg: Any = None
    """Sources inside a `group`: a list, or a YAML file that holds one."""
    temperature: float | None = None
    """The exponent for the weights inside a `group`; by default that of the blend."""
    manifest_filepath: Any = None
    """JSONL files: a path, a list, or a numbered pattern (`part__OP_0..7_CL_.json`)."""
    tarred_audio_filepaths: Any = None
    """Tar files of a `nemo_tarred` or `multimodal_conversation` source, in the order of its manifests."""
    cuts_path: Any = None
    """Lhotse cuts, JSONL or JSONL.gz."""
    shar_path: Any = None
    """Folder(s) of Lhotse shar with `cuts.*.jsonl.gz` and `recording.*.tar`."""
    audio_dir: str | Path | None = None
    """Folder that relative audio paths start from; by default that of the JSONL file."""
    text_field: str = "text"
    """The field that holds the answer: `text` transcribes, `translation` translates."""
    prompts: Any = None
    """A YAML file of wordings (`task: [...]`), or a list of them."""
    task: str | None = None
    """Which of the file's tasks; also kept with every row, for scores by task."""
    audio_position: str = "after"
    """Where the audio stands in a wording without `{audio}`: before, after or random."""
    interleave: Any = None
    """Spans of the transcript as text in place of their speech, for rows with an `alignment`; see `InterleaveConfig`. That of a
    `group` is that of all its sources which have none of their own."""
    shard_window: int = 16
    """Shards of a tarred or shar source that are read together: fewer is more local, more shuffles better."""
    llm_fingerprint: str | None = None
    """The LLM that wrote the answers of an `imitation` source, told by its weights: it has to be the one that is trained."""


@dataclass
class BatchConfig:
    """How conversations are joined to micro-batches; each sampler of a round robin may have its own."""

    batch_tokens: int | None = None
    """Most positions (text tokens and frames) of a padded micro-batch: its longest conversation times its size."""
    batch_size: int | None = None
    """Most conversations of a micro-batch."""
    quadratic_length: float | None = None
    """Counts a length l as l + l*l/this against batch_tokens, since attention costs more for long ones."""
    num_buckets: int = 8
    """Lengths are sorted into so many buckets; a micro-batch comes from one. 1 joins all lengths."""
    bucket_bins: list[float] | None = None
    """Lengths, in positions, that part the buckets; by default estimated from the blend's first buffer_size rows."""
    bucket_batch_size: list[int] | None = None
    """Most conversations of a micro-batch by bucket, as NeMo's OOMptimizer finds them: one number more than bucket_bins."""
    buffer_size: int = 2000
    """Rows that the bins are estimated from."""
    input_cfg: Any = None
    """The sources: a list, or a YAML file that holds one (its relative paths then start from that file's folder)."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: a batch without a bound, or numbers out of range.
        """
        if self.batch_tokens is None and self.batch_size is None and self.bucket_batch_size is None:
            raise ConfigError(
                "micro-batches have no bound",
                expected="a positive number",
                knob=f"{place}.batch_tokens or {place}.batch_size",
            )
        _check_bucket_sizes(self, place)
        if self.quadratic_length is not None and self.batch_tokens is None:
            raise ConfigError(
                "quadratic_length without batch_tokens has no effect",
                value=self.quadratic_length,
                expected="a budget that it is counted against, or none",
                knob=f"{place}.quadratic_length",
            )
        _check_positive(self, ("batch_tokens", "batch_size", "quadratic_length", "num_buckets", "buffer_size"), place)


def _check_bucket_sizes(config: BatchConfig, place: str) -> None:
    sizes, knob = config.bucket_batch_size, f"{place}.bucket_batch_size"
    if sizes is None:
        return
    if config.bucket_bins is None:
        raise ConfigError(
            "bucket_batch_size without the bins that it was found for",
            value=sizes,
            expected="lengths that part the buckets",
            knob=f"{place}.bucket_bins",
        )
    if len(sizes) != len(config.bucket_bins) + 1:
        raise ConfigError(
            "bucket_bins and bucket_batch_size do not match",
            value=f"{len(config.bucket_bins)} bins, {len(sizes)} sizes",
            expected="one size more than bins, as 2 bins part 3 buckets (the OOMptimizer's last bin is max_tokens here)",
            knob=knob,
        )
    if min(sizes) < 1:
        raise ConfigError("value out of range", value=sizes, expected="positive numbers", knob=knob)


@dataclass
class TrainConfig(BatchConfig):
    """The keys of `data.train_ds`."""

    seed: int = 0
    """Seed of the order of rows, the draws among sources and the wordings."""
    shuffle: bool = True
    """False reads every source in its own order; sources are still drawn by weight."""
    temperature: float = 1.0
    """Weights are raised to this: 1 keeps them, 0 makes them equal."""
    fusion: str = "rows"
    """`rows` draws every row by weight; `randomized_round_robin` draws every micro-batch from one of `samplers`."""
    samplers: dict[str, Any] = field(default_factory=dict)
    """For the round robin: a name and its own input_cfg and batch keys; what it leaves out it takes from here."""
    sampler_weights: dict[str, float] = field(default_factory=dict)
    """For the round robin: the share of micro-batches of every sampler."""
    min_duration: float = 0.1
    """Seconds; a conversation with a shorter audio is dropped and counted."""
    max_duration: float = 40.0
    """Seconds; a conversation with a longer audio is dropped and counted."""
    max_tokens: int | None = None
    """Text tokens and frames; a longer conversation is dropped and counted."""
    on_bad_row: str = "skip"
    """`skip` counts and lists rows that cannot be used, `error` stops at the first."""
    max_bad_share: float | None = 0.2
    """The training stops where a larger share of a source's rows cannot be used (of its first hundred, and from then on)."""
    num_workers: int = 0
    """Processes that decode audio; the order of rows does not depend on it."""
    worker_timeout_secs: float = 600.0
    """The training stops when these processes give no micro-batch for so long, as when a network file system hangs; 0: never."""
    augment: Any = None
    """Changes to the waveforms of all speech sources, by effect; see `AugmentConfig`. None by default."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: unknown choices, missing sources, or numbers out of range.
        """
        _check_choice(self, "fusion", FUSIONS, place)
        _check_choice(self, "on_bad_row", BAD_ROW, place)
        _check_limits(self, place)
        for name, highest in (("max_bad_share", 1.0), ("worker_timeout_secs", math.inf)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= highest:
                expected = f"a number from 0 to {highest:g}"
                raise ConfigError("value out of range", value=value, expected=expected, knob=f"{place}.{name}")
        read_augment(self.augment, f"{place}.augment")
        if self.fusion == "rows":
            super().check(place)
        elif self.input_cfg is not None:
            raise ConfigError(
                "input_cfg beside samplers would not be read",
                value=self.fusion,
                expected="input_cfg inside each of samplers, or fusion: rows",
                knob=f"{place}.fusion",
            )
        elif not self.samplers or set(self.samplers) != set(self.sampler_weights):
            raise ConfigError(
                "samplers and their weights do not match",
                value={"samplers": sorted(self.samplers), "sampler_weights": sorted(self.sampler_weights)},
                expected="the same names in both",
                knob=f"{place}.sampler_weights",
            )


@dataclass
class ValidationConfig:
    """The keys of `data.validation_ds`."""

    sets: dict[str, Any] = field(default_factory=dict)
    """A name and its `input_cfg`; scores are kept by name."""
    batch_size: int = 8
    """Conversations of a batch."""
    max_rows: int | None = None
    """Rows of every set, from its first on; all by default."""
    seed: int = 0
    """Seed of the wordings, which stay the same from one validation to the next."""
    min_duration: float = 0.1
    """Seconds; a conversation with a shorter audio is dropped and counted."""
    max_duration: float = 40.0
    """Seconds; a conversation with a longer audio is dropped and counted."""
    max_tokens: int | None = None
    """Text tokens and frames; a longer conversation is dropped and counted."""
    on_bad_row: str = "skip"
    """`skip` counts and lists rows that cannot be used, `error` stops at the first."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: an unknown choice, or numbers out of range.
        """
        _check_choice(self, "on_bad_row", BAD_ROW, place)
        _check_limits(self, place)
        _check_positive(self, ("batch_size", "max_rows"), place)


def _check_choice(config: Any, name: str, known: Sequence[str], place: str) -> None:
    value = getattr(config, name)
    if value not in known:
        raise ConfigError("unknown choice", value=value, expected=f"one of {', '.join(known)}", knob=f"{place}.{name}")


def _check_positive(config: Any, names: Sequence[str], place: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError("value out of range", value=value, expected="a positive number", knob=f"{place}.{name}")


def _check_limits(config: TrainConfig | ValidationConfig, place: str) -> None:
    _check_positive(config, ("max_duration", "max_tokens"), place)
    if config.min_duration > config.max_duration:
        raise ConfigError(
            "value out of range",
            value=config.min_duration,
            expected=f"at most max_duration, {config.max_duration}",
            knob=f"{place}.min_duration",
        )


def read_input_cfg(value: Any, place: str) -> list[dict[str, Any]]:
    """The entries of an `input_cfg`.

    Args:
        value: a list of sources, or the path of a YAML file that holds one, or holds it under the key `input_cfg`.
        place: the key that holds it, for errors.

    Raises:
        ConfigError: missing, empty, not YAML or of another shape.
    """
    value = given = plain(value)
    if isinstance(value, str | Path) and value != "???":  # OmegaConf's mark of a value to be set
        path = Path(value)
        check_file(path, place, "file of sources")
        value = given = read_yaml(path, place)
        value = value.get("input_cfg") if isinstance(value, dict) else value
        if isinstance(value, list):
            value = [_from_folder(entry, path.parent) for entry in value]
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise ConfigError("no sources", value=given, expected="[{type: ..., ...}, ...]", knob=place)
    return value


_PATH_KEYS = ("manifest_filepath", "tarred_audio_filepaths", "cuts_path", "shar_path", "audio_dir", "prompts")


def _from_folder(entry: Any, folder: Path) -> Any:
    """A source's relative paths, made to start from the folder of the YAML file that lists them."""
    if not isinstance(entry, dict):
        return entry
    moved = dict(entry)
    for key in _PATH_KEYS:
        if key in moved and not (key == "prompts" and isinstance(moved[key], list)):
            moved[key] = _join(folder, moved[key])
    if isinstance(moved.get("input_cfg"), list):
        moved["input_cfg"] = [_from_folder(child, folder) for child in moved["input_cfg"]]
    elif isinstance(moved.get("input_cfg"), str):
        moved["input_cfg"] = str(folder / moved["input_cfg"])
    return moved


def _join(folder: Path, value: Any) -> Any:
    return [_join(folder, item) for item in value] if isinstance(value, list) else str(folder / str(value))
