"""What is known of a model beside its weights: the data of its training, its scores, and licences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.files import file_sha256
from vtblender_nemo.evaluation.scores import ScoreSheet, read_scores

FACTS = "facts.json"
"""What a training leaves beside its `.nemo`."""

_SHARES = ("weight", "seen")


@dataclass(frozen=True)
class About:
    """What a card tells; whatever is None is told to be unknown.

    Attributes:
        model_path: the `.nemo`.
        shares: by source, the share that it was to have in training and the one that it had, 0 to 1.
        scores: of the last evaluation.
        license: of the model.
        data_licenses: by source.
    """

    model_path: Path
    shares: Mapping[str, tuple[float, float]] | None = None
    scores: ScoreSheet | None = None
    license: str | None = None
    data_licenses: Mapping[str, str] = field(default_factory=dict)


def read_about(
    model_path: Path,
    *,
    run: Path | None = None,
    evaluation: Path | None = None,
    license: str | None = None,
    data_licenses: Path | None = None,
) -> About:
    """Gathers what is known.

    Args:
        model_path: the `.nemo`.
        run: the training's folder; that of the model if None, where it holds such facts.
        evaluation: folder of `scores.json`, as `examples/evaluate_vtb.py` leaves it.
        license: of the model, as the hub calls it.
        data_licenses: YAML or JSON with a licence by source.

    Raises:
        DataError: a file that is missing or cannot be read, or scores of another model.
        ConfigError: a licence of a source that was not trained on.
    """
    shares = _read_shares((run or model_path.parent) / FACTS, needed=run is not None)
    licenses = _read_licenses(data_licenses) if data_licenses else {}
    unknown = sorted(set(licenses) - set(shares)) if shares is not None else []
    if unknown:
        raise ConfigError(
            "licences of sources that were not trained on",
            path=data_licenses,
            value=unknown,
            expected=f"some of {', '.join(shares or ())}",
            knob="--data-licenses",
        )
    scores = _read_scores(evaluation, model_path) if evaluation else None
    return About(model_path, shares, scores, license, licenses)


def _read_shares(path: Path, *, needed: bool) -> dict[str, tuple[float, float]] | None:
    if not path.is_file():
        if needed:
            raise DataError("file is missing", path=path, expected="the folder of a training", knob="--run")
        return None
    try:
        sources = json.loads(path.read_text(encoding="utf-8"))["sources"]
        return {str(name): (float(share[_SHARES[0]]), float(share[_SHARES[1]])) for name, share in sources.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"no facts of a training ({error!r})",
            path=path,
            expected='{"sources": {NAME: {"weight": ..., "seen": ...}}}',
        ) from error


def _read_licenses(path: Path) -> dict[str, str]:
    expected = "a mapping of sources to licences"
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"licences cannot be read ({error})", path=path, expected=expected) from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise DataError("no licences", path=path, value=content, expected=expected, knob="--data-licenses")
    return {str(name): value for name, value in content.items()}


def _read_scores(folder: Path, model_path: Path) -> ScoreSheet:
    sheet = read_scores(folder)
    measured, found = sheet.model.get("sha256"), file_sha256(model_path)
    if measured != found:
        raise DataError(
            "the scores are another model's",
            path=folder,
            value={"path": sheet.model.get("path"), "sha256": measured},
            expected=f"those of {model_path}, SHA-256 {found}",
            knob="--evaluation",
        )
    return sheet
