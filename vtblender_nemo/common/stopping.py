"""A process that was told to stop, and did so with everything saved."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

RUN_AGAIN = os.EX_TEMPFAIL
"""Exit status 75: the same command, run again, goes on."""

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class Stopped(Exception):
    """A job ended before its end, by a signal or a time limit, and goes on when it is run again."""


@contextmanager
def stopped_by(signals: Sequence[str]) -> Iterator[None]:
    """Ends what runs inside by `Stopped` when one of some signals comes; for work that loses little wherever it is stopped.

    Args:
        signals: names as SIGTERM.
    """

    def stop(number: int, frame: Any) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}; the same command goes on")

    before = {signal.Signals[name]: signal.signal(signal.Signals[name], stop) for name in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_parent() -> None:
    """Has SIGTERM sent to this process when the one that started it ends, however it ends; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
