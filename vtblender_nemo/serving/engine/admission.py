"""From the queue into the running batch: requests are read, held to the limits, embedded, and their prompts are run.

What goes wrong with one request is told to that one: the answers in the making go on.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vtblender_nemo.backbones.decoding import Chooser
from vtblender_nemo.common.conversation import Text
from vtblender_nemo.common.errors import DataError, VTBlenderError
from vtblender_nemo.models.generation import check_length
from vtblender_nemo.models.slots import Slot, read_slots
from vtblender_nemo.serving.engine.prefill import Prompt, embed_prompts, run_prompts
from vtblender_nemo.serving.engine.prefixes import PrefixStore, marks_of, positions_of
from vtblender_nemo.serving.engine.requests import EngineError, Failed, Request, Sampling
from vtblender_nemo.serving.engine.running import Row, RunningRows
from vtblender_nemo.serving.engine.text import GrowingText

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

logger = logging.getLogger(__name__)

_CHARACTERS_PER_POSITION = 32
"""Texts with more characters than so many for each position of the LLM's context are not even tokenised."""


class Admission:
    """Takes requests in, as long as there is room.

    Args:
        model: that answers.
        prefixes: heads of chats that need not run again.
        max_rows: answers in the making.
        max_positions: places that their cache may come to have.
    """

    def __init__(self, model: VTBlenderModel, prefixes: PrefixStore, max_rows: int, max_positions: int) -> None:
        self._model = model
        self._prefixes = prefixes
        self._max_rows, self._max_positions = max_rows, max_positions
        self._next: tuple[Row, list[Slot]] | None = None  # read already, when there was no room for it

    @property
    def held(self) -> Request | None:
        """A request that has been read and waits for room."""
        return None if self._next is None else self._next[0].request

    def admit(self, waiting: deque[Request], lock: threading.Condition, running: RunningRows) -> None:
        """Lets requests join that there is room for.

        Args:
            waiting: the queue.
            lock: of the queue.
            running: gets their rows.
        """
        prompts: list[Prompt] = []
        while len(running) + len(prompts) < self._max_rows:
            if (found := self._read_next(waiting, lock)) is None:
                break
            row, slots = found
            rows = [prompt.row for prompt in prompts]
            if (running.rows or rows) and running.most_positions([*rows, row]) > self._max_positions:
                self._next = found
                break
            prompts.append(self._prompt(row, slots))
        self._run(prompts, running)

    def _read_next(self, waiting: deque[Request], lock: threading.Condition) -> tuple[Row, list[Slot]] | None:
        found, self._next = self._next, None
        if found is not None and not found[0].request.give_up():
            return found
        while True:
            with lock:
                if not waiting:
                    return None
                request = waiting.popleft()
            if request.give_up():
                continue
            try:
                return self._read(request)
            except VTBlenderError as error:
                request.tell(Failed(error))
            except Exception as error:
                _tell_failure([request], error)

    def _read(self, request: Request) -> tuple[Row, list[Slot]]:
        """
        Raises:
            DataError: a text that cannot be tokenised, or a chat that is longer than the LLM's context.
        """
        llm, chat_format, limit = self._model.llm, self._model.chat_format, request.sampling.max_new_tokens
        parts = [part for turn in request.turns for part in turn.parts]
        characters = sum(len(part.text) for part in parts if isinstance(part, Text))
        if characters > _CHARACTERS_PER_POSITION * llm.max_positions:
            raise DataError(
                "prompt is longer than the LLM's context",
                value=f"{characters} characters",
                expected=f"at most {llm.max_positions} positions",
            )
        slots = list(read_slots(chat_format, request.turns))
        audio_secs = sum(audio.duration_secs for turn in request.turns for audio in turn.audios)
        positions = len(slots) + int(audio_secs / self._model.token_equivalent_duration)
        check_length(positions, limit, llm)
        text = GrowingText(chat_format, request.sampling.stop)
        row = Row(request, [], text, self._chooser(request.sampling), audio_secs=audio_secs)
        row.most_positions = positions + limit
        return row, slots

    def _prompt(self, row: Row, slots: list[Slot]) -> Prompt:
        prefix = self._prefixes.find(marks_of(slots))
        if prefix is not None:
            row.cached_positions = positions_of(prefix.marks)
        return Prompt(row, slots[len(prefix.marks) if prefix else 0 :], prefix)

    def _chooser(self, sampling: Sampling) -> Chooser | None:
        if sampling.is_greedy:
            return None
        generator = torch.Generator(device=self._model.llm.device)
        generator.seed() if sampling.seed is None else generator.manual_seed(sampling.seed)
        return Chooser(
            self._model.chat_format.stop_ids,
            generator=generator,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
        )

    def _run(self, prompts: Sequence[Prompt], running: RunningRows) -> None:
        """Runs prompts together; where that fails, as for want of memory, those that have not joined one by one."""
        try:
            self._join(prompts, running)
        except Exception as error:
            left = [prompt for prompt in prompts if prompt.row not in running.rows and not prompt.row.request.is_over]
            if len(prompts) == 1:
                _tell_failure([prompt.row.request for prompt in left], error)
                return
            logger.warning("%d prompts are run one by one, as together they failed (%s)", len(left), error)
            for prompt in left:
                self._run([self._prompt(prompt.row, self._slots_again(prompt))], running)

    def _slots_again(self, prompt: Prompt) -> list[Slot]:
        return list(read_slots(self._model.chat_format, prompt.row.request.turns))

    def _join(self, prompts: Sequence[Prompt], running: RunningRows) -> None:
        usable, failed = embed_prompts(self._model.speech_llm, prompts)
        for row, problem in failed.items():
            row.request.tell(Failed(problem))
        for read in run_prompts(self._model.speech_llm, [prompt for prompt in usable if self._fits(prompt.row)]):
            running.join(read.rows, read.hidden, read.mask, read.cache)

    def _fits(self, row: Row) -> bool:
        """Whether prompt and answer fit into the LLM's context; the request has heard if not."""
        try:
            check_length(positions_of(row.marks), row.request.sampling.max_new_tokens, self._model.llm)
        except DataError as error:
            row.request.tell(Failed(error))
            return False
        return True


def _tell_failure(requests: Sequence[Request], error: Exception) -> None:
    logger.error("a request failed", exc_info=error)
    for request in requests:
        request.tell(Failed(EngineError(f"the model failed ({type(error).__name__}: {error})")))
