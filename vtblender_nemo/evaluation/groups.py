"""Groups of items that are scored by themselves: by language, by seconds of audio, by any field of `custom`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

from vtblender_nemo.evaluation.items import Item

SECS_BOUNDS = (2, 5, 10, 20, 30)
"""Seconds at which the bins of `secs` meet; a bin holds its lower bound."""


def group_positions(items: Sequence[Item], key: str) -> dict[str, list[int]]:
    """Positions of the items of every group `KEY=VALUE`.

    Args:
        items: I items.
        key: `secs` (of all audio of an item), `task` (the items' own), `language`, `language_pair` (as `en-de`),
            `answerable` (yes, or no where the reference is empty), or a field of `custom`. An item with a list there
            is in several groups, one without the field in none.

    Returns:
        Groups in the order of their values; bins of seconds in order of length.
    """
    values_of = KEYS.get(key) or (lambda item: _custom(item, key))
    found: dict[str, list[int]] = {}
    for position, item in enumerate(items):
        for value in values_of(item):
            found.setdefault(value, []).append(position)
    order = {bin: number for number, bin in enumerate(_bins())} if key == "secs" else {}
    return {f"{key}={value}": found[value] for value in sorted(found, key=lambda value: (order.get(value, 0), value))}


def audio_secs(item: Item) -> float:
    """Seconds of all audio of an item; 0 for one whose audio cannot be opened."""
    return 0.0 if item.conversation is None else item.conversation.audio_secs


def _secs(item: Item) -> list[str]:
    secs = audio_secs(item)
    return [_bins()[bisect_right(SECS_BOUNDS, secs)]] if secs else []


def _bins() -> list[str]:
    bounds = [0, *SECS_BOUNDS]
    return [*(f"{low}-{high}" for low, high in zip(bounds, SECS_BOUNDS, strict=False)), f"{SECS_BOUNDS[-1]}+"]


def _language(item: Item) -> list[str]:
    return next((found for name in ("language", "lang", "source_lang") if (found := _custom(item, name))), [])


def _language_pair(item: Item) -> list[str]:
    source, target = _custom(item, "source_lang"), _custom(item, "target_lang")
    return [f"{source[0]}-{target[0]}"] if source and target else []


def _answerable(item: Item) -> list[str]:
    return ["yes" if item.reference.strip() or item.custom.get("references") else "no"]


def _custom(item: Item, key: str) -> list[str]:
    value = item.custom.get(key)
    values = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(str(one) for one in values if one is not None and str(one)))


KEYS: Mapping[str, Callable[[Item], list[str]]] = {
    "secs": _secs,
    "task": lambda item: [item.task] if item.task else [],
    "language": _language,
    "language_pair": _language_pair,
    "answerable": _answerable,
}
