"""Items with long audio, asked about one part after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.subtitles import Segment
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.runner import Prediction


@dataclass(frozen=True)
class PartedItems:
    """Items in parts.

    Attributes:
        items: all parts, in order.
        spans: start and end of each part in its item's audio, in seconds.
        counts: how many parts each of the original items has.
    """

    items: list[Item]
    spans: list[tuple[float, float]]
    counts: list[int]

    def join(self, answers: Sequence[Prediction]) -> list[tuple[Prediction, list[Segment]]]:
        """For each of the original items its answer, and what was answered to each of its parts; an error of one is its own."""
        joined, start = [], 0
        for count in self.counts:
            own = list(zip(answers[start : start + count], self.spans[start : start + count], strict=True))
            start += count
            error = next((answer for answer, _ in own if answer.text is None), None)
            segments = [Segment(begin, end, answer.text or "") for answer, (begin, end) in own]
            text = " ".join(segment.text for segment in segments if segment.text)
            secs = sum(answer.secs or 0.0 for answer, _ in own)
            whole = Prediction(text, secs=secs, device=own[0][0].device) if error is None else error
            joined.append((whole, [] if error is not None else segments))
        return joined


def part_items(items: Sequence[Item], part_secs: float | None, sampling_rate: int) -> PartedItems:
    """Cuts the long audio of every item's last turn at pauses; see `models.long_audio.split_long_audio`.

    Args:
        items: those whose audio cannot be cut become items with an error.
        part_secs: the longest part; None cuts nothing.
        sampling_rate: Hz at which pauses are looked for.

    Raises:
        ConfigError: parts that are too short.
    """
    made = PartedItems([], [], [])
    for item in items:
        for part, span in (parts := _parts(item, part_secs, sampling_rate)):
            made.items.append(part)
            made.spans.append(span)
        made.counts.append(len(parts))
    return made


def _parts(item: Item, part_secs: float | None, sampling_rate: int) -> list[tuple[Item, tuple[float, float]]]:
    from vtblender_nemo.models.long_audio import split_long_audio

    if item.conversation is None:
        return [(item, (0.0, 0.0))]
    if part_secs is None:
        return [(item, (0.0, item.conversation.audio_secs))]
    try:
        parts = split_long_audio([item.conversation], part_secs, sampling_rate).conversations
    except DataError as error:
        return [(replace(item, conversation=None, error=str(error)), (0.0, 0.0))]
    longest = max((audio.duration_secs for audio in item.conversation.audios), default=0.0)
    beside = item.conversation.audio_secs - longest  # short audios, which every part has
    found, start = [], 0.0
    for number, part in enumerate(parts):
        id = item.id if len(parts) == 1 else f"{item.id}, part {number + 1}"
        end = start + part.audio_secs - beside
        found.append((replace(item, id=id, conversation=replace(part, id=id)), (start, end)))
        start = end
    return found
