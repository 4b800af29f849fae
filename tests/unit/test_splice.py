"""Splicing against tensors written by hand."""

from __future__ import annotations

import pytest
import torch

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.modules.splice import IGNORE, gather_embeds, pad_behind, pad_packed, plan_splice

AUDIO = 9


def make_batch(rows: list[list[int]], masks: list[list[int]], audios: int) -> Batch:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([row + [0] * (longest - len(row)) for row in masks]).bool()
    lens = torch.tensor([len(row) for row in rows])
    waves = torch.zeros(audios, 4)
    return Batch(
        ids, lens, mask, waves, torch.full((audios,), 4), ["s"] * len(rows), [f"row{i}" for i in range(len(rows))]
    )


def test_locators_become_frames_and_targets_follow() -> None:
    batch = make_batch([[1, AUDIO, 2, 3], [4, 5]], [[0, 0, 1, 1], [0, 1]], audios=1)
    plan = plan_splice(batch, torch.tensor([3]), AUDIO)
    # rows 0 to 7 are the 2 x 4 padded tokens, 8 to 10 the frames
    assert plan.source.tolist() == [0, 8, 9, 10, 2, 3, 4, 5]
    assert plan.conversation.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert plan.position.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert plan.lens.tolist() == [6, 2]
    assert plan.target.tolist() == [IGNORE, IGNORE, IGNORE, 2, 3, IGNORE, 5, IGNORE]


def test_segments_go_to_their_locators_in_order_across_conversations() -> None:
    batch = make_batch([[AUDIO, 1, AUDIO], [2], [AUDIO]], [[0, 1, 0], [1], [0]], audios=3)
    plan = plan_splice(batch, torch.tensor([1, 2, 1]), AUDIO)
    # 9 padded tokens, then frames: segment 0 at 9, segment 1 at 10 and 11, segment 2 at 12
    assert plan.source.tolist() == [9, 1, 10, 11, 3, 12]
    assert plan.target.tolist() == [
        1,
        IGNORE,
        IGNORE,
        IGNORE,
        IGNORE,
        IGNORE,
    ]  # a first token has no position before it


def test_a_zero_token_of_text_is_no_padding() -> None:
    plan = plan_splice(make_batch([[0, 0], [5]], [[1, 1], [0]], audios=0), torch.zeros(0, dtype=torch.long), AUDIO)
    assert plan.lens.tolist() == [2, 1]
    assert plan.target.tolist() == [0, IGNORE, IGNORE]


def test_packed_to_padded_left_and_right() -> None:
    batch = make_batch([[1, 2, 3], [4]], [[0, 0, 0], [0]], audios=0)
    plan = plan_splice(batch, torch.zeros(0, dtype=torch.long), AUDIO)
    tokens = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [0.5], [0.5]]])
    packed = gather_embeds(plan, tokens, None)
    assert packed[:, 0].tolist() == [1, 2, 3, 4]
    right, right_mask = pad_packed(packed, plan, multiple_of=2)
    assert right[:, :, 0].tolist() == [[1, 2, 3, 0], [4, 0, 0, 0]]
    assert right_mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    left, left_mask = pad_packed(packed, plan, left=True)
    assert left[:, :, 0].tolist() == [[1, 2, 3], [0, 0, 4]]
    assert left_mask.tolist() == [[True] * 3, [False, False, True]]


def test_gradients_reach_frames_and_tokens() -> None:
    batch = make_batch([[1, AUDIO]], [[0, 0]], audios=1)
    plan = plan_splice(batch, torch.tensor([1]), AUDIO)
    tokens, frames = torch.ones(1, 2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    gather_embeds(plan, tokens, frames).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[0, :, 0].tolist() == [1, 0]
    assert frames.grad is not None
    assert frames.grad[:, 0].tolist() == [1, 0]


def test_placeholders_and_audios_have_to_match() -> None:
    with pytest.raises(DataError, match=r"2 placeholders, 1 audios in row0"):
        plan_splice(make_batch([[AUDIO, AUDIO]], [[0, 0]], audios=1), torch.tensor([1]), AUDIO)


def test_zeros_behind_packed_rows_are_a_conversation_of_their_own() -> None:
    packed, lens = pad_behind(torch.ones(5, 2), [3, 2], 4)
    assert packed[:, 0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert lens == [3, 2, 3]
    assert pad_behind(torch.ones(4, 2), [4], 4)[1] == [4]
