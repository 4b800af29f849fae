"""Every YAML in `conf/` composes, alone or as a choice of its group."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vtblender_nemo.tiny.config import TinyConfig, config_from

CONF = Path(__file__).parents[2] / "conf"
RUNS = sorted(path.stem for path in CONF.glob("*.yaml"))
CHOICES = sorted(
    (path.parent.name, path.stem) for group in ("llm", "hardware") for path in (CONF / group).glob("*.yaml")
)
RUN_KEYS = {"seed", "output_dir", "save_checkpoint", "model", "trainer", "exp_manager"}


@pytest.mark.parametrize("name", RUNS)
def test_runs_compose_and_resolve(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose(name)
    assert set(cfg) >= RUN_KEYS
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_choices_compose(group: str, name: str) -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("vtb_3b", overrides=[f"{group}={name}"])
    OmegaConf.to_container(cfg, resolve=True)
    if group == "llm":
        assert cfg.model.pretrained_llm
        assert cfg.model.audio_locator_tag
    else:
        assert cfg.data.train_ds.samplers.audio.batch_size == cfg.audio_batch_size
        assert cfg.trainer.devices


def test_no_yaml_is_left_out() -> None:
    known = {"llm", "hardware"}
    others = (
        {path.relative_to(CONF).parts[0] for path in CONF.rglob("*.yaml")} - known - {f"{name}.yaml" for name in RUNS}
    )
    assert others <= {
        "data",
        "prompts",
        "evaluation",
        "experiment",
        "recipe",
        "tests",
        "hydra",
        "trained",
    }  # these have tests of their own


def test_the_tiny_world_stands_in_the_yaml_with_its_defaults() -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        values = OmegaConf.to_container(compose("vtb_tiny").tiny)
    assert isinstance(values, dict)
    del values["directory"]
    assert config_from(values) == TinyConfig()
    assert values.keys() == asdict(TinyConfig()).keys()
