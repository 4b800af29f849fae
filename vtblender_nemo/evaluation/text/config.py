"""Which of the harness's tasks are run, how, and which of their numbers are reported."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, DataError, MissingDependencyError

KIND = "text"


@dataclass(frozen=True)
class TextMeasure:
    """A number of the harness under a name with its unit.

    Attributes:
        name: as `exact_match_percent`.
        metric: the harness's name of it, as `exact_match`.
        filter: the harness's filter of answers that it is computed after, as `flexible-extract`.
    """

    name: str
    metric: str
    filter: str = "none"


@dataclass(frozen=True)
class TextTask:
    """One or more tasks of the harness, reported as one.

    Attributes:
        name: of the task in reports.
        tasks: names of the harness: tasks, groups or tags.
        measures: what is reported; the first is the main one, which is also reported by group.
        data: local data in place of what a task would download: a file, or a folder with SPLIT.jsonl or SPLIT.parquet (also
            SPLIT-*.parquet), or with a folder of such for every subset that the tasks name, as `anatomy`.
        columns: every row of local data has these.
        include_path: a folder with more task files in the harness's format.
        num_fewshot: worked examples before each item, in place of the task's own number.
        max_gen_toks: length limit of an answer, in place of the task's own.
        limit: only so many items of each task of the harness, evenly spread.
        batch_size: requests computed at once.
        group_by: `task` for the harness's own tasks, or a field of the items, as `custom.kind`; None for no groups.
        base: whether the base LLM is measured too.
    """

    name: str
    tasks: tuple[str, ...]
    measures: tuple[TextMeasure, ...]
    data: Path | None = None
    columns: tuple[str, ...] = ()
    include_path: Path | None = None
    num_fewshot: int | None = None
    max_gen_toks: int | None = None
    limit: int | None = None
    batch_size: int = 16
    group_by: str | None = None
    base: bool = True

    def __post_init__(self) -> None:
        for name, least in (("num_fewshot", 0), ("max_gen_toks", 1), ("limit", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                knob = f"{self.name}.{name}"
                raise ConfigError("wrong number", value=value, expected=f"a whole number from {least}", knob=knob)
        if not self.tasks or not self.measures:
            knob = f"{self.name}.tasks and {self.name}.measures"
            raise ConfigError("text task without content", value=self.name, expected="at least one of each", knob=knob)
        names = [measure.name for measure in self.measures]
        if len(set(names)) != len(names):
            raise ConfigError("two measures of one name", value=names, knob=f"{self.name}.measures")


def read_text_tasks(cfg: Mapping[str, Mapping[str, Any]], base_dir: Path = Path()) -> list[TextTask]:
    """Text tasks from their settings by name, as in `conf/evaluation/text/*.yaml`.

    Args:
        cfg: see `TextTask`; `kind: text` may stand beside its fields.
        base_dir: folder that relative paths start from.

    Raises:
        ConfigError: another kind of task, an unknown setting, or a wrong value.
        DataError: local data that are not there.
        MissingDependencyError: without lm-evaluation-harness.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingDependencyError(
            "text tasks are run by lm-evaluation-harness", knob='pip install "vtblender_nemo[eval]"'
        )
    if not cfg:
        raise ConfigError("no text tasks", expected="settings by name of the task", knob="tasks")
    return [_read(name, settings, base_dir) for name, settings in cfg.items()]


def _read(name: str, settings: Mapping[str, Any], base_dir: Path) -> TextTask:
    if not isinstance(settings, Mapping):
        raise ConfigError("settings of a text task are no mapping", value=settings, knob=name)
    values = dict(settings)
    if (kind := values.pop("kind", KIND)) != KIND:
        raise ConfigError("no text task", value=kind, expected=KIND, knob=f"{name}.kind")
    known = [field.name for field in fields(TextTask) if field.name != "name"]
    if unknown := sorted(values.keys() - set(known)):
        raise ConfigError(
            "unknown setting of a text task", value=unknown, expected=f"among {', '.join(known)}", knob=name
        )
    for key in ("tasks", "columns"):
        values[key] = _names(values.get(key), f"{name}.{key}")
    values["measures"] = tuple(_measure(row, name) for row in values.get("measures") or ())
    for key in ("data", "include_path"):
        if values.get(key) is not None:
            values[key] = base_dir / str(values[key])
            if not values[key].exists():
                expected = "a file or folder" if key == "data" else "a folder of task files"
                raise DataError("nothing there", path=values[key], expected=expected, knob=f"{name}.{key}")
    return TextTask(name, **values)


def _names(value: Any, knob: str) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value or []
    if not isinstance(listed, Sequence) or not all(isinstance(one, str) for one in listed):
        raise ConfigError("wrong list of names", value=value, expected="names", knob=knob)
    return tuple(listed)


def _measure(row: Any, name: str) -> TextMeasure:
    expected = "name, metric and, where the task has filters, filter"
    try:
        return TextMeasure(**row)
    except TypeError as error:
        raise ConfigError("wrong measure", value=row, expected=expected, knob=f"{name}.measures") from error
