"""`python -m gguf_jax.server`: started as Ollama's runner is, with its flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gguf_jax.errors import GGUFJaxError
from gguf_jax.nn.kv_cache import CACHE_TYPES
from gguf_jax.server.run import Started, run

WITHOUT_EFFECT = {
    "threads": "the kernels use the cores that the process may use (taskset, or a container's limit, says which)",
    "flash-attn": "attention never holds all scores here",
    "no-mmap": "weights are copied while they are loaded: nothing is mapped afterwards",
    "mlock": "weights are ordinary memory here",
    "n-gpu-layers": "all layers are on JAX's default device (JAX_PLATFORMS says which)",
    "main-gpu": "JAX's default device is used (CUDA_VISIBLE_DEVICES says which)",
    "tensor-split": "the model is on one device",
}
"""Flags of the runner that change nothing, and why."""


def parser() -> argparse.ArgumentParser:
    """The runner's flags, one dash or two."""
    found = argparse.ArgumentParser(prog="python -m gguf_jax.server", description=__doc__, allow_abbrev=False)

    def add(name: str, **options: object) -> None:
        found.add_argument(f"-{name}", f"--{name}", **options)  # pyright: ignore[reportArgumentType]

    add("model", help="GGUF file; without it the bundled model")
    add("host", default="127.0.0.1", help="address to listen at")
    add("port", type=int, default=8080, help="port to listen at; 0: one that is free")
    add("ctx-size", type=int, default=None, help="tokens of prompt and answer")
    add("batch-size", type=int, default=512, help="longest chunk of a prompt that is run at once")
    add("parallel", type=int, default=1, help="requests answered at once")
    add("kv-cache-type", default="f16", choices=list(CACHE_TYPES), help="type of cached keys and values")
    add("lora", action="append", default=[], metavar="FILE", help="LoRA adapter; several may be given")
    add("multiuser-cache", action="store_true", help="a prompt goes to the slot that holds most of it (always so here)")
    add("mmproj", help="refused: there are no models with vision yet")
    add("verbose", action="store_true", help="log every request")
    for name, why in WITHOUT_EFFECT.items():
        flag = name in ("flash-attn", "no-mmap", "mlock")
        add(name, help=f"without effect: {why}", **({"action": "store_true"} if flag else {"default": None}))
    return found


def started(arguments: Sequence[str]) -> tuple[Started, list[str]]:
    """What the flags ask for, and a line for each that has no effect.

    Raises:
        GGUFJaxError: what they ask for cannot be.
    """
    given = vars(parser().parse_args(arguments))
    if given["mmproj"] is not None:
        raise GGUFJaxError("-mmproj: expected no projector, as models with vision cannot be run yet")
    if not 0 <= given["port"] <= 65535:
        raise GGUFJaxError(f"-port: expected from 0 to 65535, found {given['port']}")
    if not 1 <= given["parallel"] <= 256:
        raise GGUFJaxError(f"-parallel: expected from 1 to 256, found {given['parallel']}")
    notes = [f"-{name}: {why}" for name, why in WITHOUT_EFFECT.items() if given[name.replace("-", "_")]]
    what = Started(
        model=given["model"],
        host=given["host"],
        port=given["port"],
        ctx_size=given["ctx_size"],
        batch_size=given["batch_size"],
        parallel=given["parallel"],
        cache_type=given["kv_cache_type"],
        adapters=[(path, 1.0) for path in given["lora"]],
        verbose=given["verbose"],
    )
    return what, notes


def main() -> int:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        what, notes = started(sys.argv[1:])
        for note in notes:
            say(f"note: {note}")
        run(what, say)
    except GGUFJaxError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
