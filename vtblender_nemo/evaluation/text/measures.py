"""What the harness found of every item, as numbers with their intervals.

Shapes: I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.metrics import Statistics, difference, summarize
from vtblender_nemo.evaluation.metrics.statistics import ratio
from vtblender_nemo.evaluation.scores import Measure
from vtblender_nemo.evaluation.text.config import KIND, TextMeasure, TextTask

Key = tuple[str, int]
"""An item: name of the harness's task, and number of the item in it."""


@dataclass(frozen=True)
class Answered:
    """An item with all that the harness found of it.

    Attributes:
        samples: as the harness logs them, by the filter that they were scored after.
    """

    samples: Mapping[str, Mapping[str, Any]]

    @property
    def any(self) -> Mapping[str, Any]:
        """What is the same whatever the filter: item, request and response."""
        return next(iter(self.samples.values()))

    def hits(self, measure: TextMeasure) -> tuple[float, float]:
        """How much of the item is right, and out of how much: one, or the number of its instructions."""
        value = self.samples[measure.filter][measure.metric]
        values = value if isinstance(value, list | tuple) else [value]
        return float(sum(values)), float(len(values))


@dataclass(frozen=True)
class Run:
    """All items of a task, answered by one model.

    Attributes:
        items: in the harness's order.
        signature: the harness's release, and the tasks with their versions.
    """

    items: Mapping[Key, Answered]
    signature: str = field(default="", compare=False)


def collect(results: Mapping[str, Any], release: str) -> Run:
    """The samples of the harness's `evaluate`, by item."""
    items: dict[Key, dict[str, Mapping[str, Any]]] = {}
    for name, samples in results["samples"].items():
        for sample in samples:
            items.setdefault((name, sample["doc_id"]), {})[sample["filter"]] = sample
    versions = results.get("versions", {})
    shown = list(results["samples"])[:3]
    tasks = ",".join(f"{name}@{versions.get(name)}" for name in shown) + (",..." if len(results["samples"]) > 3 else "")
    return Run({key: Answered(by_filter) for key, by_filter in items.items()}, f"lm_eval:{release}|tasks:{tasks}")


def check_measures(task: TextTask, run: Run) -> None:
    """Holds the configured measures to what the harness computed.

    Raises:
        ConfigError: a filter or metric that a task does not have, or a metric that is no share of right answers.
    """
    for measure in task.measures:
        for (name, _), item in run.items.items():
            knob = f"{task.name}.measures"
            if measure.filter not in item.samples:
                raise ConfigError(
                    f"{name} has no such filter", value=measure.filter, expected=_list(item.samples), knob=knob
                )
            sample = item.samples[measure.filter]
            if measure.metric not in sample["metrics"]:
                raise ConfigError(
                    f"{name} has no such metric", value=measure.metric, expected=_list(sample["metrics"]), knob=knob
                )
            value = sample[measure.metric]
            values = value if isinstance(value, list | tuple) else [value]
            if not values or not all(isinstance(v, int | float | np.number | np.bool_) and 0 <= v <= 1 for v in values):
                raise ConfigError(
                    f"metric {measure.metric} of {name} is no share of right answers",
                    value=value,
                    expected="0 to 1 for every item",
                    knob=knob,
                )


def measures_of(task: TextTask, checkpoint: Run, base: Run | None) -> list[Measure]:
    """Every measure of the checkpoint, of its base, and of their difference; the main one of groups as well.

    Raises:
        DataError: the two answered different items or other prompts.
    """
    if base is not None:
        _check_pairs(task, checkpoint, base)
    rows = [_measure_all(task, measure, checkpoint, base, list(checkpoint.items), "") for measure in task.measures]
    for group, keys in _groups(task, checkpoint).items():
        rows.append(_measure_all(task, task.measures[0], checkpoint, base, keys, group))
    return [measure for found in rows for measure in found]


def _measure_all(
    task: TextTask, measure: TextMeasure, checkpoint: Run, base: Run | None, keys: Sequence[Key], group: str
) -> list[Measure]:
    own = _statistics(measure, checkpoint, keys)
    label = f"{task.name}.{measure.name}"
    scores = {"": summarize(own, label)}
    if base is not None:
        other = _statistics(measure, base, keys)
        scores |= {"base": summarize(other, label), "minus_base": difference(own, other, label)}
    signature = f"{checkpoint.signature}|metric:{measure.metric}|filter:{measure.filter}"
    shots = "own" if task.num_fewshot is None else task.num_fewshot
    signature += f"|shots:{shots}|chat_template:yes" + (f"|limit:{task.limit}" if task.limit else "")
    return [
        Measure(
            task=task.name,
            kind=KIND,
            measure=measure.name,
            value=score.value,
            low=score.low,
            high=score.high,
            items=score.items,
            variant=variant,
            group=group,
            better="higher",
            signature=signature,
        )
        for variant, score in scores.items()
    ]


def _statistics(measure: TextMeasure, run: Run, keys: Sequence[Key]) -> Statistics:
    """Hits and what could be hit (I, 2): the share of the set is that of the sums, as the harness has it."""
    rows = np.array([run.items[key].hits(measure) for key in keys])
    return Statistics(rows, lambda sums: ratio(sums[:, 0], sums[:, 1]), "")


def _groups(task: TextTask, run: Run) -> dict[str, list[Key]]:
    groups: dict[str, list[Key]] = {}
    if task.group_by is None:
        return groups
    for key, item in run.items.items():
        value = key[0] if task.group_by == "task" else _field(item.any["doc"], task.group_by)
        if value is None:
            knob = f"{task.name}.group_by"
            raise ConfigError("an item lacks the field that groups are made by", value=task.group_by, knob=knob)
        groups.setdefault(f"{task.group_by.rpartition('.')[2]}={value}", []).append(key)
    return groups if len(groups) > 1 else {}


def _field(doc: Any, path: str) -> Any:
    for name in path.split("."):
        doc = doc.get(name) if isinstance(doc, Mapping) else None
    return doc


def _check_pairs(task: TextTask, checkpoint: Run, base: Run) -> None:
    if checkpoint.items.keys() != base.items.keys():
        raise DataError(
            "checkpoint and base LLM answered different items",
            value=f"{len(checkpoint.items)} and {len(base.items)} of task {task.name}",
            expected="the same items",
        )
    for key, item in checkpoint.items.items():
        if item.any["prompt_hash"] != base.items[key].any["prompt_hash"]:
            raise DataError("checkpoint and base LLM were asked in other words", value=key, expected="one prompt")


def _list(names: Any) -> str:
    return f"one of {', '.join(names)}"
