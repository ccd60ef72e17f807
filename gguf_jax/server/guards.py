"""`Guards`: what stands before every route. Who may ask, how much, how slowly, and what becomes of it when he goes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers

from gguf_jax.server import bodies
from gguf_jax.server.problems import busy, problem
from gguf_jax.server.settings import Settings

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], bodies.Receive, Send], Awaitable[None]]

OPEN = ("/health", "/v1/health", "/", "/favicon.ico")
"""Paths that need no key, beside those of `PAGE`: what tells that it lives, and the page, which asks for the key."""
PAGE = "/page/"

MOST_HELD = 8 * bodies.MOST_BYTES
"""Bytes of the bodies of all requests that are being answered."""


LARGE = 1 << 20
"""Bytes of a body that are not looked through beside everything else on the event loop."""


class Guards:
    """ASGI middleware; see `Settings` for what it goes by.

    A request whose sender goes away is cancelled, whether its answer is a stream or not.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self.held = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: bodies.Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        if (refusal := self._refusal(scope, headers)) is not None:
            if has_body:  # nobody is going to read it
                refusal.headers["connection"] = "close"
            await refusal(scope, receive, send)
            return
        room = _Room(self)
        try:
            body = await self._body(receive, room) if has_body else b""
            await self._watched(scope, body, receive, send)
        except bodies.Refused as error:
            if error.status is not None:
                answer = busy(str(error), 1) if error.status == 503 else problem(error.status, str(error))
                if error.status != 400:  # the rest of it may still be on its way
                    answer.headers["connection"] = "close"
                await answer(scope, receive, send)
        finally:
            room.leave()

    async def _body(self, receive: bodies.Receive, room: _Room) -> bytes:
        body = await bodies.read(receive, self._settings.body_seconds, room.take)
        if len(body) < LARGE:
            bodies.check(body)
        else:
            await asyncio.to_thread(bodies.check, body)
        return body

    def _refusal(self, scope: MutableMapping[str, Any], headers: Headers) -> JSONResponse | None:
        """Why a request is not taken, as far as its head says."""
        settings, path = self._settings, scope["path"]
        host = headers.get("host", "")
        if settings.hosts is not None and host and _name(host) not in settings.hosts:
            # a site whose name has come to mean this machine would otherwise be let in by the browser
            return problem(403, f"host: expected one that the server was told of (--allow-host), found {host[:80]!r}")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and (origin := headers.get("origin")):
            own = headers.get("sec-fetch-site") in ("same-origin", "none") or urlsplit(origin).netloc == host
            if not own and not {"*", origin} & set(settings.origins):
                return problem(403, f"origin: expected one that the server was told of (--cors), found {origin[:80]!r}")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or len(length) > 18 or int(length) > bodies.MOST_BYTES:
            return problem(413, f"body: expected at most {bodies.MOST_BYTES} bytes, found {length[:20]}")
        if settings.api_key is not None and path not in OPEN and not path.startswith(PAGE):
            scheme, _, token = headers.get("authorization", "").partition(" ")
            given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            sent = given.encode("latin-1")  # as Starlette decoded it: the bytes that came
            if not secrets.compare_digest(sent, settings.api_key.encode()):
                message = "authorization: expected the server's API key as a bearer token"
                asked = {"WWW-Authenticate": "Bearer"}
                return problem(401, message, "authentication_error", code="invalid_api_key", **asked)
        return None

    async def _watched(self, scope: MutableMapping[str, Any], body: bytes, receive: bodies.Receive, send: Send) -> None:
        """Runs the application on a body that has been read, as long as somebody waits for what it says."""
        gone, complete, given = asyncio.Event(), False, False

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watched(message: Message) -> None:
            nonlocal complete
            await send(message)
            complete |= message["type"] == "http.response.body" and not message.get("more_body", False)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            if not complete:
                answering.cancel()

        answering = asyncio.ensure_future(self._app(scope, replay, watched))
        watching = asyncio.create_task(watch())
        try:
            await answering
        except asyncio.CancelledError:
            if not gone.is_set():  # it was not the sender: the server is going down
                answering.cancel()
                raise
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


class _Room:
    """What the body of one request takes of that for all."""

    def __init__(self, guards: Guards) -> None:
        self._guards, self._taken = guards, 0

    def take(self, nbytes: int) -> None:
        if self._guards.held + nbytes > MOST_HELD:
            raise bodies.Refused(503, f"body: expected at most {MOST_HELD} bytes in all requests, found more")
        self._guards.held += nbytes
        self._taken += nbytes

    def leave(self) -> None:
        self._guards.held -= self._taken


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")
