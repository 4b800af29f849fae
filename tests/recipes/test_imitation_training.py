"""Whole trainings with a teacher: what is logged, what stays as it was, and that a stop leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from tests.helpers.imitation import imitation_entry
from tests.recipes.test_training import KillAt, Killed, train
from vtblender_nemo.training.fit import build_data, build_model, fit

pytestmark = pytest.mark.slow
CONF = Path(__file__).parents[2] / "conf"


def configured(make_config: Any, tmp_path: Path, name: str, fusion: str = "rows", **overrides: Any) -> DictConfig:
    """Imitation and the four sources, as one blend or by the batch."""
    imitation = {"ce_weight": 0.5, "kl_weight": 1.0}
    cfg = make_config(output_dir=str(tmp_path / name), model={"imitation": imitation}, **overrides)
    entry = imitation_entry(tmp_path, name="imitated", weight=1)
    others = cfg.data.train_ds.input_cfg
    if fusion == "rows":
        cfg.data.train_ds.input_cfg = [*others, entry]
        return cfg
    cfg.data.train_ds.update(
        {
            "input_cfg": None,
            "fusion": fusion,
            "samplers": {"imitation": {"input_cfg": [entry]}, "others": {"input_cfg": others}},
            "sampler_weights": {"imitation": 1, "others": 1},
        }
    )
    return cfg


@pytest.mark.parametrize(("fusion", "workers"), [("rows", 2), ("randomized_round_robin", 0)])
def test_a_resumed_run_ends_as_the_run_never_stopped(
    make_config: Any, tmp_path: Path, fusion: str, workers: int
) -> None:
    more = {
        "data": {"train_ds": {"num_workers": workers}},
        "trainer": {"max_steps": 6, "val_check_interval": 3},
    }
    whole, _ = train(configured(make_config, tmp_path, "whole", fusion, **more))
    cfg = configured(make_config, tmp_path, "halves", fusion, **more)
    first = build_model(cfg)
    with pytest.raises(Killed):
        fit(cfg, first, build_data(cfg, first), callbacks=[KillAt(4)])
    second, before = train(cfg)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    for name in second.llm.base_weights():
        name = f"speech_llm.llm.{name}"
        assert torch.equal(before[name], second.state_dict()[name]), name
    rows = [json.loads(line) for line in (tmp_path / "halves" / "history.jsonl").read_text().splitlines()]
    names = {row["name"] for row in rows}
    assert {"train_loss", "train_loss/imitated", "train_ce", "train_kl"} <= names


def test_the_adapter_alone_is_trained_with_chats_in_the_blend(make_config: Any, tmp_path: Path) -> None:
    """Micro-batches of text alone come by chance, and have nothing to train."""
    cfg = configured(make_config, tmp_path, "run", data={"train_ds": {"batch_size": 1}}, trainer={"max_steps": 12})
    cfg = OmegaConf.merge(cfg, {"model": OmegaConf.load(CONF / "trained" / "adapter.yaml")})
    model, before = train(cfg)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed
    frozen = ("speech_llm.llm.", "speech_llm.perception.encoder.", "speech_llm.perception.preprocessor.")
    assert not any(name.startswith(frozen) for name in changed)
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert "train_loss/text" in {row["name"] for row in rows}
