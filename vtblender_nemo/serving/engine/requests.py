"""What is asked of the engine, and what it says while it answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from vtblender_nemo.common.conversation import Turn
from vtblender_nemo.common.errors import ConfigError, VTBlenderError

logger = logging.getLogger(__name__)


class BusyError(VTBlenderError):
    """The queue is full; the same request may be taken later.

    Attributes:
        retry_secs: a guess of when.
    """

    retry_secs: float = 1.0


class EngineError(VTBlenderError):
    """The model failed on a request, or on one that was answered beside it."""


class LateError(VTBlenderError):
    """The answer was not whole in the time that was given for it."""


class StoppedError(VTBlenderError):
    """The engine has been closed, or its device has failed, and answers nobody any more."""


MOST_STOPS, LONGEST_STOP = 4, 256
_LEAST_TEMPERATURE = 0.01  # logits divided by less may become infinite


@dataclass(frozen=True)
class Sampling:
    """How one answer is generated.

    Attributes:
        max_new_tokens: length limit.
        temperature: 0 for the likeliest token each time; so little that it comes to the same counts as 0.
        top_p: share of the probability that is drawn from.
        seed: of the draws; None for another each time.
        stop: texts that end the answer and are not part of it; at most `MOST_STOPS`, of `LONGEST_STOP` characters.
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
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise _out_of_range("seed", self.seed, "a whole number of 64 bits")
        if len(self.stop) > MOST_STOPS or not all(0 < len(text) <= LONGEST_STOP for text in self.stop):
            expected = f"at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters"
            raise _out_of_range("stop", [text[:20] for text in self.stop[: MOST_STOPS + 1]], expected)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return self.temperature < _LEAST_TEMPERATURE


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
        is_over: the listener has heard the last event.
    """

    turns: tuple[Turn, ...]
    sampling: Sampling
    listener: Listener
    deadline: float | None = None
    is_over: bool = False
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def tell(self, event: Event) -> None:
        """Hands an event to the listener; one that fails costs nobody else their answer. Nothing follows the last event."""
        if self.is_over:
            return
        self.is_over = not isinstance(event, Piece)
        try:
            self.listener(event)
        except Exception:
            logger.exception("a listener failed")

    def cancel(self) -> None:
        """Nobody waits for the answer any more; its place is free after the next token."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def give_up(self) -> bool:
        """Tells the end to a request that nobody waits for any more, or whose time is over.

        Returns:
            Whether it is one.
        """
        if self.is_cancelled:
            self.tell(Done(Reason.CANCELLED, Usage()))
        elif self.deadline is not None and time.monotonic() > self.deadline:
            self.tell(Failed(LateError("the answer was not whole in time", knob="a longer time limit")))
        else:
            return False
        return True
