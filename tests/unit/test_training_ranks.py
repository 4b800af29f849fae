"""Processes that wait for what the first of them makes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

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
