"""What attention costs over caches of several types, by every implementation: a token at a depth, and a prompt.

The layers of a model are run in one program, each with a cache of its own, so that a cache comes from memory as it
does when a model runs. Beside the rates stand what the machine reads from memory and multiplies at best, measured in
the same run.

python benchmarks/attention.py [--layers 28] [--heads 12] [--groups 2] [--depth 128] [--seconds 1]
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.nn import kv_cache
from gguf_jax.nn.kv_cache import CACHE_TYPES
from gguf_jax.ops.attention.api import IMPLEMENTATIONS, attention, attention_spans
from gguf_jax.ops.native import available, library
from gguf_jax.quantized_array import Weight

DECODE_DEPTHS = (512, 4096)
PROMPT = 512


def filled(name: str, groups: int, slots: int, depth: int, seed: int) -> Weight:
    """A cache `[1, groups, slots, depth]` of random numbers."""
    rows = np.random.default_rng(seed).standard_normal((1, slots, groups, depth), np.float32)
    buffer = kv_cache.buffer(CACHE_TYPES[name], 1, groups, slots, depth)
    return kv_cache.write(buffer, jnp.asarray(rows), jnp.arange(slots, dtype=jnp.int32)[None])


def seconds_of(implementation: str, caches: list, q: jax.Array, positions: jax.Array, budget: float) -> float:
    """Median seconds of attention over all caches, after a call that compiles."""
    spans = attention_spans(*caches[0], implementation=implementation)
    span = next(n for n in spans if n > int(positions.max()))

    @jax.jit
    def layers(q: jax.Array, caches: list) -> jax.Array:
        for k, v in caches:  # each layer's queries depend on the layer before, as in a model
            q = q + attention(q, k, v, positions, scale=q.shape[-1] ** -0.5, span=span, implementation=implementation)
        return q

    layers(q, caches).block_until_ready()
    times = []
    while sum(times) < budget or len(times) < 3:
        start = time.perf_counter()
        layers(q, caches).block_until_ready()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--depth", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--types", nargs="*", default=["f32", "f16", "q8_0", "q4_0"])
    o = parser.parse_args()
    if available():
        read = library().gguf_jax_read_bandwidth(float(1 << 28), 1.0)
        peak = library().gguf_jax_peak(b"f32", 0.5)
        print(f"this machine reads {read / 1e9:.1f} GB/s and multiplies float32 at {peak / 1e9:.0f} GFLOPS\n")
    print(f"{o.layers} layers, {o.heads} heads over {o.groups} groups, head size {o.depth}, milliseconds of all layers")
    print(f"{'':24}" + "".join(f"{name:>24}" for name in IMPLEMENTATIONS))
    rng = np.random.default_rng(0)
    for name in o.types:
        slots = max(DECODE_DEPTHS)
        caches = [
            (filled(name, o.groups, slots, o.depth, 2 * i), filled(name, o.groups, slots, o.depth, 2 * i + 1))
            for i in range(o.layers)
        ]
        nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(caches)) / slots
        for length, end in [*((1, depth) for depth in DECODE_DEPTHS), (PROMPT, PROMPT)]:
            positions = jnp.arange(end - length, end, dtype=jnp.int32)[None]
            q = jnp.asarray(rng.standard_normal((1, length, o.heads, o.depth)), jnp.float32)
            line = f"{name:5} " + (f"a token at {end}" if length == 1 else f"a prompt of {end}")
            flops = 4.0 * o.depth * o.heads * o.layers * int(np.asarray(positions).sum() + length)  # visible keys only
            for implementation in IMPLEMENTATIONS:
                if implementation == "native" and not available():
                    continue
                s = seconds_of(implementation, caches, q, positions, o.seconds)
                rate = f"{nbytes * end / s / 1e9:.1f} GB/s" if length == 1 else f"{flops / s / 1e9:.0f} GFLOPS"
                line = f"{line:24}" if implementation == next(iter(IMPLEMENTATIONS)) else line
                line += f"{1e3 * s:10.2f} {rate:>13}"
            print(line)


if __name__ == "__main__":
    main()
