"""Bodies of requests: read with bounds on size and time, and refused where they are no JSON that is safe to parse.

Every route's body is read whole, before the route is asked, so that the bounds hold for all of them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import numpy as np

MOST_BYTES = 1 << 25
"""Of a body."""

MOST_DEPTH = 200
"""Of lists and objects in each other. Parsers of every kind call themselves for each: Python's gives up at about a
thousand, and a native one may take the process with it."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_ESCAPES = re.compile(rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F])|.)", re.DOTALL)


class Refused(Exception):
    """A body that is not taken.

    Attributes:
        status: of the answer; None: there is nobody left to answer.
    """

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read(receive: Receive, seconds: float, take: Callable[[int], object]) -> bytes:
    """The whole body, counted as it comes; `take` is told of all bytes before they are kept.

    Raises:
        Refused: it has more than `MOST_BYTES` (413), takes longer than `seconds` (408), or its sender has gone.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(None, "body: its sender has gone")
                size += len(message.get("body", b""))
                if size > MOST_BYTES:
                    raise Refused(413, f"body: expected at most {MOST_BYTES} bytes, found more")
                take(len(message.get("body", b"")))
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(408, f"body: expected all of it within {seconds:g} seconds, found {size} bytes") from None


def check(body: bytes) -> None:
    """Refuses what a parser of JSON would trip over; whether it is JSON at all is left to the parser.

    Raises:
        Refused: it is not UTF-8, has half a surrogate pair, or is nested deeper than `MOST_DEPTH`; all 400.
    """
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Refused(400, f"body: expected UTF-8, found byte {body[error.start]:#04x} at {error.start}") from None
    if b"\\ud" in body or b"\\uD" in body:
        for found in _ESCAPES.finditer(body):
            if found[1]:
                raise Refused(400, f"body: expected both halves of a surrogate pair, found one at {found.start()}")
    if body.count(b"[") + body.count(b"{") > MOST_DEPTH and (found := depth(body)) > MOST_DEPTH:
        raise Refused(400, f"body: expected JSON of at most {MOST_DEPTH} levels, found {found}")


def depth(body: bytes) -> int:
    """How deep lists and objects lie in each other, brackets in strings apart."""
    signs = np.frombuffer(_STRINGS.sub(b"", body), np.uint8)
    steps = np.isin(signs, list(b"[{")).astype(np.int8) - np.isin(signs, list(b"]}"))
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))
