"""Tokens that stand for audio in prompts of other programs, and what they are in the LLM's tables.

Stock programs put an audio's frames in the place of a locator token and know no separator behind them. A token whose embedding is
the separator says the same: it follows every locator.

Shapes: V vocabulary, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtblender_nemo.common.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SEPARATOR_TOKEN = "<|audio_end|>"


@dataclass(frozen=True)
class Markers:
    """What a prompt holds in place of an audio.

    Attributes:
        tag: the locator.
        tag_id: its id.
        separator: the token behind it, or None.
        separator_id: its id.
    """

    tag: str
    tag_id: int
    separator: str | None = None
    separator_id: int | None = None

    @property
    def audio(self) -> str:
        """What stands for an audio in a text."""
        return self.tag + (self.separator or "")

    @property
    def audio_ids(self) -> list[int]:
        """The ids of `audio`."""
        return [self.tag_id] if self.separator_id is None else [self.tag_id, self.separator_id]


def add_markers(tokenizer: PreTrainedTokenizerBase, tag: str, *, separator: bool) -> Markers:
    """Adds what the vocabulary lacks to a tokenizer.

    Args:
        tokenizer: it is changed.
        tag: the locator.
        separator: whether a token follows it.

    Raises:
        ConfigError: the vocabulary has a token by the separator's name already.
    """
    known = tokenizer.get_vocab()
    if separator and SEPARATOR_TOKEN in known:
        raise ConfigError(
            f"the LLM's vocabulary has a token {SEPARATOR_TOKEN} of its own, where the separator was to be one",
            expected="a model trained without separator",
            knob="model.perception.separator",
        )
    wanted = [tag] + ([SEPARATOR_TOKEN] if separator else [])
    tokenizer.add_tokens([token for token in wanted if token not in known], special_tokens=True)
    ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in wanted]
    return Markers(tag, ids[0], SEPARATOR_TOKEN, ids[1]) if separator else Markers(tag, ids[0])


@torch.no_grad()
def with_row(table: Tensor, row: int, values: Tensor) -> Tensor:
    """A table (V, H) of embeddings with `values` (H,) as its row number `row`, which may lie behind its end."""
    missing = max(0, row + 1 - len(table))
    longer = torch.cat([table, table.new_zeros(missing, table.shape[1])])
    longer[row] = values.to(table)
    return longer


def with_unlikely_rows(head: Tensor, rows: int) -> Tensor:
    """A head's weight (V, H), or bias (V,), with copies of its first row behind its end, up to `rows`.

    A copy's logit is its original's, and greedy answers take the first of equals.
    """
    missing = max(0, rows - len(head))
    return torch.cat([head, head[:1].expand(missing, *head.shape[1:])])
