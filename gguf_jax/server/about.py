"""Routes that tell of the server, its model and tokenizer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse

from gguf_jax.server import asked
from gguf_jax.server.answers import tokenizer_of
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import Worker


def add(app: FastAPI, worker: Worker, settings: Settings) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        if worker.status == "ready":
            return JSONResponse({"status": "ok", "progress": 1.0})
        if worker.status == "loading":
            return JSONResponse({"status": "loading model", "progress": worker.progress}, 503)
        return JSONResponse({"status": "error", "progress": worker.progress, "error": worker.reason()}, 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        one = {"id": settings.name, "object": "model", "created": 0, "owned_by": "gguf_jax"}
        return {"object": "list", "data": [one]}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        waiting = worker.scheduler.waiting if worker.scheduler else 0
        figures = {
            "prompt_tokens_total": ("counter", worker.prompted),
            "tokens_predicted_total": ("counter", worker.drawn),
            "requests_answered_total": ("counter", worker.answered),
            "requests_processing": ("gauge", max(0, worker.active - waiting)),
            "requests_deferred": ("gauge", waiting),
        }
        lines = [f"# TYPE gguf_jax:{name} {kind}\ngguf_jax:{name} {value}\n" for name, (kind, value) in figures.items()]
        return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")

    @app.post("/tokenize")
    async def tokenize(body: asked.Content) -> dict[str, Any]:
        options = dict(add_special=body.add_special, parse_special=body.parse_special)
        return {"tokens": tokenizer_of(worker).encode(body.content, **options)}

    @app.post("/detokenize")
    async def detokenize(body: asked.Tokens) -> dict[str, Any]:
        return {"content": tokenizer_of(worker).decode(body.tokens)}
