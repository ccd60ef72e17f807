"""Errors as one JSON body of OpenAI's form, wherever they come from."""

from __future__ import annotations

import json

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import QueueFull
from gguf_jax.server.worker import NotReady, TimedOut


def problem(status: int, message: str, kind: str = "invalid_request_error", **headers: str) -> JSONResponse:
    """An error in OpenAI's form, of one line."""
    line = message.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair cannot be sent
    body = {"error": {"message": " ".join(line.split()), "type": kind, "param": None, "code": status}}
    return JSONResponse(body, status, headers=headers or None)


def busy(message: str, seconds: int) -> JSONResponse:
    """503: the same request may be answered after so many seconds."""
    return problem(503, message, "server_error", **{"Retry-After": str(seconds)})


def add(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part)[:80] for part in first["loc"] if part != "body") or "body"
        found = first.get("input")
        shown = f", found {json.dumps(found, default=str)[:80]}" if isinstance(found, (str, int, float, bool)) else ""
        return problem(422 if first["type"] != "json_invalid" else 400, f"{where}: {first['msg']}{shown}")

    @app.exception_handler(GGUFJaxError)
    async def refused(request: Request, error: GGUFJaxError) -> JSONResponse:
        if isinstance(error, (QueueFull, TimedOut)):
            return busy(str(error), 1)
        if isinstance(error, NotReady):
            return busy(str(error), 2)
        return problem(400, str(error))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), **dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        # what it was is written to the log, and is nobody else's business
        return problem(500, "the server failed to answer; its log says why", "server_error")
