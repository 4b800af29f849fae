"""Training speech as it might be heard elsewhere: in rooms, through noise, over telephones.

What changes waveforms is what `data.train_ds.augment` can do; it is drawn once for every copy of an utterance, and the
features are kept. `Warp` then changes these features anew in every batch.

Shape letters: A audio segments, F frames of 10 ms.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vtblender_nemo.common.audio import cut_from_file, load_samples
from vtblender_nemo.common.conversation import Audio, Conversation, Turn
from vtblender_nemo.data.augment import Augmenter
from vtblender_nemo.data.augment_config import read_augment
from vtblender_nemo.tiny.encoder import features_of

NOISE_FOLDER = "noise"
"""Of the world: noises that are drawn where the settings of `augment.noise` name none."""

_KNOB = "tiny.encoder.augment"
_RATE = 16_000
_CHUNK = 512  # utterances in memory at once


class Listener:
    """Hears files as the settings say, each time another way.

    Args:
        settings: as those of `data.train_ds.augment`.
        noises: folder of noises for settings that name none.
        seed: of all draws.

    Raises:
        ConfigError: settings that `data.train_ds.augment` would not take.
    """

    def __init__(self, settings: Mapping[str, Any], noises: Path, seed: int) -> None:
        effects = {name: dict(values) for name, values in settings.items()}
        if "noise" in effects and not effects["noise"].keys() & {"folder", "manifest_filepath"}:
            effects["noise"]["folder"] = str(noises)
        self._augment = Augmenter(read_augment(effects, _KNOB), _RATE, _KNOB)
        self._seed = seed

    def hear(self, file: Path, copy: int) -> torch.Tensor:
        """Samples, float32 (S,) at 16 kHz, of one copy of a file; the same each time."""
        rng = random.Random(f"hear-{self._seed}-{file.name}-{copy}")
        conversation = Conversation(file.name, (Turn("user", (Audio(cut_from_file(file)),)),), "augment", {})
        (audio,) = self._augment(conversation, rng).audios
        return torch.from_numpy(np.ascontiguousarray(load_samples(audio.cut, _RATE), dtype=np.float32))


def heard_features(
    preprocessor: torch.nn.Module, files: Sequence[Path], copies: int, listener: Listener
) -> Iterator[list[torch.Tensor]]:
    """Features (80, F) of every copy of every file, file after file."""
    for start in range(0, len(files), _CHUNK):
        heard = [listener.hear(file, copy) for file in files[start : start + _CHUNK] for copy in range(copies)]
        features = features_of(preprocessor, heard)
        yield from (features[index : index + copies] for index in range(0, len(features), copies))


@dataclass(frozen=True)
class Warp:
    """Other throats and other paces, drawn for every clip of a batch.

    Attributes:
        mel: largest change of the mel scale, as the logarithm of a factor: formants that lie higher or lower.
        time: largest change of durations, likewise.
    """

    mel: float
    time: float

    def __call__(self, features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (A, 80, F) with zeros behind their `frames` (A,) to the same."""
        batch, bands, length = features.shape
        higher, longer = (torch.exp((2 * torch.rand(batch) - 1) * most) for most in (self.mel, self.time))
        warped_frames = (frames * longer).round().long().clamp(min=1, max=length)
        band = torch.arange(float(bands)) * higher[:, None]
        frame = torch.arange(float(length)) * (frames / warped_frames)[:, None]
        places = torch.stack(
            (
                _share(frame, frames[:, None] - 1, length)[:, None, :].expand(batch, bands, length),
                _share(band, torch.tensor(bands - 1), bands)[:, :, None].expand(batch, bands, length),
            ),
            dim=-1,
        )
        warped = torch.nn.functional.grid_sample(features[:, None], places, align_corners=True)[:, 0]
        kept = torch.arange(length) < warped_frames[:, None]
        return warped * kept[:, None], warped_frames


def _share(place: torch.Tensor, last: torch.Tensor, length: int) -> torch.Tensor:
    """Indices, none above `last`, on the scale of -1 (the first of `length`) to 1 (the last)."""
    return torch.minimum(place, last.to(place)) / max(1, length - 1) * 2 - 1
