"""`examples/serve_vtb.py` and `examples/chat_vtb.py` as processes: what they refuse, and that they serve and stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.models import talking_model, user
from vtblender_nemo import VTBlenderModel

ROOT = Path(__file__).parents[2]
_PATIENCE_SECS = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VTBlenderModel:
    return talking_model(tmp_path_factory.mktemp("talking"))


@pytest.fixture(scope="module")
def nemo(model: VTBlenderModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nemo") / "talker.nemo"
    model.save_to(str(path))
    return path


def run(script: str, *flags: Any, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, flags)]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--host", "0.0.0.0"), "VTBLENDER_API_KEY"),
        (("--device", "cuda:99"), "no GPU|device"),
    ],
)
def test_what_cannot_be_served_is_said(nemo: Path, flags: tuple[str, ...], said: str) -> None:
    done = run("serve_vtb.py", "--model", nemo, *flags)
    assert done.returncode == 2
    assert any(words in done.stderr for words in said.split("|"))
    assert "Traceback" not in done.stderr


def test_a_server_answers_and_stops(model: VTBlenderModel, nemo: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "examples/serve_vtb.py"), "--model", str(nemo), "--port", str(port)]
    environment = {**os.environ, "VTBLENDER_API_KEY": "secret"}
    server = subprocess.Popen(
        [*command, "--device", "cpu"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        assert any("Uvicorn running" in line for line in server.stderr)
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer secret"}, timeout=_PATIENCE_SECS
        )
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["talker"]
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12}
        answer = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        assert answer == model.generate([[user("hello")]], 12)[0]
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=_PATIENCE_SECS)
        assert server.returncode in (0, -signal.SIGTERM)
    finally:
        server.kill()


def test_a_chat_through_a_pipe(model: VTBlenderModel, nemo: Path, tmp_path: Path) -> None:
    lines = f"hello\n/history\n/save {tmp_path / 'chat.json'}\n/quit\nnever\n"
    done = run("chat_vtb.py", "--model", nemo, "--device", "cpu", "--max-new-tokens", 12, stdin=lines)
    assert done.returncode == 0, done.stderr
    answer = model.generate([[user("hello")]], 12)[0]
    assert answer
    assert done.stdout.splitlines()[:3] == [answer, "user: hello", f"assistant: {answer}"]
    assert (tmp_path / "chat.json").exists()
    wrong = run("chat_vtb.py", "--model", nemo, "--device", "abacus")
    assert wrong.returncode == 2
    assert "abacus" in wrong.stderr
