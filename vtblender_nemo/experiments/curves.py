"""How soon a training got somewhere: steps until a validation score reached a level, from the curve that it left.

Between two validations the score is taken to move evenly. Behind the first time that it reaches a level it may fall below it
again: with few validation items that is chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.plots import read_history
from vtblender_nemo.experiments.measures import RESAMPLES, Measured

Curve = Sequence[tuple[int, float]]
"""Steps and the score after each, in their order."""


def check_levels(cfg: DictConfig, levels: Mapping[str, Sequence[float]]) -> None:
    """
    Args:
        cfg: the configuration of a run.
        levels: by validation score.

    Raises:
        ConfigError: a score that the run's validations do not have.
    """
    scores = list(_validation_scores(cfg))
    if unknown := sorted(set(levels) - set(scores)):
        raise ConfigError(
            "no such validation score", value=unknown, expected=f"among {', '.join(scores)}", knob="variant.levels"
        )


def _validation_scores(cfg: DictConfig) -> Iterator[str]:
    for name in (cfg.data.get("validation_ds") or {}).get("sets") or {}:
        yield f"{name}.{cfg.model.validation.metrics.get(name, cfg.model.validation.default_metric)}"


def measure_levels(
    history: Path, levels: Mapping[str, Sequence[float]], steps: int
) -> tuple[dict[str, Measured], list[str]]:
    """The steps until levels were reached, as measures `SET.steps_to_LEVEL`.

    Their chance is that of another seed alone: nothing is resampled.

    Args:
        history: what the training logged.
        levels: by validation score, as `asr.wer`.
        steps: of the whole training; a level that was never reached counts as reached at its end.

    Returns:
        The measures, and the names of those that were never reached.

    Raises:
        DataError: a score that was never logged.
    """
    measures: dict[str, Measured] = {}
    missed: list[str] = []
    curves = read_history(history) if levels else {}
    for score, wanted in levels.items():
        name, _, metric = score.rpartition(".")
        logged = curves.get(f"val/{score}", {})
        curve = [(step + 1, value) for step, value in logged.items()]  # Lightning's first step is 0
        if not curve:
            raise DataError("the training has no such curve", path=history, value=score, expected="a validation score")
        for level in wanted:
            measure = f"{name}.steps_to_{f'{level:g}'.replace('.', '_')}"
            reached = steps_to(curve, level, lower_is_better=_is_lower_better(metric))
            if reached is None:
                missed.append(measure)
            value = float(steps) if reached is None else reached
            measures[measure] = Measured(value, 1, 0, score, np.full(RESAMPLES, value), "lower")
    return measures, missed


def steps_to(curve: Curve, level: float, *, lower_is_better: bool = False) -> float | None:
    """Steps until a curve first reaches a level; None if it never does. What it reached at its first point, it reached there."""
    sign = -1.0 if lower_is_better else 1.0
    earlier: tuple[int, float] | None = None
    for step, value in curve:
        if sign * (value - level) >= 0:
            if earlier is None:
                return float(step)
            start, before = earlier
            return start + (step - start) * (level - before) / (value - before)
        earlier = step, value
    return None


def _is_lower_better(metric: str) -> bool:
    from vtblender_nemo.evaluation.metrics import LOWER_IS_BETTER

    return metric in LOWER_IS_BETTER
