"""Spans of a transcript in place of their speech: what was heard from end to end is heard in part, and read in part.

The modality changes between words alone, and at a place in the audio where none of them is said: in the middle of the silence
between two words, or where the one ends and the other starts if there is none. Long silences are left out at a cut.

What is drawn follows from the random numbers of a visit to a row, after those of its wording: with interleaving or without, a
row gets the same wording, and it is interleaved otherwise in every epoch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from vtblender_nemo.common.audio import cut_span
from vtblender_nemo.common.conversation import Audio, Text
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.typed import read_config
from vtblender_nemo.data.word_times import FIELD, Unit, read_alignment, units_of

_DRAWS = 16  # at a row, before one whose speech is long enough for none of them stays whole


@dataclass
class InterleaveConfig:
    """How much of a recording is read in place of being heard."""

    prob: float = 0.5
    """Share of the visits to a row that interleave it; the others hear all of it."""
    words: list[int] = field(default_factory=lambda: [1, 8])
    """Fewest and most words of a span of speech; what is left between the spans is text."""
    switches: list[int] = field(default_factory=lambda: [1, 4])
    """Fewest and most changes between speech and text; either may come first."""
    margin_secs: float = 0.1
    """Most silence that a span of speech keeps at a cut, on either side."""
    min_secs: float = 0.2
    """Shortest span of speech; `min_duration` of the training drops rows with shorter ones than its own."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: numbers out of range.
        """
        if not 0 <= self.prob <= 1:
            raise ConfigError("no probability", value=self.prob, expected="0 to 1", knob=f"{place}.prob")
        for name in ("words", "switches"):
            value = getattr(self, name)
            if len(value) != 2 or not 1 <= value[0] <= value[1]:
                raise ConfigError(
                    "not a range", value=value, expected="[fewest, most], from 1 on", knob=f"{place}.{name}"
                )
        for name in ("margin_secs", "min_secs"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(
                    "value out of range", value=getattr(self, name), expected="0 s or more", knob=f"{place}.{name}"
                )


@dataclass(frozen=True)
class Span:
    """Neighbouring units, `begin` to before `end`, that are all heard or all read."""

    begin: int
    end: int
    heard: bool


@dataclass(frozen=True)
class Interleaved:
    """An audio's parts in order, and what is said in those that are heard."""

    parts: tuple[Text | Audio, ...]
    transcripts: tuple[str, ...]


def open_interleaver(values: Any, place: str = "interleave") -> Interleaver | None:
    """What interleaves the rows of a source; None where its entry does not ask for it.

    Args:
        values: the key `interleave` of the source's entry: a mapping, empty for the defaults.
        place: the key, for errors.

    Raises:
        ConfigError: an unknown key, or a value of another type or out of range.
    """
    if values is None:
        return None
    config = read_config(InterleaveConfig, values, place)
    config.check(place)
    return Interleaver(config)


@dataclass(frozen=True)
class Interleaver:
    """Interleaves rows that have an alignment."""

    config: InterleaveConfig

    def __call__(self, audio: Audio, fields: Mapping[str, Any], rng: random.Random) -> Interleaved:
        """A row's audio as it is given at one visit.

        The row's `alignment` has to be of the very words of its `text`: with other words, or with none, nobody knows what a
        part of the audio says, and a row that is wrong at some visits only would be hard to find. So such a row is refused at
        every visit, and listed with the other rows left out. A row that is known to have no alignment says `"alignment":
        null`, and is heard whole. Words without times are not parted from their neighbours; see `units_of`.

        Args:
            audio: the row's.
            fields: `text`, the transcript, and `alignment`.
            rng: random numbers of this visit to the row.

        Raises:
            DataError: no transcript, no alignment, or one that does not fit transcript and audio.
        """
        own = random.Random(rng.getrandbits(64))  # the row's later draws do not depend on how many are made here
        transcript = fields.get("text")
        if not isinstance(transcript, str) or not transcript.strip():
            raise DataError("row without the transcript of its audio", value=transcript, expected="text", knob="text")
        if FIELD not in fields:
            raise DataError(
                "row without alignment cannot be interleaved",
                expected="[[word, start, end], ...], as examples/align_corpus.py makes it; or null, to be heard whole",
                knob=f"{FIELD} of the row, or interleave",
            )
        whole = Interleaved((audio,), (transcript,))
        if fields[FIELD] is None:
            return whole
        units = units_of(transcript, read_alignment(fields[FIELD]), audio.duration_secs)
        if own.random() >= self.config.prob:
            return whole
        spans = draw_spans(units, audio.duration_secs, self.config, own)
        return whole if spans is None else interleaved(audio, units, spans, self.config.margin_secs)


def replaced(parts: Sequence[Text | Audio], audio: Audio, by: Sequence[Text | Audio]) -> tuple[Text | Audio, ...]:
    """Parts of a turn with others in the place of one audio."""
    return tuple(one for part in parts for one in (by if part is audio else (part,)))


def interleaved(audio: Audio, units: Sequence[Unit], spans: Sequence[Span], margin_secs: float) -> Interleaved:
    """The parts that spans of an audio's units make: text, and audio that is cut out lazily."""
    texts = ["".join(unit.text for unit in units[span.begin : span.end]).strip() for span in spans]
    parts: list[Text | Audio] = []
    for span, text in zip(spans, texts, strict=True):
        if not span.heard:
            parts.append(Text(text))
            continue
        # To the sample, as Lhotse rounds the place and the length of a part apart.
        edges = heard_secs(units, span, audio.duration_secs, margin_secs)
        start_secs, end_secs = (round(secs * audio.cut.sampling_rate) / audio.cut.sampling_rate for secs in edges)
        parts.append(Audio(cut_span(audio.cut, start_secs, end_secs - start_secs, audio.cut.id)))
    return Interleaved(tuple(parts), tuple(text for span, text in zip(spans, texts, strict=True) if span.heard))


def heard_secs(units: Sequence[Unit], span: Span, duration_secs: float, margin_secs: float) -> tuple[float, float]:
    """Where the speech of a span starts and ends in its recording.

    At a cut that is the middle of the silence between two words, or, in a long silence, `margin_secs` from the span's own
    word. The recording's beginning and end stay as they are.
    """
    start_secs, end_secs = 0.0, duration_secs
    if span.begin:
        word = units[span.begin].start_secs
        start_secs = max((units[span.begin - 1].end_secs + word) / 2, word - margin_secs)
    if span.end < len(units):
        word = units[span.end - 1].end_secs
        end_secs = min((word + units[span.end].start_secs) / 2, word + margin_secs)
    return start_secs, end_secs


def draw_spans(
    units: Sequence[Unit], duration_secs: float, config: InterleaveConfig, rng: random.Random
) -> list[Span] | None:
    """Draws which units are heard and which are read: spans in order, the one kind after the other, that hold every unit once.

    The number of switches is drawn among those that a transcript of so many units has room for, then which kind comes first,
    then the lengths. A draw with speech shorter than `min_secs` is drawn again.

    Returns:
        The spans; None where there is no room for the fewest switches, or no draw had speech that was long enough.
    """
    plans = _plans(len(units), config)
    if not plans:
        return None
    for _ in range(_DRAWS):
        switches = rng.choice(sorted({switches for switches, _ in plans}))
        first_heard = rng.choice([first for possible, first in plans if possible == switches])
        spans = _spans(_lengths(len(units), switches, first_heard, config.words, rng), first_heard)
        heard = [heard_secs(units, span, duration_secs, config.margin_secs) for span in spans if span.heard]
        if all(end - start >= config.min_secs for start, end in heard):
            return spans
    return None


def _plans(units: int, config: InterleaveConfig) -> list[tuple[int, bool]]:
    """Numbers of switches, and whether speech comes first, that so many units have room for."""
    found = []
    for switches in range(config.switches[0], min(config.switches[1], units - 1) + 1):
        for first_heard in (True, False):
            heard, read = _kinds(switches, first_heard)
            if heard * config.words[0] + read <= units:
                found.append((switches, first_heard))
    return found


def _kinds(switches: int, first_heard: bool) -> tuple[int, int]:
    """How many spans are heard, and how many are read."""
    more, fewer = switches // 2 + 1, (switches + 1) // 2
    return (more, fewer) if first_heard else (fewer, more)


def _lengths(units: int, switches: int, first_heard: bool, words: Sequence[int], rng: random.Random) -> list[int]:
    """Units of every span in order."""
    heard, read = _kinds(switches, first_heard)
    heard_lengths: list[int] = []
    for left in range(heard - 1, -1, -1):
        room = units - sum(heard_lengths) - left * words[0] - read
        heard_lengths.append(rng.randint(words[0], min(words[1], room)))
    rng.shuffle(heard_lengths)  # the first ones drawn had more room
    rest = units - sum(heard_lengths)
    borders = [0, *sorted(rng.sample(range(1, rest), read - 1)), rest]
    kinds = {True: iter(heard_lengths), False: iter([end - start for start, end in pairwise(borders)])}
    return [next(kinds[(place % 2 == 0) == first_heard]) for place in range(switches + 1)]


def _spans(lengths: Sequence[int], first_heard: bool) -> list[Span]:
    borders = pairwise(accumulate(lengths, initial=0))
    return [Span(begin, end, (place % 2 == 0) == first_heard) for place, (begin, end) in enumerate(borders)]
