"""One model that answers many at once: requests join and leave between two tokens.

All of the model's work is done by one thread. It takes what waits, runs the new prompts, and gives every answer that is in
the making one token more, again and again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtblender_nemo.backbones.kv_cache import can_grow
from vtblender_nemo.common.conversation import Turn, check_turns
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.models.generation import answering
from vtblender_nemo.serving.engine.admission import Admission
from vtblender_nemo.serving.engine.prefixes import Mark, PrefixStore
from vtblender_nemo.serving.engine.requests import (
    BusyError,
    Done,
    EngineError,
    Failed,
    Listener,
    Piece,
    Reason,
    Request,
    Sampling,
    StoppedError,
)
from vtblender_nemo.serving.engine.running import Row, RunningRows

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

logger = logging.getLogger(__name__)

_MOST_FAILURES = 3
"""Rounds in a row that may fail before the engine takes its device for lost, as CUDA's is after an assertion."""


@dataclass(frozen=True)
class EngineConfig:
    """How much is done at once, and how much may wait.

    Attributes:
        max_rows: answers in the making.
        max_positions: places that their cache may come to have, padding included; a single request may have more.
        queue_size: requests that wait; further ones are refused.
        window_secs: an idle engine waits so long for more requests to run together with the first one.
        prefix_bytes: memory for the heads of chats that may go on; 0 runs every chat from its beginning.
    """

    max_rows: int = 16
    max_positions: int = 65_536
    queue_size: int = 64
    window_secs: float = 0.005
    prefix_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        least = {"max_rows": 1, "max_positions": 1, "queue_size": 1, "window_secs": 0, "prefix_bytes": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} is too small", value=getattr(self, name), expected=f"at least {value}")


class Engine:
    """Answers requests with one model, whose weights must not change meanwhile.

    Args:
        model: in any mode; it belongs to the engine until `close`.
        config: limits.

    Raises:
        ConfigError: the LLM keeps more of the past than keys and values, so that rows could not come and go.
    """

    def __init__(self, model: VTBlenderModel, config: EngineConfig = EngineConfig()) -> None:
        if not can_grow(model.llm.causal_lm.config):
            raise ConfigError(
                "answers of this LLM cannot be made together as they come",
                value=type(model.llm.causal_lm).__name__,
                expected="an LLM with full or sliding-window attention in all layers",
            )
        self.model = model
        self.config = config
        self._prefixes = PrefixStore(config.prefix_bytes)
        self._running = RunningRows(model.llm, model.chat_format.stop_ids)
        self._admission = Admission(model, self._prefixes, config.max_rows, config.max_positions)
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._failures = 0
        self._has_model = threading.Event()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()
        self._has_model.wait()

    # What others call -------------------------------------------------------------------------------------------------

    def submit(
        self, turns: Sequence[Turn], sampling: Sampling, listener: Listener, *, within_secs: float | None = None
    ) -> Request:
        """Puts a chat into the queue; its answer comes to the listener.

        Args:
            turns: ends with a user turn; audios of one id have the same samples.
            sampling: how the next answer is generated.
            listener: called by the engine's thread, or for requests that are given up by another's.
            within_secs: the answer has to be whole by then, else it fails; None for never.

        Returns:
            The request, which can be cancelled.

        Raises:
            DataError: turns in a wrong order.
            BusyError: the queue is full.
            StoppedError: the engine is closed.
        """
        check_turns(turns, answered=False)
        deadline = None if within_secs is None else time.monotonic() + within_secs
        request = Request(tuple(turns), sampling, listener, deadline)
        with self._changed:
            self.check_room()
            self._waiting.append(request)
            self._changed.notify_all()
        return request

    def check_room(self) -> None:
        """To be called before work is done for a request that may not be taken.

        Raises:
            BusyError: the queue is full of requests that somebody waits for.
            StoppedError: the engine is closed.
        """
        with self._changed:
            if self._closing:
                raise StoppedError("the engine is closed")
            if len(self._waiting) >= self.config.queue_size:
                self._give_up_waiting()
            if len(self._waiting) >= self.config.queue_size:
                raise BusyError("too many requests wait", value=len(self._waiting), expected="a later try")

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting) + (self._admission.held is not None)

    @property
    def running(self) -> int:
        """Answers in the making."""
        return len(self._running)

    @property
    def prefix_bytes(self) -> int:
        """Memory that the heads of chats hold."""
        return self._prefixes.bytes

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._closing

    def close(self) -> None:
        """Fails what is not answered yet, and gives the model back."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    # The engine's own thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            with answering(self.model), self.model.llm.decoding_weights():
                self._has_model.set()
                while self._wait():
                    self._round_or_fail()
        finally:
            self._has_model.set()
            with self._changed:
                self._closing = True
                held = self._admission.held
                left = [*(row.request for row in self._running.rows), *([held] if held else []), *self._waiting]
                self._waiting.clear()
            self._running = RunningRows(self.model.llm, self.model.chat_format.stop_ids)
            for request in left:
                request.tell(Failed(StoppedError("the engine was closed")))

    def _wait(self) -> bool:
        """Until there is work; False if there will be none."""
        with self._changed:
            idle = not self._running.rows
            self._changed.wait_for(lambda: self._closing or self.waiting or self._running.rows)
            if idle and self.config.window_secs:
                enough = self.config.max_rows
                self._changed.wait_for(lambda: self._closing or len(self._waiting) >= enough, self.config.window_secs)
            return not self._closing

    def _round_or_fail(self) -> None:
        try:
            self._round()
            self._failures = 0
        except Exception as error:
            logger.exception("the answers in the making are lost")
            failed = EngineError(f"the model failed ({type(error).__name__}: {error})")
            for row in self._running.rows:
                row.request.tell(Failed(failed))
            self._running = RunningRows(self.model.llm, self.model.chat_format.stop_ids)
            self._failures += 1
            self._closing = self._closing or self._failures >= _MOST_FAILURES

    def _round(self) -> None:
        with self._changed:
            self._give_up_waiting()
        self._admission.admit(self._waiting, self._changed, self._running)
        if not self._running.rows:
            return
        self._running.step()
        for row in self._running.rows:
            _tell_growth(row)
        self._dismiss([row for row in self._running.rows if row.reason is not None or row.request.give_up()])
        if self._running.rows:
            self._running.advance()

    def _give_up_waiting(self) -> None:
        """Takes requests out of the queue that nobody waits for any more, or whose time is over; the lock is held."""
        for request in [one for one in self._waiting if one.give_up()]:
            self._waiting.remove(request)

    def _dismiss(self, leaving: Sequence[Row]) -> None:
        if not leaving:
            return
        if self.config.prefix_bytes:
            for row in leaving:
                self._prefixes.keep([*row.marks, *map(Mark, row.ids[:-1])], self._running.left_by(row))
        self._running.dismiss(leaving)
        for row in leaving:
            if row.reason is not None:
                row.request.tell(Done(row.reason, row.usage))


def _tell_growth(row: Row) -> None:
    ids = row.ids[:-1] if row.reason is Reason.STOP else row.ids
    text = row.text.rest(ids) if row.reason is not None else row.text.grown(ids)
    if row.text.is_stopped:
        row.reason = Reason.STOP
    if text:
        row.request.tell(Piece(text))
