"""Files that the targets read: speech of 0.5 s and of 2 s, alone, in a tar and in a Lhotse shar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.fuzz.mutate import dumped

RATE = 16_000
SHORT, LONG = "a.wav", "long.wav"


def wave(secs: float = 0.5) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(round(secs * RATE), np.float32), RATE, format="WAV")
    return buffer.getvalue()


def write_audio(folder: Path) -> None:
    """`a.wav` and `long.wav`; `audio.tar` and `shar/` with the first."""
    (folder / SHORT).write_bytes(wave())
    (folder / LONG).write_bytes(wave(2.0))
    (folder / "shar").mkdir(exist_ok=True)
    write_tar(folder / "audio.tar", {SHORT: wave(), LONG: wave(2.0)})
    write_tar(folder / "shar/recording.000000.tar", {"c1.wav": wave(), "c1.json": b"{}"})


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write(path: Path, value: Any) -> Path:
    """A value as a file: texts byte by byte, everything else as one line of JSON."""
    path.write_bytes(value.encode("latin-1", "replace") if isinstance(value, str) else f"{dumped(value)}\n".encode())
    return path


def supervision(text: str = "hello there") -> dict[str, Any]:
    words = [{"symbol": word, "start": 0.1 + 0.2 * place, "duration": 0.1} for place, word in enumerate(text.split())]
    return {
        **{"id": "s1", "recording_id": "r1", "start": 0.0, "duration": 0.5, "channel": 0, "text": text},
        **{"language": "en", "speaker": "x", "custom": {"target_lang": "de"}, "alignment": {"word": words}},
    }


def cut(kind: str = "file", source: str = SHORT, **more: Any) -> dict[str, Any]:
    """A Lhotse cut of 0.5 s, as JSON."""
    recording = {
        "id": "r1",
        "sources": [{"type": kind, "channels": [0], "source": source}],
        **{"sampling_rate": RATE, "num_samples": RATE // 2, "duration": 0.5, "channel_ids": [0]},
    }
    return {
        **{"id": "c1", "start": 0.0, "duration": 0.5, "channel": 0, "supervisions": [supervision()]},
        **{"recording": recording, "type": "MonoCut", **more},
    }


def mixed(kind: str = "file", source: str = SHORT) -> dict[str, Any]:
    """Two cuts over each other, as JSON."""
    tracks = [
        {"type": "MonoCut", "cut": cut(kind, source)},
        {"type": "MonoCut", "cut": cut(kind, source), "offset": 0.1},
    ]
    for track in tracks:
        track["cut"].pop("type")
    tracks[1]["cut"]["supervisions"] = []
    return {"id": "m1", "tracks": tracks, "type": "MixedCut"}
