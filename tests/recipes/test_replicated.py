"""What data-parallel training sends beside gradients, and that it waits for no process for ever."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicated")
    command = [sys.executable, "-m", "tests.recipes.replicated_run", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_running_statistics_are_sent_where_a_validation_reads_them(runs: Path) -> None:
    """Batches of 0 to 3 and of 4 to 7, and 1 more on the second rank; a running mean moves by a tenth."""
    first, second = read(runs / "0.json"), read(runs / "1.json")
    assert first["before"] == pytest.approx([0.15, 0.685])
    assert second["before"] == pytest.approx([0.25, 0.875])
    assert first["read"] == second["read"] == pytest.approx([0.685, 0.685])


def test_a_process_that_hangs_ends_the_training(runs: Path) -> None:
    waited = read(runs / "hung_0.json")
    assert re.search("timed out|timeout", waited["error"], re.IGNORECASE)
