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

import torch

from vtblender_nemo.backbones.decoding import Chooser
from vtblender_nemo.backbones.kv_cache import can_grow
from vtblender_nemo.common.conversation import Turn, check_turns
from vtblender_nemo.common.errors import ConfigError, VTBlenderError
from vtblender_nemo.models.generation import answering, check_length
from vtblender_nemo.models.slots import Slot, positions_of, read_slots
from vtblender_nemo.serving.engine.prefill import Prompt, embed_prompts, run_prompts
from vtblender_nemo.serving.engine.prefixes import PrefixStore
from vtblender_nemo.serving.engine.requests import (
    BusyError,
    Done,
    Failed,
    LateError,
    Listener,
    Piece,
    Reason,
    Request,
    Sampling,
    StoppedError,
    Usage,
)
from vtblender_nemo.serving.engine.running import Row, RunningRows
from vtblender_nemo.serving.engine.text import GrowingText

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineConfig:
    """How much is done at once, and how much may wait.

    Attributes:
        max_rows: answers in the making.
        max_positions: places in their cache, padding included; a single request may have more.
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
        for name, least in (
            ("max_rows", 1),
            ("max_positions", 1),
            ("queue_size", 1),
            ("window_secs", 0),
            ("prefix_bytes", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is too small", value=getattr(self, name), expected=f"at least {least}")


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
        self._format = model.chat_format
        self._running = RunningRows(model.llm, self._format.stop_ids)
        self._prefixes = PrefixStore(config.prefix_bytes)
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # What others call -------------------------------------------------------------------------------------------------

    def submit(
        self, turns: Sequence[Turn], sampling: Sampling, listener: Listener, *, within_secs: float | None = None
    ) -> Request:
        """Puts a chat into the queue; its answer comes to the listener.

        Args:
            turns: ends with a user turn; audios of one id have the same samples.
            sampling: how the next answer is generated.
            listener: called by the engine's thread.
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
            if self._closing:
                raise StoppedError("the engine is closed")
            if len(self._waiting) >= self.config.queue_size:
                raise BusyError("too many requests wait", value=len(self._waiting), expected="a later try")
            self._waiting.append(request)
            self._changed.notify_all()
        return request

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

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
        with answering(self.model), self.model.llm.decoding_weights():
            while self._wait():
                try:
                    self._round()
                except Exception as error:
                    logger.exception("the answers in the making are lost")
                    self._fail_running(StoppedError(f"the engine failed ({type(error).__name__}: {error})"))
        closed = StoppedError("the engine was closed")
        self._fail_running(closed)
        while self._waiting:
            _tell(self._waiting.popleft(), Failed(closed))

    def _wait(self) -> bool:
        """Until there is work; False if there will be none."""
        with self._changed:
            idle = not self._running.rows
            self._changed.wait_for(lambda: self._closing or self._waiting or self._running.rows)
            if idle and self.config.window_secs:
                enough = self.config.max_rows
                self._changed.wait_for(lambda: self._closing or len(self._waiting) >= enough, self.config.window_secs)
            return not self._closing

    def _round(self) -> None:
        self._admit()
        if not self._running.rows:
            return
        self._running.step()
        for row in self._running.rows:
            self._tell_growth(row)
        self._dismiss([row for row in self._running.rows if row.reason is not None or self._is_given_up(row.request)])
        if self._running.rows:
            self._running.advance()

    def _admit(self) -> None:
        prompts: list[Prompt] = []
        while (request := self._next(len(prompts))) is not None:
            try:
                prompts.append(self._prompt(request))
            except VTBlenderError as error:
                _tell(request, Failed(error))
        usable, failed = embed_prompts(self.model.speech_llm, prompts)
        for row, problem in failed.items():
            _tell(row.request, Failed(problem))
        for read in run_prompts(self.model.speech_llm, self._fitting(usable)):
            self._running.join(read.rows, read.hidden, read.mask, read.cache)

    def _next(self, admitted: int) -> Request | None:
        """The next request that there is room for."""
        with self._changed:
            while self._waiting and len(self._running) + admitted < self.config.max_rows:
                if self._running.positions > self.config.max_positions:
                    return None
                request = self._waiting.popleft()
                if not self._is_given_up(request):
                    return request
        return None

    def _prompt(self, request: Request) -> Prompt:
        """
        Raises:
            DataError: a text that cannot be tokenised.
        """
        wanted = list(read_slots(self._format, request.turns))
        prefix = self._prefixes.find(wanted)
        row = Row(
            request,
            wanted,
            GrowingText(self._format, request.sampling.stop),
            self._chooser(request.sampling),
            cached_positions=positions_of(prefix.slots) if prefix else 0,
            audio_secs=sum(audio.duration_secs for turn in request.turns for audio in turn.audios),
        )
        return Prompt(row, wanted[len(prefix.slots) if prefix else 0 :], prefix)

    def _chooser(self, sampling: Sampling) -> Chooser | None:
        if sampling.temperature == 0:
            return None
        generator = torch.Generator(device=self.model.llm.device)
        generator.seed() if sampling.seed is None else generator.manual_seed(sampling.seed)
        return Chooser(
            self._format.stop_ids,
            generator=generator,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
        )

    def _fitting(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        fitting = []
        for prompt in prompts:
            try:
                limit = prompt.row.request.sampling.max_new_tokens
                check_length(positions_of(prompt.row.slots), limit, self.model.llm)
            except VTBlenderError as error:
                _tell(prompt.row.request, Failed(error))
            else:
                fitting.append(prompt)
        return fitting

    def _tell_growth(self, row: Row) -> None:
        ids = row.ids[:-1] if row.reason is Reason.STOP else row.ids
        text = row.text.rest(ids) if row.reason is not None else row.text.grown(ids)
        if row.text.is_stopped:
            row.reason = Reason.STOP
        if text:
            _tell(row.request, Piece(text))

    def _is_given_up(self, request: Request) -> bool:
        """Whether nobody waits for an answer any more; the request has heard so."""
        if request.is_cancelled:
            _tell(request, Done(Reason.CANCELLED, Usage()))
            return True
        if request.deadline is not None and time.monotonic() > request.deadline:
            _tell(request, Failed(LateError("the answer was not whole in time", knob="a longer time limit")))
            return True
        return False

    def _dismiss(self, leaving: Sequence[Row]) -> None:
        if not leaving:
            return
        for row, cache in self._running.dismiss(leaving).items():
            self._prefixes.keep([*row.slots, *map(Slot, row.ids[:-1])], cache)
            if row.reason is not None:
                _tell(row.request, Done(row.reason, row.usage))

    def _fail_running(self, error: VTBlenderError) -> None:
        for row in self._running.rows:
            _tell(row.request, Failed(error))
        self._running = RunningRows(self.model.llm, self._format.stop_ids)


def _tell(request: Request, event: Piece | Done | Failed) -> None:
    """A listener that fails costs nobody else their answer."""
    try:
        request.listener(event)
    except Exception:
        logger.exception("a listener failed")
