"""What a user can do wrong, as exceptions that say what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class VTBlenderError(Exception):
    """Base of every error that this package raises for a mistake its user can mend.

    The message names the value found, its place, what was expected and the knob that changes it; parts that were not
    given are left out.

    Args:
        problem: what is wrong, as one sentence without its final full stop.
        path: the file that holds the value.
        line: the 1-based line in that file.
        value: the value found (shortened to 200 characters).
        expected: what would have been right.
        knob: the configuration key, flag or field to change.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        value: Any = None,
        expected: str | None = None,
        knob: str | None = None,
    ) -> None:
        self.problem, self.path, self.line = problem, path, line
        self.value, self.expected, self.knob = value, expected, knob
        super().__init__(self._message())

    def __reduce__(self):  # keeps the keyword parts when an error crosses from a data worker to the trainer
        return _rebuild, (type(self), dict(self.__dict__))

    def _message(self) -> str:
        place = f"{self.path}:{self.line}: " if self.path and self.line else f"{self.path}: " if self.path else ""
        text = f"{place}{self.problem}"
        if self.value is not None:
            found = _shown(self.value)
            text += f"; found {found if len(found) <= 200 else found[:197] + '...'}"
        if self.expected:
            text += f"; expected {self.expected}"
        if self.knob:
            text += f" (change it with: {self.knob})"
        return text


def _shown(value: Any) -> str:
    """A value as Python writes it; nests too deep and numbers too long to be written are told by their type."""
    try:
        return repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that is too large to be shown"


def _rebuild(kind: type[VTBlenderError], parts: dict[str, Any]) -> VTBlenderError:
    return kind(parts.pop("problem"), **parts)


class ConfigError(VTBlenderError):
    """A configuration value is missing, unknown or contradicts another."""


class DataError(VTBlenderError):
    """A row of a data source cannot be used."""


class AudioError(DataError):
    """An audio file is missing, cannot be decoded or is out of bounds."""


class ModelFileError(VTBlenderError):
    """A model file or checkpoint is not what it should be, or is not safe to load."""


class TrainingError(VTBlenderError):
    """Training cannot go on."""


class MissingDependencyError(VTBlenderError):
    """An optional package is needed; the message names the extra that installs it."""
