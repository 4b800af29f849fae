"""Content tasks with many wordings each, read from YAML files; which of them are asked, and how often.

A file holds `version` and `tasks`:

    version: "1"
    tasks:
      summarise:
        weight: 2                                # 1 where it is left out
        wordings: {order: "Summarise this: {audio}", question: "{audio} What does that come to?"}
      translate:
        languages: [de, es]                      # the tasks translate_de and translate_es
        wordings: {order: "Translate this into {language}: {audio}"}
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.prompts import language_name
from vtblender_nemo.data.typed import check_file, read_config, read_yaml
from vtblender_nemo.synthesis.languages import language_code

AUDIO = "{audio}"
"""Where the speech stands in a wording, and its transcript in what the LLM reads."""

_LANGUAGE = "{language}"
_FLAG = "--prompts"
_NAME = re.compile(r"[\w-]+")
_Shape = TypeVar("_Shape")


@dataclass(frozen=True)
class Task:
    """One thing that is asked about what is said.

    Attributes:
        wordings: what is asked, by name; each holds `{audio}` once and no other brace.
        weight: of its draw.
        language: the code of the language that it asks for; it is not asked about speech in that language.
    """

    name: str
    wordings: Mapping[str, str]
    weight: float = 1.0
    language: str | None = None


@dataclass(frozen=True)
class Drawn:
    """A task as it is asked about one row: the names of task and wording, and the wording itself."""

    task: str
    wording: str
    prompt: str


@dataclass(frozen=True)
class TaskBank:
    """Tasks to draw from.

    Attributes:
        version: as `1-3f2a9c01`, the file's own version and a digest of its content, for provenance; + joins those of several.
        tasks: no two of one name.
    """

    version: str
    tasks: tuple[Task, ...]

    def settings(self) -> dict[str, Any]:
        """What is drawn from, as JSON: wordings and weight of every task."""
        return {task.name: {"weight": task.weight, "wordings": list(task.wordings)} for task in self.tasks}

    def chosen(self, patterns: Mapping[str, float | None]) -> TaskBank:
        """What patterns name, `task` or `task/wording` with * for any letters; a number becomes the tasks' weight.

        Raises:
            ConfigError: no pattern, one that names nothing, or a weight that is none.
        """
        if not patterns:
            raise ConfigError("no task is asked for", expected="* for all, or names of tasks", knob="--tasks")
        named: dict[str, set[str]] = {}
        weights: dict[str, float] = {}
        for pattern, weight in patterns.items():
            for task, wording in self._named(pattern, "--tasks"):
                named.setdefault(task, set()).add(wording)
                if weight is not None:
                    weights[task] = _weight(weight, f"--tasks {pattern}")
        kept = (_with_wordings(task, named.get(task.name, set())) for task in self.tasks)
        return replace(
            self, tasks=tuple(replace(one, weight=weights.get(one.name, one.weight)) for one in kept if one.wordings)
        )

    def without(self, patterns: Sequence[str]) -> TaskBank:
        """All but what patterns name; a task leaves with its last wording.

        Raises:
            ConfigError: a pattern that names nothing, or nothing is left.
        """
        out = {pair for pattern in patterns for pair in self._named(pattern, "--hold-out")}
        left = [
            _with_wordings(task, {name for name in task.wordings if (task.name, name) not in out})
            for task in self.tasks
        ]
        if not any(task.wordings for task in left):
            raise ConfigError(
                "all tasks are held out", value=list(patterns), expected="some task with a wording", knob="--hold-out"
            )
        return replace(self, tasks=tuple(task for task in left if task.wordings))

    def draw(self, rng: random.Random, count: int, language: str) -> Iterator[Drawn]:
        """Different tasks by weight, each with one of its wordings.

        Args:
            rng: of the row.
            count: of tasks; fewer where the bank has not so many for the language.
            language: that the speech is in.
        """
        left = [task for task in self.tasks if task.language != language]
        for _ in range(min(count, len(left))):
            (task,) = rng.choices(left, [one.weight for one in left])
            left.remove(task)
            wording = rng.choice(list(task.wordings))
            yield Drawn(task.name, wording, task.wordings[wording])

    def _named(self, pattern: str, flag: str) -> list[tuple[str, str]]:
        """Tasks and wordings that a pattern names."""
        tasks, _, wordings = pattern.partition("/")
        found = [
            (task.name, wording)
            for task in self.tasks
            for wording in task.wordings
            if fnmatchcase(task.name, tasks) and fnmatchcase(wording, wordings or "*")
        ]
        if not found:
            known = ", ".join(task.name for task in self.tasks)
            raise ConfigError(
                "no such task or wording",
                value=pattern,
                expected=f"task or task/wording, with * for any letters, of {known}",
                knob=flag,
            )
        return found


def load_bank(paths: Sequence[Path]) -> TaskBank:
    """The tasks of all files.

    Raises:
        ConfigError: a file is missing, not YAML or of another shape; a task stands in two; a wording cannot be used.
    """
    versions: list[str] = []
    tasks: dict[str, Task] = {}
    for path in paths:
        check_file(path, _FLAG, "file of tasks")
        values = _read(_File, read_yaml(path, _FLAG), "file", path)
        versions.append(f"{values.version}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}")
        for task in _tasks_of(values, path):
            if task.name in tasks:
                raise ConfigError("two tasks of one name", path=path, value=task.name, knob=_FLAG)
            tasks[task.name] = task
    if not tasks:
        raise ConfigError("no task", value=[str(path) for path in paths], expected="tasks: {name: ...}", knob=_FLAG)
    return TaskBank("+".join(versions), tuple(tasks.values()))


@dataclass
class _File:
    """What a file holds."""

    version: str
    tasks: dict[str, Any]


@dataclass
class _Entry:
    """What a file says of one task."""

    wordings: dict[str, str]
    weight: float = 1.0
    languages: list[str] = field(default_factory=list)


def _read(kind: type[_Shape], value: Any, place: str, path: Path) -> _Shape:
    try:
        return read_config(kind, value, place)
    except ConfigError as error:
        raise ConfigError(**{**vars(error), "path": path}) from error


def _tasks_of(values: _File, path: Path) -> Iterator[Task]:
    for name, value in values.tasks.items():
        place = f"tasks.{name}"
        entry = _read(_Entry, value, place, path)
        _check_entry(name, entry, path)
        if not entry.languages:
            yield Task(name, entry.wordings, float(entry.weight))
        for code in entry.languages:
            spoken = _language(code, path, place)
            wordings = {one: text.replace(_LANGUAGE, spoken) for one, text in entry.wordings.items()}
            yield Task(f"{name}_{code}", wordings, float(entry.weight), language_code(code))


def _check_entry(name: str, entry: _Entry, path: Path) -> None:
    place = f"tasks.{name}"
    for one in (name, *entry.wordings):
        if not _NAME.fullmatch(one):
            raise ConfigError(
                "name that flags cannot say", path=path, value=one, expected="letters, digits, _ and -", knob=place
            )
    if not entry.wordings:
        raise ConfigError("task without wordings", path=path, value={}, expected="name: text", knob=f"{place}.wordings")
    _weight(entry.weight, f"{place}.weight", path)
    for one, text in entry.wordings.items():
        _check_wording(text, bool(entry.languages), path, f"{place}.wordings.{one}")


def _check_wording(text: str, has_languages: bool, path: Path, place: str) -> None:
    wanted = f"{AUDIO} once" + (f", {_LANGUAGE}" if has_languages else "") + " and no other brace"
    rest = text.replace(AUDIO, "", 1)
    if has_languages:
        rest = rest.replace(_LANGUAGE, "")
    if AUDIO not in text or "{" in rest or "}" in rest or (has_languages and _LANGUAGE not in text):
        raise ConfigError("wording that cannot be filled", path=path, value=text, expected=wanted, knob=place)


def _weight(weight: float, knob: str, path: Path | None = None) -> float:
    if not 0 < weight < math.inf:
        raise ConfigError("task without weight", path=path, value=weight, expected="more than 0", knob=knob)
    return weight


def _language(code: str, path: Path, place: str) -> str:
    try:
        return language_name(code)
    except DataError as error:
        knob = f"{place}.languages"
        raise ConfigError(error.problem, path=path, value=code, expected=error.expected, knob=knob) from error


def _with_wordings(task: Task, names: set[str]) -> Task:
    return replace(task, wordings={name: text for name, text in task.wordings.items() if name in names})
