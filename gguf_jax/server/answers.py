"""What the routes of all interfaces need of a worker: its tokenizer, answers that have begun, embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import numpy as np

from gguf_jax.generation import Piece
from gguf_jax.server.worker import NotReady, Worker


def tokenizer_of(worker: Worker) -> Any:
    if worker.status != "ready":
        raise NotReady(worker.reason())
    return worker.model.tokenizer


class Begun:
    """A stream whose first pieces are there already. Whoever leaves off closes it, which cancels what is left."""

    def __init__(self, first: list[Piece], rest: AsyncGenerator[list[Piece]]) -> None:
        self.first, self._rest = first, rest

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """Pieces, together those that became known together."""
        yield self.first
        if self.first[-1].finish is None:
            async for pieces in self._rest:
                yield pieces

    async def __aiter__(self) -> AsyncIterator[Piece]:
        async for pieces in self.batches():
            for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        await self._rest.aclose()


async def begun(streams: Sequence[AsyncGenerator[list[Piece]]]) -> list[Begun]:
    """Streams that have begun: what is wrong with a request is an error, and not half an answer. If one fails, all
    are closed."""
    tasks = [asyncio.ensure_future(anext(stream)) for stream in streams]
    try:
        firsts = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await closed(streams)
        raise
    return [Begun(first, stream) for first, stream in zip(firsts, streams, strict=True)]


async def closed(streams: Sequence[AsyncGenerator[list[Piece]] | Begun]) -> None:
    """Closes streams, one after the other, whatever becomes of any."""
    async with AsyncExitStack() as stack:
        for stream in streams:
            stack.push_async_callback(stream.aclose)


async def embedded(worker: Worker, texts: Sequence[str | list[int]]) -> np.ndarray:
    from gguf_jax.embeddings import embed

    tokenizer_of(worker)
    return np.asarray(await asyncio.to_thread(embed, worker.model, texts))
