"""History and shares of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vtblender_nemo.common.parallel import Layout
from vtblender_nemo.training.callbacks import HistoryLogger, RandomStates, share_warnings


def test_history_forgets_what_will_be_trained_again(tmp_path: Path) -> None:
    history = HistoryLogger(tmp_path / "history.jsonl")
    for step in (1, 2):
        history.log_metrics({"loss": step / 2, "epoch": 0}, step)
    before = history.size()
    history.log_metrics({"loss": 1.5}, 3)
    history.cut(before)
    history.log_metrics({"loss": 9.0}, 3)
    rows = [json.loads(line) for line in history.path.read_text().splitlines()]
    assert rows == [
        {"step": 1, "name": "loss", "value": 0.5},
        {"step": 2, "name": "loss", "value": 1.0},
        {"step": 3, "name": "loss", "value": 9.0},
    ]


def share(weight: float, seen: float, rows: int) -> dict[str, float]:
    return {"weight": weight, "seen": seen, "rows_seen": rows}


def test_sources_off_their_weight_are_told() -> None:
    as_wanted = {"a": share(0.7, 0.701, 7010), "b": share(0.3, 0.299, 2990)}
    assert share_warnings(as_wanted) == []
    off = {"a": share(0.7, 0.8, 8000), "b": share(0.3, 0.2, 2000)}
    assert len(share_warnings(off)) == 2
    assert "source b gave a share of 0.200 where its weight asked for 0.300" in share_warnings(off)[1]
    few = {"a": share(0.7, 0.8, 8), "b": share(0.3, 0.2, 2)}
    assert share_warnings(few) == []  # chance


@pytest.mark.parametrize(
    ("saved", "size", "ranks", "restored"),
    [
        (1, 1, 4, [0, 1, 2, 3]),
        (2, 2, 4, [0, 1, 2, 3]),
        (2, 1, 2, [0, 2]),  # each of the two that read rows of their own
        (1, 2, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (4, 2, 2, [0, 0]),
        (1, 1, 5, [0, 1, 2, 3, None]),
    ],
)
def test_random_states_go_to_ranks_that_read_the_same_rows(
    saved: int, size: int, ranks: int, restored: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [{"tensor_parallel": saved, "rank": rank} for rank in range(4)]
    monkeypatch.setattr("vtblender_nemo.common.parallel._layout", Layout(tensor_size=size))
    found = []
    for rank in range(ranks):
        monkeypatch.setattr("vtblender_nemo.common.parallel._world", lambda rank=rank: (rank, ranks))
        monkeypatch.setattr("vtblender_nemo.training.callbacks._rank", lambda rank=rank: rank)
        callback = RandomStates()
        callback.load_state_dict({"ranks": states})
        found.append(callback._to_restore and callback._to_restore["rank"])
    assert found == restored
