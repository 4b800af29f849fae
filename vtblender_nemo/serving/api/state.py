"""What every route of a server shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from vtblender_nemo.serving.config import ServerConfig
from vtblender_nemo.serving.engine.engine import Engine
from vtblender_nemo.serving.metrics import Metrics


@dataclass(frozen=True)
class ServerState:
    """The engine, its counters and its limits."""

    config: ServerConfig
    engine: Engine
    metrics: Metrics
    started: int

    @property
    def sampling_rate(self) -> int:
        """Hz that the model hears."""
        return self.engine.model.sampling_rate


def state_of(request: Request) -> ServerState:
    """The state of the app that a request came to."""
    return cast(ServerState, request.app.state.server)
