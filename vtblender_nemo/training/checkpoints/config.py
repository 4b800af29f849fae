"""The keys of the section `checkpoints`."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from vtblender_nemo.common.errors import ConfigError

ON_FAILURE = ("stop", "go_on")


@dataclass
class CheckpointConfig:
    """When checkpoints to go on from are written, and what stops a training that is to go on later.

    Attributes:
        every_secs: from one to the next; there is one before and one after every validation, too.
        every_n_steps: as well, in optimiser steps; None leaves it to the clock.
        keep: how many; the ones before the newest are for the case that it is damaged.
        asynchronous: a thread writes a copy in main memory, while training goes on.
        on_failure: of writing, as on a full disk: stop, or go_on with the checkpoints before, which are left whole either way.
        stop_signals: end the step that runs, write a checkpoint, and end the process with status 75: "run it again".
        stop_within_secs: of such a signal; a step or validation that takes longer is given up, and trained again later.
        stop_after_secs: of the process; as a signal, for jobs with a time limit. None: never.
    """

    every_secs: float = 600.0
    every_n_steps: int | None = None
    keep: int = 2
    asynchronous: bool = True
    on_failure: str = "stop"
    stop_signals: list[str] = field(default_factory=lambda: ["SIGTERM", "SIGUSR1"])
    stop_within_secs: float = 20.0
    stop_after_secs: float | None = None

    def check(self) -> None:
        """Raises ConfigError for the first value out of range."""
        for name, low in (
            ("every_secs", 0),
            ("every_n_steps", 1),
            ("keep", 1),
            ("stop_within_secs", 0),
            ("stop_after_secs", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(
                    "value out of range", value=value, expected=f"at least {low}", knob=f"checkpoints.{name}"
                )
        if self.on_failure not in ON_FAILURE:
            raise ConfigError(
                "unknown choice",
                value=self.on_failure,
                expected=f"one of {', '.join(ON_FAILURE)}",
                knob="checkpoints.on_failure",
            )
        for name in self.stop_signals:
            if not (name.startswith("SIG") and hasattr(signal, name)) or name in ("SIGKILL", "SIGSTOP"):
                raise ConfigError(
                    "no signal that a process can catch",
                    value=name,
                    expected="a name as SIGTERM",
                    knob="checkpoints.stop_signals",
                )
