"""The routes of OpenAI's interface."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import Piece, token_ids
from gguf_jax.server import asked
from gguf_jax.server.answers import embedded, following, tokenizer_of
from gguf_jax.server.scores import ChatScores, Scores, TextScores
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import Worker

DEFAULTS = dict(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)
"""What OpenAI's clients expect where they say nothing."""


def add(app: FastAPI, worker: Worker, settings: Settings) -> None:
    @app.post("/v1/completions")
    async def completions(body: asked.TextCompletion) -> Any:
        ids = token_ids(tokenizer_of(worker), body.prompt)
        form = TextScores(tokenizer_of(worker)) if body.logprobs is not None else None
        return await _answered(worker, settings, body, ids, body.max_tokens, body.logprobs, form, chat=False)

    @app.post("/v1/chat/completions")
    async def chat(body: asked.ChatCompletion) -> Any:
        tokenizer = tokenizer_of(worker)
        prompt = tokenizer.apply_chat_template([each.plain() for each in body.messages], tools=body.tools)
        bos = tokenizer.bos_id
        written = bos is not None and prompt.startswith(tokenizer.token_text(bos))
        ids = tokenizer.encode(prompt, add_special=not written, parse_special=True)
        limit = body.max_completion_tokens or body.max_tokens
        if body.top_logprobs is not None and not body.logprobs:
            raise GGUFJaxError("top_logprobs: expected logprobs to be true with it, found false")
        form = ChatScores(tokenizer) if body.logprobs else None
        top = body.top_logprobs or 0 if body.logprobs else None
        return await _answered(worker, settings, body, ids, limit, top, form, chat=True)

    @app.post("/v1/embeddings")
    async def embeddings(body: asked.Embeddings) -> dict[str, Any]:
        texts = [body.input] if isinstance(body.input, str) else body.input
        found = await embedded(worker, texts)
        count = sum(len(tokenizer_of(worker).encode(text)) for text in texts)

        def written(row: np.ndarray) -> Any:
            if body.encoding_format == "float":
                return row.tolist()
            return base64.b64encode(row.astype("<f4").tobytes()).decode()

        data = [{"object": "embedding", "index": i, "embedding": written(row)} for i, row in enumerate(found)]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "model": settings.name, "usage": usage}


async def _answered(
    worker: Worker,
    settings: Settings,
    body: asked.OpenAISampling,
    ids: list[int],
    limit: int | None,
    top: int | None,
    scores: Scores | None,
    *,
    chat: bool,
) -> Any:
    """One or several answers to a prompt, at once or as server-sent events."""
    bias = {_token(name): value for name, value in (body.logit_bias or {}).items()}
    defaults = DEFAULTS | (dict(seed=body.seed) if body.seed is not None else {})
    params = [body.params(defaults, bias) for _ in range(body.n)]
    if body.seed is not None:  # several answers with one seed would be the same
        params = [replace(each, seed=(each.seed or 0) + i) for i, each in enumerate(params)]
    streams = [worker.pieces(ids, each, max_tokens=limit, stop=body.stops(), top=top) for each in params]
    try:  # what is wrong with the request is an error, and not half a stream
        firsts = await asyncio.gather(*(anext(stream) for stream in streams))
    except BaseException:
        for stream in streams:
            await stream.aclose()
        raise
    head = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
        "object": ("chat.completion" if chat else "text_completion") + (".chunk" if chat and body.stream else ""),
        "created": int(time.time()),
        "model": settings.name,
    }
    pieces = [following(first, stream) for first, stream in zip(firsts, streams, strict=True)]
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(_events(pieces, head, len(ids), chat, usage, scores), media_type="text/event-stream")
    choices, count = [], 0
    for index, each in enumerate(pieces):
        text, finish, found = "", None, []
        async for piece in each:
            text, finish, count = text + piece.text, piece.finish, count + (piece.token is not None)
            found.append(piece)
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        written = scores.of(found) if scores else None
        choices.append({"index": index, "finish_reason": finish, "logprobs": written} | content)
    return head | {"choices": choices, "usage": _usage(len(ids), count)}


def _token(name: str) -> int:
    if not name.isdecimal():
        raise GGUFJaxError(f"logit_bias: expected token ids, found {name!r}")
    return int(name)


def _usage(prompt: int, answered: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}


async def _events(
    streams: list[AsyncGenerator[Piece]],
    head: dict[str, Any],
    prompt: int,
    chat: bool,
    usage: bool,
    scores: Scores | None,
) -> AsyncGenerator[str]:
    """Server-sent events of several answers, one after the other as they come."""
    queue: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()

    async def forward(index: int, stream: AsyncGenerator[Piece]) -> None:
        async for piece in stream:
            await queue.put((index, piece))
        await queue.put((index, None))

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps(head | {'choices': choices} | more)}\n\n"

    tasks = [asyncio.create_task(forward(i, stream)) for i, stream in enumerate(streams)]
    left, count = len(tasks), 0
    try:
        if chat:
            for index in range(len(streams)):
                start = {"role": "assistant", "content": ""}
                yield event([{"index": index, "delta": start, "finish_reason": None}])
        while left:
            index, piece = await queue.get()
            if piece is None:
                left -= 1
                continue
            count += piece.token is not None
            content = {"delta": {"content": piece.text} if piece.text else {}} if chat else {"text": piece.text}
            content |= {"logprobs": scores.of([piece])} if scores else {}
            yield event([{"index": index, "finish_reason": piece.finish} | content])
        if usage:
            yield event([], usage=_usage(prompt, count))
        yield "data: [DONE]\n\n"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
