"""What stands before every route: the key, and the size of what is sent."""

from __future__ import annotations

import asyncio
import base64
import hmac

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vtblender_nemo.serving.api.problems import problem

_CLOSE = {"Connection": "close"}

_OPEN = ("/", "/health")
_OPEN_FOLDER = "/page/"
"""Paths that need no key: they tell nothing and cost nothing."""
_FOR_BROWSERS = "/report"
"""A page that a link leads to: browsers ask for the key by themselves, as a password to any name."""


class KeyGuard:
    """Refuses requests without the key.

    Args:
        app: what comes after.
        key: as `Authorization: Bearer KEY`; None lets everybody in.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]) or self._shows_key(scope):
            await self._app(scope, receive, send)
            return
        asks = 'Basic realm="the key is the password"' if scope["path"] == _FOR_BROWSERS else "Bearer"
        await problem(401, "wrong or missing API key", {"WWW-Authenticate": asks})(scope, receive, send)

    def _shows_key(self, scope: Scope) -> bool:
        kind, _, shown = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() == "basic" and scope["path"] == _FOR_BROWSERS:
            try:
                shown = base64.b64decode(shown, validate=True).decode("latin-1").partition(":")[2]
            except ValueError:
                return False
        elif kind.lower() != "bearer":
            shown = ""
        return self._key is None or hmac.compare_digest(shown.encode("latin-1"), self._key.encode())


def _is_open(path: str) -> bool:
    return path in _OPEN or (path.startswith(_OPEN_FOLDER) and ".." not in path)


class BodyGuard:
    """Refuses bodies that are too large, by what they say of themselves and by what comes, and those that do not come on.

    Args:
        app: what comes after.
        max_bytes: of a body.
        secs: in which a further part of it has to come.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, secs: float) -> None:
        self._app, self._max_bytes, self._secs = app, max_bytes, secs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "0")
        if not said.isdigit() or int(said) > self._max_bytes:
            await self._too_large()(scope, receive, send)
            return
        body = _Body(receive, self._max_bytes, self._secs)
        has_answered = False

        async def noted(message: Message) -> None:
            nonlocal has_answered
            if body.refused and not has_answered:
                return  # what the app says of the cut body
            has_answered = True
            await send(message)

        try:
            await self._app(scope, body.receive, noted)
        except ClientDisconnect:
            if not body.refused:
                raise
        if body.refused and not has_answered:
            refusal = self._too_large() if body.refused == 413 else problem(408, "the request does not come on", _CLOSE)
            await refusal(scope, receive, send)

    def _too_large(self) -> Response:
        return problem(413, f"the request is larger than {self._max_bytes} bytes", _CLOSE)


class _Body:
    """A body as it comes; `refused` is the status that ends it."""

    def __init__(self, receive: Receive, max_bytes: int, secs: float) -> None:
        self._receive, self._max_bytes, self._secs = receive, max_bytes, secs
        self._came, self._is_whole = 0, False
        self.refused = 0

    async def receive(self) -> Message:
        if self._is_whole:  # what comes now is that the client has left
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._secs)
        except asyncio.TimeoutError:
            self.refused = 408
            raise ClientDisconnect from None
        self._came += len(message.get("body", b""))
        if self._came > self._max_bytes:
            self.refused = 413
            raise ClientDisconnect
        self._is_whole = not message.get("more_body", False)
        return message
