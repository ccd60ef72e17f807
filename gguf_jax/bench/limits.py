"""What the machine can do at most, measured beside what is held against it: machines are shared, and a figure from
another moment is another machine's."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.ops.native.library import library

SECONDS = 0.3
"""Of measuring one limit."""

READ_BYTES = 1 << 30
"""More than the caches of a large server processor hold."""

PEAKS = ("f32", "i8", "amx_bf16", "amx_i8")
"""Kinds of arithmetic that the native library measures; a level that lacks one says 0."""


@dataclass(frozen=True)
class Limits:
    """Of all threads together.

    Attributes:
        bandwidth: bytes a second read from memory.
        peaks: operations a second by kind of arithmetic; a multiplication and an addition count as two.
        source: what measured them, "native" kernels or a program of "xla".
    """

    bandwidth: float
    peaks: Mapping[str, float]
    source: str

    def peak(self, precision: str) -> float:
        """The most operations a second that an op may use at `precision`: `exact` computes in float32."""
        return self.peaks["f32"] if precision == "exact" else max(self.peaks.values())

    def least_seconds(self, nbytes: float, operations: float, precision: str) -> float:
        """How long reading so many bytes and doing so many operations takes at least, one overlapping the other."""
        return max(nbytes / self.bandwidth, operations / self.peak(precision))


def measure(seconds: float = SECONDS) -> Limits:
    """The limits of JAX's default device, on the CPU with as many threads as the native kernels use. Bandwidth is
    measured anew each time, since it is what neighbours on a shared machine take."""
    if jax.default_backend() == "cpu":
        try:
            native = library()
        except Unsupported:
            pass
        else:
            size = min(READ_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
            bandwidth = native.gguf_jax_read_bandwidth(size, seconds)
            if bandwidth > 0:
                return Limits(bandwidth, _native_peaks(native.gguf_jax_threads(), seconds), "native")
    return Limits(_xla_bandwidth(seconds), _xla_peaks(seconds), "xla")


def set_threads(n: int) -> None:
    """Run native kernels on `n` threads.

    Raises:
        GGUFJaxError: there are no native kernels here; XLA decides for itself.
    """
    try:
        library().gguf_jax_set_threads(n)
    except Unsupported as refusal:
        raise GGUFJaxError(f"threads: only native kernels run on a chosen number of threads: {refusal}") from None


def threads() -> int:
    """Threads that the CPU's kernels run on."""
    try:
        return library().gguf_jax_threads()
    except Unsupported:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _native_peaks(threads: int, seconds: float) -> Mapping[str, float]:
    peaks = {kind: library().gguf_jax_peak(kind.encode(), seconds / 2) for kind in PEAKS}
    return {kind: peak for kind, peak in peaks.items() if peak > 0}


def _xla_bandwidth(seconds: float) -> float:
    """Of a sum of products, which reads a matrix once, on the CPU; of a copy, which reads and writes, elsewhere."""
    if jax.default_backend() == "cpu":
        weights = jnp.ones((4096, 16384), jnp.float32)  # 256 MiB
        x = jnp.ones(16384, jnp.float32)
        return weights.nbytes / _best(jax.jit(jnp.dot), weights, x, seconds=seconds)
    array = jnp.ones(1 << 28, jnp.float32)
    return 2 * array.nbytes / _best(jax.jit(jnp.negative), array, seconds=seconds)


@functools.cache
def _xla_peaks(seconds: float) -> Mapping[str, float]:
    n = 2048 if jax.default_backend() == "cpu" else 8192
    kinds = {"f32": jnp.float32, "bf16": jnp.bfloat16}
    squares = {kind: jnp.ones((n, n), dtype) for kind, dtype in kinds.items()}
    return {kind: 2 * n**3 / _best(jax.jit(jnp.dot), a, a, seconds=seconds) for kind, a in squares.items()}


def _best(program: Callable[..., jax.Array], *args: jax.Array, seconds: float) -> float:
    """Least seconds of a call, after one that compiles."""
    program(*args).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        program(*args).block_until_ready()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best
