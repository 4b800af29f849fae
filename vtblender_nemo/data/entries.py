"""The entries of a blend as they are written: what can be asked of them without opening a source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vtblender_nemo.data.config import read_input_cfg
from vtblender_nemo.data.typed import mapping

PLACE = "data.train_ds"
TYPES_WITH_TWINS = frozenset({"imitation"})

Entry = tuple[str, dict[str, Any]]


def train_entries(train_ds: Any) -> Iterator[Entry]:
    """Every source of `data.train_ds`, those of groups and samplers too: the key that holds it, and its values.

    Raises:
        ConfigError: an `input_cfg` that is missing or of another shape.
    """
    values = mapping(train_ds, PLACE)
    if values.get("fusion", "rows") == "rows":
        yield from _entries(values.get("input_cfg"), f"{PLACE}.input_cfg")
        return
    for name, sampler in mapping(values.get("samplers") or {}, f"{PLACE}.samplers").items():
        place = f"{PLACE}.samplers.{name}"
        yield from _entries(mapping(sampler, place).get("input_cfg"), f"{place}.input_cfg")


def _entries(input_cfg: Any, place: str) -> Iterator[Entry]:
    for number, entry in enumerate(read_input_cfg(input_cfg, place)):
        where = f"{place}[{number}]"
        if entry.get("type") == "group":
            yield from _entries(entry.get("input_cfg"), f"{where}.input_cfg")
        else:
            yield where, entry
