"""The server: routes, guards and counters around one engine."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vtblender_nemo.serving.api import audio, chat
from vtblender_nemo.serving.api.guards import BodyGuard, KeyGuard
from vtblender_nemo.serving.api.problems import problem, tell_problems
from vtblender_nemo.serving.api.state import ServerState, state_of
from vtblender_nemo.serving.config import ServerConfig
from vtblender_nemo.serving.engine.engine import Engine
from vtblender_nemo.serving.metrics import Metrics

PAGE = Path(__file__).parents[1] / "page"
_PAGE_POLICY = "default-src 'self'; media-src 'self' blob:; frame-ancestors 'none'"
_LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]", "::1"]


def make_app(engine: Engine, config: ServerConfig) -> FastAPI:
    """The server as an ASGI app.

    Args:
        engine: answers; who made it closes it.
        config: limits.
    """
    metrics = Metrics(engine)
    guards = [
        Middleware(_Counted, metrics=metrics),
        Middleware(KeyGuard, key=config.api_key),
        Middleware(BodyGuard, max_bytes=config.max_body_bytes, secs=config.body_secs),
    ]
    if config.api_key is None:  # a page from elsewhere could name this machine by a name of its own
        guards.insert(1, Middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_NAMES))
    app = FastAPI(
        title="vtblender_nemo", version=version("vtblender_nemo"), middleware=guards, docs_url=None, redoc_url=None
    )
    app.state.server = ServerState(config, engine, metrics, int(time.time()))
    tell_problems(app)
    app.include_router(chat.router)
    app.include_router(audio.router)
    app.add_api_route("/v1/models", models)
    app.add_api_route("/v1/models/{name:path}", model)
    app.add_api_route("/health", health)
    app.add_api_route("/metrics", counters)
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/report", report, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount("/page", StaticFiles(directory=PAGE))
    return app


async def models(client: Request) -> Response:
    """The one model that is served."""
    return JSONResponse({"object": "list", "data": [_model_row(state_of(client))]})


async def model(client: Request, name: str) -> Response:
    """What is known of a model."""
    state = state_of(client)
    if name != state.config.model_name:
        return problem(404, f"no model {name!r} here; there is {state.config.model_name!r}")
    return JSONResponse(_model_row(state))


def _model_row(state: ServerState) -> dict[str, object]:
    return {"id": state.config.model_name, "object": "model", "created": state.started, "owned_by": "vtblender_nemo"}


async def health(client: Request) -> Response:
    """200 while requests are answered, 503 when not any more."""
    alive = state_of(client).engine.is_alive
    return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)


async def counters(client: Request) -> Response:
    """Counters in Prometheus's format."""
    return Response(state_of(client).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def page() -> Response:
    """The page to talk with."""
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": _PAGE_POLICY})


async def report(client: Request) -> Response:
    """The report of an evaluation, where the server has one."""
    path = state_of(client).config.report
    return problem(404, "this server has no report") if path is None else FileResponse(path)


class _Counted:
    """Counts responses by route and status.

    Args:
        app: what comes after.
        metrics: that count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")  # paths that do not exist are without number
            self._metrics.requests.labels(route, str(status)).inc()
