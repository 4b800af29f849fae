"""The whole main job on two nodes, as torchrun starts it on each: the world is made once, one process tests and reports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.recipes.test_main_job import MICRO, ROOT

pytestmark = pytest.mark.slow


def torchrun(port: int, *arguments: str) -> subprocess.Popen[str]:
    """One node of two; both are this machine."""
    launcher = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    endpoint = [f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=test"]
    return subprocess.Popen(
        [sys.executable, *launcher, *endpoint, str(ROOT / "examples" / "train_vtb.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def test_two_nodes_make_one_world_one_model_and_one_report(tmp_path: Path) -> None:
    folder, port = tmp_path / "run", free_port()
    arguments = [f"output_dir={folder}", f"tiny.directory={tmp_path / 'world'}", "contrast=true", "trainer.num_nodes=2"]
    nodes = [torchrun(port, *arguments, *MICRO) for _ in range(2)]
    try:
        said = [node.communicate(timeout=600)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    for once in ("content: speaking", "Scores, 0 to 100", "report  "):
        assert sorted(text.count(once) for text in said) == [0, 1], once

    report = json.loads((folder / "report.json").read_text())
    assert report["contrast"].keys() == {"speech_only_lora", "speech_only_unfrozen"}
    last = max((folder / "training" / "resume").glob("*.ckpt"))
    checkpoint = torch.load(last, map_location="cpu", weights_only=True)
    states = checkpoint["callbacks"]["RandomStates"]["ranks"], checkpoint["BlendDataModule"]["ranks"]
    assert [len(ranks) for ranks in states] == [2, 2]
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert set(Counter((row["step"], row["name"]) for row in rows).values()) == {1}
