"""Headers of audio files, on disk or inside a tar: rate, channels and length without decoding."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import soundfile as sf
from lhotse.audio.backend import info

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import AudioError
from vtblender_nemo.data.rows import Member, read_span


@dataclass(frozen=True)
class Header:
    """What an audio file says of itself."""

    rate: int
    channels: int
    duration_secs: float


@lru_cache(maxsize=65536)
def read_header(path: str, member: Member | None = None) -> Header:
    """The header of a file, or of a tar's member.

    Raises:
        AudioError: missing, or no audio.
    """
    if member is None and not Path(path).is_file():
        raise AudioError("audio file is missing", path=path)
    try:
        with sf.SoundFile(path if member is None else _Span(path, member)) as file:
            return Header(file.samplerate, file.channels, file.frames / file.samplerate)
    except sf.LibsndfileError as error:  # perhaps a format that only Lhotse's other backends read
        try:
            said = info(Path(path) if member is None else io.BytesIO(read_span(path, member.start, member.size)))
            return Header(int(said.samplerate), said.channels, said.duration)
        except Exception:  # every backend raises errors of its own; the first one's says it best
            where = path if member is None else f"{path}/{member.name}"
            raise AudioError(f"audio file cannot be opened ({first_line(error)})", path=where) from error


class _Span(io.RawIOBase):
    """A tar's member as a file of its own; only what is asked for is read."""

    def __init__(self, path: str, member: Member) -> None:
        self._path, self._member, self._place = path, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._member.size}[whence]
        self._place = min(max(base + offset, 0), self._member.size)
        return self._place

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._member.size - self._place)
        if size > 0:
            buffer[:size] = read_span(self._path, self._member.start + self._place, size)
            self._place += size
        return max(size, 0)
