"""A local server of OpenAI's `/v1/audio/speech`: a tone whose pitch follows from the voice, its length from the text."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import soundfile as sf

RATE = 24_000
PITCHES = {"alloy": 200.0, "nova": 400.0}


@dataclass
class SpeechServer:
    """What was asked, and what is answered otherwise than with a tone.

    Attributes:
        url: of the API.
        asked: bodies of the requests, in the order in which they came.
        keys: their authorisation headers.
        busy: how many of the next requests are answered with status 429.
        faults: status by text.
    """

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    busy: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def tone(voice: str, text: str, speed: float = 1.0) -> np.ndarray:
    time = np.arange(int(RATE * 0.05 * len(text) / speed)) / RATE
    return (0.3 * np.sin(2 * np.pi * PITCHES[voice] * time)).astype(np.float32)


@contextmanager
def speech_server() -> Iterator[SpeechServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.asked.append({"path": self.path, **body})
                state.keys.append(self.headers.get("Authorization", ""))
                busy = state.busy > 0
                state.busy -= busy
            if busy:
                self._answer(429, b'{"error": {"message": "slow down"}}', "application/json", {"Retry-After-Ms": "1"})
            elif body["input"] in state.faults:
                self._answer(state.faults[body["input"]], b'{"error": {"message": "no"}}', "application/json")
            elif body["input"] == "noise":
                self._answer(200, b"no audio", "audio/wav")
            else:
                wave = io.BytesIO()
                sf.write(wave, tone(body["voice"], body["input"], body["speed"]), RATE, format="WAV")
                self._answer(200, wave.getvalue(), "audio/wav")

        def _answer(self, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = SpeechServer(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
