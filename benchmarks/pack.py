"""How fast weights are packed into panels and taken out again, for every quantized type, on all threads.

    python benchmarks/pack.py [--megaweights 64] [--columns 4096] [--repeats 5] [--types Q4_K,Q6_K]

Millions of weights a second, the best of the repeats. The result's memory is new in every repeat, as it is when a model
is loaded, so that the kernel's clearing of its pages counts. GGUF_JAX_THREADS sets the number of threads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.ops.native import library, panels


def best(repeats: int, call: Callable[[], object]) -> float:
    """Seconds of the fastest call."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megaweights", type=int, default=64)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--types", default=",".join(f.name for f in FORMATS.values() if f.is_quantized))
    options = parser.parse_args()

    rows = max(16, options.megaweights * 10**6 // options.columns // 16 * 16)
    rng = np.random.default_rng(0)
    print(f"{rows} rows of {options.columns}, {library().gguf_jax_threads()} threads, M weights/s")
    print(f"{'':8} {'pack':>8} {'unpack':>8}    GB/s read by pack")
    for name in options.types.split(","):
        type = GGMLType[name]
        blocks = rng.integers(0, 256, (rows, FORMATS[type].row_bytes(options.columns)), dtype=np.uint8)
        packed = panels.pack(blocks, type)
        n = rows * options.columns
        pack = best(options.repeats, partial(panels.pack, blocks, type))
        unpack = best(options.repeats, partial(panels.unpack, packed, type, rows, options.columns))
        print(f"{name:8} {n / pack / 1e6:8.0f} {n / unpack / 1e6:8.0f} {blocks.nbytes / pack / 1e9:8.2f}")


if __name__ == "__main__":
    main()
