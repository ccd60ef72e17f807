"""`run`: a model's file -> a server that listens, for the command line's and the runner's way to start one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from gguf_jax import gguf
from gguf_jax.api import load
from gguf_jax.bundled import bundled_model
from gguf_jax.generation import Scheduler
from gguf_jax.nn.kv_cache import CacheType
from gguf_jax.server.app import make_app
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import Worker


@dataclass(frozen=True)
class Started:
    """What is served and how; see `Setting` and `Scheduler` for the fields that they have too.

    Attributes:
        model: a file; None: the bundled one.
        adapters: files of LoRA adapters with their scales.
    """

    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    ctx_size: int | None = None
    batch_size: int = 512
    parallel: int = 4
    max_queue: int = 256
    cache_type: CacheType | tuple[CacheType, CacheType] = "f16"
    adapters: Sequence[tuple[str, float]] = ()
    reuse: bool = True
    name: str | None = None
    api_key: str | None = None
    origins: Sequence[str] = ()
    verbose: bool = False


def worker_of(started: Started) -> Worker:
    """The worker that will load the model. A file that is none is an error at once; raises as `gguf.read`."""
    path = bundled_model() if started.model is None else started.model
    with gguf.read(path):
        pass

    def loaded(told: Callable[[float], None]) -> tuple[Any, Scheduler]:
        with gguf.read(path) as file:
            total, done = max(1, sum(view.nbytes for view in file.tensors.values())), 0

            def on_tensor(_: str, nbytes: int) -> None:
                nonlocal done
                done += nbytes
                told(done / total)

            model = load(file, adapters=started.adapters, on_tensor=on_tensor)
        model.tokenizer.eog_ids  # noqa: B018 - a model without a tokenizer fails now
        settings: dict[str, Any] = dict(
            ctx_size=started.ctx_size, batch_size=started.batch_size, cache_type=started.cache_type
        )
        slots, queue = started.parallel, started.max_queue
        return model, Scheduler(model, slots=slots, max_queue=queue, reuse=started.reuse, **settings)

    return Worker(loaded)


def run(started: Started, say: Callable[[str], object]) -> None:
    """Serves until a signal; what is being answered is answered first."""
    name = started.name or (Path(started.model).stem if started.model else "prose-23m")
    app = make_app(worker_of(started), Settings(name, started.api_key, tuple(started.origins)))
    say(f"listening at http://{started.host}:{started.port}")
    level = "info" if started.verbose else "warning"
    uvicorn.run(app, host=started.host, port=started.port, log_level=level, timeout_graceful_shutdown=30)
