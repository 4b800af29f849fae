"""The blend: one endless stream of rows drawn from weighted sources, whose state is a handful of integers.

The k-th draw of a rank picks a source from a hash of (seed, rank, k); the source's next position leads to a row by
`Order`. Rank r of W takes positions r, r + W, r + 2W, ... of every source, so within one pass no row is read twice and
none is left out.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vtblender_nemo.common.chat import PromptIds
from vtblender_nemo.common.conversation import Conversation, Turn
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.config import SourceConfig, read_input_cfg
from vtblender_nemo.data.order import Order, key_of, mix, unit
from vtblender_nemo.data.skips import Skip, reason_of
from vtblender_nemo.data.sources import Source, make_source
from vtblender_nemo.data.twins import twin_ids
from vtblender_nemo.data.typed import mapping, read_config

if TYPE_CHECKING:
    from lhotse import CutSet

    from vtblender_nemo.data.augment import Augmenter

# A source is given up after so many rejected rows in a row: some passes over it, but bounded for long ones. One pass
# would not do, as a usable row can stand first in one pass and last in the next, or be another rank's.
MIN_REJECTED, PASSES_REJECTED, MAX_REJECTED = 1_000, 4, 20_000

# Augmentation has random numbers of its own: with it or without, a row gets the same wording.
_AUGMENT_KEY = key_of("augment")


@dataclass(frozen=True)
class Example:
    """A row that is ready for a micro-batch.

    Attributes:
        conversation: the row.
        prompt: its token ids; an audio is one locator id.
        length: positions in the LLM: text tokens and frames; see `Encoder`.
        source: the number of its source in the blend.
        position: its position in the source's endless order; (source, position) leads back to it.
    """

    conversation: Conversation
    prompt: PromptIds
    length: int
    source: int
    position: int


@dataclass(frozen=True)
class Limits:
    """What a conversation must keep to.

    Attributes:
        min_duration: seconds of its shortest audio.
        max_duration: seconds of its longest audio.
        max_tokens: text tokens and frames of the whole.
        batch_tokens: the budget that one conversation alone must fit into, its quadratic penalty included.
        quadratic_length: see `BatchConfig`.
    """

    min_duration: float = 0.0
    max_duration: float = math.inf
    max_tokens: int | None = None
    batch_tokens: int | None = None
    quadratic_length: float | None = None

    def cost(self, length: int) -> float:
        """What a conversation of `length` positions counts against `batch_tokens` (Lhotse's quadratic penalty)."""
        return length if self.quadratic_length is None else length + length * length / self.quadratic_length

    def broken(self, conversation: Conversation, length: int) -> tuple[str, str] | None:
        """The limit that a conversation breaks and how, or None."""
        for audio in conversation.audios:
            if audio.duration_secs < self.min_duration:
                return "min_duration", f"audio of {audio.duration_secs:.3f} s is shorter than {self.min_duration} s"
            if audio.duration_secs > self.max_duration:
                return "max_duration", f"audio of {audio.duration_secs:.3f} s is longer than {self.max_duration} s"
        if self.max_tokens is not None and length > self.max_tokens:
            return "max_tokens", f"{length} positions are more than {self.max_tokens}"
        if self.batch_tokens is not None and self.cost(length) > self.batch_tokens:
            return "batch_tokens", f"{length} positions alone do not fit a budget of {self.batch_tokens}"
        return None


class TurnFormat(Protocol):
    """Turns to token ids, as `ChatFormat` does it."""

    audio_locator_id: int

    def encode(self, turns: Sequence[Turn]) -> PromptIds: ...


@dataclass(frozen=True)
class Encoder:
    """How long a conversation is, in the model's own positions.

    Attributes:
        chat_format: turns to token ids.
        token_equivalent_duration: seconds of audio that one position of the LLM stands for: frame shift times
            subsampling.
        sampling_rate: Hz of the model's audio.
        extra_frames: positions that the model adds to every audio, as one for a separator.
        twins: encode twins, too. The teacher reads them before the student's pass and keeps nothing of a layer when it is at the
            next, so their positions are not added: a length is that of the longer one, and bounds the teacher's memory as well.
    """

    chat_format: TurnFormat
    token_equivalent_duration: float
    sampling_rate: int
    extra_frames: int = 0
    twins: bool = False

    def encode(self, conversation: Conversation) -> tuple[PromptIds, int]:
        """Token ids, and the positions that they and the frames take.

        Raises:
            DataError: turns in a wrong order, no final answer, the locator tag inside a text, or a twin that does not fit.
        """
        prompt = self.chat_format.encode(conversation.turns)
        if conversation.turns[-1].role != "assistant":
            raise DataError(
                "conversation has no final answer", value=conversation.id, expected="an assistant turn at the end"
            )
        audios = conversation.audios
        frames = [math.ceil(audio.duration_secs / self.token_equivalent_duration) for audio in audios]
        length = len(prompt.ids) + sum(frames) + (self.extra_frames - 1) * len(frames)  # 1: the locator id
        twin = twin_ids(self.chat_format, conversation, prompt) if self.twins else None
        return (prompt, length) if twin is None else (replace(prompt, twin=twin), max(length, len(twin.ids)))


@dataclass(frozen=True)
class Weighted:
    """A source and its probability in the blend."""

    source: Source
    probability: float


def read_sources(
    input_cfg: Any, *, sampling_rate: int, temperature: float = 1.0, place: str = "input_cfg"
) -> list[Weighted]:
    """Opens the sources of an `input_cfg` and works out their probabilities; those of groups multiply.

    Args:
        input_cfg: a list of sources and groups, or the path of a YAML file that holds one.
        sampling_rate: Hz of the model's audio.
        temperature: the exponent w ** temperature / sum for the weights of siblings.
        place: the key that holds it, for errors.

    Raises:
        ConfigError: an unknown type or key, missing files, weights for some siblings only, or a name used twice.
    """
    weighted = _read_level(input_cfg, 1.0, {}, {}, sampling_rate, temperature, place)
    twice = [name for name, count in Counter(entry.source.name for entry in weighted).items() if count > 1]
    if twice:
        raise ConfigError(
            "sources share a name", value=twice, expected="a name of its own for each", knob=f"{place}[].name"
        )
    return weighted


def _read_level(
    input_cfg: Any,
    share: float,
    tags: dict[str, Any],
    given: dict[str, Any],
    sampling_rate: int,
    temperature: float,
    place: str,
) -> list[Weighted]:
    """The sources of one list; `tags` and other keys that were `given` to the group that holds it are theirs, too."""
    entries = read_input_cfg(input_cfg, place)
    groups: list[list[Weighted]] = []
    for number, entry in enumerate(entries):
        where, own = f"{place}[{number}]", mapping(entry.get("tags", {}), f"{place}[{number}].tags")
        entry = {**given, **entry, "tags": {**tags, **own}}
        if entry.get("type") == "group":
            config = read_config(SourceConfig, entry, where)
            inner = temperature if config.temperature is None else config.temperature
            passed = {} if config.interleave is None else {"interleave": config.interleave}
            groups.append(
                _read_level(config.input_cfg, 1.0, config.tags, passed, sampling_rate, inner, f"{where}.input_cfg")
            )
        else:
            groups.append([Weighted(make_source(entry, sampling_rate, where), 1.0)])
    weights = _weights(entries, groups, place)
    powers = [weight**temperature for weight in weights]
    return [
        Weighted(leaf.source, share * power / sum(powers) * leaf.probability)
        for power, leaves in zip(powers, groups, strict=True)
        for leaf in leaves
    ]


def _weights(entries: Sequence[dict[str, Any]], groups: Sequence[Sequence[Weighted]], place: str) -> list[float]:
    """The siblings' weights; without any, their numbers of rows."""
    weights = [entry.get("weight") for entry in entries]
    if all(weight is None for weight in weights):
        return [float(sum(len(leaf.source) for leaf in leaves)) for leaves in groups]
    for number, weight in enumerate(weights):
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight <= 1e12:
            raise ConfigError(
                "source without a weight beside siblings that have one" if weight is None else "weight out of range",
                value=weights if weight is None else weight,
                expected="a positive number for all siblings, or for none",
                knob=f"{place}[{number}].weight",
            )
    return [float(weight) for weight in weights if weight is not None]


class Blend:
    """Draws rows from weighted sources.

    Args:
        sources: the sources and their probabilities.
        encoder: lengths in positions.
        limits: filters; what they drop is counted.
        seed: of the order, the draws and the wordings.
        shuffle: False keeps every source's own order.
        rank: this process among `world_size` that read the same blend.
        world_size: how many there are.
        stop_at_bad_row: raise at the first row that cannot be used, in place of counting it.
        augmenter: changes the waveforms of conversations; None leaves them.

    Attributes:
        skips: rows left out since `take_skips` was last called.
        rejected: how many rows each (source, knob) left out.
    """

    def __init__(
        self,
        sources: Sequence[Weighted],
        encoder: Encoder,
        limits: Limits,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        stop_at_bad_row: bool = False,
        augmenter: Augmenter | None = None,
    ) -> None:
        self.sources = [entry.source for entry in sources]
        self.probabilities = [entry.probability for entry in sources]
        self.encoder, self.limits = encoder, limits
        self.seed, self.rank, self.world_size, self._stop_at_bad_row = seed, rank, world_size, stop_at_bad_row
        self._shuffle, self._augmenter = shuffle, augmenter
        self._orders = [
            Order(s.shard_sizes, key=mix(seed, key_of(s.name)), shuffle=shuffle, window=s.config.shard_window)
            for s in self.sources
        ]
        self._cumulative = list(accumulate(self.probabilities))
        self._key = mix(seed, key_of("draws"), *(key_of(source.name) for source in self.sources))
        self._draws = 0
        self._positions = [rank] * len(self.sources)
        self.skips: list[Skip] = []
        self.rejected: Counter[tuple[str, str]] = Counter()

    def draw(self) -> Example:
        """The next row that keeps to the limits; a rejected one is replaced by the next of the same source.

        Raises:
            ConfigError: a source gave nothing but rejected rows.
            DataError: a row that cannot be used, when such rows are to stop the run.
        """
        number = bisect_right(self._cumulative, unit(self._key, self.rank, self._draws) * self._cumulative[-1])
        self._draws += 1
        source = self.sources[number]
        for _ in range(_patience(source)):
            position = self._positions[number]
            self._positions[number] += self.world_size
            example = self._try(number, position)
            if example is not None:
                return example
        raise self._exhausted(source)

    def rebuild(self, number: int, position: int) -> Example:
        """The row at a source's position, as it was drawn before."""
        source = self.sources[number]
        index = self._orders[number](position)
        conversation = source.conversation(index, source.rng(self.seed, position))
        if self._augmenter is not None:
            conversation = self._augmenter(conversation, source.rng(mix(self.seed, _AUGMENT_KEY), position))
        prompt, length = self.encoder.encode(conversation)
        return Example(conversation, prompt, length, number, position)

    def place(self, number: int, position: int) -> tuple[Path, int]:
        """The file and the 1-based line of a source's position."""
        return self.sources[number].place(self._orders[number](position))

    def fork(self) -> Blend:
        """The same blend at its beginning, as one process alone would read it."""
        weighted = [Weighted(s, p) for s, p in zip(self.sources, self.probabilities, strict=True)]
        return Blend(
            weighted,
            self.encoder,
            self.limits,
            seed=self.seed,
            shuffle=self._shuffle,
            stop_at_bad_row=self._stop_at_bad_row,
            augmenter=self._augmenter,
        )

    def take_skips(self) -> list[Skip]:
        """The rows left out since the last call."""
        skips, self.skips = self.skips, []
        return skips

    def skip(self, number: int, position: int, knob: str, reason: str) -> Skip:
        """The record of a row that is left out."""
        path, line = self.place(number, position)
        source = self.sources[number]
        return Skip(source.name, str(path), line, knob, reason, position < len(source))

    def cutset(self) -> CutSet:
        """The stream as a lazy, endless Lhotse `CutSet` of conversations, from its beginning each time."""
        from lhotse import CutSet

        return CutSet(_Stream(self))

    def state_dict(self) -> dict[str, Any]:
        """Draws made, and every source's next position."""
        rows = {s.name: [position, len(s)] for s, position in zip(self.sources, self._positions, strict=True)}
        return {"draws": self._draws, "seed": self.seed, "positions": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state.

        Raises:
            ConfigError: the state is of another seed, or of sources with other names or numbers of rows.
        """
        now = {source.name: len(source) for source in self.sources}
        saved = {name: rows for name, (_, rows) in state["positions"].items()}
        for what, found, expected in (("seed", self.seed, state["seed"]), ("sources", now, saved)):
            if found != expected:
                raise ConfigError(
                    f"the data state that is resumed has another {what.removesuffix('s')}",
                    value=found,
                    expected=f"{expected}, as when it was saved; or a new output_dir",
                    knob="data.train_ds.seed" if what == "seed" else "data.train_ds.input_cfg",
                )
        self._draws = state["draws"]
        self._positions = [state["positions"][source.name][0] for source in self.sources]
        self.skips = []

    def _try(self, number: int, position: int) -> Example | None:
        try:
            example = self.rebuild(number, position)
        except DataError as error:
            if self._stop_at_bad_row:
                raise
            self._reject(number, position, "on_bad_row", reason_of(error))
            return None
        broken = self.limits.broken(example.conversation, example.length)
        if broken is not None:
            self._reject(number, position, *broken)
            return None
        return example

    def _reject(self, number: int, position: int, knob: str, reason: str) -> None:
        skip = self.skip(number, position, knob, reason)
        self.skips.append(skip)
        self.rejected[skip.source, knob] += 1

    def _exhausted(self, source: Source) -> ConfigError:
        counts = {knob: count for (name, knob), count in self.rejected.items() if name == source.name}
        by_knob = ", ".join(f"{knob}: {count}" for knob, count in counts.items())
        last = next((skip for skip in reversed(self.skips) if skip.source == source.name), None)
        return ConfigError(
            f"source {source.name} gave nothing but rejected rows"
            + (f"; the last: {last.path}:{last.line}: {last.reason}" if last else ""),
            value=f"{sum(counts.values())} rows in vain (rejected by {by_knob})",
            expected=f"a usable row among {_patience(source)} tries",
            knob=", ".join(f"data.train_ds.{knob}" for knob in counts),
        )


def _patience(source: Source) -> int:
    return min(max(PASSES_REJECTED * len(source), MIN_REJECTED), MAX_REJECTED)


class _Stream:
    """Iterable of a blend's conversations."""

    def __init__(self, blend: Blend) -> None:
        self._blend = blend

    def __iter__(self) -> Iterator[Conversation]:
        blend = self._blend.fork()
        while True:
            yield blend.draw().conversation
