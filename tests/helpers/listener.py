"""A model for tests of what surrounds a model: it says what it was given, so that answers can be told in advance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import Audio, Conversation, Text

RATE = 16000


def write_tone(path: Path, loudness: int, *, secs: float = 0.1, rate: int = RATE) -> Path:
    """A file whose samples are all `loudness` / 100, for `Listener` to tell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.full(round(secs * rate), loudness / 100, dtype=np.float32), rate)
    return path


class Listener:
    """Answers with the texts and the loudness of the audios of the last turn, in order.

    Args:
        fail_after: calls of `generate` that succeed before one is interrupted, as by a user.

    Attributes:
        batches: the ids of the conversations of every call.
    """

    sampling_rate = RATE
    token_equivalent_duration = 0.08

    def __init__(self, *, fail_after: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self.max_new_tokens: list[int] = []
        self.options: list[dict[str, Any]] = []
        self._fail_after = fail_after

    def generate(self, conversations: Sequence[Conversation], max_new_tokens: int = 256, **options: Any) -> list[str]:
        if self._fail_after is not None and len(self.batches) == self._fail_after:
            raise KeyboardInterrupt
        self.batches.append([conversation.id for conversation in conversations])
        self.max_new_tokens.append(max_new_tokens)
        self.options.append(options)
        return [" ".join(self._say(part) for part in one.turns[-1].parts) for one in conversations]

    @property
    def answered(self) -> int:
        return sum(len(batch) for batch in self.batches)

    def _say(self, part: Text | Audio) -> str:
        if isinstance(part, Text):
            return part.text
        return f"heard {round(100 * float(np.abs(load_samples(part.cut, RATE)).max()))}"
