"""Answers of the engine's thread, awaited by the server's loop; a client that has left is not answered any further."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from vtblender_nemo.common.conversation import Turn
from vtblender_nemo.serving.engine.engine import Engine
from vtblender_nemo.serving.engine.requests import Done, Event, Failed, Piece, Sampling
from vtblender_nemo.serving.engine.stream import Answer
from vtblender_nemo.serving.metrics import Metrics

T = TypeVar("T")


class ClientLeft(Exception):
    """Nobody reads the answer any more."""


class Pieces:
    """Pieces of one answer; the request is cancelled when they are left early.

    Args:
        engine: that answers.
        metrics: that count.
        turns: ends with a user turn.
        sampling: how it is answered.
        within_secs: until the answer has to be whole.

    Attributes:
        done: how the answer ended, once it has.

    Raises:
        BusyError: the queue is full.
        VTBlenderError: while pieces are read: whatever kept the engine from answering.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, turns: Sequence[Turn], sampling: Sampling, within_secs: float
    ) -> None:
        loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._watch = metrics.watch()
        self.done: Done | None = None

        def listen(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._request = engine.submit(turns, sampling, listen, within_secs=within_secs)

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            while self.done is None:
                event = await self._events.get()
                if isinstance(event, Piece):
                    self._watch.piece()
                    yield event.text
                elif isinstance(event, Failed):
                    raise event.error
                else:
                    self.done = event
                    self._watch.done(event.usage)
        finally:
            self._request.cancel()

    async def whole(self) -> Answer:
        """All pieces together."""
        text = "".join([piece async for piece in self])
        assert self.done is not None, "pieces without an error end with it"
        return Answer(text, self.done)


async def while_connected(client: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """What comes of some work, as long as the client waits for it.

    Raises:
        ClientLeft: the client has gone; the work is cancelled.
    """
    answering = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(client))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientLeft
    finally:
        leaving.cancel()
        answering.cancel()


async def _left(client: HttpRequest) -> None:
    while (await client.receive())["type"] != "http.disconnect":
        pass
