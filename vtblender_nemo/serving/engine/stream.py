"""An answer read piece by piece by the thread that asked for it."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from vtblender_nemo.common.conversation import Turn
from vtblender_nemo.serving.engine.engine import Engine
from vtblender_nemo.serving.engine.requests import Done, Event, Failed, Piece, Sampling


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    done: Done


class Stream:
    """Pieces of one answer as they come; left early, the request is cancelled.

    ```
    with Stream(engine, turns, Sampling()) as pieces:
        for piece in pieces:
            print(piece, end="")
    pieces.done.usage
    ```

    Args:
        engine: that answers.
        turns: ends with a user turn.
        sampling: how it is answered.
        within_secs: as in `Engine.submit`.

    Attributes:
        done: how the answer ended, once it has.

    Raises:
        BusyError: the queue is full.
        VTBlenderError: while pieces are read: whatever kept the engine from answering.
    """

    def __init__(
        self, engine: Engine, turns: Sequence[Turn], sampling: Sampling, *, within_secs: float | None = None
    ) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._request = engine.submit(turns, sampling, self._events.put, within_secs=within_secs)
        self.done: Done | None = None

    def __iter__(self) -> Iterator[str]:
        while self.done is None:
            event = self._events.get()
            if isinstance(event, Piece):
                yield event.text
            elif isinstance(event, Failed):
                raise event.error
            else:
                self.done = event

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._request.cancel()


def ask(engine: Engine, turns: Sequence[Turn], sampling: Sampling, *, within_secs: float | None = None) -> Answer:
    """The whole answer to a chat; see `Stream`."""
    with Stream(engine, turns, sampling, within_secs=within_secs) as pieces:
        text = "".join(pieces)
    assert pieces.done is not None, "a stream without an error ends with it"
    return Answer(text, pieces.done)
