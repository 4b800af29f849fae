"""Micro-batches as the training would plan them: who fills them, how much of them is padding, and which bins fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

from vtblender_nemo.data.blend import Example
from vtblender_nemo.data.buckets import Planner
from vtblender_nemo.inspection.subject import bucket_planners


@dataclass(frozen=True)
class Planned:
    """Micro-batches in their order, row by row.

    Attributes:
        sources: name of every row's source.
        samplers: name of the sampler that planned it; empty without a round robin.
        batches: number of its micro-batch.
        length: its positions, text and frames.
        frames: of these, frames.
        targets: of these, tokens to be learned.
        longest_audio: seconds of its longest audio.
        audio_secs: seconds of all its audios.
        audios: number of its audios.
    """

    sources: list[str]
    samplers: list[str]
    batches: np.ndarray
    length: np.ndarray
    frames: np.ndarray
    targets: np.ndarray
    longest_audio: np.ndarray
    audio_secs: np.ndarray
    audios: np.ndarray

    @property
    def text_tokens(self) -> np.ndarray:
        return self.length - self.frames

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class Padding:
    """How full micro-batches are.

    Attributes:
        positions: share of the LLM's positions that are padding, 0 to 1.
        audio: share of the encoder's waveforms that is padding, 0 to 1.
        rows: rows of a micro-batch: mean, least, most.
        largest: most positions of a padded micro-batch.
    """

    positions: float
    audio: float
    rows: tuple[float, int, int]
    largest: int


@dataclass(frozen=True)
class Bins:
    """Bins for buckets.

    Attributes:
        total_length: positions that part the buckets of one dimension, by sampler.
        two_dimensional: upper ends (frames, text tokens), ascending, as NeMo writes them.
    """

    total_length: dict[str, list[float]]
    two_dimensional: list[tuple[int, int]] = field(default_factory=list)


def plan(planner: Planner, rows: int, progress: Callable[[int], object] = lambda rows: None) -> Planned:
    """Plans whole micro-batches until they hold `rows` rows; see `Blend.draw` for what it raises."""
    owners = {source: name for name, one in bucket_planners(planner).items() for source in one.weights()}
    examples: list[Example] = []
    batches: list[int] = []
    number = 0
    while len(examples) < rows:
        batch = planner.next_batch()
        planner.take_skips()
        examples += batch
        batches += [number] * len(batch)
        number += 1
        progress(len(batch))
    sources = [example.conversation.source for example in examples]
    audios = [[audio.duration_secs for audio in example.conversation.audios] for example in examples]
    text = np.array([len(e.prompt.ids) - len(own) for e, own in zip(examples, audios, strict=True)])
    length = np.array([example.length for example in examples])
    return Planned(
        sources=sources,
        samplers=[owners[name] for name in sources],
        batches=np.array(batches),
        length=length,
        frames=length - text,
        targets=np.array([sum(example.prompt.loss_mask) for example in examples]),
        longest_audio=np.array([max(own, default=0.0) for own in audios]),
        audio_secs=np.array([sum(own) for own in audios]),
        audios=np.array([len(own) for own in audios]),
    )


def padding(planned: Planned) -> Padding:
    """The padding of the micro-batches as they were planned."""
    return _padding(planned, planned.batches)


def fixed_size_padding(planned: Planned, seed: int = 0) -> Padding:
    """The padding of the same rows in random batches of as many rows as the planned ones hold on average.

    Rows of different samplers of a round robin stay apart, as they do in the plan.
    """
    batches = np.zeros(len(planned), dtype=np.int64)
    samplers = np.array(planned.samplers)
    first = 0
    for name in sorted(set(planned.samplers)):
        rows = np.flatnonzero(samplers == name)
        size = max(1, round(len(rows) / len(np.unique(planned.batches[rows]))))
        shuffled = np.random.default_rng(seed).permutation(rows)
        batches[shuffled] = first + np.arange(len(rows)) // size
        first = int(batches[rows].max()) + 1
    return _padding(planned, batches)


def two_dimensional_padding(planned: Planned, bins: Sequence[tuple[int, int]], largest: int) -> Padding:
    """The padding of the same rows in buckets of two dimensions.

    Args:
        planned: the rows; they fill the buckets in their order, those of different samplers apart.
        bins: see `bins_2d`; every row fits one.
        largest: most positions of a padded micro-batch.
    """
    batches = np.zeros(len(planned), dtype=np.int64)
    filling: dict[tuple[str, tuple[int, int]], tuple[int, int, int]] = {}  # micro-batch, its rows, its longest
    begun = 0
    sizes = zip(planned.samplers, planned.frames, planned.text_tokens, planned.length, strict=True)
    for row, (sampler, frames, tokens, length) in enumerate(sizes):
        bucket = sampler, next(end for end in bins if frames <= end[0] and tokens <= end[1])
        number, rows, longest = filling.get(bucket, (-1, 0, 0))
        longest = max(longest, length)
        if number < 0 or longest * (rows + 1) > largest:
            number, rows, longest, begun = begun, 0, length, begun + 1
        filling[bucket] = number, rows + 1, longest
        batches[row] = number
    return _padding(planned, batches)


def _padding(planned: Planned, batches: np.ndarray) -> Padding:
    count = np.bincount(batches)
    longest = _largest(batches, planned.length, len(count))
    padded = longest * count
    # The encoder pads every waveform of a micro-batch to its longest.
    audio_padded = _largest(batches, planned.longest_audio, len(count)) * np.bincount(batches, planned.audios)
    total_audio = float(audio_padded.sum())
    return Padding(
        positions=1 - float(planned.length.sum() / padded.sum()),
        audio=1 - float(planned.audio_secs.sum()) / total_audio if total_audio else 0.0,
        rows=(float(count.mean()), int(count.min()), int(count.max())),
        largest=int(padded.max()),
    )


def _largest(batches: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    found = np.zeros(count)
    np.maximum.at(found, batches, values)
    return found


def fitting_bins(planner: Planner, planned: Planned, buckets: int, sub_buckets: int = 2) -> Bins:
    """Bins over the total length as the training takes them, and bins over frames and text tokens.

    Args:
        planner: knows its own bins.
        planned: rows that bins of two dimensions are estimated from.
        buckets: how many by frames.
        sub_buckets: how many by text tokens in each of these.
    """
    own = {name: one.bins for name, one in bucket_planners(planner).items()}
    return Bins(own, bins_2d(planned.frames, planned.text_tokens, buckets, sub_buckets))


def bins_2d(frames: np.ndarray, tokens: np.ndarray, buckets: int, sub_buckets: int) -> list[tuple[int, int]]:
    """Upper ends of buckets that hold alike many frames each, and within these alike many text tokens.

    As `scripts/speech_recognition/estimate_duration_bins_2d.py` of NeMo does it for seconds. Rows without audio are a
    bucket of their own, with 0 frames.

    Args:
        frames: int (rows,).
        tokens: int (rows,), text tokens of the same rows.
        buckets: how many by frames, for rows with audio.
        sub_buckets: how many by tokens in each.
    """
    found: list[tuple[int, int]] = []
    below = -1
    for end in _upper_ends(frames, buckets):
        inside = tokens[(frames > below) & (frames <= end)]
        found += [(end, own) for own in _upper_ends(inside, sub_buckets)]
        below = end
    return found


def _upper_ends(sizes: np.ndarray, buckets: int) -> list[int]:
    """The largest size of every bucket; sizes of 0 are a bucket of their own."""
    full = np.sort(sizes[sizes > 0])
    ends = [0] if (sizes == 0).any() else []
    if not len(full):
        return ends
    starts: Sequence[float] = []
    if min(buckets, len(full)) > 1:
        starts = estimate_duration_buckets(full.tolist(), min(buckets, len(full)), constraint=_Plain())
    edges = sorted(
        {int(full[np.searchsorted(full, start) - 1]) for start in starts if start > full[0]} | {int(full[-1])}
    )
    return ends + edges


class _Plain:
    """Lhotse's measure for what is a length already."""

    def measure_length(self, length: float) -> float:
        return length
