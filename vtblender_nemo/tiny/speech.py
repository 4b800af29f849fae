"""Who says what in the tiny world, and the saying of it.

Run as a module, `python -m vtblender_nemo.tiny.speech FOLDER WORKER WORKERS [alignments]`, it is one of the synthesising
processes.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from vtblender_nemo.data.word_times import fitting_field
from vtblender_nemo.synthesis.espeak import SAMPLE_RATE
from vtblender_nemo.tiny.config import VoicesConfig
from vtblender_nemo.tiny.voices import AnyVoice, held_out_voice, training_voice

Alignments: TypeAlias = Mapping[str, list[list[Any]] | None]
"""When the words of utterances are said, by the utterances' names, as rows hold it; None where nobody knows."""

PLAN_NAME = "utterances.jsonl"


@dataclass(frozen=True)
class Piece:
    """A word that is said alone, as part of an utterance.

    Attributes:
        text: the word.
        voice: who says it.
        level_db: how much louder it is than the voice makes it.
        pause_secs: digital silence behind it.
        snr_db: how much louder the word is than the noise in its recording; none where there is no noise.
        colour: of this noise.
    """

    text: str
    voice: AnyVoice
    level_db: float
    pause_secs: float
    snr_db: float | None = None
    colour: float = 0.0


@dataclass(frozen=True)
class Spoken:
    """A text that a voice says; `name` is unique in the world and names its file.

    Attributes:
        name: a split, `_` and more.
        text: what is said.
        voice: who says it.
        pieces: its words, where they are said one by one.
    """

    name: str
    text: str
    voice: AnyVoice
    pieces: tuple[Piece, ...] = ()

    @property
    def file(self) -> str:
        return f"speech/{self.name.split('_')[0]}/{self.name}.wav"

    def row(self) -> dict[str, Any]:
        """What the synthesising processes read."""
        fields = asdict(self)
        if not self.pieces:
            del fields["pieces"]
        return {**fields, "file": self.file}


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

    def _draw_voice(self) -> AnyVoice:
        if self._split == "train":
            return training_voice(self._rng, self._voices)
        return held_out_voice(self._rng, self._voices, len(self.utterances))


def write_plan(utterances: Iterable[Spoken], folder: Path) -> None:
    """Writes the list that the synthesising processes read."""
    with (folder / PLAN_NAME).open("w", encoding="utf-8") as file:
        for spoken in utterances:
            file.write(json.dumps(spoken.row(), ensure_ascii=False) + "\n")


def read_durations(folder: Path, workers: int) -> dict[str, float]:
    """Seconds of every utterance by name, as the synthesising processes noted them."""
    durations: dict[str, float] = {}
    for worker in range(workers):
        durations.update(json.loads(_durations_file(folder, worker).read_text()))
    return durations


def read_alignments(folder: Path, workers: int) -> Alignments:
    """When the words of every utterance are said by name, as the synthesising processes noted it where they were asked to."""
    alignments: dict[str, list[list[Any]] | None] = {}
    for worker in range(workers):
        alignments.update(json.loads(_alignments_file(folder, worker).read_text(encoding="utf-8")))
    return alignments


def synthesize_share(folder: Path, worker: int, workers: int, *, alignments: bool = False) -> None:
    """Says every `workers`-th utterance of the plan into 16-bit WAV files at 16 kHz.

    Args:
        folder: holds the plan.
        worker: the number of this process.
        workers: how many there are.
        alignments: also notes when every word is said, and null where the engine does not tell.
    """
    import soundfile

    from vtblender_nemo.tiny.speakers import Speakers

    durations, noted, speakers = {}, {}, Speakers()
    with (folder / PLAN_NAME).open(encoding="utf-8") as file:
        for index, line in enumerate(file):
            if index % workers != worker:
                continue
            row = json.loads(line)
            samples, words = speakers.say_with_times(row)
            path = folder / row["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
            durations[row["name"]] = secs = len(samples) / SAMPLE_RATE
            if alignments:
                noted[row["name"]] = fitting_field(row["text"], words, secs)
    if alignments:
        _alignments_file(folder, worker).write_text(json.dumps(noted, ensure_ascii=False), encoding="utf-8")
    _durations_file(folder, worker).write_text(json.dumps(durations))


def _durations_file(folder: Path, worker: int) -> Path:
    return folder / f"durations_{worker}.json"


def _alignments_file(folder: Path, worker: int) -> Path:
    return folder / f"alignments_{worker}.json"


if __name__ == "__main__":
    synthesize_share(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), alignments="alignments" in sys.argv[4:])
