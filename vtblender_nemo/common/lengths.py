"""Groups of like length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Sequence


def length_groups(lens: Sequence[int], max_padding: float) -> list[list[int]]:
    """Parts rows into as few groups as padding allows.

    Args:
        lens: length of each row.
        max_padding: the largest share of a group that may be padding, 0 (equal lengths only) to 1 (one group).

    Returns:
        Numbers of rows by group, the longest row of a group first.
    """
    groups: list[list[int]] = []
    filled = 0
    for row in sorted(range(len(lens)), key=lambda row: -lens[row]):
        if groups and filled + lens[row] >= (1 - max_padding) * lens[groups[-1][0]] * (len(groups[-1]) + 1):
            groups[-1].append(row)
            filled += lens[row]
        else:
            groups.append([row])
            filled = lens[row]
    return groups
