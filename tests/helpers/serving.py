"""A server in this process, at a port of its own."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile
import uvicorn

from vtblender_nemo.serving.api.app import make_app
from vtblender_nemo.serving.config import ServerConfig
from vtblender_nemo.serving.engine.engine import Engine

SAMPLING_RATE = 16000


@contextmanager
def served(engine: Engine, **settings: Any) -> Iterator[str]:
    """The address of a server as long as the context lasts."""
    config = uvicorn.Config(make_app(engine, ServerConfig("tiny", **settings)), port=0, log_level="warning")
    server = uvicorn.Server(config)
    has_started = threading.Event()
    startup = server.startup

    async def started(sockets: Any = None) -> None:
        await startup(sockets)
        has_started.set()

    server.startup = started  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert has_started.wait(30)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


def wav_bytes(samples: np.ndarray, rate: int = SAMPLING_RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """Samples (S,) or (S, channels) as an audio file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def input_audio(data: bytes, form: str = "wav") -> dict[str, Any]:
    """An audio part of a message, as OpenAI has it."""
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": form}}
