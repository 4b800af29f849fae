"""Conversations as training would hear them, with their audio ready to be played."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile as sf

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import Audio, Text
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.data.blend import Blend, Example
from vtblender_nemo.data.buckets import Planner
from vtblender_nemo.inspection.subject import bucket_planners

TRIES_PER_SAMPLE = 20


@dataclass(frozen=True)
class SamplePart:
    """A text, or an audio as a data URI with its seconds."""

    text: str = ""
    audio: str = ""
    secs: float = 0.0


@dataclass(frozen=True)
class SampleTurn:
    """What one speaker says."""

    role: str
    parts: tuple[SamplePart, ...]


@dataclass(frozen=True)
class Sample:
    """A conversation to be shown.

    Attributes:
        source: its source's name.
        place: file and line.
        length: its positions.
        turns: what is said.
        notes: what else the row held, and what augmentation was drawn.
    """

    source: str
    place: str
    length: int
    turns: tuple[SampleTurn, ...]
    notes: dict[str, str]


def draw_samples(planner: Planner, count: int, sampling_rate: int) -> list[Sample]:
    """Conversations of all sources in turn, `count` in all; rows that cannot be used are passed over.

    Args:
        planner: its sources.
        count: how many.
        sampling_rate: Hz of the model's audio.
    """
    streams = [
        _usable(one.blend, number, sampling_rate)
        for one in bucket_planners(planner).values()
        for number in range(len(one.blend.sources))
    ]
    samples: list[list[Sample]] = [[] for _ in streams]
    left = list(range(len(streams)))
    while left and sum(map(len, samples)) < count:
        for number in list(left):
            if sum(map(len, samples)) == count:
                break
            sample = next(streams[number], None)
            if sample is None:
                left.remove(number)
            else:
                samples[number].append(sample)
    return [sample for own in samples for sample in own]


def _usable(blend: Blend, number: int, rate: int) -> Iterator[Sample]:
    """Samples of one source; ends with the source, or with too many rows in a row that cannot be used."""
    failed = 0
    for position in range(len(blend.sources[number])):
        try:
            example = blend.rebuild(number, position)
            if blend.limits.broken(example.conversation, example.length) is None:
                yield _sample(blend, example, rate)
                failed = 0
                continue
        except DataError:  # the scan has listed it
            pass
        failed += 1
        if failed == TRIES_PER_SAMPLE:
            return


def _sample(blend: Blend, example: Example, rate: int) -> Sample:
    conversation = example.conversation
    path, line = blend.place(example.source, example.position)
    turns = tuple(SampleTurn(turn.role, tuple(_part(part, rate) for part in turn.parts)) for turn in conversation.turns)
    notes = {str(key): _short(value) for key, value in conversation.custom.items() if value not in (None, "", {}, [])}
    return Sample(conversation.source, f"{path}:{line}", example.length, turns, notes)


def _part(part: Text | Audio, rate: int) -> SamplePart:
    if isinstance(part, Audio):
        wave = load_samples(part.cut, rate)
        return SamplePart(audio=data_uri(wave, rate), secs=len(wave) / rate)
    return SamplePart(text=part.text.strip())


def data_uri(wave: np.ndarray, rate: int) -> str:
    """FLAC of 16 bits that a web page can hold; samples (S,) beyond -1..1 are clipped."""
    buffer = io.BytesIO()
    sf.write(buffer, np.clip(wave, -1, 1), rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode()


def _short(value: object, most: int = 300) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def sources_of(samples: Sequence[Sample]) -> list[str]:
    """Names of the sources that are shown, in order."""
    return list(dict.fromkeys(sample.source for sample in samples))
