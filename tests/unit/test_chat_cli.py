"""The chat in the terminal says what the model says, keeps the chat, and tells mistakes."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.models import most_answered, speech, talking_model, user
from tests.helpers.serving import wav_bytes
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.serving.chat import TerminalChat
from vtblender_nemo.serving.engine.engine import Engine
from vtblender_nemo.serving.engine.requests import Sampling

NEW = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VTBlenderModel:
    return talking_model(tmp_path_factory.mktemp("talking"))


@pytest.fixture(scope="module")
def engine(model: VTBlenderModel) -> Iterator[Engine]:
    engine = Engine(model)
    yield engine
    engine.close()


@pytest.fixture
def wave(tmp_path: Path) -> Path:
    path = tmp_path / "a file.wav"
    path.write_bytes(wav_bytes(speech(0.9, 1)))
    return path


@pytest.fixture
def question(model: VTBlenderModel, wave: Path) -> str:
    return most_answered(model, {"type": "audio", "audio": str(wave)}, NEW)


class Terminal:
    """Lines in, and all that was printed."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.printed: list[str] = []
        self.chat = TerminalChat(engine, Sampling(NEW), self.printed.append, **settings)

    def __call__(self, *lines: str) -> str:
        before = len(self.printed)
        self.chat.run(iter(lines))
        return "".join(self.printed[before:])


def test_a_chat(engine: Engine, model: VTBlenderModel, wave: Path, question: str) -> None:
    terminal = Terminal(engine)
    assert terminal(f'/audio "{wave}"') == f"[{wave}: 0.9 s]\n"
    audio = {"type": "audio", "audio": str(wave)}
    (first,) = model.generate([[user(audio, question)]], NEW)
    shown = terminal(question)
    assert shown == f"{first}\n" != "\n"
    chat = [user(audio, question), {"role": "assistant", "content": first}, user("go on")]
    (second,) = model.generate([chat], NEW)
    assert terminal("go on") == f"{second or '(nothing)'}\n"
    history = terminal("/history").splitlines()
    assert history[:2] == [f"user: [0.9 s of audio] {question}", f"assistant: {first}"]
    terminal("/new")
    assert terminal("/history") == ""


def test_an_empty_line_sends_audio_alone(engine: Engine, model: VTBlenderModel, wave: Path) -> None:
    terminal = Terminal(engine, system="be brief")
    terminal(f"/audio '{wave}'")
    chat = [{"role": "system", "content": "be brief"}, user({"type": "audio", "audio": str(wave)})]
    assert terminal("") == f"{model.generate([chat], NEW)[0] or '(nothing)'}\n"
    assert terminal("") == ""


def test_a_chat_is_saved_and_goes_on(
    engine: Engine, model: VTBlenderModel, wave: Path, question: str, tmp_path: Path
) -> None:
    terminal = Terminal(engine)
    terminal(question, f"/audio '{wave}'", "and this?", f"/save {tmp_path / 'chat.json'}")
    saved = json.loads((tmp_path / "chat.json").read_text())
    assert {"messages"} == saved.keys()
    other = Terminal(engine)
    shown = other(f"/load {tmp_path / 'chat.json'}")
    assert shown == terminal("/history") != ""
    assert other("go on") == terminal("go on")


def test_mistakes_are_told_and_cost_nothing(engine: Engine, tmp_path: Path) -> None:
    terminal = Terminal(engine)
    assert "unknown command" in terminal("/play")
    assert "takes a file" in terminal("/audio")
    assert "missing" in terminal(f"/audio {tmp_path}/none.wav")
    assert "closed quotes" in terminal("/audio 'none")
    assert "nothing to save" in terminal(f"/save {tmp_path}/chat.json")
    assert "no chat" in terminal(f"/load {tmp_path}/chat.json")
    assert "control token" in terminal("<end_of_turn>") or "error" in terminal("<end_of_turn>")
    assert terminal("/history") == ""
    assert "/audio FILE" in terminal("/help")
    assert "no such path" in terminal("/audio ~nobody-of-this-name/a.wav")
    (tmp_path / "wrong.json").write_text('{"messages": 5}')
    assert "no chat" in terminal(f"/load {tmp_path}/wrong.json")


def test_what_cannot_be_heard_is_dropped(engine: Engine, wave: Path, tmp_path: Path) -> None:
    """A file that is cut off after it was added fails its turn, and no later one."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(wave.read_bytes())
    terminal = Terminal(engine)
    terminal(f"/audio {broken}")
    broken.write_bytes(wave.read_bytes()[:60])
    assert "error" in terminal("hello")
    assert "error" not in terminal("hello")
    terminal(f"/audio '{wave}'", "/drop")
    assert terminal("") == ""


def test_parts_of_files_are_saved_as_such(engine: Engine, wave: Path, question: str, tmp_path: Path) -> None:
    part = {"type": "audio", "audio": str(wave), "offset": 0.2, "duration": 0.5}
    chat = [user(part, question), {"role": "assistant", "content": "yes"}]
    (tmp_path / "part.json").write_text(json.dumps({"messages": chat}))
    terminal = Terminal(engine)
    terminal(f"/load {tmp_path / 'part.json'}", f"/save {tmp_path / 'again.json'}")
    assert json.loads((tmp_path / "again.json").read_text())["messages"][0]["content"][0] == part


def test_a_file_that_changed_is_another_audio(engine: Engine, tmp_path: Path) -> None:
    """Of one length; the engine knows kept audio by its id."""
    path = tmp_path / "said.wav"
    terminal = Terminal(engine)
    for seed in (1, 2):
        path.write_bytes(wav_bytes(speech(0.9, seed)))
        os.utime(path, ns=(0, seed))
        terminal(f"/audio {path}", f"/audio {path}")
    ids = [audio.cut.id for audio in terminal.chat._added]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_nothing_is_read_after_quit(engine: Engine) -> None:
    assert Terminal(engine)("/quit", "/help") == ""


def test_a_recording_is_heard(engine: Engine, model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A microphone whose driver gives two blocks, until Enter."""
    blocks = np.split(speech(0.8, 4), 2)

    class InputStream:
        def __init__(self, rate: int, channels: int, callback: Any) -> None:
            assert (rate, channels) == (16000, 1)
            self._callback = callback

        def __enter__(self) -> None:
            for block in blocks:
                self._callback(block[:, None], len(block), None, None)

        def __exit__(self, *_: Any) -> None:
            pass

    driver = types.SimpleNamespace(InputStream=InputStream, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", driver)
    monkeypatch.setattr("builtins.input", lambda: "")
    terminal = Terminal(engine)
    assert "[recording: 0.8 s]" in terminal("/record")
    heard = {"type": "audio", "audio": speech(0.8, 4), "sampling_rate": 16000}
    assert terminal("hello") == f"{model.generate([[user(heard, 'hello')]], NEW)[0] or '(nothing)'}\n"


def test_without_a_microphone_it_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "vtblender_nemo[microphone]" in Terminal(engine)("/record")
