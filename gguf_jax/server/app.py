"""`make_app`: the routes. What goes wrong is one JSON body of OpenAI's form, with the status that fits."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import Piece, QueueFull, token_ids
from gguf_jax.server import asked
from gguf_jax.server.scores import ChatScores, Scores, TextScores
from gguf_jax.server.worker import NotReady, Worker

MOST_BYTES = 1 << 25
"""Of a request's body."""

OPENAI_DEFAULTS = dict(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)
"""What OpenAI's clients expect where they say nothing."""


@dataclass(frozen=True)
class Settings:
    """How the server is run.

    Attributes:
        name: of the model, in answers.
        api_key: what clients must send as a bearer token; None: nothing.
        origins: sites whose pages may call it.
    """

    name: str
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    stop_seconds: float = field(default=30.0)


def make_app(worker: Worker, settings: Settings) -> FastAPI:
    """The application around a worker, which it starts and stops."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop, settings.stop_seconds)

    app = FastAPI(title="gguf_jax", lifespan=life)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    _errors(app)
    _guards(app, settings)
    _about(app, worker, settings)
    _runner(app, worker)
    _openai(app, worker, settings)
    return app


def problem(status: int, message: str, kind: str = "invalid_request_error", **headers: str) -> JSONResponse:
    """An error in OpenAI's form."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return JSONResponse(body, status, headers=headers or None)


def _of(error: Exception) -> JSONResponse:
    if isinstance(error, QueueFull):
        return problem(503, str(error), "server_error", **{"Retry-After": "1"})
    if isinstance(error, NotReady):
        return problem(503, str(error), "server_error", **{"Retry-After": "2"})
    return problem(400, str(error))


def _errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        found = first.get("input")
        shown = f", found {json.dumps(found, default=str)[:80]}" if isinstance(found, (str, int, float, bool)) else ""
        return problem(422 if first["type"] != "json_invalid" else 400, f"{where}: {first['msg']}{shown}")

    @app.exception_handler(GGUFJaxError)
    async def refused(request: Request, error: GGUFJaxError) -> JSONResponse:
        return _of(error)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail))


def _guards(app: FastAPI, settings: Settings) -> None:
    @app.middleware("http")
    async def guarded(request: Request, call: Any) -> Any:
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MOST_BYTES:
            return problem(413, f"body: expected at most {MOST_BYTES} bytes, found {length[:20]}")
        if "chunked" in request.headers.get("transfer-encoding", ""):
            return problem(411, "body: expected a Content-Length, found a chunked body")
        if settings.api_key is not None and request.url.path != "/health":
            given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not secrets.compare_digest(given, settings.api_key.encode()):
                return problem(401, "authorization: expected the server's API key as a bearer token")
        return await call(request)


def _about(app: FastAPI, worker: Worker, settings: Settings) -> None:
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
        return {"tokens": _tokenizer(worker).encode(body.content, **options)}

    @app.post("/detokenize")
    async def detokenize(body: asked.Tokens) -> dict[str, Any]:
        return {"content": _tokenizer(worker).decode(body.tokens)}


def _tokenizer(worker: Worker) -> Any:
    if worker.status != "ready":
        raise NotReady(worker.reason())
    return worker.model.tokenizer


def _runner(app: FastAPI, worker: Worker) -> None:
    """Of Ollama's runner."""

    @app.post("/completion")
    async def completion(body: asked.Completion) -> Any:
        options = body.options
        ids = token_ids(_tokenizer(worker), body.prompt)
        limit = options.num_predict if options.num_predict > 0 else None
        began = time.perf_counter()
        pieces = worker.pieces(ids, options.params({}), max_tokens=limit, stop=options.stop)
        first = await anext(pieces)

        async def lines() -> AsyncGenerator[str]:
            count, prefill = 0, time.perf_counter() - began
            async for piece in _all(first, pieces):
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
        return {"embedding": (await _embedded(worker, [body.content]))[0].tolist()}


async def _all(first: Piece, rest: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    """`first` and the others. Whoever leaves off closes `rest`, which cancels what is left."""
    try:
        yield first
        if first.finish is None:
            async for piece in rest:
                yield piece
    finally:
        await rest.aclose()


async def _embedded(worker: Worker, texts: list[str]) -> np.ndarray:
    from gguf_jax.embeddings import embed

    _tokenizer(worker)
    return np.asarray(await asyncio.to_thread(embed, worker.model, texts))


def _openai(app: FastAPI, worker: Worker, settings: Settings) -> None:
    @app.post("/v1/completions")
    async def completions(body: asked.TextCompletion) -> Any:
        ids = token_ids(_tokenizer(worker), body.prompt)
        form = TextScores(_tokenizer(worker)) if body.logprobs is not None else None
        return await _answered(worker, settings, body, ids, body.max_tokens, body.logprobs, form, chat=False)

    @app.post("/v1/chat/completions")
    async def chat(body: asked.ChatCompletion) -> Any:
        tokenizer = _tokenizer(worker)
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
        found = await _embedded(worker, texts)
        count = sum(len(_tokenizer(worker).encode(text)) for text in texts)

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
    defaults = OPENAI_DEFAULTS | (dict(seed=body.seed) if body.seed is not None else {})
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
    pieces = [_all(first, stream) for first, stream in zip(firsts, streams, strict=True)]
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
