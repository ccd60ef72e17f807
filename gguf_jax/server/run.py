"""`run`: a model's file -> a server that listens, for the command line's and the runner's way to start one."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from gguf_jax import gguf
from gguf_jax.api import load, speculation
from gguf_jax.bundled import bundled_model
from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import Scheduler
from gguf_jax.nn.kv_cache import CacheType
from gguf_jax.server.app import make_app
from gguf_jax.server.protocol import BoundedHTTP
from gguf_jax.server.settings import Settings
from gguf_jax.server.worker import Worker

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Started:
    """What is served and how; see `Setting` and `Scheduler` for the fields that they have too.

    Attributes:
        model: a file; None: the bundled one.
        port: 0: one that is free.
        adapters: files of LoRA adapters with their scales.
        lookup, draft, most_drafted: how to guess what follows, see `api.speculation`.
        timeout: seconds that an answer may take; 0: any number.
        allowed_hosts: names that clients may call it by, beside `host` and this machine's own.
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
    lookup: bool = False
    draft: str | None = None
    most_drafted: int | None = None
    reuse: bool = True
    name: str | None = None
    api_key: str | None = None
    origins: Sequence[str] = ()
    allowed_hosts: Sequence[str] = ()
    timeout: float = 0.0
    verbose: bool = False

    @property
    def path(self) -> Path:
        return bundled_model() if self.model is None else Path(self.model)

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names that it may be called by. Whoever listens beyond this machine and says nothing has unknown ones."""
        if not self.allowed_hosts and not is_loopback(self.host):
            return None
        return LOOPBACK | {name.lower() for name in (self.host, *self.allowed_hosts)}


def is_loopback(host: str) -> bool:
    """Whether only this machine can get at an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def worker_of(started: Started) -> Worker:
    """The worker that will load the model. A file that is none is an error at once; raises as `gguf.read`."""
    for path in (started.path, *([] if started.draft is None else [started.draft])):
        with gguf.read(path):
            pass

    def loaded(told: Callable[[float], None]) -> tuple[Any, Scheduler]:
        with gguf.read(started.path) as file:
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
        settings |= dict(slots=started.parallel, max_queue=started.max_queue, reuse=started.reuse)
        guessing = speculation(started.draft, lookup=started.lookup, most=started.most_drafted)
        return model, Scheduler(model, speculation=guessing, **settings)

    return Worker(loaded, started.timeout or None)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens, so that whoever is told so can connect.

    Raises:
        GGUFJaxError: the address is none, or is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise GGUFJaxError(f"host: expected an address to listen at, found {host!r}: {error}") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(2048)
    except OSError as error:
        found.close()
        raise GGUFJaxError(f"port: expected one to listen at, found {host}:{port}: {error.strerror}") from None
    return found


class Server(uvicorn.Server):
    """uvicorn's, which at a first signal still listens, so that new requests are refused in words, until what is being
    answered has been; at a second it ends at once."""

    def __init__(self, config: uvicorn.Config, worker: Worker, seconds: float) -> None:
        super().__init__(config)
        self._worker, self._seconds = worker, seconds
        self._until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._until is None:
            self._until = time.monotonic() + self._seconds
            self._worker.refuse()
        elif not self.should_exit:
            self._until = 0.0
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._until is not None:
            late = time.monotonic() > self._until
            if late:
                self._worker.give_up()
            self.should_exit |= late or not self._worker.active
        return await super().on_tick(counter)


def run(started: Started, say: Callable[[str], object]) -> None:
    """Serves until a signal; what is being answered is answered first.

    Raises:
        GGUFJaxError: the file is no model, or the address cannot be had.
    """
    worker = worker_of(started)
    listener = listening(started.host, started.port)
    host = f"[{started.host}]" if ":" in started.host else started.host
    settings = Settings(
        name=started.name or (Path(started.model).stem if started.model else "prose-23m"),
        path=started.path.name,
        api_key=started.api_key,
        origins=tuple(started.origins),
        hosts=started.hosts,
    )
    config = uvicorn.Config(
        make_app(worker, settings),
        http=BoundedHTTP,
        ws="none",
        log_level="info" if started.verbose else "warning",
        timeout_graceful_shutdown=5,  # once everything is answered, for what is still on its way
        server_header=False,
    )
    if started.api_key is None and not is_loopback(started.host):
        say(f"warning: whoever reaches {host} may use this server: expected --api-key, found none")
    say(f"listening at http://{host}:{listener.getsockname()[1]}")
    Server(config, worker, settings.stop_seconds).run(sockets=[listener])
