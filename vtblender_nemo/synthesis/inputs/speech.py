"""Transcribed speech as synthesis input: NeMo manifests plain and tarred, Lhotse cuts and Lhotse shar.

A row's `audio_filepath`, `offset` and `duration` (s) stay what a NeMo manifest needs to find the audio again, so that an
output row that keeps them is read by the entry that `SpeechRows.entry` gives. No audio is opened here.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtblender_nemo.common.audio import LONGEST_SECS
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.config import read_input_cfg
from vtblender_nemo.data.rows import JsonlRows, Member, Row, TarFile, recording_name
from vtblender_nemo.synthesis.inputs.rows import InputRows, digest_of, existing, one_kind
from vtblender_nemo.synthesis.work import InputRow

if TYPE_CHECKING:
    from lhotse.cut import Cut

_PROBED_ROWS = 100  # rows looked at to tell a file's format: the first may be broken
_SPEECH_TYPES = {
    "nemo": "manifest_filepath",
    "nemo_tarred": "manifest_filepath",
    "lhotse": "cuts_path",
    "lhotse_shar": "shar_path",
}
_INPUTS = "NeMo manifests, Lhotse cuts (JSONL or JSONL.gz) or Lhotse shar folders"


def open_speech(paths: Sequence[str | Path], tars: Sequence[str | Path] | None = None) -> SpeechRows:
    """Opens transcribed speech; the format is told by the first rows.

    Args:
        paths: NeMo manifests, files of Lhotse cuts, or folders of Lhotse shar; numbered patterns such as
            `manifest__OP_0..7_CL_.json` are written out. Or YAML files of sources, as `prepare_corpus` leaves them, which
            name such files and their tars. All are of one kind.
        tars: the tars that hold a NeMo manifest's audio: one for every manifest, or several for one manifest whose
            rows have `shard_id`.

    Raises:
        ConfigError: no rows, files that are missing, of an unknown format or of several, tars that do not match.
    """
    files, tars, tags = _written_out(paths, tars)
    kind = one_kind({path: _kind(path) for path in files}, expected=f"only {_INPUTS}")
    if tars:
        if kind != "nemo":
            raise ConfigError("tars beside input that needs none", value=kind, expected="NeMo manifests", knob="--tar")
        rows: SpeechRows = TarredRows(files, existing(tars, knob="--tar"))
    else:
        rows = {"nemo": ManifestRows, "lhotse": CutRows, "lhotse_shar": SharRows}[kind](files)
    rows.tags = tags
    return rows


def _written_out(
    paths: Sequence[str | Path], tars: Sequence[str | Path] | None
) -> tuple[list[Path], list[str | Path], dict[str, dict[str, Any]]]:
    """Data files, tars and the files' tags, with those that YAML files of sources name in place of the YAML files.

    Sources that teach other things by the same files, as transcripts and translations, give these once.
    """
    found: list[Path] = []
    all_tars: list[str | Path] = list(tars or [])
    tags: dict[str, dict[str, Any]] = {}
    for path in paths:
        if Path(path).suffix not in (".yaml", ".yml"):
            found += existing([path])
            continue
        for entry in read_input_cfg(path, "--input"):
            if entry.get("type") not in _SPEECH_TYPES or "audio_dir" in entry:
                raise ConfigError(
                    "not a source of transcribed speech",
                    path=Path(path),
                    value=entry,
                    expected=f"type {', '.join(_SPEECH_TYPES)}, without audio_dir",
                    knob="--input",
                )
            files = existing(_as_list(entry.get(_SPEECH_TYPES[entry["type"]])))
            if str(files[0]) not in tags:
                found += files
                all_tars += _as_list(entry.get("tarred_audio_filepaths"))
            for file in files:
                tags.setdefault(str(file), {}).update(entry.get("tags") or {})
    return found, all_tars, tags


def _as_list(value: Any) -> list[str | Path]:
    return [value] if isinstance(value, str | Path) else list(value or [])


def _kind(path: Path) -> str:
    if path.is_dir():
        if not any(path.glob("cuts.*.jsonl*")):
            raise ConfigError("folder is no Lhotse shar", path=path, expected="cuts.*.jsonl.gz in it", knob="--input")
        return "lhotse_shar"
    rows = JsonlRows([path], knob="--input")
    first = ""
    for index in range(min(len(rows), _PROBED_ROWS)):
        try:
            data = rows[index].data
        except DataError as error:
            first = first or str(error)
            continue
        first = first or f"a row of {', '.join(data)}"
        if "audio_filepath" in data:
            return "nemo"
        if str(data.get("type", "")).endswith("Cut") or "recording" in data:
            return "lhotse"
    raise ConfigError(
        f"no row of speech among the first {_PROBED_ROWS}",
        path=path,
        value=first,
        expected=f"{_INPUTS}; chats are read by the commands that speak them",
        knob="--input",
    )


class SpeechRows(InputRows):
    """Rows with `audio_filepath`, `duration` (s), `offset` (s), `text`, and what else the row had.

    Attributes:
        tags: by file, or by folder of shar: fields given to every row of it, in place of the row's own.
    """

    tags: Mapping[str, Mapping[str, Any]] = {}

    def __init__(self, manifests: Sequence[Path]) -> None:
        super().__init__([str(path) for path in manifests])
        self._rows = JsonlRows(manifests, knob="--input")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> InputRow:
        row = super().__getitem__(index)
        _, file, _ = self.position(index)
        tags = self.tags.get(file) or self.tags.get(str(Path(file).parent)) or {}
        return replace(row, data={**row.data, **tags})

    @property
    def digest(self) -> str:
        tags = [json.dumps(list(self.tags.values()), sort_keys=True)] if any(self.tags.values()) else []
        return digest_of([*(file.path for file in self._rows.files), *tags])

    def position(self, index: int) -> tuple[int, str, int]:
        file, line = self._rows.locate(index)
        return file, str(self._rows.files[file].path), line + 1

    @abstractmethod
    def entry(self, manifests: str) -> dict[str, Any]:
        """How the rows are read again, as an entry of `input_cfg`.

        Args:
            manifests: the path, or the numbered pattern, of output manifests whose rows kept their audio fields.
        """

    def cut_of(self, row: InputRow, sampling_rate: int) -> Cut:
        """The audio of one of these rows, not opened yet, at so many Hz.

        Raises:
            DataError: the row's tar does not hold it, or its `offset` and `duration` are no span.
        """
        from vtblender_nemo.data.lazy_audio import lazy_cut

        path, member = self._find(row)
        duration, offset = row.data.get("duration"), row.data.get("offset")
        return lazy_cut(path, duration_secs=duration, offset_secs=offset, sampling_rate=sampling_rate, member=member)

    @abstractmethod
    def _find(self, row: InputRow) -> tuple[Path, Member | None]:
        """The file of a row's audio; inside a tar also its place there."""

    def _file_of(self, row: InputRow) -> int:
        """The number of the file that a row stands in."""
        path = row.place.rpartition(":")[0]
        return next(number for number, file in enumerate(self._rows.files) if str(file.path) == path)

    def _read(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        data = self._rows[index].data
        if not isinstance(data.get("audio_filepath"), str) or not data["audio_filepath"]:
            raise DataError("row without audio_filepath", value=data.get("audio_filepath"), expected="a path")
        if data.get("_skipme"):
            raise DataError("row is marked to be skipped", value=data["_skipme"], knob="_skipme")
        for name in ("duration", "offset"):
            _check_secs(name, data.get(name))
        return data.get("id"), data


def _check_secs(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 <= value <= LONGEST_SECS):
        raise DataError(f"{name} is no length of time", value=value, expected=f"0 to {LONGEST_SECS:.0f} s", knob=name)


class _Moved:
    """Audio paths of several files, made to start from the one folder that lies above them all."""

    def __init__(self, files: Sequence[Path]) -> None:
        folders = [file.parent.absolute() for file in files]
        self.folder = Path(os.path.commonpath(folders))
        self._prefixes = [os.path.relpath(folder, self.folder) for folder in folders]

    def path(self, file: int, audio: str) -> str:
        return audio if self._prefixes[file] == "." else os.path.join(self._prefixes[file], audio)  # noqa: PTH118


class _FileRows(SpeechRows):
    """Rows whose audio lies in files; their paths start from the common folder of what names them."""

    def __init__(self, manifests: Sequence[Path]) -> None:
        super().__init__(manifests)
        self._moved = _Moved(manifests)

    def entry(self, manifests: str) -> dict[str, Any]:
        return {"type": "nemo", "manifest_filepath": manifests, "audio_dir": str(self._moved.folder)}

    def _find(self, row: InputRow) -> tuple[Path, Member | None]:
        return self._moved.folder / row.data["audio_filepath"], None


class ManifestRows(_FileRows):
    """NeMo manifests whose audio lies in files."""

    def _read(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        id, data = super()._read(index)
        file, _ = self._rows.locate(index)
        return id, {**data, "audio_filepath": self._moved.path(file, data["audio_filepath"])}


class TarredRows(SpeechRows):
    """NeMo manifests whose audio lies in tars; the rows of a tar are one shard, in their manifest's order."""

    def __init__(self, manifests: Sequence[Path], tars: Sequence[Path]) -> None:
        super().__init__(manifests)
        self._tars = [TarFile(path) for path in tars]
        self._order: np.ndarray | None = None
        if len(manifests) == len(tars):
            self._sizes = self._rows.sizes
        elif len(manifests) == 1:
            shards = np.array([self._shard(index) for index in range(len(self))])
            self._order = np.argsort(shards, kind="stable")
            self._sizes = np.bincount(shards, minlength=len(tars)).tolist()
        else:
            raise ConfigError(
                "manifests and tars do not match",
                value={"manifests": len(manifests), "tars": len(tars)},
                expected="one manifest for every tar, or one for all",
                knob="--tar",
            )

    @property
    def shard_sizes(self) -> list[int]:
        return self._sizes

    @property
    def digest(self) -> str:
        return digest_of([super().digest, *(f"{tar.path.name} {tar.path.stat().st_size}" for tar in self._tars)])

    def entry(self, manifests: str) -> dict[str, Any]:
        tars = [str(tar.path) for tar in self._tars]
        return {"type": "nemo_tarred", "manifest_filepath": manifests, "tarred_audio_filepaths": tars}

    def position(self, index: int) -> tuple[int, str, int]:
        return super().position(self._line(index))

    def _read(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        line = self._line(index)
        if self._order is not None:
            self._check_shard(self._rows[line])
        return super()._read(line)

    def _find(self, row: InputRow) -> tuple[Path, Member | None]:
        tar = self._tars[self._file_of(row) if self._order is None else row.data["shard_id"]]
        return tar.path, tar.find(recording_name(row.data["audio_filepath"]))

    def _line(self, index: int) -> int:
        return index if self._order is None else int(self._order[index])

    def _shard(self, line: int) -> int:
        """The tar of a row; rows that cannot be read stand in the first, which refuses them."""
        try:
            return self._check_shard(self._rows[line])
        except DataError:
            return 0

    def _check_shard(self, row: Row) -> int:
        shard = row.data.get("shard_id")
        if not isinstance(shard, int) or not 0 <= shard < len(self._tars):
            raise DataError("row without its shard", value=shard, expected=f"shard_id from 0 to {len(self._tars) - 1}")
        return shard


class CutRows(_FileRows):
    """Lhotse cuts over audio files, as the rows that a NeMo manifest of them would have."""

    def _read(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        cut = _cut(self._rows[index])
        sources = cut.recording.sources
        if len(sources) != 1 or sources[0].type != "file" or cut.recording.transforms:
            found = [source.type for source in sources]
            raise DataError("cut's audio is not one plain file", value=found, expected="one source of type file")
        if cut.recording.num_channels != cut.num_channels:
            raise DataError(
                "cut takes some channels of a file, which no NeMo manifest can say",
                value=cut.channel,
                expected="all channels, or the cuts as Lhotse shar (which stores each cut's own audio)",
            )
        file, _ = self._rows.locate(index)
        return cut.id, _row_of(cut, self._moved.path(file, str(sources[0].source)))


class SharRows(SpeechRows):
    """Lhotse shar: every `recording.*.tar` is one shard; rows name the tar's members."""

    def __init__(self, folders: Sequence[Path]) -> None:
        cuts = [path for folder in folders for path in sorted(folder.glob("cuts.*.jsonl*"))]
        self._tars = [TarFile(path) for folder in folders for path in sorted(folder.glob("recording.*.tar"))]
        if len(self._tars) != len(cuts):
            raise ConfigError(
                "shar with cuts and recordings that do not match",
                path=folders[0],
                value={"cuts": len(cuts), "recordings": len(self._tars)},
                expected="cuts.NNNNNN.jsonl.gz and recording.NNNNNN.tar for every shard",
                knob="--input",
            )
        super().__init__(cuts)

    @property
    def shard_sizes(self) -> list[int]:
        return self._rows.sizes

    @property
    def digest(self) -> str:
        return digest_of([super().digest, *(f"{tar.path.name} {tar.path.stat().st_size}" for tar in self._tars)])

    def entry(self, manifests: str) -> dict[str, Any]:
        tars = [str(tar.path) for tar in self._tars]
        return {"type": "nemo_tarred", "manifest_filepath": manifests, "tarred_audio_filepaths": tars}

    def _read(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        cut = _cut(self._rows[index])
        shard, line = self._rows.locate(index)
        members = self._tars[shard].members
        member = members[2 * line] if 2 * line < len(members) else None  # every recording is followed by its JSON
        if member is None or member.name.rsplit(".", 1)[0] != cut.id:
            found = member.name if member else "the end of the tar"
            raise DataError("shar's recordings are not in its cuts' order", value=found, expected=cut.id)
        return cut.id, _row_of(cut, member.name)

    def _find(self, row: InputRow) -> tuple[Path, Member | None]:
        tar = self._tars[self._file_of(row)]
        return tar.path, tar.find(row.data["audio_filepath"])


def _cut(row: Row) -> Cut:
    from lhotse.cut.data import DataCut

    from vtblender_nemo.data.safe_cuts import SHAR, deserialized

    cut = deserialized(row.data, SHAR)
    if not isinstance(cut, DataCut) or not cut.has_recording:
        raise DataError("row is no cut over one recording", value=row.data, expected="a Lhotse MonoCut or MultiCut")
    return cut


def _row_of(cut: Cut, audio: str) -> dict[str, Any]:
    from vtblender_nemo.data.speech_sources import fields_of

    return {**fields_of(cut), "id": cut.id, "audio_filepath": audio, "offset": cut.start, "duration": cut.duration}
