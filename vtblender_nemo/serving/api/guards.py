"""What stands before every route: the key, and the size of what is sent."""

from __future__ import annotations

import base64
import hmac

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vtblender_nemo.serving.api.problems import problem

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


class SizeGuard:
    """Refuses bodies that are too large, by what they say of themselves and by what comes.

    Args:
        app: what comes after.
        max_bytes: of a body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = problem(413, f"the request is larger than {self._max_bytes} bytes", {"Connection": "close"})
        said = Headers(scope=scope).get("content-length", "0")
        if not said.isdigit() or int(said) > self._max_bytes:
            await refusal(scope, receive, send)
            return
        came, is_over, has_answered = 0, False, False

        async def counted() -> Message:
            nonlocal came, is_over
            message = await receive()
            came += len(message.get("body", b""))
            if came > self._max_bytes:
                is_over = True
                raise ClientDisconnect
            return message

        async def noted(message: Message) -> None:
            nonlocal has_answered
            if is_over and not has_answered:
                return  # what the app says of the cut body
            has_answered = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except ClientDisconnect:
            if not is_over:
                raise
        if is_over and not has_answered:
            await refusal(scope, receive, send)
