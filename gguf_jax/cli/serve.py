"""`gguf-jax serve`: a model behind HTTP, with the interfaces of Ollama's runner and of OpenAI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say
from gguf_jax.errors import GGUFJaxError


def serve(
    model: options.Model = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen at.")] = 8080,
    ctx_size: options.CtxSize = None,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    parallel: Annotated[int, typer.Option("--parallel", "-np", min=1, max=256, help="Requests answered at once.")] = 4,
    max_queue: Annotated[int, typer.Option("--max-queue", min=0, help="Requests that may wait.")] = 256,
    cache_type_k: options.CacheTypeK = options.CACHE_TYPE,
    cache_type_v: options.CacheTypeV = options.CACHE_TYPE,
    lora: options.Lora = None,
    lora_scaled: options.LoraScaled = None,
    name: Annotated[str | None, typer.Option("--alias", help="The model's name in answers.")] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="GGUF_JAX_API_KEY", help="What clients must send.")
    ] = None,
    cors: Annotated[list[str] | None, typer.Option("--cors", help="Site whose pages may call it; repeatable.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every request.")] = False,
    debug: options.Debug = False,
) -> None:
    """Answer requests over HTTP: the runner's, OpenAI's completions, chats and embeddings."""
    try:
        import uvicorn

        from gguf_jax.server.app import Settings, make_app
        from gguf_jax.server.worker import Worker
    except ImportError as error:
        raise GGUFJaxError(f"serve: expected the extra `server` (pip install 'gguf_jax[server]'): {error}") from None
    adapters = options.adapters(lora, lora_scaled)
    cache_type = options.cache_types(cache_type_k, cache_type_v)

    def load(told: Callable[[float], None]) -> tuple[Any, Any]:
        from gguf_jax.api import load
        from gguf_jax.generation import Scheduler

        with opened(model) as file:
            total, done = max(1, sum(view.nbytes for view in file.tensors.values())), 0

            def on_tensor(_: str, nbytes: int) -> None:
                nonlocal done
                done += nbytes
                told(done / total)

            loaded = load(file, adapters=adapters, on_tensor=on_tensor)
        loaded.tokenizer.eog_ids  # noqa: B018 - a model without a tokenizer fails now
        settings: dict[str, Any] = dict(ctx_size=ctx_size, batch_size=batch_size, cache_type=cache_type)
        return loaded, Scheduler(loaded, slots=parallel, max_queue=max_queue, **settings)

    with opened(model):  # a file that is none is an error before anything listens
        pass
    worker = Worker(load)
    settings = Settings(name or (Path(model).stem if model else "prose-23m"), api_key, tuple(cors or ()))
    say(f"listening at http://{host}:{port}")
    uvicorn.run(
        make_app(worker, settings),
        host=host,
        port=port,
        log_level="info" if verbose else "warning",
        timeout_graceful_shutdown=30,
    )
