"""Two ranks, one of them without any audio, make the step that one process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def gradients(bases: tuple[Path, Path], output: Path, shares: str) -> dict[str, torch.Tensor]:
    ranks = shares.count("/") + 1
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "tests.recipes.ddp_step", *map(str, bases), str(output), shares]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output, weights_only=True)


def test_two_ranks_with_uneven_audio_and_targets_equal_one_process(bases: tuple[Path, Path], tmp_path: Path) -> None:
    alone = gradients(bases, tmp_path / "alone.pt", "0,1,2,3")
    together = gradients(bases, tmp_path / "together.pt", "0,1/2,3")
    assert any("perception.encoder" in name for name in alone)
    assert together.keys() == alone.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
