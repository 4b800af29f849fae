"""NeMo's FastPitch with HiFi-GAN as a speech engine: many speakers, batched, the one that the paper used.

Shape letters: B texts, T tokens, M mel bands, F frames, S samples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import ConfigError, MissingDependencyError, ModelFileError
from vtblender_nemo.common.trusted_classes import VOICE
from vtblender_nemo.synthesis.devices import open_device
from vtblender_nemo.synthesis.tts.base import (
    EngineConfig,
    Speech,
    SpeechEngine,
    SpeechRequest,
    check_range,
    resampled,
)
from vtblender_nemo.synthesis.work import Refused

_SILENT_MEL = -11.52  # log of 1e-5, what NeMo's vocoders are trained to hear as silence
_SILENT_FRAMES = 16  # more than HiFi-GAN's convolutions reach, so that a neighbour's length changes no sample
_PADDING_TOKENS = 8  # more than FastPitch's convolutions reach, so that no neighbour changes a duration


@dataclass
class FastPitchConfig(EngineConfig):
    """Which models speak, and how."""

    fastpitch: str = "tts_en_fastpitch_multispeaker"
    """The text-to-spectrogram model: a .nemo file, or a name that NeMo downloads."""
    hifigan: str = "tts_en_hifitts_hifigan_ft_fastpitch"
    """The vocoder for it: a .nemo file, or a name."""
    speakers: list[int] | None = None
    """Numbers of the speakers that are drawn from; null: all of the model."""
    pace: list[float] = field(default_factory=lambda: [0.9, 1.1])
    """Slowest and fastest speech, as factors."""
    batch_size: int = 16
    """Most texts at once. NeMo's decoder lets the padding reach into the last frames of a text, so that its neighbours change
    the last tenth of a second a little; with 1 speech depends on its own text alone."""
    device: str = "auto"
    """cuda, cuda:1, cpu; auto takes a GPU where there is one, and says so where there is none."""

    free = frozenset({"device"})

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: values out of range.
        """
        check_range(self.pace, 0.25, 4.0, f"{place}.pace")
        if self.batch_size < 1:
            raise ConfigError("no batch", value=self.batch_size, expected="at least 1", knob=f"{place}.batch_size")
        if self.speakers is not None and not self.speakers:
            raise ConfigError("no speaker is given", value=[], expected="at least one", knob=f"{place}.speakers")

    def open(self, language: str) -> SpeechEngine:
        fastpitch, hifigan = _load(self)
        return FastPitch(fastpitch, hifigan, self)


def _load(config: FastPitchConfig) -> tuple[Any, Any]:
    try:
        from nemo.collections.tts.models import FastPitchModel, HifiGanModel
    except ImportError as error:
        raise MissingDependencyError(
            f"NeMo's speech synthesis is not installed ({error})", expected="pip install 'vtblender_nemo[tts]'"
        ) from error
    device = open_device(config.device, "FastPitch", "engines[].device")
    return (
        _restore(FastPitchModel, config.fastpitch, device, "engines[].fastpitch"),
        _restore(HifiGanModel, config.hifigan, device, "engines[].hifigan"),
    )


def _restore(kind: Any, source: str, device: torch.device, knob: str) -> Any:
    from vtblender_nemo.common.nemo_restore import pretrained_nemo, restore_nemo

    if Path(source).is_file():
        try:
            model = restore_nemo(kind, source, VOICE, map_location=device).eval()
        except Exception as error:  # NeMo and tarfile raise errors of many kinds
            raise ModelFileError(
                f"the model cannot be restored ({type(error).__name__}: {first_line(error)})", path=source, knob=knob
            ) from error
        if not isinstance(model, kind):
            raise ConfigError(
                "a model of another kind", path=source, value=type(model).__name__, expected=kind.__name__, knob=knob
            )
        return model
    known = [model.pretrained_model_name for model in kind.list_available_models()]
    if source not in known:
        raise ConfigError(
            f"no such {kind.__name__}", value=source, expected=f"a .nemo file or one of {', '.join(known)}", knob=knob
        )
    try:
        return pretrained_nemo(kind, source, VOICE, map_location=device).eval()
    except Exception as error:  # whatever the download raises
        raise ConfigError(
            f"the model cannot be downloaded ({type(error).__name__})", value=source, expected="a .nemo file", knob=knob
        ) from error


class FastPitch(SpeechEngine):
    """Speaks with a FastPitch model and the vocoder trained for it.

    Args:
        fastpitch: a `FastPitchModel` in evaluation mode.
        hifigan: a `HifiGanModel` in evaluation mode.
        config: speakers, pace and batches.

    Raises:
        ConfigError: the models do not fit each other, or lack a speaker.
    """

    def __init__(self, fastpitch: Any, hifigan: Any, config: FastPitchConfig) -> None:
        self._fastpitch, self._hifigan, self._config = fastpitch, hifigan, config
        self._rate = int(hifigan.sample_rate)
        wanted, found = fastpitch.cfg.get("sample_rate", self._rate), self._rate
        if wanted != found:
            raise ConfigError(
                "the vocoder speaks at another rate", value=found, expected=f"{wanted} Hz", knob="engines[].hifigan"
            )
        self._speakers = self._known_speakers()
        names = (Path(config.fastpitch).name, Path(config.hifigan).name)
        self.model = " + ".join(names)
        self._tokens = functools.lru_cache(maxsize=20_000)(self._tokens_of_word)

    def _known_speakers(self) -> Sequence[int | None]:
        table = self._fastpitch.fastpitch.speaker_emb
        if table is None:
            if self._config.speakers is not None:
                raise ConfigError(
                    "the model has one speaker", value=self._config.speakers, expected="null", knob="engines[].speakers"
                )
            return [None]
        wanted = self._config.speakers or range(table.num_embeddings)
        for speaker in wanted:
            if not 0 <= speaker < table.num_embeddings:
                raise ConfigError(
                    "the model has no such speaker",
                    value=speaker,
                    expected=f"0 to {table.num_embeddings - 1}",
                    knob="engines[].speakers",
                )
        return wanted

    def speak(self, requests: Sequence[SpeechRequest]) -> list[Speech | Refused]:
        results: dict[int, Speech | Refused] = {}
        parsed: dict[int, torch.Tensor] = {}
        for place, request in enumerate(requests):
            lost = self._lost_words(request.text)
            if lost:
                results[place] = Refused("not_spoken", f"FastPitch has no sounds for {', '.join(map(repr, lost))}")
            else:
                parsed[place] = self._fastpitch.parse(request.text, normalize=False)[0]
        for batch in self._batches(parsed):
            speeches = self._speak([parsed[place] for place in batch], [requests[place] for place in batch])
            results.update(zip(batch, speeches, strict=True))
        return [results[place] for place in range(len(requests))]

    def _lost_words(self, text: str) -> list[str]:
        """Words that the model's tokenizer would drop without an error."""
        return [word for word in text.split() if any(map(str.isalnum, word)) and not self._tokens(word)]

    def _tokens_of_word(self, word: str) -> int:
        """How many sounds or letters a word has for the model."""
        ids = self._fastpitch.parse(word, normalize=False)[0].tolist()
        vocabulary = getattr(self._fastpitch, "vocab", None)
        if vocabulary is None:  # models before learned alignment count letters
            return sum(id >= 0 for id in ids)
        return sum(any(map(str.isalnum, str(vocabulary.tokens[id]))) for id in ids if id not in vocabulary._util_ids)

    def _batches(self, parsed: dict[int, torch.Tensor]) -> Iterator[list[int]]:
        """Places of texts, similar lengths together."""
        places = sorted(parsed, key=lambda place: (len(parsed[place]), place))
        for start in range(0, len(places), self._config.batch_size):
            yield places[start : start + self._config.batch_size]

    @torch.inference_mode()
    def _speak(self, tokens: list[torch.Tensor], requests: Sequence[SpeechRequest]) -> list[Speech | Refused]:
        drawn = [self._draw(request) for request in requests]
        frames, lengths = self._spectrograms(tokens, drawn)
        audio = self._hifigan.convert_spectrogram_to_audio(spec=frames).float().cpu().numpy()  # (B, S)
        samples_a_frame = audio.shape[1] // frames.shape[2]
        return [
            self._speech(audio[row, : length * samples_a_frame], *drawn[row], requests[row].text)
            for row, length in enumerate(lengths)
        ]

    def _draw(self, request: SpeechRequest) -> tuple[int | None, float]:
        rng = request.rng()
        return rng.choice(self._speakers), round(rng.uniform(*self._config.pace), 3)

    def _spectrograms(
        self, tokens: list[torch.Tensor], drawn: Sequence[tuple[int | None, float]]
    ) -> tuple[torch.Tensor, list[int]]:
        """Mel spectrograms (B, M, F), silence behind each, and their lengths in frames."""
        model = self._fastpitch
        padding = model.fastpitch.encoder.padding_idx
        padded = tokens[0].new_full((len(tokens), max(map(len, tokens)) + _PADDING_TOKENS), padding)
        for row, ids in enumerate(tokens):
            padded[row, : len(ids)] = ids
        speakers = [speaker for speaker, _ in drawn]
        frames, lengths, *_ = model(
            text=padded,
            speaker=None if speakers[0] is None else torch.tensor(speakers, device=padded.device),
            pace=torch.tensor([[pace] for _, pace in drawn], device=padded.device),
        )
        counted = [int(length) for length in lengths]
        silent = frames.new_full((*frames.shape[:2], max(counted) + _SILENT_FRAMES), _SILENT_MEL)
        for row, length in enumerate(counted):
            silent[row, :, :length] = frames[row, :, :length]
        return silent, counted

    def _speech(self, samples: np.ndarray, speaker: int | None, pace: float, text: str) -> Speech | Refused:
        if not len(samples) or not np.isfinite(samples).all():
            return Refused("not_spoken", f"FastPitch made no sound of {text!r}")
        return Speech(resampled(samples, self._rate), f"speaker {0 if speaker is None else speaker} pace {pace}")
