"""The routes of Ollama's runner."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from gguf_jax.generation import token_ids
from gguf_jax.server import asked
from gguf_jax.server.answers import embedded, following, tokenizer_of
from gguf_jax.server.worker import Worker


def add(app: FastAPI, worker: Worker) -> None:
    @app.post("/completion")
    async def completion(body: asked.Completion) -> Any:
        options = body.options
        ids = token_ids(tokenizer_of(worker), body.prompt)
        limit = options.num_predict if options.num_predict > 0 else None
        began = time.perf_counter()
        pieces = worker.pieces(ids, options.params({}), max_tokens=limit, stop=options.stop)
        first = await anext(pieces)

        async def lines() -> AsyncGenerator[str]:
            count, prefill = 0, time.perf_counter() - began
            async for piece in following(first, pieces):
                count += piece.token is not None
                found: dict[str, Any] = {"content": piece.text, "done": piece.finish is not None}
                if piece.finish is not None:
                    spent = time.perf_counter() - began
                    found |= {
                        "done_reason": piece.finish,
                        "prompt_eval_count": len(ids),
                        "prompt_eval_duration": round(prefill * 1e9),
                        "eval_count": count,
                        "eval_duration": round((spent - prefill) * 1e9),
                    }
                yield json.dumps(found) + "\n"

        if body.stream:
            return StreamingResponse(lines(), media_type="application/x-ndjson")
        parts = [json.loads(line) async for line in lines()]
        return parts[-1] | {"content": "".join(part["content"] for part in parts)}

    @app.post("/embedding")
    async def embedding(body: asked.RunnerEmbedding) -> dict[str, Any]:
        return {"embedding": (await embedded(worker, [body.content]))[0].tolist()}
