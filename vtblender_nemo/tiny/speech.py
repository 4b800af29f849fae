"""Who says what in the tiny world, and the saying of it.

Run as a module, `python -m vtblender_nemo.tiny.speech FOLDER WORKER WORKERS`, it is one of the synthesising processes.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vtblender_nemo.synthesis.espeak import Voice, synthesize
from vtblender_nemo.tiny.config import VoicesConfig

PLAN_NAME = "utterances.jsonl"


@dataclass(frozen=True)
class Spoken:
    """A text that a voice says; `name` is unique in the world and names its file."""

    name: str
    text: str
    voice: Voice

    @property
    def file(self) -> str:
        return f"speech/{self.name.split('_')[0]}/{self.name}.wav"


class SpeechPlan:
    """Collects what has to be said in one split, so that equal texts may share their speech.

    Args:
        split: `train`, `validation` or `test`; all but training get held-out voices.
        voices: who may speak.
        seed: draws voices.
    """

    def __init__(self, split: str, voices: VoicesConfig, seed: int) -> None:
        self.utterances: list[Spoken] = []
        self._split, self._voices = split, voices
        self._rng = random.Random(f"voices-{split}-{seed}")
        self._by_text: dict[str, Spoken] = {}

    def say(self, text: str, *, again: bool = False) -> Spoken:
        """Speech of a text: what was planned for it before, unless it shall be said `again` by another voice."""
        if again or text not in self._by_text:
            spoken = Spoken(f"{self._split}_{len(self.utterances):05d}", text, self._draw_voice())
            self.utterances.append(spoken)
            self._by_text[text] = spoken
        return self._by_text[text]

    def _draw_voice(self) -> Voice:
        rng, voices = self._rng, self._voices
        if self._split == "train":
            accents, variants = voices.accents, voices.variants
        else:
            new_accent = len(self.utterances) % 2 == 0
            accents = voices.held_out_accents if new_accent else voices.accents
            variants = voices.held_out_variants
        return Voice(
            rng.choice(accents), rng.choice(variants), rng.randint(*voices.rate_wpm), rng.randint(*voices.pitch)
        )


def write_plan(utterances: Iterable[Spoken], folder: Path) -> None:
    """Writes the list that the synthesising processes read."""
    with (folder / PLAN_NAME).open("w", encoding="utf-8") as file:
        for spoken in utterances:
            file.write(json.dumps({**asdict(spoken), "file": spoken.file}, ensure_ascii=False) + "\n")


def read_durations(folder: Path, workers: int) -> dict[str, float]:
    """Seconds of every utterance by name, as the synthesising processes noted them."""
    durations: dict[str, float] = {}
    for worker in range(workers):
        durations.update(json.loads(_durations_file(folder, worker).read_text()))
    return durations


def synthesize_share(folder: Path, worker: int, workers: int) -> None:
    """Says every `workers`-th utterance of the plan into 16-bit WAV files at 16 kHz."""
    import soundfile

    durations = {}
    with (folder / PLAN_NAME).open(encoding="utf-8") as file:
        for index, line in enumerate(file):
            if index % workers != worker:
                continue
            row = json.loads(line)
            samples, rate = synthesize(row["text"], Voice(**row["voice"]))
            path = folder / row["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, rate, subtype="PCM_16")
            durations[row["name"]] = len(samples) / rate
    _durations_file(folder, worker).write_text(json.dumps(durations))


def _durations_file(folder: Path, worker: int) -> Path:
    return folder / f"durations_{worker}.json"


if __name__ == "__main__":
    synthesize_share(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
