"""Trainings with a sharded LLM: their files are those of whole models, and a stop leaves no trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.models import audio_part, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.training.checkpoints import files
from vtblender_nemo.training.sharded import check_sharding

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(bases: tuple[Path, Path], blend: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    llm, canary = map(str, bases)
    (folder / "given.json").write_text(json.dumps({"llm": llm, "canary": canary, "blend": blend}))
    command = [sys.executable, "-m", "tests.recipes.sharded_run", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def whole(runs: Path) -> dict[str, torch.Tensor]:
    """The weights at the end of the training that was never stopped."""
    return last_checkpoint(runs / "whole")


def last_checkpoint(run: Path) -> dict[str, torch.Tensor]:
    return files.read(files.checkpoints_in(run / "training" / "resume")[-1])["state_dict"]


def test_layers_are_sharded_and_nothing_else(runs: Path) -> None:
    sharded = json.loads((runs / "sharded.json").read_text())
    assert all(".layers." in name and ".llm." in name for name in sharded)
    assert any("lora" in name for name in sharded)
    assert any("mlp" in name and "lora" not in name for name in sharded)


def test_the_nemo_file_is_that_of_a_whole_model(runs: Path) -> None:
    model = VTBlenderModel.restore_from(runs / "whole" / "model.nemo").eval()
    best = next((runs / "whole" / "training" / "checkpoints").glob("*.ckpt"))
    for name, weight in files.read(best)["state_dict"].items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert len(model.generate([[user("hear", audio_part(0.7))]], 4)) == 1


def test_checkpoints_hold_whole_trained_weights_alone(whole: dict[str, torch.Tensor], runs: Path) -> None:
    model = VTBlenderModel.restore_from(runs / "whole" / "model.nemo")
    frozen = {f"speech_llm.llm.{name}" for name in model.llm.base_weights()}
    assert whole.keys() == model.state_dict().keys() - frozen
    assert all(weight.shape == model.state_dict()[name].shape for name, weight in whole.items())


def test_a_resumed_training_ends_as_the_one_never_stopped(whole: dict[str, torch.Tensor], runs: Path) -> None:
    for name, weight in last_checkpoint(runs / "killed").items():
        if "running_" not in name:  # the first process's own, until a validation makes them those of all
            assert torch.equal(weight, whole[name]), name


def test_another_strategy_goes_on_with_it(whole: dict[str, torch.Tensor], runs: Path) -> None:
    for name, weight in last_checkpoint(runs / "other").items():
        if "running_" not in name:
            torch.testing.assert_close(weight, whole[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("guards", {"split_when_out_of_memory": True}),
        ("model", {"imitation": {"kl_weight": 1.0}}),
        ("model", {"quantization": "4bit"}),
    ],
)
def test_what_does_not_go_with_it_is_told(make_config: Any, section: str, values: dict[str, Any]) -> None:
    cfg = make_config(trainer={"strategy": "sharded"}, **{section: values})
    with pytest.raises(ConfigError, match=r"does not go with a sharded LLM.*trainer.strategy=auto"):
        check_sharding(cfg)
