"""Errors in OpenAI's form."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vtblender_nemo.common.errors import VTBlenderError
from vtblender_nemo.serving.api.answers import ClientLeft
from vtblender_nemo.serving.engine.requests import BusyError, EngineError, LateError, StoppedError

_CLIENT_CLOSED_REQUEST = 499  # as nginx notes it; nobody reads it


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A response with OpenAI's `error` object."""
    kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, headers)


def of_error(error: VTBlenderError) -> JSONResponse:
    """What a client hears of an error: 429 and 503 tell it to come again, 400 to ask otherwise."""
    if isinstance(error, BusyError):
        return problem(429, str(error), {"Retry-After": str(max(1, round(error.retry_secs)))})
    if isinstance(error, LateError):
        return problem(504, str(error))
    if isinstance(error, EngineError):
        return problem(500, str(error))
    if isinstance(error, StoppedError):
        return problem(503, str(error), {"Retry-After": "10"})
    return problem(400, str(error))


def tell_problems(app: FastAPI) -> None:
    """Makes the app answer errors so."""

    @app.exception_handler(VTBlenderError)
    async def ours(_: Request, error: VTBlenderError) -> Response:
        return of_error(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]]
        return problem(400, "; ".join(found))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(ClientLeft)
    async def left(_: Request, __: ClientLeft) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
