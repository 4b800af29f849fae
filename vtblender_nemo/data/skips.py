"""Rows that were left out: counted by source and reason, and listed in a file."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skip:
    """A row that was left out, and why.

    Attributes:
        source: name of its source.
        path: the file that holds the row.
        line: 1-based.
        knob: the filter that dropped it, or `on_bad_row`.
        reason: what was wrong, in full.
        first_pass: whether the source was in its first pass; in later ones the same row is skipped again.
    """

    source: str
    path: str
    line: int
    knob: str
    reason: str
    first_pass: bool


def reason_of(error: DataError) -> str:
    """What an error says, without the row's place, which stands beside it."""
    problem = error.problem if error.path is None or error.line is not None else f"{error.problem}: {error.path}"
    return str(DataError(problem, value=error.value, expected=error.expected, knob=error.knob))


class SkipLog:
    """Counts skips, and lists each row once: in its source's first pass.

    Args:
        path: JSONL file of `{"source", "path", "line", "knob", "reason"}`, or None to count only.
        keep: leave the file as it is, for a state to be resumed; otherwise one from an earlier run is removed.
    """

    def __init__(self, path: Path | None, *, keep: bool = False) -> None:
        self.path = path
        self.counts: Counter[tuple[str, str]] = Counter()
        self._bytes = 0
        if path is not None and not keep:
            path.unlink(missing_ok=True)

    def add(self, skips: Sequence[Skip]) -> None:
        """Counts and lists skips; warns at the 1st, 10th, 100th, ... of a source and reason."""
        for skip in skips:
            self.counts[skip.source, skip.knob] += 1
            count = self.counts[skip.source, skip.knob]
            if count == 10 ** (len(str(count)) - 1):
                logger.warning(
                    "source %s: %d rows left out by %s; the last is %s:%d: %s",
                    *(skip.source, count, skip.knob, skip.path, skip.line, skip.reason),
                )
        listed = [skip for skip in skips if skip.first_pass]
        if self.path is not None and listed:
            lines = [{name: value for name, value in asdict(skip).items() if name != "first_pass"} for skip in listed]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(text)
            self._bytes += len(text)

    def state_dict(self) -> dict[str, Any]:
        """Counts, and the length of the file."""
        return {"counts": [[*key, count] for key, count in self.counts.items()], "bytes": self._bytes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state: what was listed after it is taken off the file, as those rows are read again."""
        self.counts = Counter({(source, knob): count for source, knob, count in state["counts"]})
        self._bytes = 0
        if self.path is not None and self.path.exists():
            self._bytes = min(state["bytes"], self.path.stat().st_size)
            os.truncate(self.path, self._bytes)
