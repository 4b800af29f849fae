"""Groups of like length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtblender_nemo.common.lengths import length_groups


def test_rows_join_while_padding_allows() -> None:
    # 10 + 9 of 20: 5 % padding; with 8, 27 of 30: 10 %; with 5, 32 of 40 would be 20 %
    assert length_groups([5, 10, 8, 9], 0.1) == [[1, 3, 2], [0]]
    assert length_groups([5, 10, 8, 9], 0.2) == [[1, 3, 2, 0]]


@pytest.mark.parametrize(("share", "groups"), [(0.0, [[0, 2], [1]]), (1.0, [[0, 2, 1]])])
def test_ends_of_the_range(share: float, groups: list[list[int]]) -> None:
    assert length_groups([7, 3, 7], share) == groups


@given(st.lists(st.integers(1, 500), max_size=40), st.floats(0, 0.9))
def test_every_row_once_and_no_group_wastes_more(lens: list[int], share: float) -> None:
    groups = length_groups(lens, share)
    assert sorted(row for group in groups for row in group) == list(range(len(lens)))
    for group in groups:
        padded = len(group) * max(lens[row] for row in group)
        assert padded - sum(lens[row] for row in group) <= share * padded + 1e-6
