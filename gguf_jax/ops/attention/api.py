"""`attention`: causal grouped-query attention over keys and values that stand at their positions."""

from __future__ import annotations

import jax

from gguf_jax.ops.attention import xla
from gguf_jax.ops.implementation import run

IMPLEMENTATIONS = {"xla": xla.attention}


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    *,
    scale: float,
    window: int | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Attention of queries at `positions` to every key at the same or an earlier position.

    Args:
        q: `[B, T, H, D]`.
        k: `[B, G, S, D]`, the key of position s at index s; `H` is a multiple of `G` and head h reads group
            `h // (H // G)`.
        v: `[B, G, S, Dv]`.
        positions: int32 `[B, T]`; a negative one marks padding, whose result is finite and means nothing.
        scale: factor on q.k.
        window: a query at p sees keys in `(p - window, p]`; None: all of `[0, p]`.

    Returns:
        `[B, T, H, Dv]` in the dtype of `q`; scores, softmax and sums are float32.

    Raises:
        ValueError: the shapes do not fit.
        Unsupported: `implementation` was named and cannot do this case.
    """
    batch, _, heads, depth = q.shape
    if k.shape[:3] != v.shape[:3] or k.shape[0] != batch or k.shape[3] != depth or heads % k.shape[1]:
        raise ValueError(f"attention: q {q.shape}, k {k.shape} and v {v.shape} do not fit")
    return run("attention", IMPLEMENTATIONS, implementation, q, k, v, positions, scale=scale, window=window)
