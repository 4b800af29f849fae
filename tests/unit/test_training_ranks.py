"""What the main job does around the trainer: processes wait for what the first of them makes, and signals stop them."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from vtblender_nemo.common.stopping import Stopped
from vtblender_nemo.experiments import main_job
from vtblender_nemo.tiny.config import TinyConfig
from vtblender_nemo.tiny.world import _stages, is_made
from vtblender_nemo.training.ranks import is_first, wait_for_first


@pytest.mark.parametrize(
    ("rank", "node", "first"), [(0, None, True), (1, None, False), (0, "0", True), (0, "1", False)]
)
def test_the_first_is_rank_0_of_node_0(
    rank: int, node: str | None, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    monkeypatch.delenv("NODE_RANK", raising=False)
    if node is not None:
        monkeypatch.setenv("NODE_RANK", node)
    assert is_first() is first


def test_one_waits_until_it_is_made_and_says_where_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    paused: list[float] = []
    with caplog.at_level(logging.WARNING):
        wait_for_first(lambda: sum(paused) >= 130, Path("/shared/world"), paused.append)
    assert sum(paused) == 130
    assert [record.getMessage().count("/shared/world") for record in caplog.records] == [1, 1]


def test_a_world_is_made_when_each_of_its_parts_is(tmp_path: Path) -> None:
    config = TinyConfig()
    stages = _stages(config, tmp_path.resolve())
    for name in ("content", "tokenizer", "llm", "encoder"):
        assert not is_made(config, tmp_path)
        stages[name].begin()
        stages[name].partial.write_text("")
        stages[name].finish({})
    assert is_made(config, tmp_path)
    assert not is_made(TinyConfig(seed=1), tmp_path)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_stops_the_main_job_before_training_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)

    def make_world(cfg: Any) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("the signal did not stop it")

    monkeypatch.setattr(main_job, "_check", lambda cfg: None)
    monkeypatch.setattr(main_job, "_prepare_world", make_world)
    cfg = OmegaConf.create({"output_dir": str(tmp_path / "run"), "tiny": {"directory": str(tmp_path / "world")}})
    with pytest.raises(Stopped, match=f"stopped by {name}"):
        main_job.run(cfg)
    assert signal.getsignal(number) == before
