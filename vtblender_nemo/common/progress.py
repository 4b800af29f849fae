"""Progress of long commands: a bar with rate and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys

from tqdm import tqdm

_LOG_SECS = 30.0


def progress_bar(total: int, *, done: int = 0, unit: str = "row", label: str | None = None) -> tqdm:
    """A bar on stderr.

    Args:
        total: what there is to do.
        done: what an earlier run did of it; it does not count for the rate.
        unit: of what is counted.
        label: said before the bar.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=label,
        mininterval=0.2 if terminal else _LOG_SECS,
        ascii=not terminal,
        dynamic_ncols=terminal,
    )
