"""One evaluated model as the page sees it: its measures by place, and its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.jsonl import read_rows
from vtblender_nemo.evaluation.page.names import group_key
from vtblender_nemo.evaluation.scores import COMPARISONS, Measure, ScoreSheet, read_scores

PREDICTIONS_FOLDER = "predictions"

Place = tuple[str, str, str, str]
"""Task, measure, variant, group."""


@dataclass(frozen=True)
class Run:
    """The scores of one model.

    Attributes:
        label: short name, different from those of the runs beside it.
        folder: of `scores.json` and `predictions/`.
        sheet: the scores.
    """

    label: str
    folder: Path
    sheet: ScoreSheet

    @cached_property
    def _by_place(self) -> Mapping[Place, Measure]:
        return {(m.task, m.measure, m.variant, m.group): m for m in self.sheet.measures}

    def get(self, task: str, measure: str, variant: str = "", group: str = "") -> Measure | None:
        """The measure at a place, or None."""
        return self._by_place.get((task, measure, variant, group))

    @cached_property
    def main(self) -> Mapping[str, str]:
        """Task -> the name of its main measure, tasks in the order of the file."""
        main: dict[str, str] = {}
        for measure in self.sheet.measures:
            main.setdefault(measure.task, measure.measure)
        return main

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """Task -> its kind."""
        return {measure.task: measure.kind for measure in self.sheet.measures}

    def main_of(self, task: str, variant: str = "", group: str = "") -> Measure | None:
        """A task's main measure at a place, or None."""
        return self.get(task, self.main[task], variant, group) if task in self.main else None

    def variants(self, task: str) -> list[str]:
        """Ways in which a task was run, in the order of the file; comparisons of two are none."""
        found = (m.variant for m in self.sheet.of_task(task) if not m.variant.startswith(COMPARISONS))
        return list(dict.fromkeys(found))

    def groups(self, task: str, measure: str) -> dict[str, list[str]]:
        """Key of a grouping -> the groups for which a measure exists, in the order of the file."""
        keys: dict[str, list[str]] = {}
        for found in self.sheet.of_task(task):
            if found.measure == measure and found.group:
                groups = keys.setdefault(group_key(found.group), [])
                if found.group not in groups:
                    groups.append(found.group)
        return keys

    def prediction_files(self) -> dict[tuple[str, str], Path]:
        """(task, variant) -> file, for the tasks that were scored."""
        found = {}
        for path in sorted((self.folder / PREDICTIONS_FOLDER).glob("*.jsonl")):
            # A task's name may hold dots (`v1.5`), and be the beginning of another's.
            tasks = [task for task in self.main if path.stem == task or path.stem.startswith(f"{task}.")]
            if tasks:
                task = max(tasks, key=len)
                found[task, path.stem.removeprefix(task).removeprefix(".")] = path
        return found


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads the scores of several evaluations; models of one name are told apart by their folders.

    Raises:
        DataError: scores are missing or of another form.
    """
    sheets = [read_scores(folder) for folder in folders]
    names = [_name(sheet, folder) for sheet, folder in zip(sheets, folders, strict=True)]
    labels = [
        name if names.count(name) == 1 else f"{name} ({folder.resolve().name})"
        for name, folder in zip(names, folders, strict=True)
    ]
    for number, label in enumerate(labels):
        if labels.index(label) != number:  # folders of one name, too
            labels[number] = f"{label} {number + 1}"
    return [Run(label, folder, sheet) for label, folder, sheet in zip(labels, folders, sheets, strict=True)]


def _name(sheet: ScoreSheet, folder: Path) -> str:
    model = sheet.model
    if model.get("name"):
        return str(model["name"])
    return Path(str(model["path"])).stem if model.get("path") else folder.resolve().name


def read_predictions(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a file of predictions.

    Raises:
        DataError: a row that is no JSON object or lacks its id; names file and line.
    """
    rows: list[Mapping[str, Any]] = []
    for row in read_rows(path):
        if isinstance(row, DataError):
            raise row
        if "id" not in row.data:
            raise DataError("prediction without an id", path=path, line=row.line, value=row.data, expected='"id"')
        rows.append(row.data)
    return rows
