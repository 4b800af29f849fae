"""Lhotse cuts out of other people's files: a recording may be a shell command or an address, and hide inside an effect."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from vtblender_nemo.common.audio import check_audio_path
from vtblender_nemo.common.errors import AudioError

_SOURCE = frozenset({"type", "channels", "source"})
"""The keys of a Lhotse `AudioSource`, wherever it stands: in tracks of a mix, in `custom`, in the room of a reverberation."""

FILES, SHAR = ("file", "memory"), ("file", "memory", "shar")


def deserialized(data: Mapping[str, Any], allowed: Collection[str] = FILES) -> Any:
    """What Lhotse makes of a row.

    Args:
        data: the row; it stays as it is.
        allowed: types of audio sources.

    Raises:
        AudioError: audio of another type, or a path that Lhotse would hand to a shell.
    """
    from lhotse.serialization import deserialize_item

    check_sources(data, allowed)
    return deserialize_item(dict(data))


def check_sources(data: Any, allowed: Collection[str]) -> None:
    """
    Raises:
        AudioError: see `deserialized`.
    """
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if value.keys() >= _SOURCE:
                _check_source(value, allowed)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _check_source(source: Mapping[str, Any], allowed: Collection[str]) -> None:
    if source["type"] not in tuple(allowed):  # a `command` would run in a shell
        raise AudioError(
            "cut's audio is neither a file nor in memory",
            value=source["type"],
            expected=" or ".join(allowed),
            knob="type of the recording's sources",
        )
    if source["type"] == "file":
        check_audio_path(source["source"])
