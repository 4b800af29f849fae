"""Scores on disk: everything that was measured of one model, as one flat list in `scores.json`.

A measure is one number with its place: which task, which measure, which variant of the items, which group of them. A flat
list is easy to filter, to join over runs and to load as a table. The first measure of a task is its main one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.files import write_json

FORMAT = 1
"""Of the file; a reader refuses another."""

SCORES_FILE = "scores.json"

Better = Literal["lower", "higher", "none"]
BETTER: tuple[Better, ...] = ("lower", "higher", "none")

DIFFERENCE, SHARE, AGREEMENT = "minus_", "share_of_", "agreement_with_"
"""What stands before the variant that the items as asked are held against."""
COMPARISONS = (DIFFERENCE, SHARE, AGREEMENT)


@dataclass(frozen=True)
class Measure:
    """One number that was measured.

    Attributes:
        task: as `asr`; a name of the task file.
        kind: of the task, as `asr`, `sqa`, `text`: two tasks of one kind are measured alike.
        measure: what was measured, with its unit, as `wer_percent`, `rtfx`, `bleu` (0 to 100).
        value: a finite number.
        low: lower bound of the 95% interval; the value itself where nothing was resampled.
        high: upper bound of the 95% interval.
        items: how many items the number comes from.
        failed: items without an answer, which count nowhere else.
        variant: "" (as asked), `text_twin`, `no_audio_silence`, `no_audio_shuffle`, `no_text`, `base` (the base LLM); or
            a comparison, paired by item and resampled together: `minus_VARIANT`, as asked minus that variant;
            `share_of_VARIANT`, the score as asked in percent of that variant's; `agreement_with_VARIANT`, the answers as
            asked against that variant's answers in the references' place.
        group: "" (all items) or `KEY=VALUE`, as `language=de`.
        better: which way is better; `none` where neither is, as for a number of characters.
        signature: what a reader needs to compute the same number again.
    """

    task: str
    kind: str
    measure: str
    value: float
    low: float
    high: float
    items: int
    failed: int = 0
    variant: str = ""
    group: str = ""
    better: Better = "none"
    signature: str = ""

    @property
    def place(self) -> str:
        """Where the number stands, for messages: `asr.wer_percent[text_twin, language=de]`."""
        details = ", ".join(part for part in (self.variant, self.group) if part)
        return f"{self.task}.{self.measure}" + (f"[{details}]" if details else "")


@dataclass(frozen=True)
class ScoreSheet:
    """What `scores.json` holds.

    Attributes:
        measures: of all tasks; the first of a task is its main one.
        model: what was measured: path, name, llm, asr, sha256, trained_parameters.
        base: the LLM that the model was built on, by name; None where it was not measured.
        config: path or name of the task file.
        seconds: by task, of generation, however many runs it took; of text tasks those of the last run, scoring included.
        item_sets: by task, a digest of what was asked and of the right answers; two models of one digest were asked the same.
    """

    measures: Sequence[Measure]
    model: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] | None = None
    config: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    item_sets: Mapping[str, str] = field(default_factory=dict)

    def of_task(self, task: str) -> list[Measure]:
        """The measures of one task, in their order."""
        return [measure for measure in self.measures if measure.task == task]


def write_scores(sheet: ScoreSheet, path: str | Path) -> None:
    """Writes a sheet as JSON, whole or not at all.

    Raises:
        DataError: a number that is not finite, an unknown direction, or two measures of one place.
    """
    path = Path(path)
    seen: set[tuple[str, ...]] = set()
    for number, measure in enumerate(sheet.measures):
        _check(measure, path, f"measures[{number}]")
        key = (measure.task, measure.measure, measure.variant, measure.group)
        if key in seen:
            raise DataError(f"two measures of one place, {measure.place}", path=path, expected="each place once")
        seen.add(key)
    for task, seconds in sheet.seconds.items():
        _check_number(seconds, path, f"seconds.{task}")
    content = {"format": FORMAT, "model": dict(sheet.model), "base": sheet.base and dict(sheet.base)}
    content |= {"config": sheet.config, "seconds": dict(sheet.seconds), "item_sets": dict(sheet.item_sets)}
    write_json(content | {"measures": [asdict(measure) for measure in sheet.measures]}, path)


def read_scores(path: str | Path) -> ScoreSheet:
    """Reads what `write_scores` wrote; `path` is the file, or the folder that holds `scores.json`.

    Raises:
        DataError: the file is missing, no JSON, of another format, or holds a measure that lacks a field, has an unknown
            one or a wrong value; names the file and the place in it, as `measures[3].low`.
    """
    path = Path(path)
    if path.is_dir():
        path = path / SCORES_FILE
    if not path.is_file():
        raise DataError("file is missing", path=path, expected="scores that examples/evaluate_vtb.py wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        line = getattr(error, "lineno", None)
        raise DataError("scores are no JSON", path=path, line=line, expected="a JSON object") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise DataError("scores of an unknown format", path=path, value=found, expected=f'"format": {FORMAT}')
    content.setdefault("item_sets", {})  # earlier versions wrote none
    kinds = {"measures": list, "model": dict, "seconds": dict, "item_sets": dict, "config": str}
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            expected = f"a JSON value of type {kind.__name__} at {name}"
            raise DataError("missing or wrong field in scores", path=path, value=content.get(name), expected=expected)
    for task, seconds in content["seconds"].items():
        _check_number(seconds, path, f"seconds.{task}")
    measures = [_measure(row, path, f"measures[{number}]") for number, row in enumerate(content["measures"])]
    facts = (content[name] for name in ("config", "seconds", "item_sets"))
    return ScoreSheet(measures, content["model"], content.get("base"), *facts)


def _measure(row: Any, path: Path, place: str) -> Measure:
    if not isinstance(row, dict):
        raise DataError(f"{place} is no measure", path=path, value=row, expected="a JSON object")
    known = {f.name: f.default for f in fields(Measure)}
    missing = [name for name, default in known.items() if default is MISSING and name not in row]
    unknown = [name for name in row if name not in known]
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            expected = f"the fields {', '.join(known)}"
            raise DataError(f"{problem} field in {place}", path=path, value=names, expected=expected)
    measure = Measure(**row)
    _check(measure, path, place)
    return measure


def _check(measure: Measure, path: Path, place: str) -> None:
    for name in ("task", "kind", "measure", "variant", "group", "signature"):
        value = getattr(measure, name)
        if not isinstance(value, str) or (not value and name in ("task", "kind", "measure")):
            raise DataError(f"wrong value at {place}.{name}", path=path, value=value, expected="a text")
    for name in ("value", "low", "high"):
        _check_number(getattr(measure, name), path, f"{place}.{name} ({measure.place})")
    for name in ("items", "failed"):
        value = getattr(measure, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DataError(f"wrong value at {place}.{name}", path=path, value=value, expected="a count")
    if measure.better not in BETTER:
        expected = f"one of {', '.join(BETTER)}"
        raise DataError(f"wrong value at {place}.better", path=path, value=measure.better, expected=expected)


def _check_number(value: Any, path: Path, place: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise DataError(f"no finite number at {place}", path=path, value=value, expected="a finite number")
