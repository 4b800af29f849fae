"""A real SLURM of two nodes, both this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tests" / "recipes" / "slurm_cluster.sh"
# where apt works, CI installs each of them
PACKAGES = {
    "slurmctld": "apt-get install -y slurmctld",
    "slurmd": "apt-get install -y slurmd",
    "sbatch": "apt-get install -y slurm-client",
    "munged": "apt-get install -y munge",
}


def run_on_cluster(folder: Path, *command: str, path: str = "", **environment: str) -> str:
    """What a command prints that is run beside such a cluster; skips the test where SLURM is not installed.

    Args:
        folder: for the cluster.
        command: what can call sbatch.
        path: a folder of programs that come first.
        environment: more variables.
    """
    paths = ":".join(filter(None, (path, os.environ["PATH"], "/usr/sbin")))
    if missing := [line for program, line in PACKAGES.items() if shutil.which(program, path=paths) is None]:
        pytest.skip("needs " + "; ".join(missing))
    variables = {**os.environ, "PATH": paths, **environment}
    variables.pop("MASTER_ADDR", None)
    call = [str(CLUSTER), str(folder), *command]
    done = subprocess.run(call, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
