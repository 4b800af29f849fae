"""Recordings inside the page, as small as they can be heard, and no more of them than the page may hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

from vtblender_nemo.evaluation.page.answers import AudioSpan

RATE = 16000
"""Hz; what speech models hear, too."""
LONGEST_SECS = 30.0
PREFIX = "data:audio/mpeg;base64,"


@dataclass(frozen=True)
class Clip:
    """A recording on the page.

    Attributes:
        name: of the file.
        uri: the sound; empty where it is not in the page.
        secs: how much of it is in the page.
        remark: what is missing and why.
    """

    name: str
    uri: str = ""
    secs: float = 0.0
    remark: str = ""


def clips(spans: Iterable[AudioSpan], limit_bytes: int) -> list[Clip]:
    """Encodes recordings in the order given, as long as the page may hold more.

    Args:
        spans: what to play; one that is there twice stands in the page twice.
        limit_bytes: of all data URIs together.

    Returns:
        One clip for every span; those beyond the limit are silent.
    """
    made: dict[AudioSpan, Clip] = {}
    shown = []
    left = limit_bytes
    for span in spans:
        if span not in made:
            made[span] = _clip(span)
        clip = made[span]
        if len(clip.uri) > left:
            clip = Clip(clip.name, remark="not in this page, to keep it small")
        left -= len(clip.uri)
        shown.append(clip)
    return shown


def _clip(span: AudioSpan) -> Clip:
    import soundfile as sf
    import soxr

    name = span.path.name
    try:
        with sf.SoundFile(span.path) as file:
            rate = file.samplerate
            file.seek(min(round(span.offset * rate), file.frames))
            rest = (file.frames - file.tell()) / rate
            secs = rest if span.duration is None else min(span.duration, rest)
            samples = file.read(round(min(secs, LONGEST_SECS) * rate), dtype="float32", always_2d=True).mean(axis=1)
    except (OSError, sf.LibsndfileError):
        return Clip(name, remark="recording not found" if not span.path.is_file() else "recording cannot be read")
    if not len(samples):
        return Clip(name, remark="recording is empty")
    buffer = io.BytesIO()
    # MP3 plays in every browser and is the same at every writing; an OGG stream has a random serial number.
    sf.write(buffer, soxr.resample(samples, rate, RATE), RATE, format="MP3", compression_level=0.7)
    uri = PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii")
    remark = f"the first {LONGEST_SECS:.0f} of {secs:.0f} s" if secs > LONGEST_SECS else ""
    return Clip(name, uri, min(secs, LONGEST_SECS), remark)
