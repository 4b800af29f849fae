"""Where text and speech become one sequence: pure functions on integers and one gather.

Shapes: B conversations, L tokens of the longest one, A audio segments, F frames of all of them, H hidden, P positions of all
conversations after each locator was replaced by its frames, T positions of the longest one.

The packed form (P positions, conversation after conversation, no padding) is the canonical one; the padded form is made from
it where a model wants it. Frames are packed, too: segment after segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.errors import DataError

IGNORE = -100


@dataclass
class SplicePlan:
    """Which row of [token embeddings (B*L); frames (F)] stands at each packed position.

    Attributes:
        source: (P,) row to gather.
        conversation: (P,) number of the conversation.
        position: (P,) position inside the conversation.
        target: (P,) the id to be predicted from this position, or IGNORE.
        lens: (B,) positions of each conversation.
    """

    source: Tensor
    conversation: Tensor
    position: Tensor
    target: Tensor
    lens: Tensor

    def padded_index(self, *, left: bool = False, multiple_of: int = 1) -> tuple[Tensor, int]:
        """Where each packed position lies in (B*T), and T.

        Args:
            left: put the padding before the conversation (generation) instead of behind it.
            multiple_of: T is rounded up to a multiple of this.
        """
        longest = -(-int(self.lens.max()) // multiple_of) * multiple_of
        column = self.position + (longest - self.lens)[self.conversation] if left else self.position
        return self.conversation * longest + column, longest


def plan_splice(batch: Batch, frame_lens: Tensor, audio_locator_id: int) -> SplicePlan:
    """Replaces every locator by its frames, and finds each position's target.

    Args:
        batch: token ids, lengths and loss mask.
        frame_lens: (A,) frames of each audio, in the order of the locators.
        audio_locator_id: id of the locator token.

    Raises:
        DataError: the number of locators differs from the number of audios.
    """
    device = batch.input_ids.device
    tokens_wide = batch.input_ids.shape[1]
    valid = torch.arange(tokens_wide, device=device) < batch.input_lens[:, None]
    token = valid.flatten().nonzero()[:, 0]
    ids = batch.input_ids.flatten()[token]
    is_audio = ids == audio_locator_id
    if int(is_audio.sum()) != frame_lens.numel():
        raise DataError(
            "audio placeholders and audios do not match",
            value=f"{int(is_audio.sum())} placeholders, {frame_lens.numel()} audios in {', '.join(batch.ids)}",
            expected="one audio for each placeholder",
        )
    repeats = torch.ones_like(ids).masked_scatter(is_audio, frame_lens.to(ids))
    origin = torch.repeat_interleave(torch.arange(len(ids), device=device), repeats)
    of_audio = is_audio[origin]
    frame_row = batch.input_ids.numel() + of_audio.cumsum(0) - 1
    source = torch.where(of_audio, frame_row, token[origin])
    conversation = token[origin] // tokens_wide
    lens = torch.bincount(conversation, minlength=len(batch))
    position = torch.arange(len(origin), device=device) - (lens.cumsum(0) - lens)[conversation]
    label = torch.where(batch.loss_mask.flatten()[token] & ~is_audio, ids, IGNORE)[origin]
    return SplicePlan(source, conversation, position, _next_in_conversation(label, conversation), lens)


def _next_in_conversation(label: Tensor, conversation: Tensor) -> Tensor:
    following = torch.full_like(label, IGNORE)
    same = conversation[1:] == conversation[:-1]
    following[:-1] = torch.where(same, label[1:], IGNORE)
    return following


def gather_embeds(plan: SplicePlan, token_embeds: Tensor, frames: Tensor | None) -> Tensor:
    """Token embeddings (B, L, H) and frames (F, H) in packed order (P, H)."""
    rows = token_embeds.flatten(0, 1)
    if frames is not None:
        rows = torch.cat([rows, frames.to(rows.dtype)])
    return rows.index_select(0, plan.source)


def pad_packed(packed: Tensor, plan: SplicePlan, *, left: bool = False, multiple_of: int = 1) -> tuple[Tensor, Tensor]:
    """Packed rows (P, H) as (B, T, H), zeros where nothing stands, and the attention mask (B, T) bool."""
    index, longest = plan.padded_index(left=left, multiple_of=multiple_of)
    conversations = len(plan.lens)
    padded = packed.new_zeros(conversations * longest, packed.shape[1]).index_copy(0, index, packed)
    mask = torch.zeros(conversations * longest, dtype=torch.bool, device=packed.device)
    mask[index] = True
    return padded.view(conversations, longest, -1), mask.view(conversations, longest)


def pad_behind(packed: Tensor, lens: list[int], multiple_of: int) -> tuple[Tensor, list[int]]:
    """Packed rows (P, H) with zeros behind them up to a multiple; they count as one more conversation, without targets."""
    missing = -len(packed) % multiple_of
    if not missing:
        return packed, lens
    return torch.nn.functional.pad(packed, (0, 0, 0, missing)), [*lens, missing]
