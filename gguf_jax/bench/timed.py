"""How long a call takes as part of a program, and what random weights it is given.

A weight is multiplied once a token and evicts itself from the caches before its turn comes again. So a program runs the
op on copies of the weight that together exceed the caches, one after the other: each call's x depends on the call
before, else XLA would run them at the same time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax import ops
from gguf_jax.bench.limits import Limits, measure
from gguf_jax.bench.random_weights import random_blocks
from gguf_jax.errors import Unsupported
from gguf_jax.formats import FORMATS
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.quantized_array import FLOATS, QuantizedArray, Weight

COLD_BYTES = 1 << 28
"""Of all copies together, where that are not more than `MOST_COPIES`."""

MOST_COPIES = 32
LOOKUPS = 16
"""In one program, since a single one takes less time than calling it."""

TINY = 1e-30
"""What a result counts for in the next call's x: enough for XLA to wait, nothing in float32."""


def blocks_of(type: GGMLType, *lead: int, columns: int) -> np.ndarray:
    """Random bytes of a weight `[*lead, columns]`, uint8 `[*lead, row_bytes]`."""
    form = FORMATS[type]
    made = random_blocks(form, math.prod(lead) * (columns // form.block_size), np.random.default_rng(0))
    return made.reshape(*lead, form.row_bytes(columns))


def weight_of(blocks: np.ndarray, type: GGMLType, implementation: str) -> Weight:
    """As loading would hand it to this implementation."""
    if type in FLOATS:
        return jnp.asarray(blocks.view(FLOATS[type]))
    # the definition alone does without a layout of its own
    made = QuantizedArray.from_blocks(blocks, type) if implementation == "xla" else ops.prepare_blocks(blocks, type)
    return jax.tree.map(jnp.asarray, made)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def seconds_of(
    call: Callable[[jax.Array, Any], jax.Array], x: jax.Array, weight: Any, nbytes: int, budget: float
) -> float | None:
    """Median seconds of `call(x, weight)`; None where the implementation does not take the case."""

    @jax.jit
    def program(x: jax.Array, weights: list[Any]) -> tuple[jax.Array, jax.Array]:
        first, used = (0,) * x.ndim, jnp.float32(0)
        for each in weights:
            y = call(x, each)
            x = x.at[first].add(TINY * y.ravel()[0])
            used = used + _all_of(y)
        return x, used

    try:
        single = _median(program, x, [weight], budget=0)
    except Unsupported:
        return None
    copies = min(MOST_COPIES, math.ceil(COLD_BYTES / nbytes), max(1, math.ceil(budget / single)))
    if copies == 1:
        return _median(program, x, [weight], budget=budget)
    weights = [weight, *(jax.tree.map(jnp.copy, weight) for _ in range(copies - 1))]
    return _median(program, x, weights, budget=budget) / copies


def lookup_seconds(w: Weight, rows: int, implementation: str, budget: float) -> float | None:
    entries = w.shape[0]

    @jax.jit
    def program(ids: jax.Array, w: Weight) -> tuple[jax.Array, jax.Array]:
        used = jnp.float32(0)
        for _ in range(LOOKUPS):
            found = ops.take_rows(w, ids, implementation=implementation)
            ids = (ids * 31 + 17 + (TINY * found[0, 0]).astype(jnp.int32)) % entries
            used = used + _all_of(found)
        return ids, used

    ids = jnp.asarray(np.random.default_rng(0).integers(entries, size=rows), jnp.int32)
    try:
        return _median(program, ids, w, budget=budget) / LOOKUPS
    except Unsupported:
        return None


def _all_of(y: jax.Array) -> jax.Array:
    """Sums over all axes but the last. What nobody uses XLA would not compute."""
    return y.reshape(-1, y.shape[-1]).sum(axis=0)


def _median(program: Callable[..., Any], *args: Any, budget: float) -> float:
    """Of calls for `budget` seconds, at least one, after one that compiles."""
    jax.block_until_ready(program(*args))
    times, end = [], time.perf_counter() + budget
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(program(*args))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


_measured: tuple[float, Limits] | None = None


def limits_now() -> Limits:
    """The machine's limits, measured again where that was more than ten seconds ago."""
    global _measured
    if _measured is None or time.monotonic() - _measured[0] > 10:
        limits = measure()
        _measured = time.monotonic(), limits
    return _measured[1]
