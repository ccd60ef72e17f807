"""The routes of Ollama's runner, as its Go sources declare them (llm/server.go: CompletionRequest and -Response).

A line of /completion has all fields, zero until the last; `done_reason` is a number there, as Go writes its constants;
durations are nanoseconds. The last line has no text.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import Piece, token_ids
from gguf_jax.server import asked
from gguf_jax.server.answers import Begun, begun, closed, embedded, tokenizer_of
from gguf_jax.server.grammar import compiled, of_runner
from gguf_jax.server.worker import Worker

DONE_REASONS = {"stop": 0, "length": 1}


def add(app: FastAPI, worker: Worker) -> None:
    @app.post("/completion")
    async def completion(body: asked.Completion) -> Any:
        options = body.options or asked.Options()
        tokenizer = tokenizer_of(worker)
        ids = token_ids(tokenizer, body.prompt)
        if body.truncate and worker.scheduler is not None:
            ids = _truncated(ids, worker.scheduler.ctx_size - 1, options.num_keep)
        wanted = of_runner(body)
        grammar = await compiled(wanted, tokenizer) if wanted else None
        began = time.perf_counter()
        stream = worker.batches(
            ids,
            options.params({}),
            max_tokens=options.num_predict if options.num_predict > 0 else None,
            stop=options.stop,
            top=body.top_logprobs if body.logprobs else None,
            constraint=grammar.constraint() if grammar else None,
        )
        [pieces] = await begun([stream])
        lines = _lines(pieces, tokenizer, len(ids), began)
        if body.stream:
            return StreamingResponse(_written(lines), media_type="application/x-ndjson")
        parts = [line async for line in lines]
        scores = [score for part in parts for score in part.get("logprobs", ())]
        text = "".join(part["content"] for part in parts)
        return parts[-1] | {"content": text} | ({"logprobs": scores} if scores else {})

    @app.post("/embedding")
    async def embedding(body: asked.RunnerEmbedding) -> dict[str, Any]:
        text = body.content if body.content is not None else body.prompt
        if text is None:
            raise GGUFJaxError("content: expected a text, found none")
        count = len(tokenizer_of(worker).encode(text))
        return {"embedding": (await embedded(worker, [text]))[0].tolist(), "prompt_eval_count": count}


def _truncated(ids: list[int], room: int, keep: int) -> list[int]:
    """A prompt without as much of its middle as there is no room for; its first `keep` tokens stay (-1: all)."""
    if len(ids) <= room:
        return ids
    kept = min(len(ids) if keep < 0 else keep, room - 1)
    return ids[:kept] + ids[len(ids) - (room - kept) :]


async def _lines(pieces: Begun, tokenizer: Any, prompt: int, began: float) -> AsyncGenerator[dict[str, Any]]:
    empty: dict[str, Any] = {
        "content": "",
        "done_reason": 0,
        "done": False,
        "prompt_eval_count": 0,
        "prompt_eval_duration": 0,
        "eval_count": 0,
        "eval_duration": 0,
    }
    count, prefill = 0, time.perf_counter() - began
    reason = 0
    try:
        async for piece in pieces:
            count += piece.token is not None
            scores = _scores(tokenizer, piece)
            if piece.text or scores:
                yield empty | {"content": piece.text} | ({"logprobs": scores} if scores else {})
            reason = DONE_REASONS.get(piece.finish or "", 0)
    finally:
        await closed([pieces])
    yield empty | {
        "done": True,
        "done_reason": reason,
        "prompt_eval_count": prompt,
        "prompt_eval_duration": round(prefill * 1e9),
        "eval_count": count,
        "eval_duration": round((time.perf_counter() - began - prefill) * 1e9),
    }


async def _written(lines: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[str]:
    try:
        async for line in lines:
            yield json.dumps(line) + "\n"
    except GGUFJaxError as error:  # the head has been sent: a line says what happened
        yield json.dumps({"error": str(error)}) + "\n"
    finally:
        await lines.aclose()


def _scores(tokenizer: Any, piece: Piece) -> list[dict[str, Any]]:
    if piece.log_probs is None or piece.token is None:
        return []

    def entry(token: int, value: float) -> dict[str, Any]:
        return {"token": tokenizer.token_bytes(token).decode("utf-8", "replace"), "logprob": value}

    value, best = piece.log_probs
    top = {"top_logprobs": [entry(*each) for each in best]} if best else {}
    return [entry(piece.token, value) | top]
