"""Ranks with uneven audio, or without any, or without targets, make the step that one process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS = ("replicated", "sharded", "sharded_uneven", "replicated_soft", "sharded_soft")


@pytest.fixture(scope="module")
def gradients(bases: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """Those that the optimiser was given, by step."""
    folder = tmp_path_factory.mktemp("steps")
    command = [sys.executable, "-m", "tests.recipes.ddp_step", *map(str, bases), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("alone", "alone_soft", *STEPS)}


@pytest.mark.parametrize("step", STEPS)
def test_ranks_together_make_the_step_of_one_process(gradients: dict[str, dict[str, torch.Tensor]], step: str) -> None:
    alone, together = gradients["alone_soft" if step.endswith("soft") else "alone"], gradients[step]
    assert any("perception.encoder" in name for name in alone)
    assert any(".lora_" in name for name in alone)
    assert any("token_ctc" in name for name in alone) == step.endswith("soft")
    assert together.keys() == alone.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
