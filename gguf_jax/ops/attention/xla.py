"""The definition of `attention`: masked softmax over all scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp

MASKED = -1e30
"""Score of a key that must not be seen: finite, so that a row with no key at all (padding) stays finite."""


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, *, scale: float, window: int | None
) -> jax.Array:
    """See `ops.attention`; accepts every case."""
    batch, length, heads, depth = q.shape
    groups, slots = k.shape[1], k.shape[2]
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    q = q.reshape(batch, length, groups, heads // groups, depth)
    scores = jnp.einsum(
        "btghd,bgsd->bghts", q, k.astype(q.dtype), precision=precision, preferred_element_type=jnp.float32
    )
    ahead = positions[:, :, None] - jnp.arange(slots, dtype=positions.dtype)  # [B, T, S]: query minus key position
    seen = ahead >= 0
    if window is not None:
        seen &= ahead < window
    scores = jnp.where(seen[:, None, None], scores * scale, MASKED)
    weights = jax.nn.softmax(scores, axis=-1)
    out = jnp.einsum(
        "bghts,bgsd->btghd",
        weights.astype(q.dtype),
        v.astype(q.dtype),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    return out.reshape(batch, length, heads, v.shape[-1]).astype(q.dtype)
