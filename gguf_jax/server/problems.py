"""Errors as one JSON body of OpenAI's form, wherever they come from."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import QueueFull
from gguf_jax.generation.setting import PromptTooLong
from gguf_jax.server.worker import EngineFailed, NotReady, TimedOut


class Refusal(GGUFJaxError):
    """A request that is refused with more to say than a line: OpenAI's `code`, and another status than 400."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def described(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error in OpenAI's form, its message one line."""
    line = message.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair cannot be sent
    return {"error": {"message": " ".join(line.split()), "type": kind, "param": param, "code": code}}


def field(message: str) -> str | None:
    """The field of a request that a message begins with."""
    found = FIELD.match(message)
    return found[1] if found else None


FIELD = re.compile(r"([a-z_]+(?:\[\d+\]|\.[a-z_]+|\.\d+)*): ")


def problem(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    *,
    param: str | None = None,
    code: str | None = None,
    **headers: str,
) -> JSONResponse:
    """An error in OpenAI's form, of one line."""
    return JSONResponse(described(message, kind, param, code), status, headers=headers or None)


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
        if first["type"] == "json_invalid":
            return problem(400, f"{where}: {first['msg']}{shown}")
        return problem(422, f"{where}: {first['msg']}{shown}", param=where)

    @app.exception_handler(GGUFJaxError)
    async def refused(request: Request, error: GGUFJaxError) -> JSONResponse:
        if isinstance(error, (QueueFull, TimedOut)):
            return busy(str(error), 1)
        if isinstance(error, EngineFailed):
            return problem(500, str(error), "server_error")
        if isinstance(error, NotReady):
            return busy(str(error), 2)
        if isinstance(error, Refusal):
            return problem(error.status, str(error), param=error.param, code=error.code)
        code = "context_length_exceeded" if isinstance(error, PromptTooLong) else None
        return problem(400, str(error), param=field(str(error)), code=code)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), **dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        # what it was is written to the log, and is nobody else's business
        return problem(500, "the server failed to answer; its log says why", "server_error")
