"""Heads of chats whose keys and values are kept, so that the next turn of a chat costs its own positions alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vtblender_nemo.backbones.kv_cache import GrowingCache
from vtblender_nemo.models.slots import Slot

_MOST_CHATS = 1024  # each of them is looked at for every request


@dataclass(frozen=True)
class Mark:
    """What is remembered of a slot: its token, or which audio it was, and its positions."""

    token: int
    audio_id: str | None = None
    positions: int = 1


def marks_of(slots: Iterable[Slot]) -> list[Mark]:
    """Slots without their audio; ids tell audios apart, and have to follow from what they hold."""
    return [Mark(slot.token, slot.audio.cut.id if slot.audio else None, slot.positions) for slot in slots]


def positions_of(marks: Iterable[Mark]) -> int:
    """How many positions marks take together."""
    return sum(mark.positions for mark in marks)


@dataclass(frozen=True)
class Prefix:
    """What a request need not run again.

    Attributes:
        marks: of the prompt's head.
        cache: a copy of its keys and values, one row.
    """

    marks: Sequence[Mark]
    cache: GrowingCache


class PrefixStore:
    """Chats as they stood when they were answered, the ones used last.

    Args:
        max_bytes: memory of all keys and values; a chat that is larger by itself is not kept. 0 keeps nothing.
        least_positions: shorter heads are run again, which costs less than copying them.
    """

    def __init__(self, max_bytes: int, *, least_positions: int = 16) -> None:
        self._max_bytes = max_bytes
        self._least_positions = least_positions
        self._held: list[Prefix] = []  # the one used last stands last
        self.bytes = 0
        """Memory that is held."""

    def find(self, wanted: Sequence[Mark]) -> Prefix | None:
        """The longest head of a prompt that is held; never all of it, as one position has to run."""
        lengths = [min(_common(prefix.marks, wanted), len(wanted) - 1) for prefix in self._held]
        if not lengths:
            return None
        best = max(range(len(lengths)), key=lambda number: lengths[number])
        marks = self._held[best].marks[: lengths[best]]
        if positions_of(marks) < self._least_positions:
            return None
        prefix = self._held.pop(best)
        self._held.append(prefix)
        return Prefix(marks, prefix.cache.part(0, 0, positions_of(marks)))

    def keep(self, marks: Sequence[Mark], cache: GrowingCache) -> None:
        """Holds a chat, in place of its own earlier turns; those that were not used for longest leave first.

        Args:
            marks: of the chat, answer included.
            cache: their keys and values, one row.
        """
        if cache.bytes > self._max_bytes:
            return
        self._hold([one for one in self._held if _common(one.marks, marks) < len(one.marks)] + [Prefix(marks, cache)])
        leaving = 0
        while self.bytes > self._max_bytes or len(self._held) - leaving > _MOST_CHATS:
            self.bytes -= self._held[leaving].cache.bytes
            leaving += 1
        del self._held[:leaving]

    def _hold(self, held: list[Prefix]) -> None:
        self._held = held
        self.bytes = sum(prefix.cache.bytes for prefix in held)


def _common(held: Sequence[Mark], wanted: Sequence[Mark]) -> int:
    """How many marks are alike at the head of both; positions of audios are not known of what is wanted."""
    for number, (one, other) in enumerate(zip(held, wanted, strict=False)):
        if (one.token, one.audio_id) != (other.token, other.audio_id):
            return number
    return min(len(held), len(wanted))
