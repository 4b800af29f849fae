"""Kept runs: a sweep takes its own, and those of the sweeps beside it that differ in name alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.experiments.keeping import keep, take
from vtblender_nemo.experiments.measures import read_run
from vtblender_nemo.experiments.settings import VariantConfig

SETTINGS = {
    "model.lora.r": 16,
    "trainer.max_steps": 288,
    "variant.name": "joint",
    "variant.x": None,
    "variant.stages": [],
}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Folders of kept sweeps; `forgetting` has `joint-seed1`."""
    run = tmp_path / "made" / "joint-seed1"
    run.mkdir(parents=True)
    (run / "settings.json").write_text(json.dumps(SETTINGS))
    scores = {
        "format": 1,
        "variant": "joint",
        "seed": 1,
        "x": None,
        "line": "",
        "measures": {},
        "seconds": {},
        "about": {},
    }
    (run / "run.json").write_text(json.dumps(scores))
    keep(run, tmp_path / "kept" / "forgetting")
    return tmp_path / "kept"


def take_r16(kept: Path, folder: Path, seed: int = 1, **changed: Any) -> bool:
    settings = {**SETTINGS, "variant.name": "r16", "variant.x": 16.0, **changed}
    variant = VariantConfig(name="r16", x=16.0, line="lora")
    run = folder / f"r16-seed{seed}"
    run.mkdir(exist_ok=True)
    return take(run, kept / "lora_rank", seed=seed, variant=variant, settings=settings)


def test_a_run_that_another_sweep_has_made_is_taken_under_its_name_here(kept: Path, tmp_path: Path) -> None:
    assert take_r16(kept, tmp_path)
    scores = read_run(tmp_path / "r16-seed1")
    assert scores is not None
    assert (scores.variant, scores.seed, scores.x, scores.line) == ("r16", 1, 16.0, "lora")
    assert scores.about == {"made_by": "forgetting: joint-seed1"}
    assert json.loads((tmp_path / "r16-seed1" / "settings.json").read_text())["variant.name"] == "r16"


@pytest.mark.parametrize(
    "changed", [{"model.lora.r": 8}, {"variant.stages": [{"name": "hearing"}]}, {"model.new": 1}, {"seed": 2}]
)
def test_a_run_of_other_settings_is_not(kept: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    assert not take_r16(kept, tmp_path, **changed)
    assert not list((tmp_path / f"r16-seed{changed.get('seed', 1)}").iterdir())


def test_a_damaged_file_is_named(kept: Path, tmp_path: Path) -> None:
    path = kept / "forgetting" / "runs" / "joint-seed1.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{path.name}: a kept run cannot be read"):
        take_r16(kept, tmp_path)
