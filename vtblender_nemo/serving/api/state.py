"""What every route of a server shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from vtblender_nemo.serving.config import ServerConfig
from vtblender_nemo.serving.engine.engine import Engine
from vtblender_nemo.serving.metrics import Metrics

T = TypeVar("T")

_DECODED_AT_ONCE = 2


@dataclass(frozen=True)
class ServerState:
    """The engine, its counters and its limits."""

    config: ServerConfig
    engine: Engine
    metrics: Metrics
    started: int
    decoding: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_DECODED_AT_ONCE))

    async def decode(self, work: Callable[[], T]) -> T:
        """Decodes what a client has sent, a few at a time, and none where the queue has no room.

        Raises:
            BusyError: the queue is full.
        """
        self.engine.check_room()
        return await to_thread.run_sync(work, limiter=self.decoding)

    @property
    def sampling_rate(self) -> int:
        """Hz that the model hears."""
        return self.engine.model.sampling_rate


def state_of(request: Request) -> ServerState:
    """The state of the app that a request came to."""
    return cast(ServerState, request.app.state.server)
