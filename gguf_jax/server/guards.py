"""What stands before every route: the size of bodies, the key, and errors as one JSON body of OpenAI's form."""

from __future__ import annotations

import json
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import QueueFull
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import NotReady

MOST_BYTES = 1 << 25
"""Of a request's body."""


def add(app: FastAPI, settings: Settings) -> None:
    _errors(app)
    _guards(app, settings)


def problem(status: int, message: str, kind: str = "invalid_request_error", **headers: str) -> JSONResponse:
    """An error in OpenAI's form."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return JSONResponse(body, status, headers=headers or None)


def _of(error: Exception) -> JSONResponse:
    if isinstance(error, QueueFull):
        return problem(503, str(error), "server_error", **{"Retry-After": "1"})
    if isinstance(error, NotReady):
        return problem(503, str(error), "server_error", **{"Retry-After": "2"})
    return problem(400, str(error))


def _errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        found = first.get("input")
        shown = f", found {json.dumps(found, default=str)[:80]}" if isinstance(found, (str, int, float, bool)) else ""
        return problem(422 if first["type"] != "json_invalid" else 400, f"{where}: {first['msg']}{shown}")

    @app.exception_handler(GGUFJaxError)
    async def refused(request: Request, error: GGUFJaxError) -> JSONResponse:
        return _of(error)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail))


def _guards(app: FastAPI, settings: Settings) -> None:
    @app.middleware("http")
    async def guarded(request: Request, call: Any) -> Any:
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MOST_BYTES:
            return problem(413, f"body: expected at most {MOST_BYTES} bytes, found {length[:20]}")
        if "chunked" in request.headers.get("transfer-encoding", ""):
            return problem(411, "body: expected a Content-Length, found a chunked body")
        if settings.api_key is not None and request.url.path != "/health":
            given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not secrets.compare_digest(given, settings.api_key.encode()):
                return problem(401, "authorization: expected the server's API key as a bearer token")
        return await call(request)
