"""Several utterances of one recording as one row: neighbours in a file become one span of it, for questions across them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.rows import recording_name
from vtblender_nemo.data.word_times import FIELD as ALIGNMENT
from vtblender_nemo.data.word_times import as_field, read_alignment
from vtblender_nemo.synthesis.inputs.rows import InputRows, digest_of
from vtblender_nemo.synthesis.inputs.speech import SpeechRows
from vtblender_nemo.synthesis.work import InputRow

UTTERANCES, SOURCES = "utterances", "sources"
"""Fields of a joined row: the texts and the ids of its utterances, in their order."""

_MOST_OVERLAP_SECS = 0.5  # of neighbours, whose borders are rarely exact; more are two people at once


@dataclass(frozen=True)
class JoinLimits:
    """Which neighbours become one row.

    Attributes:
        utterances: most of them.
        gap_secs: most between two, as nobody has written down what is said there.
        span_secs: most of all together, pauses included.
    """

    utterances: int = 4
    gap_secs: float = 2.0
    span_secs: float = 40.0

    def __post_init__(self) -> None:
        if self.utterances < 2 or self.gap_secs < 0 or self.span_secs <= 0:
            raise ConfigError(
                "utterances cannot be joined so",
                value=self,
                expected="2 utterances or more, a gap of 0 s or more, a span of more than 0 s",
                knob="--utterances, --max-gap, --max-span",
            )


@dataclass(frozen=True)
class _Place:
    """Where an utterance lies: its index, shard, audio file, and the seconds at which it starts and ends."""

    index: int
    shard: int
    audio: str
    start_secs: float
    end_secs: float


class JoinedRows(InputRows):
    """Rows of speech with neighbours of one audio file joined; those without neighbours stay as they are.

    A joined row has the first row's fields, `offset` and `duration` of the whole span, `text` of all, and `UTTERANCES` and
    `SOURCES`, and `alignment` where all have one. Rows of different files are never joined, as a manifest row names one.

    Args:
        rows: rows that name a part of a file by `offset` and `duration`; all are read once.
        limits: see there.

    Raises:
        ConfigError: nothing can be joined.
    """

    def __init__(self, rows: SpeechRows, limits: JoinLimits) -> None:
        self._rows, self._limits = rows, limits
        groups = sorted(_groups(rows, limits))
        # Flat arrays, as every process gets a copy.
        self._starts = np.cumsum([0, *map(len, groups)])
        self._members = np.array([index for group in groups for index in group], dtype=np.int64)
        if len(groups) == len(rows):
            raise ConfigError(
                "no two rows can be joined",
                path=rows.place(0).rpartition(":")[0],
                expected="rows that are parts of one audio file, told by offset and duration, close to each other",
                knob="--utterances, --max-gap, --max-span",
            )

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def digest(self) -> str:
        return digest_of([self._rows.digest, repr(self._limits)])

    @property
    def shard_sizes(self) -> list[int] | None:
        sizes = self._rows.shard_sizes
        if sizes is None:
            return None
        firsts = self._members[self._starts[:-1]]
        return np.bincount(np.searchsorted(np.cumsum(sizes), firsts, side="right"), minlength=len(sizes)).tolist()

    def position(self, index: int) -> tuple[int, str, int]:
        return self._rows.position(self._group(index)[0])

    def made_up_id(self, index: int) -> str:
        return self._rows.made_up_id(self._group(index)[0])

    def entry(self, manifests: str) -> dict[str, Any]:
        return self._rows.entry(manifests)

    def _group(self, index: int) -> list[int]:
        return self._members[self._starts[index] : self._starts[index + 1]].tolist()

    def _read(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        rows = [self._rows[member] for member in self._group(index)]
        first = rows[0]
        if len(rows) == 1:
            return first.id, first.data
        start_secs = float(first.data.get("offset") or 0.0)
        end_secs = max(float(row.data.get("offset") or 0.0) + float(row.data["duration"]) for row in rows)
        texts = [str(row.data["text"]) for row in rows]
        joined = {
            "offset": start_secs,
            "duration": round(end_secs - start_secs, 6),
            "text": " ".join(texts),
            UTTERANCES: texts,
            SOURCES: [row.id for row in rows],
        }
        kept = {name: value for name, value in first.data.items() if name != ALIGNMENT}
        return f"{first.id}+{len(rows) - 1}", {**kept, **joined, **_joined_alignment(rows, start_secs)}


def _joined_alignment(rows: Sequence[InputRow], start_secs: float) -> dict[str, Any]:
    """The field for the words of all rows, in seconds from the first one's start; none where a row has no alignment."""
    if any(row.data.get(ALIGNMENT) is None for row in rows):
        return {}
    offsets = [float(row.data.get("offset") or 0.0) for row in rows]
    fields = [
        as_field(read_alignment(row.data[ALIGNMENT]), offset - start_secs)
        for row, offset in zip(rows, offsets, strict=True)
    ]
    return {ALIGNMENT: [word for field in fields for word in field]}


def _groups(rows: SpeechRows, limits: JoinLimits) -> Iterator[list[int]]:
    """The indices of every row of the result, those of a group in the order of time."""
    places: list[_Place] = []
    for index, shard in enumerate(_shards(rows)):
        place = _place(rows, index, shard)
        if place is None:
            yield [index]
        else:
            places.append(place)
    places.sort(key=lambda place: (place.shard, place.audio, place.start_secs, place.index))
    group: list[_Place] = []
    for place in places:
        if group and not _joins(group, place, limits):
            yield [member.index for member in group]
            group = []
        group.append(place)
    if group:
        yield [member.index for member in group]


def _shards(rows: SpeechRows) -> Iterator[int]:
    """The shard of every row."""
    for shard, size in enumerate(rows.shard_sizes or [len(rows)]):
        yield from [shard] * size


def _place(rows: SpeechRows, index: int, shard: int) -> _Place | None:
    """None for rows that stay alone: unreadable, without text, or of unknown length."""
    try:
        data = rows[index].data
    except DataError:
        return None
    text, duration = data.get("text"), data.get("duration")
    if not isinstance(text, str) or not text.strip() or not duration:
        return None
    start_secs = float(data.get("offset") or 0.0)
    return _Place(index, shard, recording_name(data["audio_filepath"]), start_secs, start_secs + float(duration))


def _joins(group: list[_Place], place: _Place, limits: JoinLimits) -> bool:
    first, last = group[0], group[-1]
    gap_secs = place.start_secs - last.end_secs
    return (
        (first.shard, first.audio) == (place.shard, place.audio)
        and len(group) < limits.utterances
        and -_MOST_OVERLAP_SECS <= gap_secs <= limits.gap_secs
        and place.end_secs - first.start_secs <= limits.span_secs
    )
