"""Routes that tell of the server, its model and tokenizer."""

from __future__ import annotations

import importlib.metadata
import math
import time
from typing import Any

import jax
from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse, PlainTextResponse
from flax import nnx
from starlette.exceptions import HTTPException

from gguf_jax.formats import FileType
from gguf_jax.generation import SamplingParams, Scheduler, SlotState
from gguf_jax.quantized_array import QuantizedArray
from gguf_jax.server import asked
from gguf_jax.server.answers import tokenizer_of
from gguf_jax.server.figures import Rate
from gguf_jax.server.metrics import exposition
from gguf_jax.server.problems import busy
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import NotReady, Worker


def add(app: FastAPI, worker: Worker, settings: Settings) -> None:
    described: dict[str, Any] = {}  # what does not change while a model is served
    rates: list[Rate] = []

    def scheduler() -> Scheduler:
        if worker.scheduler is None:
            raise NotReady(worker.reason())
        return worker.scheduler

    @app.get("/health")
    @app.get("/v1/health", include_in_schema=False)
    @app.head("/health", include_in_schema=False)
    async def health() -> JSONResponse:
        if worker.status == "ready":
            return JSONResponse({"status": "ok", "progress": 1.0})
        if worker.status == "loading":
            return JSONResponse({"status": "loading model", "progress": worker.progress}, 503)
        return JSONResponse({"status": "error", "progress": worker.progress, "error": worker.reason()}, 503)

    def model_entry() -> dict[str, Any]:
        return {"id": settings.name, "object": "model", "created": 0, "owned_by": "gguf_jax"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_entry()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != settings.name:
            raise HTTPException(404, f"model: expected {settings.name!r}, found {name[:80]!r}")
        return model_entry()

    @app.get("/props")
    async def props() -> dict[str, Any]:
        found = scheduler()
        if not described:
            described.update(properties(worker.model, found, settings))
        return described

    @app.get("/slots")
    async def slots(fail_on_no_slot: bool = Query(default=False)) -> Any:
        found = scheduler()
        if fail_on_no_slot and not found.free:
            return busy("slots: expected a free one, found none", 1)
        states = found.slots
        rates.extend(Rate() for _ in range(len(states) - len(rates)))
        now = time.perf_counter()
        return [
            slot(index, state, found.ctx_size) | {"tokens_per_second": round(rate.of(state.drawn, now), 2)}
            for index, (state, rate) in enumerate(zip(states, rates, strict=True))
        ]

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(exposition(worker), media_type="text/plain; version=0.0.4")

    @app.post("/tokenize")
    async def tokenize(body: asked.Content) -> dict[str, Any]:
        options = dict(add_special=body.add_special, parse_special=body.parse_special)
        return {"tokens": tokenizer_of(worker).encode(body.content, **options)}

    @app.post("/detokenize")
    async def detokenize(body: asked.Tokens) -> dict[str, Any]:
        return {"content": tokenizer_of(worker).decode(body.tokens)}


def slot(index: int, state: SlotState, ctx_size: int) -> dict[str, Any]:
    """A slot in numbers; nothing of what its request says or is answered."""
    doing = "idle" if not state.processing else "answer" if state.drawn else "prompt"
    return {
        "id": index,
        "n_ctx": ctx_size,
        "is_processing": state.processing,
        "state": doing,
        "n_prompt_tokens": state.prompt,
        "n_prompt_tokens_processed": max(0, state.done - state.reused),
        "n_prompt_tokens_cache": state.reused,
        "n_decoded": state.drawn,
        "n_held": state.held,
    }


def properties(model: Any, scheduler: Scheduler, settings: Settings) -> dict[str, Any]:
    """What is served, as llama-server's names say it, and then what it does not say."""
    tokenizer, metadata = model.tokenizer, model.metadata or {}
    params = SamplingParams()
    names = (name for name in SamplingParams.__dataclass_fields__ if name not in ("seed", "logit_bias"))
    leaves = jax.tree.leaves(nnx.state(model), is_leaf=lambda leaf: isinstance(leaf, QuantizedArray))
    keys, values = (each.name.lower() for each in scheduler.cache_type)
    return {
        "default_generation_settings": {
            "n_ctx": scheduler.ctx_size,
            "params": {name: getattr(params, name) for name in names} | {"seed": -1, "n_predict": -1},
        },
        "total_slots": len(scheduler.slots),
        "model_alias": settings.name,
        "model_path": settings.path,
        "model_ftype": _file_type(metadata),
        "modalities": {"vision": False, "audio": False},
        "chat_template": _sendable(tokenizer.chat_template or ""),
        "bos_token": _token(tokenizer, tokenizer.bos_id),
        "eos_token": _token(tokenizer, tokenizer.eos_id),
        "build_info": f"gguf_jax {importlib.metadata.version('gguf_jax')} (jax {jax.__version__})",
        "architecture": _sendable(str(metadata.get("general.architecture", "unknown"))),
        "n_params": sum(math.prod(leaf.shape) for leaf in leaves),
        "n_vocab": scheduler.config.vocab_size,
        "n_ctx": scheduler.ctx_size,
        "n_ctx_train": scheduler.config.context_length,
        "n_embd": scheduler.config.embedding_length,
        "cache_type_k": keys,
        "cache_type_v": values,
        "backend": jax.default_backend(),
    }


def _file_type(metadata: Any) -> str:
    try:
        return FileType(metadata["general.file_type"]).name.removeprefix("ALL_")
    except (KeyError, ValueError):
        return "unknown"


def _token(tokenizer: Any, id: int | None) -> str:
    return "" if id is None else tokenizer.token_bytes(id).decode("utf-8", "replace")


def _sendable(text: str) -> str:
    """Without the halves of surrogate pairs that stand for bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()
