"""The targets by name: seeds, and what reads a case of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import Case

Reader = Callable[[Any], None]
"""Reads a value; raises what it wants. A text is a file's content, byte by byte as Latin-1; anything else becomes JSON."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        seeds: valid cases.
        readers: by kind.
        promised: errors that may come out.
    """

    seeds: Sequence[Case]
    readers: Mapping[str, Reader]
    promised: tuple[type[Exception], ...]

    def read(self, case: Case) -> bool:
        """Whether a case was taken; whatever is not promised is raised."""
        kind, value = case
        if kind not in self.readers:
            return False
        try:
            self.readers[kind](value)
        except self.promised:
            return False
        return True


NAMES = ("manifest", "conversation", "config")


def open_target(name: str, folder: Path) -> Target:
    """A target whose files lie in a folder, which should be in memory."""
    if name == "manifest":
        from tests.fuzz.manifest import make
    elif name == "conversation":
        from tests.fuzz.conversation import make
    elif name == "config":
        from tests.fuzz.config import make
    else:
        raise SystemExit(f"unknown target {name!r}: one of {', '.join(NAMES)}")
    return make(folder)
