"""Answers in the making: rows that go through the LLM together, and come and go between two tokens.

Shapes: B rows, T positions of the longest one, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vtblender_nemo.backbones.decoding import Chooser, advance
from vtblender_nemo.backbones.kv_cache import GrowingCache
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.serving.engine.prefixes import Mark, positions_of
from vtblender_nemo.serving.engine.requests import Reason, Request, Usage
from vtblender_nemo.serving.engine.text import GrowingText


@dataclass(eq=False)
class Row:
    """One answer in the making.

    Attributes:
        request: that is answered.
        marks: of its prompt.
        text: of the answer.
        choose: what draws the next token; None for the likeliest.
        cached_positions: of the prompt, that were in a cache.
        audio_secs: of the prompt.
        ids: of the answer so far.
        reason: why the answer is over; None while it is not.
        most_positions: of prompt and answer together, by an estimate for audio.
    """

    request: Request
    marks: Sequence[Mark]
    text: GrowingText
    choose: Chooser | None = None
    cached_positions: int = 0
    audio_secs: float = 0.0
    ids: list[int] = field(default_factory=list)
    reason: Reason | None = None
    most_positions: int = 0

    @property
    def usage(self) -> Usage:
        return Usage(positions_of(self.marks), self.cached_positions, len(self.ids), self.audio_secs)


class RunningRows:
    """Rows with one cache, padded on the left.

    A row's tokens do not depend on the rows beside it, but for what sums of another order change in the last digits.

    Args:
        llm: the LLM.
        stop_ids: ids that end an answer.
    """

    def __init__(self, llm: TransformersLLM, stop_ids: Sequence[int]) -> None:
        self._llm = llm
        self._stop_ids = frozenset(stop_ids)
        self.rows: list[Row] = []
        self._reset()

    def _reset(self) -> None:
        self._cache = GrowingCache()
        self._mask = torch.zeros(0, 0, dtype=torch.bool, device=self._llm.device)
        self._hidden: Tensor | None = None
        self._chosen = torch.zeros(0, dtype=torch.long, device=self._llm.device)

    def __len__(self) -> int:
        return len(self.rows)

    def most_positions(self, more: Sequence[Row] = ()) -> int:
        """Places that the cache may come to have with `more` rows, padding included."""
        rows = [*self.rows, *more]
        return len(rows) * max((row.most_positions for row in rows), default=0)

    def join(self, rows: Sequence[Row], hidden: Tensor, mask: Tensor, cache: GrowingCache) -> None:
        """Takes rows whose prompts have been run.

        Args:
            rows: B of them.
            hidden: (B, H), of each prompt's last position.
            mask: (B, T) bool, False at padding on the left.
            cache: of the prompts.
        """
        self._cache.join(cache)
        longest = max(self._mask.shape[1], mask.shape[1])
        self._mask = torch.cat([_widened(self._mask, longest), _widened(mask, longest)])
        self._hidden = hidden if self._hidden is None else torch.cat([self._hidden, hidden])
        self.rows += rows

    def step(self) -> None:
        """One more token for every row; rows whose answer is over by it say so in `reason`, and wait to be dismissed."""
        assert self._hidden is not None, "all rows have been run"
        chosen = self._choose(self._llm.logits(self._hidden))
        for row, token in zip(self.rows, chosen.tolist(), strict=True):
            row.ids.append(token)
            if token in self._stop_ids:
                row.reason = Reason.STOP
            elif len(row.ids) >= row.request.sampling.max_new_tokens:
                row.reason = Reason.LENGTH
        self._chosen, self._hidden = chosen, None

    def advance(self) -> None:
        """Runs the tokens that `step` has chosen, so that the next ones can be."""
        positions = self._mask.sum(1, keepdim=True)
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=True)
        mask = None if bool(self._mask.all()) else self._mask
        embeds = self._llm.embed(self._chosen[:, None])
        self._hidden = advance(self._llm, embeds, self._cache, mask=mask, positions=positions)[:, -1]

    def left_by(self, row: Row) -> GrowingCache:
        """A copy of keys and values of a row's prompt, and of its tokens that were run."""
        number, end = self.rows.index(row), self._mask.shape[1]
        return self._cache.part(number, end - int(self._mask[number].sum()), end)

    def dismiss(self, leaving: Sequence[Row]) -> None:
        """Lets rows go, between `step` and `advance`."""
        numbers = {self.rows.index(row) for row in leaving}
        end = self._mask.shape[1]
        kept = [number for number in range(len(self.rows)) if number not in numbers]
        self.rows = [self.rows[number] for number in kept]
        if not kept:
            self._reset()
            return
        index = torch.tensor(kept, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask = self._mask[index]
        self._chosen = self._chosen[index]
        if padding := end - int(self._mask.sum(1).max()):
            self._cache.forget_first(padding)
            self._mask = self._mask[:, padding:]

    def _choose(self, logits: Tensor) -> Tensor:
        """(B, V) -> (B,) ids."""
        chosen = logits.argmax(-1)
        for number, row in enumerate(self.rows):
            if row.choose is not None:
                answered = torch.tensor([row.ids], dtype=torch.long, device=logits.device)
                chosen[number] = row.choose(logits[number : number + 1], answered)[0]
        return chosen


def _widened(mask: Tensor, positions: int) -> Tensor:
    return torch.nn.functional.pad(mask, (positions - mask.shape[1], 0))
