"""`BoundedHTTP`: uvicorn's HTTP/1.1, and no client that is slow on purpose keeps a connection.

uvicorn bounds how long a connection may be idle between two requests. Here the others are bounded too: until a
request's head is whole, and while a client does not read what it is sent. (A body's time is bounded in `bodies.read`.)
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedHTTP(H11Protocol):
    head_seconds: ClassVar[float] = 15.0
    """From the first byte of a request, or from a connection's beginning, until its head is whole."""
    unread_seconds: ClassVar[float] = 60.0
    """With bytes on their way to a client that takes none of them."""

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        # told of every byte that the socket does not take, also of those of an answer that is complete
        transport.set_write_buffer_limits(high=0)
        self._head = self._closing_in(self.head_seconds)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waits = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if waits and self._head is None:
            self._head = self._closing_in(self.head_seconds)
        elif not waits:
            self._head = _without(self._head)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self._closing_in(self.unread_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = _without(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head, self._unread = _without(self._head), _without(self._unread)
        super().connection_lost(exc)

    def _closing_in(self, seconds: float) -> asyncio.TimerHandle:
        # not `close`, which would wait until everything is written
        return self.loop.call_later(seconds, self.transport.abort)


def _without(timer: asyncio.TimerHandle | None) -> Any:
    if timer is not None:
        timer.cancel()
    return None
