"""Groups of items that are scored by themselves: by language, by seconds of audio, by any field of `custom`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.generalisation import DISTANCE, LEVEL, LEVELS
from vtblender_nemo.evaluation.items import Item

SECS_BOUNDS = (2, 5, 10, 20, 30)
"""Seconds at which the bins of `secs` meet; a bin holds its lower bound."""

DISTANCE_BINS = ("near", "middle", "far")
DISTANCE_BOUNDS = (0.4, 0.65)
"""Distances at which the bins of `wording_distance` meet; a bin holds its lower bound. A third of the wordings in
`conf/prompts/imitation_synthesis.yaml` lies in each when it is held against the others of its task."""


def group_positions(items: Sequence[Item], key: str) -> dict[str, list[int]]:
    """Positions of the items of every group `KEY=VALUE`.

    Args:
        items: I items.
        key: `secs` (of all audio of an item), `task` (the items' own), `language`, `language_pair` (as `en-de`),
            `answerable` (yes, or no where the reference is empty), `generalisation` (known, prompt or task, see
            `common/generalisation.py`), `wording_distance` (near, middle or far), or a field of `custom`. An item with a
            list there is in several groups, one without the field in none. Keys joined by / give groups for all that
            stands together, as `generalisation/wording_distance=prompt/far`.

    Returns:
        Groups in the order of their values; bins in order of length or distance.

    Raises:
        DataError: an item whose `generalisation` or `wording_distance` is none.
    """
    parts = key.split("/")
    found: dict[tuple[str, ...], list[int]] = {}
    for position, item in enumerate(items):
        for values in product(*(_values(item, part) for part in parts)):
            found.setdefault(values, []).append(position)
    orders = [ORDERS.get(part, ()) for part in parts]

    def rank(values: tuple[str, ...]) -> list[tuple[int, str]]:
        return [(order.index(one) if order else 0, one) for one, order in zip(values, orders, strict=True)]

    return {f"{key}={'/'.join(values)}": found[values] for values in sorted(found, key=rank)}


def _values(item: Item, key: str) -> list[str]:
    return KEYS[key](item) if key in KEYS else _custom(item, key)


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


def _level(item: Item) -> list[str]:
    found = item.custom.get(LEVEL)
    if found is not None and found not in LEVELS:
        expected = f"one of {', '.join(LEVELS)}"
        raise DataError(f"item {item.id!r} says no {LEVEL}", value=found, expected=expected, knob=f"custom.{LEVEL}")
    return [] if found is None else [found]


def _distance(item: Item) -> list[str]:
    found = item.custom.get(DISTANCE)
    if found is None:
        return []
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
        problem = f"item {item.id!r} says no {DISTANCE}"
        raise DataError(problem, value=found, expected="a number from 0 to 1", knob=f"custom.{DISTANCE}")
    return [DISTANCE_BINS[bisect_right(DISTANCE_BOUNDS, found)]]


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
    LEVEL: _level,
    DISTANCE: _distance,
}
ORDERS: Mapping[str, Sequence[str]] = {"secs": _bins(), LEVEL: LEVELS, DISTANCE: DISTANCE_BINS}
"""Values of keys that are not in the order of the alphabet."""
