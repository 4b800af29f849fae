"""Alignment of a corpus as work for the synthesis engine: rows of transcribed speech in, the same rows with `alignment` out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import yaml

from vtblender_nemo.alignment.aligner import SHORTEST_SECS, Aligned, ForcedAligner, open_aligner
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.word_times import FIELD, as_field
from vtblender_nemo.synthesis.inputs.speech import SpeechRows
from vtblender_nemo.synthesis.tts.recordings import open_comparison
from vtblender_nemo.synthesis.work import InputRow, Made, Outcome, Refused, Work

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class AlignOptions:
    """Which rows are aligned, and which alignments are kept.

    Attributes:
        max_secs: longest audio.
        max_unaligned: highest share of a row's words that may stay without times, as the recogniser has no letters for them.
        max_wer: highest word error rate of what the recogniser hears by itself: where it hears otherwise than was written, its
            alignment means little.
        language: two-letter code of the texts, for the comparison.
        batch_size: most utterances that the recogniser is given at once.
    """

    max_secs: float = 40.0
    max_unaligned: float = 0.0
    max_wer: float = 0.5
    language: str = "en"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not self.max_secs > 0:
            raise ConfigError("no audio is so short", value=self.max_secs, expected="> 0 s", knob="--max-secs")
        if not 0 <= self.max_unaligned <= 1:
            raise ConfigError("not a share", value=self.max_unaligned, expected="0 to 1", knob="--max-unaligned")
        if not self.max_wer >= 0:
            raise ConfigError("no error rate", value=self.max_wer, expected="0 or more", knob="--max-wer")
        if self.batch_size < 1:
            raise ConfigError("no batch", value=self.batch_size, expected="at least 1", knob="--batch-size")


@dataclass(frozen=True)
class AlignWork(Work):
    """Aligns transcribed speech.

    Attributes:
        rows: the input, which knows where its audio is.
        model: the recogniser: a `.nemo` file, or a public name.
        device: where it runs; it decides nothing that is written but rounding.
        options: see there.
    """

    rows: SpeechRows
    model: str
    device: str = "auto"
    options: AlignOptions = AlignOptions()

    def settings(self) -> dict[str, Any]:
        path = Path(self.model)
        model = {"file": path.name, "sha256": _digest(path)} if path.is_file() else {"name": self.model}
        return {"work": "alignment", "model": model, "options": asdict(self.options)}

    def open(self) -> AlignWorker:
        aligner = open_aligner(self.model, self.options.batch_size, self.device)
        return AlignWorker(aligner, self.rows, self.options, Path(self.model).name)


class AlignWorker:
    """Decodes, aligns and judges, in one process.

    Args:
        aligner: finds the words.
        rows: the input.
        options: see there.
        model: name of the recogniser, for the record.
    """

    def __init__(self, aligner: ForcedAligner, rows: SpeechRows, options: AlignOptions, model: str) -> None:
        self._aligner, self._rows, self._options, self._model = aligner, rows, options, model
        self._compare = open_comparison(options.language)

    def __call__(self, rows: Sequence[InputRow]) -> list[list[Outcome]]:
        """Every row with its alignment, or why it has none."""
        opened = [self._open(row) for row in rows]
        speech = [one for one in opened if not isinstance(one, Refused)]
        texts = [row.data["text"] for row, one in zip(rows, opened, strict=True) if not isinstance(one, Refused)]
        aligned = iter(self._aligner.align(speech, texts) if speech else [])
        return [
            [one if isinstance(one, Refused) else self._judged(row, next(aligned))]
            for row, one in zip(rows, opened, strict=True)
        ]

    def _open(self, row: InputRow) -> np.ndarray | Refused:
        """A row's samples, or why they cannot be used."""
        text = row.data.get("text")
        if not isinstance(text, str) or not text.strip():
            return Refused("empty_transcript", repr(text))
        try:
            cut = self._rows.cut_of(row, self._aligner.sampling_rate)
            if cut.duration > self._options.max_secs:
                return Refused("too_long", f"{cut.duration:.3f} s")
            samples = load_samples(cut, self._aligner.sampling_rate)
        except DataError as error:
            return Refused("bad_audio", str(error))
        secs = len(samples) / self._aligner.sampling_rate
        return samples if secs >= SHORTEST_SECS else Refused("too_short", f"{secs:.3f} s")

    def _judged(self, row: InputRow, aligned: Aligned | Refused) -> Outcome:
        if isinstance(aligned, Refused):
            return aligned
        unaligned = [word.word for word in aligned.words if not word.is_timed]
        if len(unaligned) > self._options.max_unaligned * len(aligned.words):
            return Refused("unknown_letters", " ".join(unaligned))
        said, meant = self._compare(aligned.heard), self._compare(row.data["text"])
        wer = jiwer.wer(meant, said) if meant else float(bool(said))
        if wer > self._options.max_wer:
            return Refused("asr_wer", f"WER {wer:.2f}: heard as {aligned.heard[:200]!r}")
        made: Mapping[str, Any] = row.data.get("provenance") or {}
        provenance = {**made, "aligned_by": self._model, "wer": round(wer, 4)}
        return Made({**row.data, FIELD: as_field(aligned.words), "provenance": provenance})


def entry_of(wordings: Path) -> dict[str, Any]:
    """What an entry of `input_cfg` for the aligned rows says beside where they are: they teach transcription.

    Args:
        wordings: a file as `conf/prompts/asr.yaml`; its texts go into the entry, which then needs no file.
    """
    return {"prompts": yaml.safe_load(wordings.read_text(encoding="utf-8"))["asr"], "task": "asr"}


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()
