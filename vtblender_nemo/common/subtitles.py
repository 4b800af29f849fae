"""What is said when, as subtitles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SubtitleFormat = Literal["srt", "vtt"]


@dataclass(frozen=True)
class Segment:
    """What is said in a part of a recording.

    Attributes:
        start_secs: of the part.
        end_secs: of the part.
        text: its words.
    """

    start_secs: float
    end_secs: float
    text: str


def subtitles(segments: Sequence[Segment], form: SubtitleFormat) -> str:
    """Segments that say something, as SubRip or WebVTT."""
    mark = "," if form == "srt" else "."
    blocks = [] if form == "srt" else ["WEBVTT\n"]
    said = [segment for segment in segments if segment.text]
    for number, one in enumerate(said, 1):
        head = f"{number}\n" if form == "srt" else ""
        times = f"{_clock(one.start_secs, mark)} --> {_clock(one.end_secs, mark)}"
        blocks.append(f"{head}{times}\n{one.text}\n")
    return "\n".join(blocks)


def _clock(secs: float, mark: str) -> str:
    millis = round(secs * 1000)
    hours, rest = divmod(millis, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"
