"""Heads of chats whose keys and values are kept, so that the next turn of a chat costs its own positions alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtblender_nemo.backbones.kv_cache import GrowingCache
from vtblender_nemo.common.conversation import Audio
from vtblender_nemo.models.slots import Slot, common_slots, positions_of


@dataclass(frozen=True)
class Prefix:
    """What a request need not run again.

    Attributes:
        slots: of the prompt's head.
        cache: a copy of its keys and values, one row.
    """

    slots: Sequence[Slot]
    cache: GrowingCache


def same_audio(one: Audio | None, other: Audio | None) -> bool:
    """Whether two slots hold the same audio: ids tell, as those of requests come from their bytes."""
    return (one and one.cut.id) == (other and other.cut.id)


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

    @property
    def bytes(self) -> int:
        """Memory that is held."""
        return sum(prefix.cache.bytes for prefix in self._held)

    def __len__(self) -> int:
        return len(self._held)

    def find(self, wanted: Sequence[Slot]) -> Prefix | None:
        """The longest head of a prompt that is held; never all of it, as one position has to run.

        Args:
            wanted: slots of the prompt, audios not yet counted.
        """
        lengths = [min(common_slots(prefix.slots, wanted, same_audio), len(wanted) - 1) for prefix in self._held]
        if not lengths:
            return None
        best = max(range(len(lengths)), key=lambda number: lengths[number])
        slots = self._held[best].slots[: lengths[best]]
        if positions_of(slots) < self._least_positions:
            return None
        prefix = self._held.pop(best)
        self._held.append(prefix)
        return Prefix(slots, prefix.cache.part(0, 0, positions_of(slots)))

    def keep(self, slots: Sequence[Slot], cache: GrowingCache) -> None:
        """Holds a chat, in place of its own earlier turns; those that were not used for longest leave first.

        Args:
            slots: of the chat, answer included.
            cache: their keys and values, one row.
        """
        if cache.bytes > self._max_bytes:
            return
        self._held = [one for one in self._held if common_slots(one.slots, slots, same_audio) < len(one.slots)]
        self._held.append(Prefix(slots, cache))
        while self.bytes > self._max_bytes:
            del self._held[0]

    def clear(self) -> None:
        """Forgets everything."""
        self._held.clear()
