"""The state of a blend that some ranks have read, for another number of ranks: no row of a pass is left out, or read again.

Rank r of W reads every W-th position of a source, beginning at its own next one. Ranks are not equally far, since sources are
drawn by chance; and rows that wait in open micro-batches were drawn, but not handed out. From the furthest rank on, the
positions are dealt to the new ranks as at a beginning; those before it that nobody has handed out are dealt as well, and come
first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

State = dict[str, Any]


def redeal(states: Sequence[State], rank: int, world_size: int) -> State:
    """The state of one new rank.

    Args:
        states: of all ranks that have read so far; see `TrainLoader.state_dict_after_last_batch`.
        rank: the new rank.
        world_size: how many new ranks there are.
    """
    own = states[rank] if rank < len(states) else {}
    return {
        "planner": _planner([state["planner"] for state in states], rank, world_size),
        # tallies stay with the ranks that have made them
        "rows_seen": own.get("rows_seen", {}),
        "batch_parts": own.get("batch_parts", {}),
        "undecoded": own.get("undecoded", {}),
        "skips": own.get("skips", {"counts": [], "bytes": 0}),
    }


def _planner(states: Sequence[State], rank: int, world_size: int) -> State:
    if "planners" not in states[0]:
        return _buckets(states, rank, world_size)
    planners = {
        name: _buckets([state["planners"][name] for state in states], rank, world_size)
        for name in states[0]["planners"]
    }
    return {"step": states[0]["step"], "planners": planners}  # all ranks draw the same planner at the same step


def _buckets(states: Sequence[State], rank: int, world_size: int) -> State:
    blends = [state["blend"] for state in states]
    waiting: dict[int, list[int]] = {}
    for state in states:
        for source, position in (row for batch in state["open"] for row in batch):
            waiting.setdefault(source, []).append(position)
    positions, left = {}, {}
    for source, name in enumerate(blends[0]["positions"]):
        rows = blends[0]["positions"][name][1]
        start, behind = _unread(blends, name)
        positions[name] = [start + rank, rows]
        left[name] = sorted([*waiting.get(source, []), *behind])[rank::world_size]
    draws = max(blend["draws"] for blend in blends)
    dealt = {"draws": draws, "seed": blends[0]["seed"], "positions": positions, "left": left}
    bins = next((state["bins"] for state in states if state["bins"] is not None), None)
    return {"blend": dealt, "bins": bins, "open": []}


def _unread(blends: Sequence[Mapping[str, Any]], name: str) -> tuple[int, list[int]]:
    """From which position on nobody has read a source, and what of the positions before was not read."""
    nexts = [blend["positions"][name][0] for blend in blends]
    start = max(nexts)
    behind = [position for own in nexts for position in range(own, start, len(blends))]
    return start, [*behind, *(position for blend in blends for position in blend["left"].get(name, []))]
