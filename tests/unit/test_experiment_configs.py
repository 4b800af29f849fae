"""Every sweep of `conf/experiment`: it composes, and asks only for what it runs."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from vtblender_nemo.experiments.claims import EVERY, read_claims
from vtblender_nemo.experiments.curves import check_levels
from vtblender_nemo.experiments.settings import read_stages, read_sweep, read_variant
from vtblender_nemo.tiny.generalisation import KNOWN, PROMPT, SET, TASK

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
SWEEPS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml") if path.stem != "shared")
WORLDLESS = ["real_items=items.jsonl"]
NEWNESS = (KNOWN, PROMPT, TASK)


def composed(name: str, *overrides: str) -> DictConfig:
    overrides = (*overrides, *(WORLDLESS if name == "tts" else ()))
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(f"experiment/{name}", overrides=list(overrides), return_hydra_config=True)


@lru_cache
def runs_of(name: str) -> list[DictConfig]:
    """The composed configuration of every variant."""
    params = OmegaConf.to_container(composed(name).hydra.sweeper.params)
    assert isinstance(params, dict)
    params.pop("seed")
    parser = OverridesParser.create()
    turned = [
        [f"{key}={value}" for value in parser.parse_override(f"{key}={values}").sweep_string_iterator()]
        for key, values in params.items()
    ]
    return [composed(name, *overrides, "hydra.job.num=0") for overrides in product(*turned)]


@pytest.mark.parametrize("name", SWEEPS)
def test_its_variants_are_runs_of_their_own_and_all_that_it_names(name: str) -> None:
    runs = runs_of(name)
    variants = [read_variant(run) for run in runs]
    for variant in variants:
        read_stages(variant)
    names = [variant.name for variant in variants]
    assert len(set(names)) == len(names)
    assert len({run.output_dir for run in runs}) == len(runs)
    sweep = read_sweep(runs[0])
    assert sweep.name == name
    assert sweep.question
    assert sweep.measures
    assert sweep.reference in names
    assert set(sweep.order) in (set(), set(names))
    claims = read_claims(sweep.claims)
    assert claims
    assert all(claim.says for claim in claims)
    assert {variant for claim in claims for variant, _ in claim.terms} <= {*names, EVERY}
    if sweep.x_label:
        assert all(variant.x is not None for variant in variants)


@pytest.mark.parametrize("name", SWEEPS)
def test_claims_and_tables_name_what_is_measured(name: str) -> None:
    run = runs_of(name)[0]
    sweep = read_sweep(run)
    measures = {m for claim in read_claims(sweep.claims) for _, m in claim.terms} | set(sweep.measures)
    tasks = run.evaluation.tasks if not OmegaConf.is_missing(run.evaluation, "tasks") else {}
    levels = read_variant(run).levels or {}
    steps = {f"{score.split('.')[0]}.steps_to_{level:g}" for score, wanted in levels.items() for level in wanted}
    for measure in measures - steps:
        task, *details, score = measure.split(".")
        if tasks:
            assert task in tasks
            known = {*tasks[task].get("variants", ()), *(NEWNESS if tasks[task].get("group_by") == SET else ())}
            assert set(details) <= known
            assert "agreement" not in score or "text" in known
            assert "ceiling" not in score or task in read_variant(run).ceilings
    check_levels(run, levels)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_file_of_its_group_is_run(name: str) -> None:
    files = {path.stem for path in (CONF / "experiment" / name).glob("*.yaml")}
    names = {run.variant.name for run in runs_of(name)}
    assert files in (set(), names)


@pytest.mark.parametrize("name", SWEEPS)
def test_it_runs_by_hydras_own_multirun(name: str) -> None:
    hydra = composed(name).hydra
    assert hydra.mode.name == "MULTIRUN"
    assert hydra.launcher._target_.endswith("JoblibLauncher")
    assert hydra.sweeper.params.seed == "1,2,3"


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (CONF / "recipe").glob("*.yaml")))
def test_any_main_configuration_can_be_swept(recipe: str) -> None:
    cfg = composed("lora_rank", f"recipe={recipe}", "model.lora={r:4,lora_alpha:8}")
    with initialize_config_dir(str(CONF), version_base=None):
        main = compose(recipe)
    assert cfg.model.lora.r == 4
    assert cfg.trainer == main.trainer
    assert cfg.variant.name == "r4"


def test_worlds_of_other_settings_have_folders_of_their_own() -> None:
    for name in SWEEPS:
        worlds: dict[str, Any] = {}
        for run in runs_of(name):
            if run.get("tiny"):
                world = OmegaConf.to_container(run.tiny)
                assert isinstance(world, dict)
                assert worlds.setdefault(world.pop("directory"), world) == world, name


def test_the_readme_names_every_sweep() -> None:
    readme = (ROOT / "examples" / "experiments" / "README.md").read_text(encoding="utf-8")
    script = (ROOT / "examples" / "ablate_vtb.py").read_text(encoding="utf-8")
    for name in SWEEPS:
        assert f"`{name}`" in readme
        assert name in script


@pytest.mark.parametrize("path", sorted((CONF / "hydra" / "launcher").glob("*.yaml")), ids=lambda path: path.stem)
def test_launchers_are_those_of_hydras_plugins(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["defaults"][0] in ("joblib", "submitit_slurm", "ray")
