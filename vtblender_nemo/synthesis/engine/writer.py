"""Shards on disk: written under a temporary name, renamed when whole, and the same bytes whenever they are written again.

`output_dir/shard_000000/` holds `manifest.jsonl` (rows made), `audio.tar` (their clips, FLAC of 16 bits; only where there
are clips), `rejected.jsonl` (`{"id", "place", "reason", "detail"}`) and `done.json` (counts, and the other files' sizes in
bytes). Shape letter: S samples.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import socket
import tarfile
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf

from vtblender_nemo.common.errors import AudioError
from vtblender_nemo.common.files import write_json
from vtblender_nemo.synthesis.work import Clip, Made, Outcome, Refused

logger = logging.getLogger(__name__)

MANIFEST, AUDIO, REJECTED, DONE = "manifest.jsonl", "audio.tar", "rejected.jsonl", "done.json"
_UNFINISHED, _TRASH = ".shard_", ".trash_"
# As `common/files.py` and `join_rejected` name them.
_HALF_WRITTEN = (".*.json.*", ".*.yaml.*", f".{REJECTED}", "shard_*/.*")


def shard_name(number: int) -> str:
    """The folder of a shard inside the output folder."""
    return f"shard_{number:06}"


def shard_pattern(count: int, file: str) -> str:
    """A file of all shards, as NeMo and this package write numbered paths: `shard__OP_000000..000007_CL_/audio.tar`."""
    return f"shard__OP_{0:06}..{count - 1:06}_CL_/{file}"


def json_line(value: Mapping[str, Any]) -> bytes:
    """One line of JSONL in UTF-8; half a surrogate pair, which UTF-8 cannot hold, is escaped."""
    try:
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value) + "\n").encode()


class AudioTar:
    """A tar of FLAC files with fixed metadata, so that the same clips in the same order give the same bytes.

    Args:
        path: of the tar; it is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 (closed by `close`)
        self._names: set[str] = set()

    def add(self, name: str, content: bytes) -> None:
        """Files `content` under `name`.

        Raises:
            ValueError: the tar has that name already.
        """
        if name in self._names:
            raise ValueError(f"two clips of one shard are named {name!r}; a reader could not tell them apart")
        self._names.add(name)
        info = tarfile.TarInfo(name)  # time 0, no owner
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))

    def close(self) -> None:
        self._tar.close()


def encode_flac(clip: Clip) -> bytes:
    """A clip as FLAC of 16 bits; samples beyond full scale are clipped.

    Raises:
        AudioError: not float samples (S,), none, not finite, or a rate that FLAC has not.
    """
    samples = np.asarray(clip.samples)
    if samples.ndim != 1 or not len(samples) or samples.dtype.kind != "f":
        found = f"{samples.dtype} {samples.shape}"
        raise AudioError("clip is no speech", path=clip.name, value=found, expected="float samples (S,)")
    if not np.isfinite(samples).all():
        raise AudioError("clip holds values that are not finite", path=clip.name, expected="samples in -1 to 1")
    whole = np.clip(np.rint(samples * 32767.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    try:
        sf.write(buffer, whole, int(clip.rate), format="FLAC", subtype="PCM_16")
    except (RuntimeError, ValueError, TypeError) as error:
        raise AudioError(f"clip cannot be written as FLAC ({error})", path=clip.name, value=clip.rate) from error
    return buffer.getvalue()


class ShardWriter:
    """Writes one shard; a context manager that leaves nothing behind unless `finish` was reached.

    Args:
        output_dir: where the shard's folder will stand.
        number: of the shard, from 0.
    """

    def __init__(self, output_dir: Path, number: int) -> None:
        self._folder = output_dir / shard_name(number)
        mine = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._unfinished = output_dir / f"{_UNFINISHED}{number:06}.{mine}"
        self._number = number
        self._rows = self._made = self._clips = 0
        self._audio_secs = 0.0
        self._refused: Counter[str] = Counter()
        self._tar: AudioTar | None = None
        self._files: list[BinaryIO] = []

    def __enter__(self) -> ShardWriter:
        self._unfinished.mkdir(parents=True)
        self._manifest, self._rejected = self._open(MANIFEST), self._open(REJECTED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        shutil.rmtree(self._unfinished, ignore_errors=True)  # was renamed if the shard is whole

    def add(self, id: str, place: str, outcomes: Iterable[Outcome]) -> None:
        """Writes what came of one input row.

        Args:
            id: of the input row.
            place: its file and line.
            outcomes: new rows and refusals; a new row whose clips cannot be written is refused as `bad_clip`.
        """
        self._rows += 1
        for outcome in outcomes:
            refused = outcome if isinstance(outcome, Refused) else self._make(outcome)
            if refused is not None:
                self._refused[refused.reason] += 1
                row = {"id": id, "place": place, "reason": refused.reason, "detail": refused.detail}
                self._rejected.write(json_line(row))

    def finish(self) -> dict[str, Any]:
        """Makes the shard visible under its name, whole and on disk; gives its counts.

        If another process has made the same shard meanwhile, that one stays.
        """
        self._close()
        counts = {
            "shard": self._number,
            "rows": self._rows,
            "made": self._made,
            "refused": dict(sorted(self._refused.items())),
            "clips": self._clips,
            "audio_secs": round(self._audio_secs, 3),
            "files": {path.name: path.stat().st_size for path in sorted(self._unfinished.iterdir())},
        }
        write_json(counts, self._unfinished / DONE)
        for path in [*self._unfinished.iterdir(), self._unfinished]:
            _to_disk(path)
        try:
            self._unfinished.rename(self._folder)
        except OSError:
            if not (self._folder / DONE).is_file():
                raise
        _to_disk(self._folder.parent)
        return counts

    def _make(self, made: Made) -> Refused | None:
        try:
            encoded = [(clip, encode_flac(clip)) for clip in made.clips]
        except AudioError as error:
            return Refused("bad_clip", str(error))
        for clip, content in encoded:
            if self._tar is None:
                self._tar = AudioTar(self._unfinished / AUDIO)
            self._tar.add(f"{clip.name}.flac", content)
            self._clips += 1
            self._audio_secs += len(clip.samples) / clip.rate
        self._manifest.write(json_line(made.row))
        self._made += 1
        return None

    def _open(self, name: str) -> BinaryIO:
        self._files.append((self._unfinished / name).open("wb"))
        return self._files[-1]

    def _close(self) -> None:
        for file in self._files:
            file.close()
        if self._tar is not None:
            self._tar.close()


def _to_disk(path: Path) -> None:
    """Waits until a file or folder would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_counts(output_dir: Path, number: int) -> dict[str, Any] | None:
    """The counts of a shard that is whole; None if it is not there."""
    path = output_dir / shard_name(number) / DONE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def remove_damaged(output_dir: Path) -> None:
    """Removes shards that were whole once and whose files are gone, or of another size than `done.json` says; tells of each.

    Shards of releases that noted no sizes are kept.
    """
    for path in sorted(output_dir.glob(f"shard_*/{DONE}")):
        if (damage := _damage(path.parent)) is not None:
            logger.warning("%s is made again: %s", path.parent, damage)
            path.parent.rename(output_dir / f"{_TRASH}{uuid.uuid4().hex}")


def _damage(folder: Path) -> str | None:
    try:
        sizes = json.loads((folder / DONE).read_text(encoding="utf-8")).get("files", {})
    except ValueError:
        return f"{DONE} is not whole"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is gone"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, and had {size}"
    return None


def sweep(output_dir: Path) -> None:
    """Removes what killed processes left unfinished; the caller holds the folder.

    A process that still writes there loses its folder in one step, so that it cannot rename half of it to a shard.
    """
    for path in output_dir.glob(f"{_UNFINISHED}*"):
        path.rename(output_dir / f"{_TRASH}{uuid.uuid4().hex}")
    for path in output_dir.glob("shard_*"):
        if path.is_dir() and not (path / DONE).is_file():
            path.rename(output_dir / f"{_TRASH}{uuid.uuid4().hex}")
    for path in output_dir.glob(f"{_TRASH}*"):
        shutil.rmtree(path, ignore_errors=True)
    for pattern in _HALF_WRITTEN:
        for path in output_dir.glob(pattern):
            path.unlink(missing_ok=True)


def add_empty_tars(output_dir: Path, count: int) -> None:
    """Gives every shard without clips an empty tar, so that a numbered pattern of tars has no gaps."""
    for number in range(count):
        path = output_dir / shard_name(number) / AUDIO
        if not path.exists():
            unfinished = path.with_name(f".{AUDIO}")
            AudioTar(unfinished).close()
            unfinished.replace(path)


def join_rejected(output_dir: Path, count: int, more: Iterable[bytes] = ()) -> None:
    """Writes all shards' refusals, and the lines of more behind them, into one `rejected.jsonl`."""
    unfinished = output_dir / f".{REJECTED}"
    with unfinished.open("wb") as joined:
        for number in range(count):
            with (output_dir / shard_name(number) / REJECTED).open("rb") as part:
                shutil.copyfileobj(part, joined)
        joined.writelines(more)
    unfinished.replace(output_dir / REJECTED)
