"""Pieces of an answer add up to its text, and none has to be taken back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtblender_nemo.serving.engine.text import GrowingText


class Letters:
    """A chat format whose ids are the bytes of UTF-8, decoded as tokenizers do it."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace").strip()


def pieces(text: str, *stop: str) -> tuple[list[str], bool]:
    """What is said after each byte and at the end, and whether a stop text was met."""
    growing = GrowingText(Letters(), stop)
    ids = text.encode()
    said = []
    for length in range(1, len(ids) + 1):
        said.append(growing.grown(ids[:length]))
        if growing.is_stopped:
            return said, True
    return [*said, growing.rest(ids)], growing.is_stopped


def test_space_and_half_characters_wait() -> None:
    assert pieces(" a  bé ") == (["", "a", "", "", "  b", "", "é", "", ""], False)


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("one two three", ("two",), "one"),
        ("one two three", ("two three four",), "one two three"),
        ("aab", ("ab",), "a"),
        ("a.b.c", (".c", ".b"), "a"),
        ("stop", ("stop",), ""),
        ("one\n\ntwo", ("\n\n",), "one"),
        ("abc", ("b", "abc"), "a"),
        ("abc", ("abc", "bc"), ""),
    ],
)
def test_stop_texts(text: str, stop: tuple[str, ...], wanted: str) -> None:
    said, is_stopped = pieces(text, *stop)
    assert "".join(said) == wanted
    assert is_stopped == (wanted != text)


@given(st.text(alphabet="ab é\n€", max_size=12), st.lists(st.text(alphabet="ab é", min_size=1, max_size=3), max_size=2))
def test_pieces_add_up(text: str, stop: list[str]) -> None:
    whole = text.strip()
    found = [(whole.find(one) + len(one), whole.find(one)) for one in stop if one in whole]
    wanted = whole[: min(found)[1]].rstrip() if found else whole
    said, _ = pieces(text, *stop)
    assert "".join(said) == wanted
