"""Does the speech say what it should? A speech recogniser listens, and rows that it hears otherwise are refused."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.common.trusted_classes import RECOGNISER
from vtblender_nemo.synthesis.devices import open_device
from vtblender_nemo.synthesis.tts.base import SAMPLE_RATE

_SHORTEST_SECS = 0.1  # recognisers fail on less than a few frames


@dataclass
class GateConfig:
    """Who listens, and what passes."""

    model: str | None = None
    """A recogniser as a .nemo file of NeMo's ASR collection; null: nobody listens."""
    max_wer: float = 0.3
    """Highest word error rate of a segment that passes; 0.3 is three wrong words in ten."""
    batch_size: int = 16
    """Most segments transcribed at once."""
    device: str = "auto"
    """cuda, cuda:1, cpu; auto takes a GPU where there is one, and says so where there is none."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: values out of range, or a file that is missing.
        """
        if self.model is not None and not Path(self.model).is_file():
            raise ConfigError("the recogniser is missing", path=self.model, knob=f"{place}.model")
        if not self.max_wer >= 0:
            raise ConfigError("no error rate", value=self.max_wer, expected="0 or more", knob=f"{place}.max_wer")
        if self.batch_size < 1:
            raise ConfigError("no batch", value=self.batch_size, expected="at least 1", knob=f"{place}.batch_size")


@dataclass(frozen=True)
class Heard:
    """What the recogniser heard, and the word error rate of it."""

    text: str
    wer: float


class AsrGate:
    """Transcribes speech and compares.

    Args:
        model: one of NeMo's recognisers, in evaluation mode.
        config: the highest error rate, and batches.
        language: two-letter code of the texts.
    """

    def __init__(self, model: Any, config: GateConfig, language: str) -> None:
        from vtblender_nemo.synthesis.tts.recordings import open_comparison

        self._model, self.config = model, config
        self._compare = open_comparison(language)
        multitask = getattr(model, "prompt", None) is not None  # Canary's kin are told what to do
        self._prompt = {"source_lang": language, "target_lang": language} if multitask else {}

    def hear(self, speech: Sequence[np.ndarray], texts: Sequence[str]) -> list[Heard]:
        """What is heard in each speech.

        Args:
            speech: float32 samples (S,) at 16 kHz.
            texts: what was to be said.
        """
        import jiwer

        heard = self._transcribe(speech)
        found = []
        for hypothesis, text in zip(heard, texts, strict=True):
            said, meant = self._compare(hypothesis), self._compare(text)
            found.append(Heard(hypothesis, jiwer.wer(meant, said) if meant else float(bool(said))))
        return found

    def _transcribe(self, speech: Sequence[np.ndarray]) -> list[str]:
        import soundfile

        # As files: from arrays NeMo's multi-task models make a prompt that lacks its language.
        with tempfile.TemporaryDirectory(prefix="asr_gate_") as folder:
            paths = [str(Path(folder) / f"{number}.wav") for number in range(len(speech))]
            for path, samples in zip(paths, speech, strict=True):
                missing = max(0, int(_SHORTEST_SECS * SAMPLE_RATE) - len(samples))
                soundfile.write(path, np.pad(samples, (0, missing)), SAMPLE_RATE)
            results = self._model.transcribe(paths, batch_size=self.config.batch_size, verbose=False, **self._prompt)
        if isinstance(results, tuple):  # transducers give their best hypotheses first
            results = results[0]
        return [result if isinstance(result, str) else result.text for result in results]


def open_gate(config: GateConfig, language: str) -> AsrGate | None:
    """Loads the recogniser.

    Returns:
        The gate; None where none is configured.

    Raises:
        ModelFileError: the file cannot be restored.
        ConfigError: it is none of NeMo's recognisers, or the device is not there.
    """
    if config.model is None:
        return None
    from nemo.collections.asr.models import ASRModel

    from vtblender_nemo.common.nemo_restore import restore_nemo

    device = open_device(config.device, "the recogniser", "gate.device")
    try:
        model = restore_nemo(ASRModel, config.model, RECOGNISER, map_location=device).eval()
    except Exception as error:  # NeMo and tarfile raise errors of many kinds
        raise ModelFileError(
            f"the recogniser cannot be restored ({type(error).__name__}: {first_line(error)})",
            path=config.model,
            expected="a .nemo file of NeMo's ASR collection",
            knob="gate.model",
        ) from error
    if not hasattr(model, "transcribe"):
        raise ConfigError(
            "the model does not transcribe", value=type(model).__name__, expected="a recogniser", knob="gate.model"
        )
    return AsrGate(model, config, language)
