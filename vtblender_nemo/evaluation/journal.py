"""What was predicted already, on disk, so that stopped work goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.conversation import Audio, Conversation
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.items import Item


@dataclass(frozen=True)
class Kept:
    """A prediction, and what it took.

    Attributes:
        text: the answer.
        secs: of generation, its share of its batch; None where it was not measured.
        device: that the model ran on, as a name for readers.
    """

    text: str
    secs: float | None = None
    device: str = ""


class Journal:
    """Predictions by key, appended as they come.

    A key stands for everything that decides a prediction (see `prediction_key`), so a changed prompt, audio or model
    finds nothing of the old one, and rows can be added to a set. Failures are not kept: the next run tries them again.

    Args:
        path: the file, made at the first prediction; None keeps nothing.
        also: further journals that are read, not written.

    Raises:
        DataError: a file is no journal.
    """

    def __init__(self, path: Path | None, also: Sequence[Path] = ()) -> None:
        self.path = path
        self._kept: dict[str, Kept] = {}
        for one in (*also, *([path] if path is not None else [])):
            if one.exists():
                self._read(one)

    def get(self, key: str) -> str | None:
        """The prediction of a key."""
        return self._kept[key].text if key in self._kept else None

    def timed(self, key: str) -> Kept | None:
        """The prediction of a key with what it took."""
        return self._kept.get(key)

    def add(self, texts: Mapping[str, str], *, secs: Mapping[str, float] | None = None, device: str = "") -> None:
        """Keeps predictions by key; on disk when this returns.

        Args:
            texts: predictions by key.
            secs: what each took, by key.
            device: that took so long.
        """
        secs = secs or {}
        added = {key: Kept(text, secs.get(key), device) for key, text in texts.items()}
        self._kept.update(added)
        if self.path is None or not added:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(_row(key, kept), ensure_ascii=False) + "\n" for key, kept in added.items())

    def _read(self, path: Path) -> None:
        lines = path.read_bytes().split(b"\n")
        unfinished = lines.pop()  # what was being written when the last run was stopped
        if unfinished and path == self.path:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - len(unfinished))
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                self._kept[row["key"]] = Kept(row["prediction"], row.get("secs"), row.get("device", ""))
            except (ValueError, TypeError, KeyError) as error:
                expected = "a journal of predictions; delete the file to start anew"
                raise DataError("unreadable line in a journal", path=path, line=number, expected=expected) from error


def _row(key: str, kept: Kept) -> dict[str, Any]:
    measured = {} if kept.secs is None else {"secs": kept.secs, "device": kept.device}
    return {"key": key, "prediction": kept.text, **measured}


def prediction_key(item: Item, settings: Mapping[str, Any]) -> str:
    """A name for the prediction of one item under given settings (model, decoding options).

    Audio files count by path, size and time of change, not by content: hashing hours of audio takes longer than it
    saves.
    """
    assert item.conversation is not None
    described = [item.id, _describe(item.conversation), dict(settings)]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _describe(conversation: Conversation) -> list[Any]:
    return [
        [turn.role, [_describe_audio(part) if isinstance(part, Audio) else part.text for part in turn.parts]]
        for turn in conversation.turns
    ]


def _describe_audio(audio: Audio) -> list[Any]:
    recording = getattr(audio.cut, "recording", None)
    sources = recording.sources if recording is not None else []
    return [audio.cut.id, audio.cut.duration, [_describe_source(source.type, source.source) for source in sources]]


def _describe_source(kind: str, source: Any) -> Any:
    if kind != "file":
        return hashlib.sha256(source if isinstance(source, bytes) else str(source).encode()).hexdigest()
    try:
        stat = Path(source).stat()
    except OSError:  # gone since it was opened: the model's error will say so
        return None
    return [stat.st_size, stat.st_mtime_ns]
