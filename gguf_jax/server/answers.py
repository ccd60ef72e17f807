"""What the routes of all interfaces need of a worker: its tokenizer, a stream that has begun, embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np

from gguf_jax.generation import Piece
from gguf_jax.server.worker import NotReady, Worker


def tokenizer_of(worker: Worker) -> Any:
    if worker.status != "ready":
        raise NotReady(worker.reason())
    return worker.model.tokenizer


async def following(first: Piece, rest: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    """`first` and the others. Whoever leaves off closes `rest`, which cancels what is left."""
    try:
        yield first
        if first.finish is None:
            async for piece in rest:
                yield piece
    finally:
        await rest.aclose()


async def embedded(worker: Worker, texts: list[str]) -> np.ndarray:
    from gguf_jax.embeddings import embed

    tokenizer_of(worker)
    return np.asarray(await asyncio.to_thread(embed, worker.model, texts))
