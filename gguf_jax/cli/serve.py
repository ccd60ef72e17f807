"""`gguf-jax serve`: a model behind HTTP, with the interfaces of Ollama's runner and of OpenAI."""

from __future__ import annotations

from typing import Annotated

import typer

from gguf_jax.cli import options
from gguf_jax.cli.output import say
from gguf_jax.errors import GGUFJaxError


def serve(
    model: options.Model = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0: a free one.")] = 8080,
    ctx_size: options.CtxSize = None,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    parallel: Annotated[int, typer.Option("--parallel", "-np", min=1, max=256, help="Requests answered at once.")] = 4,
    max_queue: Annotated[int, typer.Option("--max-queue", min=0, help="Requests that may wait.")] = 256,
    cache_type_k: options.CacheTypeK = options.CACHE_TYPE,
    cache_type_v: options.CacheTypeV = options.CACHE_TYPE,
    lookup: options.Lookup = False,
    draft_model: options.DraftModel = None,
    draft_max: options.DraftMax = None,
    lora: options.Lora = None,
    lora_scaled: options.LoraScaled = None,
    name: Annotated[str | None, typer.Option("--alias", help="The model's name in answers.")] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="GGUF_JAX_API_KEY", help="What clients must send.")
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option("--cors", help="Site whose pages may call it, or *; repeatable.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Name that clients may call it by; repeatable.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds that an answer may take; 0: any number.")
    ] = 0.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every request.")] = False,
    debug: options.Debug = False,
) -> None:
    """Answer requests over HTTP: the runner's, OpenAI's completions, chats and embeddings."""
    adapters = options.adapters(lora, lora_scaled)
    try:
        from gguf_jax.server.run import Started, run
    except ImportError as error:
        raise GGUFJaxError(f"serve: expected the extra `server` (pip install 'gguf_jax[server]'): {error}") from None
    what = Started(
        model=model,
        host=host,
        port=port,
        ctx_size=ctx_size,
        batch_size=batch_size,
        parallel=parallel,
        max_queue=max_queue,
        cache_type=options.cache_types(cache_type_k, cache_type_v),
        adapters=adapters,
        lookup=lookup,
        draft=draft_model,
        most_drafted=draft_max,
        name=name,
        api_key=api_key,
        origins=cors or (),
        allowed_hosts=allow_host or (),
        timeout=timeout,
        verbose=verbose,
    )
    run(what, say)
