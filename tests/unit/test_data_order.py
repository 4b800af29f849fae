"""Orders of rows: permutations, windows of shards, ranks."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtblender_nemo.data.order import Order, Permutation, key_of, mix, unit


@given(size=st.integers(1, 2000), key=st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=60)
def test_a_permutation_is_one_to_one(size, key):
    permutation = Permutation(size, key)
    assert sorted(permutation(place) for place in range(size)) == list(range(size))


def test_permutations_of_three_are_alike_often():
    counts = Counter(tuple(Permutation(3, key)(place) for place in range(3)) for key in range(6000))
    assert len(counts) == 6
    assert min(counts.values()) > 850  # 1000 expected; 5 standard deviations are 145


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(sum),
    window=st.integers(1, 5),
    ranks=st.integers(1, 5),
    seed=st.integers(0, 1000),
    shuffle=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_ranks_read_every_row_of_a_pass_once(sizes, window, ranks, seed, shuffle):
    rows = sum(sizes)
    seen = [
        Order(sizes, key=seed, window=window, shuffle=shuffle)(position)
        for rank in range(ranks)
        for position in range(rank, 3 * rows, ranks)
    ]
    assert Counter(seen) == dict.fromkeys(range(rows), 3)
    order = Order(sizes, key=seed, window=window, shuffle=shuffle)
    for number in range(3):
        assert sorted(order(number * rows + place) for place in range(rows)) == list(range(rows))


def test_a_position_leads_to_the_same_row_however_it_is_reached():
    walked = [Order([40, 60], key=3)(position) for position in range(250)]
    order = Order([40, 60], key=3)
    assert [order(position) for position in (249, 3, 120)] == [walked[249], walked[3], walked[120]]


def test_passes_differ():
    order = Order([50], key=3)
    first, second = ([order(number * 50 + place) for place in range(50)] for number in range(2))
    assert first != second
    assert first != sorted(first)


def test_without_shuffling_rows_come_as_they_stand():
    order = Order([2, 3], key=3, shuffle=False)
    assert [order(position) for position in range(7)] == [0, 1, 2, 3, 4, 0, 1]


def test_few_shards_are_read_at_a_time():
    order = Order([10] * 8, key=1, window=2)
    shards = [order(place) // 10 for place in range(80)]
    windows = [set(shards[start : start + 20]) for start in range(0, 80, 20)]
    assert [len(window) for window in windows] == [2] * 4
    assert set().union(*windows) == set(range(8))
    assert shards[:20] != sorted(shards[:20], key=shards[:20].index), "rows of a window are mixed"


def test_hashes_do_not_depend_on_the_process():
    assert (key_of("asr"), mix(1, 2)) == (0xE450C5075DAFBB03, 0xE11283DFF699F5D8), "saved states would lead elsewhere"
    assert mix(1, 2) != mix(2, 1)
    draws = [unit(7, number) for number in range(20000)]
    assert sum(draws) / len(draws) == pytest.approx(0.5, abs=0.011)  # 5 standard deviations
    assert all(0 <= draw < 1 for draw in draws)
