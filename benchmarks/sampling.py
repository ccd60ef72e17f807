"""What one call of the sampler costs for a vocabulary of 151,936 tokens.

python benchmarks/sampling.py [--vocab 151936] [--repeats 30]
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.generation.sampling import SamplingParams, make_sampler, plan_for, sample

CASES = {
    "greedy": {"temperature": 0.0},
    "defaults": {},
    "defaults and penalties": {"repeat_penalty": 1.1, "frequency_penalty": 0.1},
    "top_k 1000": {"top_k": 1000},
    "no top_k, top_p 0.95, min_p 0.05": {"top_k": 0},
    "no top_k, top_p, min_p": {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
}


def median_ms(params: SamplingParams, batch: int, vocab: int, repeats: int) -> float:
    """Median milliseconds of a call, after one that compiles."""
    rng = np.random.default_rng(0)
    # the heavy tail of a language model's logits: a few tokens stand out
    logits = jnp.asarray(rng.standard_normal((batch, vocab)) * 2 + 6 * (rng.random((batch, vocab)) < 1e-3), jnp.float32)
    many = [params] * batch
    step = jax.jit(partial(sample, plan=plan_for(many, vocab)))
    sampler = make_sampler(many, vocab)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        tokens, sampler = step(logits, sampler)
        tokens.block_until_ready()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    print(f"{'':36}{'B=1':>8}{'B=8':>8}   median ms")
    for name, fields in CASES.items():
        times = [median_ms(SamplingParams(seed=1, **fields), b, options.vocab, options.repeats) for b in (1, 8)]
        print(f"{name:36}{times[0]:8.2f}{times[1]:8.2f}")


if __name__ == "__main__":
    main()
