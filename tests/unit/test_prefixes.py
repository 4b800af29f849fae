"""Kept chats: the longest head is found, the ones used last stay."""

from __future__ import annotations

from typing import Any

import torch

from vtblender_nemo.backbones.kv_cache import GrowingCache, GrowingLayer
from vtblender_nemo.serving.engine.prefixes import Mark, PrefixStore, positions_of

POSITION_BYTES = 2 * 4 * 2  # keys and values of one head of width 2 in float32


def cache(positions: int) -> GrowingCache:
    layer = GrowingLayer()
    layer.lazy_initialization(torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 0, 2))
    rows = torch.arange(2.0 * positions).view(1, 1, positions, 2)
    layer._hold(rows, -rows)
    made = GrowingCache()
    made.layers = [layer]
    return made


def tokens(text: str) -> list[Mark]:
    return [Mark(ord(letter)) for letter in text]


def keep(store: PrefixStore, *marks: Mark) -> None:
    store.keep(list(marks), cache(positions_of(marks)))


def found(store: PrefixStore, *marks: Mark) -> int | None:
    prefix = store.find(list(marks))
    return None if prefix is None else len(prefix.marks)


def test_the_longest_head_is_found_but_never_all_of_a_prompt() -> None:
    store = PrefixStore(1 << 20, least_positions=2)
    keep(store, *tokens("hello you"))
    keep(store, *tokens("hello world"))
    assert found(store, *tokens("hello world, and more")) == 11
    assert found(store, *tokens("hello world")) == 10
    assert found(store, *tokens("hello yes")) == 7
    assert found(store, *tokens("hi")) is None  # one position alone is run again
    assert found(store, *tokens("other")) is None


def test_what_is_found_is_a_copy_of_its_positions() -> None:
    store = PrefixStore(1 << 20, least_positions=1)
    keep(store, *tokens("abcd"))
    prefix = store.find(tokens("abx"))
    assert prefix is not None
    layer: Any = prefix.cache.layers[0]
    assert layer.keys.flatten().tolist() == [0, 1, 2, 3]
    layer.keys.zero_()
    again: Any = store.find(tokens("abx"))
    assert again.cache.layers[0].keys.flatten().tolist() == [0, 1, 2, 3]


def test_audios_are_told_apart_by_their_ids_and_count_their_frames() -> None:
    store = PrefixStore(1 << 20, least_positions=1)
    keep(store, Mark(1), Mark(0, "one", 10), Mark(2))
    assert found(store, Mark(1), Mark(0, "other"), Mark(2)) == 1
    prefix = store.find([Mark(1), Mark(0, "one"), Mark(2), Mark(3)])
    assert prefix is not None
    assert prefix.cache.get_seq_length() == 12


def test_a_chat_takes_the_place_of_its_earlier_turns() -> None:
    store = PrefixStore(1 << 20, least_positions=1)
    keep(store, *tokens("ab"))
    keep(store, *tokens("abcd"))
    assert store.bytes == 4 * POSITION_BYTES
    keep(store, *tokens("abx"))  # another way to go on
    assert store.bytes == 7 * POSITION_BYTES


def test_those_not_used_for_longest_leave() -> None:
    store = PrefixStore(9 * POSITION_BYTES, least_positions=1)
    for chat in ("aaa", "bbb", "ccc"):
        keep(store, *tokens(chat))
    assert found(store, *tokens("aaa?")) == 3  # used again
    keep(store, *tokens("ddd"))
    assert [found(store, *tokens(f"{chat}?")) for chat in ("aaa", "bbb", "ccc", "ddd")] == [3, None, 3, 3]
    assert store.bytes == 9 * POSITION_BYTES
    keep(store, *tokens("far too long"))
    assert found(store, *tokens("far too long?")) is None
    assert store.bytes == 9 * POSITION_BYTES


def test_nothing_is_kept_without_memory() -> None:
    store = PrefixStore(0, least_positions=1)
    keep(store, *tokens("abc"))
    assert found(store, *tokens("abc?")) is None
    assert store.bytes == 0
