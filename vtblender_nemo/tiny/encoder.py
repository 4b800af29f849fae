"""The tiny speech encoder, trained as a speech recogniser through a CTC head.

The head is thrown away afterwards. What is saved is an ordinary Canary `.nemo` whose preprocessor and encoder are good,
and whose decoder is *untrained*: nothing in this project uses it, as the language model takes its place.

Shape letters: A audio segments, S samples, F frames (10 ms before the encoder, 80 ms after it), H width.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from vtblender_nemo.common.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LENGTH_STEP = 64  # batches come in few, fixed shapes
_SHORTEST = 128
_FEATURE_BATCH = 48


@dataclass(frozen=True)
class Clip:
    """Log-mel features (80, F) of one utterance in fp16, and its text."""

    features: torch.Tensor
    text: str


def log_mel(preprocessor: nn.Module, files: Sequence[Path]) -> list[torch.Tensor]:
    """Features (80, F) of every file, made by the preprocessor that the saved model has.

    Raises:
        DataError: a file with another sample rate than 16 kHz.
    """
    import soundfile

    audios = []
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32")
        if rate != 16000:
            raise DataError("unexpected sample rate", path=file, value=rate, expected="16000")
        audios.append(torch.from_numpy(samples))
    return features_of(preprocessor, audios)


def features_of(preprocessor: nn.Module, audios: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Features (80, F) in fp16 of every audio, float32 (S,) at 16 kHz."""
    order = sorted(range(len(audios)), key=lambda index: len(audios[index]))
    features: list[torch.Tensor] = [torch.empty(0)] * len(audios)
    preprocessor.eval()
    for start in range(0, len(order), _FEATURE_BATCH):
        chosen = order[start : start + _FEATURE_BATCH]
        lengths = torch.tensor([len(audios[index]) for index in chosen])
        signal = nn.utils.rnn.pad_sequence([audios[index] for index in chosen], batch_first=True)
        with torch.no_grad():
            made, frames = preprocessor(input_signal=signal, length=lengths)
        for row, index in enumerate(chosen):
            features[index] = made[row, :, : int(frames[row])].half()
    return features


class CtcUnits:
    """The output units of the CTC head: those tokens of the language model that occur in transcripts.

    Args:
        tokenizer: the language model's.
        texts: all transcripts of the training.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        self._tokens = sorted({token for ids in encoded for token in ids})
        self._units = {token: unit for unit, token in enumerate(self._tokens)}
        self.blank = len(self._tokens)

    def encode(self, text: str) -> list[int]:
        return [self._units[token] for token in self._tokenizer.encode(text, add_special_tokens=False)]

    def decode(self, best: Sequence[int]) -> str:
        """The text of the best unit of every frame: repetitions are one, blanks are none."""
        units = [unit for previous, unit in zip((self.blank, *best), best, strict=False) if unit != previous]
        return self._tokenizer.decode([self._tokens[unit] for unit in units if unit != self.blank])


class CtcRecogniser(nn.Module):
    """An encoder and a linear CTC head.

    Args:
        encoder: a NeMo `ConformerEncoder`.
        units: outputs, the blank not counted.
        bf16: run the layers in bf16; the subsampling stays in fp32, where few channels are faster.
    """

    def __init__(self, encoder: nn.Module, units: int, bf16: bool) -> None:
        super().__init__()
        self.encoder, self.bf16 = encoder, bf16
        self.head = nn.Linear(encoder.d_model, units + 1)

    def forward(self, features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (A, F, units + 1) and their lengths, of features (A, 80, F) and theirs."""
        subsampled, lengths = self.encoder.pre_encode(x=features.transpose(1, 2), lengths=frames)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            encoded, lengths = self.encoder(audio_signal=subsampled, length=lengths, bypass_pre_encode=True)
            logits = self.head(encoded.transpose(1, 2))
        return logits.float().log_softmax(-1), lengths


def clip_batches(clips: Sequence[Clip], frames_per_batch: int, seed: int) -> Iterator[tuple[list[int], int]]:
    """Indices of clips of about one length, and that length, epoch after epoch without end."""
    rng = random.Random(f"clip-batches-{seed}")
    waiting: dict[int, list[int]] = {}
    while True:
        ready, order = [], list(range(len(clips)))
        rng.shuffle(order)
        for index in order:
            frames = clips[index].features.shape[1]
            length = max(_SHORTEST, -(-frames // _LENGTH_STEP) * _LENGTH_STEP)
            waiting.setdefault(length, []).append(index)
            if len(waiting[length]) == max(2, frames_per_batch // length):
                ready.append((waiting.pop(length), length))
        rng.shuffle(ready)
        yield from ready


def collate(clips: Sequence[Clip], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (A, 80, `length`) with zeros on the right, and the frames of each."""
    features = torch.zeros(len(clips), clips[0].features.shape[0], length)
    for row, clip in enumerate(clips):
        features[row, :, : clip.features.shape[1]] = clip.features
    return features, torch.tensor([clip.features.shape[1] for clip in clips])


def ctc_loss(
    model: CtcRecogniser,
    units: CtcUnits,
    clips: Sequence[Clip],
    length: int,
    augment: nn.Module,
    warp: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """CTC loss of a batch, with SpecAugment after the warp of features (A, 80, F) and frames (A,)."""
    features, frames = collate(clips, length)
    if warp is not None:
        features, frames = warp(features, frames)
    log_probs, lengths = model(augment(input_spec=features, length=frames), frames)
    targets = [torch.tensor(units.encode(clip.text)) for clip in clips]
    return nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        torch.cat(targets),
        lengths,
        torch.tensor([len(target) for target in targets]),
        blank=units.blank,
        zero_infinity=True,
    )


def set_dropout(encoder: nn.Module, share: float) -> None:
    """Drops this share of the activations in an encoder's layers, whatever it dropped before."""
    for module in encoder.layers.modules():
        if isinstance(module, nn.Dropout):
            module.p = share


@torch.no_grad()
def transcribe(model: CtcRecogniser, units: CtcUnits, clips: Sequence[Clip]) -> list[str]:
    """Greedy transcripts in the order of the clips."""
    model.eval()
    order = sorted(range(len(clips)), key=lambda index: clips[index].features.shape[1])
    texts = [""] * len(clips)
    for start in range(0, len(order), _FEATURE_BATCH):
        chosen = order[start : start + _FEATURE_BATCH]
        features, frames = collate([clips[index] for index in chosen], clips[chosen[-1]].features.shape[1])
        log_probs, lengths = model(features, frames)
        for row, index in enumerate(chosen):
            texts[index] = units.decode(log_probs[row, : int(lengths[row])].argmax(-1).tolist())
    return texts
