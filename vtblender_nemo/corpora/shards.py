"""Shards of a prepared corpus: NeMo's tarred manifests or Lhotse's shar, written under other names and renamed when whole.

A shard is `manifest_000000.jsonl` with `audio_000000.tar`, or `cuts.000000.jsonl.gz` with `recording.000000.tar`. What it
holds follows from the corpus and the settings alone, so its bytes are the same whoever writes it, and however often.
"""

from __future__ import annotations

import functools
import gzip
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtblender_nemo.common.files import write_json
from vtblender_nemo.corpora.audio import UnusableAudioError, flac_of
from vtblender_nemo.corpora.utterance import Utterance
from vtblender_nemo.data.config import TrainConfig
from vtblender_nemo.data.rows import LineFile
from vtblender_nemo.synthesis.engine.writer import AudioTar, json_line

if TYPE_CHECKING:
    from lhotse import Recording

logger = logging.getLogger(__name__)

_LANGUAGES = ("source_lang", "target_lang")  # of a shard's rows all the same

MAX_SECS = TrainConfig.max_duration
"""What training leaves out if it is longer, unless it is told otherwise."""


class Format(str, Enum):
    """How shards are written."""

    tarred = "tarred"
    shar = "shar"


# Names of a shard's rows and of its audio.
FILES = {
    Format.tarred: ("manifest_{number:06}.jsonl", "audio_{number:06}.tar"),
    Format.shar: ("cuts.{number:06}.jsonl.gz", "recording.{number:06}.tar"),
}


@dataclass(frozen=True)
class Shard:
    """What one shard is made of.

    Attributes:
        folder: of its language and split.
        number: in the folder, from 0.
        lines: of the listing that hold its utterances.
        done: its counts, written last; a shard without this file is made again. It stands in another folder, for Lhotse
            takes every file of a shar's folder for data.
    """

    folder: Path
    number: int
    lines: tuple[int, ...]
    done: Path


def make_shard(shard: Shard, listing: Path, format: Format, rate: int) -> dict[str, Any]:
    """Writes a shard; gives its counts, which are kept with what it refused in `shard.done`.

    Args:
        shard: what it is made of.
        listing: all utterances, one a line.
        format: tarred or shar.
        rate: Hz of the audio.
    """
    utterances = _utterances(listing, shard)
    writer = (_Tarred if format == Format.tarred else _Shar)(shard.folder, shard.number, rate)
    refused: list[dict[str, str]] = []
    secs: list[float] = []
    try:
        for utterance in utterances:
            try:
                secs.append(writer.add(utterance) / rate)
            except UnusableAudioError as error:
                row = {"id": utterance.id, "place": utterance.place, "reason": error.reason, "detail": str(error)}
                refused.append(row)
        writer.finish()
    finally:
        writer.discard()
    counts = {
        "rows": len(secs),
        "clips": writer.clips,
        "languages": {key: utterances[0].fields[key] for key in _LANGUAGES if key in utterances[0].fields},
        "row_secs": round(sum(secs), 6),
        "longest_secs": round(max(secs, default=0.0), 3),
        "long_rows": sum(one > MAX_SECS for one in secs),
        "long_row_secs": round(sum(one for one in secs if one > MAX_SECS), 6),
        "refused": refused,
        "files": {path.name: path.stat().st_size for path in writer.paths},
    }
    write_json(counts, shard.done)
    return counts


def is_whole(shard: Shard, format: Format) -> bool:
    """Whether a shard was finished, and its files are still there and of the sizes that were noted; tells what is not so."""
    if not shard.done.is_file():
        return False
    sizes = json.loads(shard.done.read_text(encoding="utf-8")).get("files", {})
    for name in (name.format(number=shard.number) for name in FILES[format]):
        path = shard.folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None or size != sizes.get(name, size):
            damage = "is gone" if size is None else f"has {size} bytes, and had {sizes[name]}"
            logger.warning("shard %d of %s is made again: %s %s", shard.number, shard.folder, name, damage)
            return False
    return True


def _utterances(listing: Path, shard: Shard) -> list[Utterance]:
    lines = _lines(listing)
    return [utterance_of(json.loads(lines[number])) for number in shard.lines]


@functools.lru_cache(maxsize=1)
def _lines(listing: Path) -> LineFile:
    return LineFile(listing)


def utterance_of(row: Mapping[str, Any]) -> Utterance:
    """The utterance of a line of the listing."""
    return Utterance(**{**row, "audio": tuple(row["audio"])})


class _Writer(ABC):
    """Two files that belong together: rows, and the tar of their audio."""

    rows_name: str
    audio_name: str

    def __init__(self, folder: Path, number: int, rate: int) -> None:
        names = [name.format(number=number) for name in (self.rows_name, self.audio_name)]
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = [folder / name for name in names]
        self._unfinished = [folder / f".{name}.{os.getpid()}" for name in names]
        self._tar = AudioTar(self._unfinished[1])
        self._rows: list[bytes] = []
        self._samples: dict[str, int] = {}
        self._rate = rate

    @property
    def clips(self) -> int:
        """Audio files so far."""
        return len(self._samples)

    def add(self, utterance: Utterance) -> int:
        """Takes a row; gives the samples of its audio.

        Raises:
            UnusableAudioError: there is none.
        """
        clip = self._clip(utterance)
        if clip not in self._samples:
            content, samples = flac_of(
                utterance.audio, self._rate, offset_secs=utterance.offset_secs, duration_secs=utterance.duration_secs
            )
            self._store(clip, content, samples)
            self._samples[clip] = samples
        self._rows.append(json_line(self._row(utterance, clip, self._samples[clip])))
        return self._samples[clip]

    def finish(self) -> None:
        """Gives the files their names."""
        self._tar.close()
        self._unfinished[0].write_bytes(self._packed(b"".join(self._rows)))
        for unfinished, path in zip(self._unfinished, self.paths, strict=True):
            unfinished.replace(path)

    def discard(self) -> None:
        """Removes what was not finished."""
        self._tar.close()
        for path in self._unfinished:
            path.unlink(missing_ok=True)

    @abstractmethod
    def _clip(self, utterance: Utterance) -> str:
        """The name, without its end, that the audio is stored under."""

    @abstractmethod
    def _store(self, clip: str, content: bytes, samples: int) -> None: ...

    @abstractmethod
    def _row(self, utterance: Utterance, clip: str, samples: int) -> dict[str, Any]: ...

    @abstractmethod
    def _packed(self, rows: bytes) -> bytes: ...


class _Tarred(_Writer):
    """NeMo's tarred manifests; rows of one clip name the same member."""

    rows_name, audio_name = FILES[Format.tarred]

    def _clip(self, utterance: Utterance) -> str:
        return utterance.clip or utterance.id

    def _store(self, clip: str, content: bytes, samples: int) -> None:
        self._tar.add(f"{clip}.flac", content)

    def _row(self, utterance: Utterance, clip: str, samples: int) -> dict[str, Any]:
        secs = samples / self._rate
        own = {"id": utterance.id, "audio_filepath": f"{clip}.flac", "duration": secs, "text": utterance.text}
        return {**own, **utterance.fields}

    def _packed(self, rows: bytes) -> bytes:
        return rows


class _Shar(_Writer):
    """Lhotse's shar; every cut has a recording of its own."""

    rows_name, audio_name = FILES[Format.shar]

    def _clip(self, utterance: Utterance) -> str:
        return utterance.id

    def _store(self, clip: str, content: bytes, samples: int) -> None:
        self._tar.add(f"{clip}.flac", content)
        self._tar.add(f"{clip}.json", json_line(self._recording(clip, samples).to_dict()))

    def _row(self, utterance: Utterance, clip: str, samples: int) -> dict[str, Any]:
        from lhotse import MonoCut, SupervisionSegment

        recording, fields = self._recording(clip, samples), dict(utterance.fields)
        supervision = SupervisionSegment(
            id=clip,
            recording_id=clip,
            start=0.0,
            duration=recording.duration,
            text=utterance.text,
            language=fields.pop("source_lang", None),
            speaker=fields.pop("speaker", None),
            gender=fields.pop("gender", None),
            custom=fields or None,
        )
        cut = MonoCut(
            id=clip,
            start=0.0,
            duration=recording.duration,
            channel=0,
            supervisions=[supervision],
            recording=recording,
        )
        return cut.to_dict()

    def _recording(self, clip: str, samples: int) -> Recording:
        from lhotse import AudioSource, Recording

        source = AudioSource(type="shar", channels=[0], source="")  # as Lhotse marks audio that stands in a tar
        return Recording(clip, [source], self._rate, samples, samples / self._rate)

    def _packed(self, rows: bytes) -> bytes:
        return gzip.compress(rows, mtime=0)  # Lhotse's own writer leaves the time in the file
