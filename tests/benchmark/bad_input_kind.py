"""One kind of bad input, and how it is noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Read = Callable[[Path], Any]
"""Makes the input in an empty folder that holds `a.wav` and the like, and gives it to its reader."""


@dataclass(frozen=True)
class Kind:
    """One kind of bad input.

    Attributes:
        name: what is wrong.
        where: it is met.
        read: see there.
        parts: what its error has to tell: value, place, expected and knob, where there are such.
    """

    name: str
    where: str
    read: Read
    parts: frozenset[str]


def noted(name: str, where: str, parts: str, read: Read) -> Kind:
    return Kind(name, where, read, frozenset(parts.split()))
