"""What synthesis is made of: rows in, outcomes out; the same for every kind of data that is made.

A `Work` is told to every process and opens there what it needs (a model, a client); what comes of it, a `Worker`, turns
batches of rows into outcomes. `engine.py` deals the batches out and writes what comes back.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class InputRow:
    """A row of the input.

    Attributes:
        id: unique in the input; all that is random about the row follows from it and the seed.
        place: file and line, for messages and provenance.
        data: the row's fields.
    """

    id: str
    place: str
    data: Mapping[str, Any]

    def rng(self, seed: int, purpose: str = "") -> random.Random:
        """Random numbers of this row alone: the same whatever stands beside it and whoever works on it."""
        digest = hashlib.sha256(f"{seed}\0{purpose}\0{self.id}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True)
class Clip:
    """Speech that was made: `samples` float32 (S,) in -1..1 at `rate` Hz, and the name it is filed under."""

    name: str
    samples: np.ndarray
    rate: int


@dataclass(frozen=True)
class Made:
    """A new row and the speech that it names; `row` holds `id`, and `provenance` with what it was made from and by."""

    row: Mapping[str, Any]
    clips: tuple[Clip, ...] = field(default=())


@dataclass(frozen=True)
class Refused:
    """Why nothing, or one thing less, was made of a row.

    Attributes:
        reason: a short, fixed name that is counted, as `answer_not_grounded`.
        detail: the value that was found wrong, for whoever reads `rejected.jsonl`.
    """

    reason: str
    detail: str = ""


Outcome = Made | Refused


class Worker(Protocol):
    """Turns rows into outcomes, in one process."""

    def __call__(self, rows: Sequence[InputRow]) -> list[list[Outcome]]:
        """One list of outcomes for every row, in the rows' order.

        Raises:
            DataError: a row cannot be used; the engine then gives it every row alone, and refuses the bad ones.
        """


class Work(ABC):
    """One kind of synthesis with all its settings; it is pickled to every process."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides what is made, as JSON: kept beside the output, and compared before a job continues."""

    @abstractmethod
    def open(self) -> Worker:
        """Loads what the work needs; called once in every process."""
