"""What positions add to attention's scores in place of turning queries and keys: ALiBi, and T5's buckets.

Both know only how far a query and a key are apart. Arrays are `[H, T, T]`, for queries and keys at 0 to T - 1.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def alibi(heads: int, length: int, largest: float = 8.0) -> jax.Array:
    """Minus a head's slope times the distance (Press et al. 2022, arXiv:2108.12409), float32 `[heads, length, length]`.

    Slopes are `2^(-largest (h + 1) / n)` for the first n heads, n the largest power of two that is not above `heads`,
    and for those beyond them every other one of what 2 n heads would have.
    """
    n = 1 << heads.bit_length() - 1
    slopes = [2 ** (-largest * (h + 1) / n) for h in range(n)]
    slopes += [2 ** (-largest * (2 * h + 1) / (2 * n)) for h in range(heads - n)]
    at = jnp.arange(length, dtype=jnp.float32)
    return -jnp.asarray(slopes, jnp.float32)[:, None, None] * jnp.abs(at[:, None] - at)


def buckets(length: int, count: int, farthest: int = 128) -> np.ndarray:
    """The bucket of a query's (row) distance to a key (column), int32 `[length, length]` in `[0, count)`.

    Half of the buckets are for keys after the query. Half of those are for one distance each, the others for ranges
    that widen up to `farthest` (Raffel et al. 2020, arXiv:1910.10683, and the code that comes with it, in float32).
    """
    sided = count // 2
    exact = sided // 2
    apart = np.arange(length, dtype=np.int32)
    ratio = np.log(np.maximum(apart, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(farthest / exact))
    wide = np.minimum(exact + (ratio * np.float32(sided - exact)).astype(np.int32), sided - 1)
    near = np.where(apart < exact, apart, wide).astype(np.int32)
    ahead = apart - apart[:, None]  # key minus query
    return near[np.abs(ahead)] + np.where(ahead > 0, sided, 0).astype(np.int32)
