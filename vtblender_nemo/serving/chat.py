"""A chat in the terminal: lines in, answers out as they come."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vtblender_nemo.common.audio import cut_from_array, cut_from_file
from vtblender_nemo.common.conversation import Audio, Text, Turn
from vtblender_nemo.common.errors import ConfigError, DataError, MissingDependencyError, VTBlenderError
from vtblender_nemo.common.files import write_text
from vtblender_nemo.serving.engine.engine import Engine
from vtblender_nemo.serving.engine.requests import Sampling
from vtblender_nemo.serving.engine.stream import Stream

HELP = """\
TEXT              sends it, with the audio that was added before it
/audio FILE       adds an audio file; an empty line sends what was added without text
/record           adds a recording with the microphone, until Enter
/drop             takes back what was added
/history          shows the chat
/save FILE        writes the chat as JSON, for examples/generate_vtb.py and the next /load
/load FILE        goes on with a chat that was saved
/new              begins another chat
/quit             ends (as does the end of input)"""


@dataclass
class TerminalChat:
    """One chat, and what was added to its next turn.

    Args:
        engine: that answers.
        sampling: of every answer.
        say: prints a piece of text, as it is.
        system: what the system turn says; None for no such turn.
    """

    engine: Engine
    sampling: Sampling
    say: Callable[[str], None]
    system: str | None = None
    turns: list[Turn] = field(init=False)
    _added: list[Audio] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begin()

    def run(self, lines: Iterator[str]) -> None:
        """Takes lines until `/quit` or their end; mistakes are told, and cost nothing."""
        for line in lines:
            try:
                if self.take(line.strip()):
                    return
            except VTBlenderError as error:
                self.say(f"error: {error}\n")

    def take(self, line: str) -> bool:
        """Does what a line says; True if it ends the chat.

        Raises:
            VTBlenderError: it cannot be done.
        """
        if not line.startswith("/"):
            if line or self._added:
                self._ask(line)
            return False
        command, *rest = _words(line)
        if command == "/quit":
            return True
        commands: dict[str, Callable[..., None]] = {
            "/audio": self._add_file,
            "/record": self._record,
            "/history": self._show,
            "/save": self._save,
            "/load": self._load,
            "/drop": self._drop,
            "/new": self._begin,
            "/help": lambda: self.say(HELP + "\n"),
        }
        if command not in commands:
            raise ConfigError("unknown command", value=command, expected=f"one of {', '.join([*commands, '/quit'])}")
        wants = 1 if command in ("/audio", "/save", "/load") else 0
        if len(rest) != wants:
            raise ConfigError(f"{command} takes {'a file' if wants else 'nothing'}", value=" ".join(rest))
        commands[command](*rest)
        return False

    def _begin(self) -> None:
        self.turns = [Turn("system", (Text(self.system),))] if self.system else []
        self._added = []

    def _ask(self, text: str) -> None:
        """What was added goes with this turn, and with it where the turn fails."""
        parts = (*self._added, *((Text(text),) if text else ()))
        asked = [*self.turns, Turn("user", parts)]
        answer, self._added = "", []
        with Stream(self.engine, asked, self.sampling) as pieces:
            for piece in pieces:
                answer += piece
                self.say(piece)
        self.say("\n" if answer else "(nothing)\n")
        if answer:
            self.turns = [*asked, Turn("assistant", (Text(answer),))]

    def _drop(self) -> None:
        self._added = []

    def _add_file(self, path: str) -> None:
        file = _file(path)
        cut, stat = cut_from_file(file), file.stat()
        self._add(Audio(cut.with_id(f"{cut.id}, {stat.st_size} bytes of {stat.st_mtime_ns}")), path)

    def _record(self) -> None:
        self.say("recording, Enter ends it ")
        samples, rate = record()
        self._add(Audio(cut_from_array(samples, rate)), "recording")

    def _add(self, audio: Audio, name: str) -> None:
        self._added.append(audio)
        self.say(f"[{name}: {audio.duration_secs:.1f} s]\n")

    def _show(self) -> None:
        for turn in self.turns:
            self.say(f"{turn.role}: {' '.join(map(_shown, turn.parts))}\n")

    def _save(self, path: str) -> None:
        messages = [{"role": turn.role, "content": list(map(_part_row, turn.parts))} for turn in self.turns]
        if not messages:
            raise DataError("nothing to save yet", expected="a chat with an answer")
        try:
            write_text(json.dumps({"messages": messages}, ensure_ascii=False) + "\n", _file(path))
        except OSError as error:
            raise DataError(f"the chat cannot be saved ({error})", path=path) from error
        self.say(f"saved to {path}\n")

    def _load(self, path: str) -> None:
        from vtblender_nemo.common.conversation import check_turns, from_messages

        file = _file(path)
        try:
            messages = json.loads(file.read_text(encoding="utf-8"))["messages"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError("no chat that was saved", path=file, expected='{"messages": [...]}') from error
        if not isinstance(messages, list):
            raise DataError("no chat that was saved", path=file, value=messages, expected='{"messages": [...]}')
        turns = from_messages(messages, id=path).turns
        check_turns(turns, answered=True)
        self.turns, self._added = list(turns), []
        self._show()


def _file(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"no such path ({error})", value=path) from error


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"the line cannot be read ({error})", value=line, expected="closed quotes") from error


def _shown(part: Text | Audio) -> str:
    return part.text if isinstance(part, Text) else f"[{part.duration_secs:.1f} s of audio]"


def _part_row(part: Text | Audio) -> dict[str, Any]:
    """
    Raises:
        DataError: audio that is in no file.
    """
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    recording = part.cut.recording
    source = recording.sources[0]
    if source.type != "file":
        raise DataError("a recording is in no file that a chat could name", value=part.cut.id, expected="/audio FILE")
    row = {"type": "audio", "audio": str(Path(source.source).resolve())}
    is_part = part.cut.start > 0 or part.cut.duration < recording.duration
    return {**row, "offset": part.cut.start, "duration": part.cut.duration} if is_part else row


def record() -> tuple[np.ndarray, int]:
    """What the microphone hears until Enter: samples (S,) and their rate in Hz.

    Raises:
        MissingDependencyError: sounddevice is not installed, or finds no microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: without PortAudio
        raise MissingDependencyError(
            f"recording needs sounddevice ({error})", knob='pip install "vtblender_nemo[microphone]"'
        ) from error
    rate = 16000
    blocks: list[np.ndarray] = []
    try:
        with sounddevice.InputStream(rate, channels=1, callback=lambda block, *_: blocks.append(block.copy())):
            input()
    except sounddevice.PortAudioError as error:
        raise MissingDependencyError(f"no microphone ({error})", expected="a microphone, or /audio FILE") from error
    return _joined(blocks), rate


def _joined(blocks: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(blocks)[:, 0] if blocks else np.zeros(0, np.float32)
