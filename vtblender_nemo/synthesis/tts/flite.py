"""CMU Flite as a speech engine: offline, of another kind than espeak-ng (recorded units and statistical voices)."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError
from vtblender_nemo.synthesis.tts.base import (
    EngineConfig,
    Speech,
    SpeechEngine,
    SpeechRequest,
    check_range,
    resampled,
)
from vtblender_nemo.synthesis.work import Refused

_LONGEST_SECS = 120  # of one call; a text of 600 characters takes about a second


@dataclass
class FliteConfig(EngineConfig):
    """Which voices speak; every row draws one."""

    voices: list[str] = field(default_factory=lambda: ["awb", "rms", "slt", "kal16"])
    """Flite's voices, as `flite -lv` lists them; Debian's package has these at 16 kHz, two men of the USA, a Scot and a woman."""
    stretch: list[float] = field(default_factory=lambda: [0.9, 1.15])
    """Shortest and longest speech, as factors of the voice's own duration."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: no voice, or a range out of bounds.
        """
        check_range(self.stretch, 0.5, 2.0, f"{place}.stretch")
        if not self.voices:
            raise ConfigError("no voice is given", value=[], expected="at least one", knob=f"{place}.voices")

    def open(self, language: str) -> SpeechEngine:
        return FliteEngine(self, language)


class FliteEngine(SpeechEngine):
    """Speaks by the program `flite`, one call a text.

    Raises:
        MissingDependencyError: the program is not installed.
        ConfigError: a voice that it does not have, or a language other than English.
    """

    def __init__(self, config: FliteConfig, language: str) -> None:
        program = shutil.which("flite")
        if program is None:
            raise MissingDependencyError("the program flite is not installed", expected="apt install flite")
        if language != "en":
            raise ConfigError("flite speaks English only", value=language, expected="en", knob="language")
        self._program, self._config = program, config
        known = self._ask("-lv").partition(":")[2].split()
        for voice in config.voices:
            if voice not in known:
                raise ConfigError(
                    "flite has no such voice",
                    value=voice,
                    expected=f"one of {', '.join(known)}",
                    knob="engines[].voices",
                )
        found = re.search(r"version: (?:flite-)?(\S+)", self._ask("--version"))
        self.model = f"flite {found[1] if found else 'of an unknown version'}"

    def _ask(self, flag: str) -> str:
        """What the program says of itself; its exit status means nothing here."""
        return subprocess.run([self._program, flag], capture_output=True, text=True, timeout=_LONGEST_SECS).stdout

    def speak(self, requests: Sequence[SpeechRequest]) -> list[Speech | Refused]:
        with tempfile.TemporaryDirectory(prefix="flite_") as folder:
            return [self._speak(request, Path(folder) / "speech.wav") for request in requests]

    def _speak(self, request: SpeechRequest, path: Path) -> Speech | Refused:
        rng = request.rng()
        voice, stretch = rng.choice(self._config.voices), round(rng.uniform(*self._config.stretch), 3)
        return self.say(request.text, voice, stretch, path)

    def say(self, text: str, voice: str, stretch: float, path: Path) -> Speech | Refused:
        """Speaks a text by a given voice.

        Args:
            text: what to say.
            voice: one of the engine's configuration.
            stretch: factor of the voice's own duration.
            path: a WAV file that is written on the way.
        """
        import soundfile

        path.unlink(missing_ok=True)
        done = subprocess.run(
            [self._program, "-voice", voice, "--setf", f"duration_stretch={stretch}", "-t", text, "-o", path],
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECS,
        )
        if done.returncode != 0 or not path.is_file():
            return Refused("not_spoken", f"flite: {done.stderr.strip()[-200:] or done.returncode}")
        samples, rate = soundfile.read(path, dtype="float32")
        if not len(samples):
            return Refused("not_spoken", f"flite made no sound of {text!r}")
        return Speech(resampled(samples, rate), f"{voice} stretched {stretch}")
