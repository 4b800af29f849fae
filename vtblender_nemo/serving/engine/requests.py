"""What is asked of the engine, and what it says while it answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from vtblender_nemo.common.conversation import Turn
from vtblender_nemo.common.errors import ConfigError, VTBlenderError


class BusyError(VTBlenderError):
    """The queue is full; the same request may be taken later.

    Attributes:
        retry_secs: a guess of when.
    """

    retry_secs: float = 1.0


class LateError(VTBlenderError):
    """The answer was not whole in the time that was given for it."""


class StoppedError(VTBlenderError):
    """The engine has been closed, or its device has failed, and answers nobody any more."""


@dataclass(frozen=True)
class Sampling:
    """How one answer is generated.

    Attributes:
        max_new_tokens: length limit.
        temperature: 0 for the likeliest token each time.
        top_p: share of the probability that is drawn from.
        seed: of the draws; None for another each time.
        stop: texts that end the answer and are not part of it.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise _out_of_range("max_new_tokens", self.max_new_tokens, "1 or more")
        if not 0 <= self.temperature <= 2:
            raise _out_of_range("temperature", self.temperature, "0 to 2")
        if not 0 < self.top_p <= 1:
            raise _out_of_range("top_p", self.top_p, "more than 0, at most 1")
        if any(not text for text in self.stop):
            raise _out_of_range("stop", list(self.stop), "texts that are not empty")


def _out_of_range(name: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"{name} is out of range", value=value, expected=expected, knob=name)


class Reason(Enum):
    """Why an answer is over."""

    STOP = "stop"
    """The model ended it, or a stop text did."""
    LENGTH = "length"
    """It reached `max_new_tokens`."""
    CANCELLED = "cancelled"
    """Nobody waits for it any more."""


@dataclass(frozen=True)
class Usage:
    """What an answer cost.

    Attributes:
        prompt_positions: tokens and speech frames of the prompt.
        cached_positions: those of them that were in a cache.
        answer_tokens: generated tokens, the one that ended the answer included.
        audio_secs: of all audio in the prompt.
    """

    prompt_positions: int = 0
    cached_positions: int = 0
    answer_tokens: int = 0
    audio_secs: float = 0.0


@dataclass(frozen=True)
class Piece:
    """A further piece of an answer's text."""

    text: str


@dataclass(frozen=True)
class Done:
    """The answer is whole."""

    reason: Reason
    usage: Usage


@dataclass(frozen=True)
class Failed:
    """There will be no answer."""

    error: VTBlenderError


Event: TypeAlias = Piece | Done | Failed
Listener: TypeAlias = Callable[[Event], None]
"""Called by the engine's thread: it hands on and returns at once. The last event is `Done` or `Failed`."""


@dataclass(eq=False)
class Request:
    """A chat that ends with a user turn and waits for the next answer.

    Attributes:
        turns: the chat; audios with one id have the same samples.
        sampling: how it is answered.
        listener: hears the answer.
        deadline: of `time.monotonic`; a request that is older is given up with an error. None for never.
    """

    turns: tuple[Turn, ...]
    sampling: Sampling
    listener: Listener
    deadline: float | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody waits for the answer any more; its place is free after the next token."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()
