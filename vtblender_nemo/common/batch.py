"""The micro-batch: conversations as token ids and waveforms, before any network has seen them.

Shapes: B conversations, L tokens of the longest one, A audio segments, S samples of the longest one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Batch:
    """Conversations that go through the model together.

    Attributes:
        input_ids: (B, L) int64, padded on the right with 0; every audio is one locator id.
        input_lens: (B,) int64, tokens of each conversation.
        loss_mask: (B, L) bool, True at the assistant's tokens.
        audios: (A, S) float32 waveforms, padded on the right with 0; their order is that of the locators, row by row.
        audio_lens: (A,) int64, samples of each waveform.
        sources: B names of data sources.
        ids: B conversation ids.
        twin: the twins of the conversations that have one, without audio; None where they are not asked for.
        twin_rows: (len(twin),) int64, ascending: the numbers of these conversations; None without twins.
    """

    input_ids: Tensor
    input_lens: Tensor
    loss_mask: Tensor
    audios: Tensor
    audio_lens: Tensor
    sources: list[str]
    ids: list[str]
    twin: Batch | None = None
    twin_rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`; from pinned memory they are copied while this process goes on."""
        # Without waiting only from pinned memory: a copy from a GPU could be read before it is there.
        return self._changed(lambda value: value.to(device, non_blocking=value.is_pinned()))

    def halves(self, audio_locator_id: int) -> tuple[Batch, Batch]:
        """The conversations of the first half, and the others, each with its audios and twins; not shorter than they are here.

        Args:
            audio_locator_id: the token id whose place an audio takes.
        """
        middle = len(self) // 2
        heard = int((self.input_ids[:middle] == audio_locator_id).sum())
        return self._part(slice(None, middle), slice(None, heard)), self._part(slice(middle, None), slice(heard, None))

    def _part(self, rows: slice, audios: slice) -> Batch:
        twin, twin_rows = self.twin, self.twin_rows
        if twin is not None and twin_rows is not None:
            start, stop, _ = rows.indices(len(self))
            first, end = (int((twin_rows < bound).sum()) for bound in (start, stop))
            twin = twin._part(slice(first, end), slice(0, 0)) if end > first else None
            twin_rows = twin_rows[first:end] - start if end > first else None
        return Batch(
            input_ids=self.input_ids[rows],
            input_lens=self.input_lens[rows],
            loss_mask=self.loss_mask[rows],
            audios=self.audios[audios],
            audio_lens=self.audio_lens[audios],
            sources=self.sources[rows],
            ids=self.ids[rows],
            twin=twin,
            twin_rows=twin_rows,
        )

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU copies from by itself; called by PyTorch's DataLoader."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {key: change(value) for key, value in vars(self).items() if isinstance(value, Tensor)}
        if self.twin is not None:
            changed["twin"] = self.twin._changed(change)
        return replace(self, **changed)


def pad_right(rows: list[np.ndarray], *, dtype: np.dtype | type = np.float32) -> tuple[Tensor, Tensor]:
    """Stacks rows of different lengths.

    Args:
        rows: arrays of one dimension.
        dtype: of the result.

    Returns:
        (rows, longest) padded with 0, and the lengths (rows,) int64.
    """
    longest = max((len(row) for row in rows), default=0)
    padded = np.zeros((len(rows), longest), dtype=dtype)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return torch.from_numpy(padded), torch.tensor([len(row) for row in rows], dtype=torch.int64)
