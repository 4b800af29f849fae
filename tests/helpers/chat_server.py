"""A server in a thread that speaks as much of OpenAI's chat API as its clients use; what it answers is a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Response:
    """What is sent back: a text with its `finish_reason`, or with another `status` (or a `body`) something else."""

    text: str | None = None
    finish: str = "stop"
    status: int = 200
    error: Mapping[str, Any] = field(default_factory=lambda: {"message": "no", "type": "server_error"})
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None

    def content(self) -> str:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": dict(self.error)})
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


class ChatServer:
    """A context manager that serves while it is entered.

    Args:
        answer: from a request's JSON to a text or a `Response`; called by several threads.

    Attributes:
        requests: the JSON of every request, as they came.
        keys: their Authorization headers.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], str | Response]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][-1]["content"] for request in self.requests]

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(request)
            self.keys.append(handler.headers["Authorization"])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            given = self.answer(request) if handler.path == "/v1/chat/completions" else Response(status=404)
        finally:
            with self._lock:
                self.at_once -= 1
        response = Response(given) if isinstance(given, str) else given
        content = response.content().encode()
        handler.send_response(response.status)
        for name, value in {"Content-Type": "application/json", **response.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def now(self) -> float:
        return self.time

    def sleep(self, secs: float) -> None:
        with self._lock:
            self.slept.append(secs)
            self.time += secs
