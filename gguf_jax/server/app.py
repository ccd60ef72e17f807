"""`make_app`: the routes, each group in a module of its own, around one worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from gguf_jax.server import about, openai, problems, runner, static
from gguf_jax.server.guards import Guards
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import Worker


def make_app(worker: Worker, settings: Settings) -> FastAPI:
    """The application around a worker, which it starts and stops."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop, settings.stop_seconds)

    app = FastAPI(title="gguf_jax", lifespan=life)
    app.add_middleware(Guards, settings=settings)
    if settings.origins:  # around the guards: a browser asks what it may send without sending a key
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    problems.add(app)
    static.add(app)
    about.add(app, worker, settings)
    runner.add(app, worker)
    openai.add(app, worker, settings)
    return app
