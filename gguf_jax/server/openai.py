"""The routes of OpenAI's interface."""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import json
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from gguf_jax import chat
from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import Piece, token_ids
from gguf_jax.grammars import Grammar
from gguf_jax.server import asked
from gguf_jax.server.answers import Begun, begun, closed, embedded, tokenizer_of
from gguf_jax.server.choices import ChatChoice, Choice, TextChoice
from gguf_jax.server.grammar import Wanted, compiled, of_openai
from gguf_jax.server.problems import Refusal, described
from gguf_jax.server.scores import ChatScores, TextScores
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import Worker

DEFAULTS = dict(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)
"""What OpenAI's clients expect where they say nothing."""


@dataclass(frozen=True)
class Asked:
    """Answers to be made: to each prompt (token ids) as many as `n`.

    Attributes:
        choices: one for each answer, those to one prompt beside each other.
        limit: longest answer in tokens.
        top: how many of the best tokens are scored; None: none at all.
        grammar: what each of them must look like.
        shown: control tokens that are part of their text.
    """

    prompts: Sequence[list[int]]
    choices: Sequence[Choice]
    limit: int | None
    top: int | None
    grammar: Grammar | None = None
    shown: frozenset[int] = frozenset()


def add(app: FastAPI, worker: Worker, settings: Settings) -> None:
    @app.post("/v1/completions")
    async def completions(body: asked.TextCompletion) -> Any:
        _check_model(body.model, settings)
        tokenizer = tokenizer_of(worker)
        wanted = of_openai(body)
        _check_text(body)
        prompts = [_filled(tokenizer, prompt, body.suffix) for prompt in body.prompts()]
        scores = TextScores(tokenizer) if body.logprobs is not None else None
        leads = [_lead(tokenizer, prompt) if body.echo else "" for prompt in body.prompts() for _ in range(body.n)]
        choices = [TextChoice(i, scores, lead) for i, lead in enumerate(leads)]
        grammar = await compiled(wanted, tokenizer) if wanted else None
        what = Asked(prompts, choices, body.max_tokens, body.logprobs, grammar)
        return await _answered(worker, settings, body, what)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: asked.ChatCompletion) -> Any:
        _check_model(body.model, settings)
        tokenizer = tokenizer_of(worker)
        if body.top_logprobs is not None and not body.logprobs:
            raise GGUFJaxError("top_logprobs: expected logprobs to be true with it, found false")
        conversation, wanted = await asyncio.to_thread(_conversation, tokenizer, body)
        prompt = conversation.prompt
        bos = tokenizer.bos_id
        written = bos is not None and prompt.startswith(tokenizer.token_text(bos))
        ids = tokenizer.encode(prompt, add_special=not written, parse_special=True)
        grammar = await compiled(wanted, tokenizer) if wanted else None
        scores = ChatScores(tokenizer) if body.logprobs else None
        apart = body.reasoning_format != "none"
        choices = [ChatChoice(i, scores, conversation, apart=apart) for i in range(body.n)]
        top = body.top_logprobs or 0 if body.logprobs else None
        limit = body.max_completion_tokens or body.max_tokens
        what = Asked([ids], choices, limit, top, grammar, conversation.shown)
        return await _answered(worker, settings, body, what)

    @app.post("/v1/embeddings")
    async def embeddings(body: asked.Embeddings) -> dict[str, Any]:
        _check_model(body.model, settings)
        tokenizer = tokenizer_of(worker)
        texts = [token_ids(tokenizer, each) if isinstance(each, list) else each for each in body.inputs()]
        found = await embedded(worker, texts)
        if body.dimensions not in (None, found.shape[-1]):
            most = f"expected {found.shape[-1]}, as embeddings are not shortened here"
            raise GGUFJaxError(f"dimensions: {most}, found {body.dimensions}")
        count = sum(len(each) if isinstance(each, list) else len(tokenizer.encode(each)) for each in texts)

        def written(row: np.ndarray) -> Any:
            if body.encoding_format == "float":
                return row.tolist()
            return base64.b64encode(row.astype("<f4").tobytes()).decode()

        data = [{"object": "embedding", "index": i, "embedding": written(row)} for i, row in enumerate(found)]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "model": settings.name, "usage": usage}


# ---- what a request means ----


def _check_model(name: str | None, settings: Settings) -> None:
    """One model is served. A request that names none, or "default", means it."""
    if name not in (None, "", "default", settings.name, settings.path):
        message = f"model: expected {settings.name!r}, found {name!r}, which is not served here"
        raise Refusal(message, status=404, code="model_not_found", param="model")


def _check_text(body: asked.TextCompletion) -> None:
    if body.best_of not in (None, body.n):
        raise GGUFJaxError(f"best_of: expected n ({body.n}), as answers are not ranked here, found {body.best_of}")
    if body.echo and body.logprobs is not None:
        raise GGUFJaxError("echo: expected no logprobs with it, as those of a prompt are not computed")
    if len(body.prompts()) * body.n > asked.MOST_ANSWERS:
        found = f"{len(body.prompts())} prompts with {body.n} each"
        raise GGUFJaxError(f"prompt: expected at most {asked.MOST_ANSWERS} answers to one request, found {found}")


def _filled(tokenizer: Any, prompt: str | list[int], suffix: str | None) -> list[int]:
    """The token ids of a prompt; with a suffix those of the gap between them, as models are trained to fill it."""
    if suffix is None:
        return token_ids(tokenizer, prompt)
    before, after, gap = (tokenizer.fim_ids[role] for role in ("pre", "suf", "mid"))
    if before is None or after is None or gap is None:
        raise GGUFJaxError("suffix: expected a model with tokens for filling in the middle, found one that has none")
    ids = tokenizer.encode(prompt, add_special=False) if isinstance(prompt, str) else token_ids(tokenizer, prompt)
    start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    return [*start, before, *ids, after, *tokenizer.encode(suffix, add_special=False), gap]


def _lead(tokenizer: Any, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special=True)


def _conversation(tokenizer: Any, body: asked.ChatCompletion) -> tuple[chat.Conversation, Wanted | None]:
    """The prompt of a chat, and what the answer must look like: a template's program may take its time."""
    wanted = of_openai(body)
    for name in body.chat_template_kwargs or ():
        if name in chat.RESERVED:
            raise GGUFJaxError(f"chat_template_kwargs: expected other variables than {name!r}, which has its own field")
    found = chat.prepare(
        tokenizer,
        [each.plain() for each in body.messages],
        tools=body.tools,
        tool_choice=body.tool_choice,
        parallel=body.parallel_tool_calls,
        closed=wanted is not None,
        schema=wanted.schema if wanted else None,
        variables=body.chat_template_kwargs,
    )
    if found.form is None:
        return found, wanted
    if wanted is not None and wanted.schema is None and found.choice == "auto":
        raise GGUFJaxError(f"{wanted.where}: expected no grammar beside tools that may be called, found both")
    return found, None if found.grammar is None else Wanted("lark", found.grammar, "tools")


# ---- answers ----


async def _answered(worker: Worker, settings: Settings, body: asked.OpenAISampling, what: Asked) -> Any:
    """Answers at once, or as server-sent events."""
    bias = {_token(name): value for name, value in (body.logit_bias or {}).items()}
    defaults = DEFAULTS | (dict(seed=body.seed) if body.seed is not None else {})
    params = [body.params(defaults, bias) for _ in range(body.n)]
    if body.seed is not None:  # several answers with one seed would be the same
        params = [replace(each, seed=(each.seed or 0) + i) for i, each in enumerate(params)]
    options: dict[str, Any] = dict(max_tokens=what.limit, stop=body.stops(), top=what.top, shown=what.shown)
    streams = await begun(
        [
            worker.batches(prompt, each, **options, constraint=what.grammar.constraint() if what.grammar else None)
            for prompt in what.prompts
            for each in params
        ]
    )
    first = what.choices[0]
    head = {
        "id": f"{first.prefix}-{secrets.token_hex(12)}",
        "object": first.chunk if body.stream else first.kind,
        "created": int(time.time()),
        "model": settings.name,
        "system_fingerprint": FINGERPRINT,
    }
    usage = _Usage(what.prompts, body.n)
    if body.stream:
        told = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(
            _events(streams, what.choices, head, usage, told),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
    try:
        for i, (stream, choice) in enumerate(zip(streams, what.choices, strict=True)):
            async for piece in stream:
                choice.take(piece)
                usage.take(i, piece.token is not None, piece.reused)
    finally:
        await closed(streams)
    return head | {"choices": [choice.whole() for choice in what.choices], "usage": usage.written()}


FINGERPRINT = f"gguf_jax-{importlib.metadata.version('gguf_jax')}"


class _Usage:
    """Counts the tokens of a request. A prompt with several answers counts once."""

    def __init__(self, prompts: Sequence[list[int]], n: int) -> None:
        self._prompt, self._n = sum(map(len, prompts)), n
        self._answered = self._reused = 0

    def take(self, index: int, drawn: bool, reused: int) -> None:
        self._answered += drawn
        if index % self._n == 0:
            self._reused += reused

    def written(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._answered,
            "total_tokens": self._prompt + self._answered,
            "prompt_tokens_details": {"cached_tokens": self._reused},
        }


def _token(name: str) -> int:
    if not name.isdecimal():
        raise GGUFJaxError(f"logit_bias: expected token ids, found {name!r}")
    return int(name)


async def _events(
    streams: Sequence[Begun], choices: Sequence[Choice], head: dict[str, Any], usage: _Usage, told: bool
) -> AsyncGenerator[str]:
    """Server-sent events of several answers, one after the other as they come; of an error, if one fails."""
    start = json.dumps(head)[:-1]  # the same for all
    end = ', "usage": null}\n\n' if told else "}\n\n"  # as OpenAI has it: null until the last

    def event(found: list[dict[str, Any]]) -> str:
        return f'data: {start}, "choices": {json.dumps(found)}{end}'

    merged = _numbered(streams[0]) if len(streams) == 1 else _merged(streams)
    try:
        if opening := "".join(event([found]) for choice in choices for found in choice.begin()):
            yield opening
        try:
            async for index, pieces in merged:
                events = []
                for piece in pieces:
                    usage.take(index, piece.token is not None, piece.reused)
                    events += [event([found]) for found in choices[index].take(piece)]
                yield "".join(events)
        except Exception as error:
            message = str(error) if isinstance(error, GGUFJaxError) else "the server failed to answer"
            yield f"data: {json.dumps(described(message, 'server_error'))}\n\n"
            return
        if told:
            yield f'data: {start}, "choices": [], "usage": {json.dumps(usage.written())}}}\n\n'
        yield "data: [DONE]\n\n"
    finally:
        await merged.aclose()
        await closed(streams)


async def _numbered(stream: Begun) -> AsyncGenerator[tuple[int, list[Piece]]]:
    async for pieces in stream.batches():
        yield 0, pieces


async def _merged(streams: Sequence[Begun]) -> AsyncGenerator[tuple[int, list[Piece]]]:
    """Pieces of several answers with their index, as they come."""
    queue: asyncio.Queue[tuple[int, list[Piece] | Exception | None]] = asyncio.Queue()

    async def forward(index: int, stream: Begun) -> None:
        try:
            async for pieces in stream.batches():
                queue.put_nowait((index, pieces))
            queue.put_nowait((index, None))
        except Exception as error:
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(forward(i, stream)) for i, stream in enumerate(streams)]
    left = len(tasks)
    try:
        while left:
            index, found = await queue.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield index, found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
