"""Processes that are killed at random moments, as by a machine that goes down."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl


class Killed(Exception):
    """Stands for whatever ends a process."""


class KillAt(pl.Callback):
    """Ends a training in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


def run_and_kill(job: Callable[[], None], after_secs: float) -> int:
    """Runs a job in a fork of this process and kills it, with all that it has started.

    Args:
        job: what the fork does.
        after_secs: when it is killed, unless it has ended.

    Returns:
        0 where the job has ended, else the signal or exit status that ended it.
    """
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            job()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + after_secs
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_random(job: Callable[[], None], kills: int, between_secs: tuple[float, float], seed: int = 0) -> int:
    """Runs a job again and again, killed after a random time, then to its end.

    Args:
        job: goes on where it was.
        kills: how often it is killed at most.
        between_secs: bounds of the random time.
        seed: of the times.

    Returns:
        How often it was killed: fewer times than `kills` where it ended before.

    Raises:
        RuntimeError: the job failed by itself.
    """
    rng = random.Random(seed)
    for killed in range(kills):
        status = run_and_kill(job, rng.uniform(*between_secs))
        if status == 0:
            return killed
        if status != -signal.SIGKILL:
            raise RuntimeError(f"the job ended with status {status}")
    if run_and_kill(job, float("inf")):
        raise RuntimeError("the job did not end well")
    return kills
