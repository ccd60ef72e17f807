"""The definition of `attention`: masked softmax over all scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.ops.precision import Precision
from gguf_jax.quantized_array import QuantizedArray, Weight

MASKED = -1e30
"""Score of a key that must not be seen: finite, so that a row with no key at all (padding) stays finite."""

MIN_SPAN = 256
"""Shortest stretch of a cache that is worth a program of its own; others are its doublings."""


def attention(
    q: jax.Array,
    k: Weight,
    v: Weight,
    positions: jax.Array,
    sinks: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None,
    span: int | None,
    precision: Precision = "exact",
) -> jax.Array:
    """See `ops.attention`; accepts every case, and has one `precision`. It works on all `span` keys, whatever the
    positions are."""
    batch, length, heads, depth = q.shape
    dtype = q.dtype
    if jax.default_backend() == "cpu":  # XLA has no product of bfloat16 vectors there, and slow ones of halves
        q = q.astype(jnp.promote_types(dtype, jnp.float32))
    k, v = (_floats(rows, span, q.dtype) for rows in (k, v))
    groups, slots = k.shape[1], k.shape[2]
    products = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    q = q.reshape(batch, length, groups, heads // groups, depth)
    scores = jnp.einsum("btghd,bgsd->bghts", q, k, precision=products, preferred_element_type=jnp.float32)
    ahead = positions[:, :, None] - jnp.arange(slots, dtype=positions.dtype)  # [B, T, S]: query minus key position
    seen = ahead >= 0
    if window is not None:
        seen &= ahead < window
    scores = scores * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        bias = bias.astype(jnp.float32)[..., :slots]
        scores = scores + bias.reshape(groups, heads // groups, length, slots)
    scores = jnp.where(seen[:, None, None], scores, MASKED)
    if sinks is not None:
        sink = sinks.astype(jnp.float32).reshape(1, groups, heads // groups, 1, 1)
        scores = jnp.concatenate([scores, jnp.broadcast_to(sink, (*scores.shape[:-1], 1))], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)[..., :slots]
    out = jnp.einsum(
        "bghts,bgsd->btghd",
        weights.astype(q.dtype),
        v,
        precision=products,
        preferred_element_type=jnp.float32,
    )
    return out.reshape(batch, length, heads, v.shape[-1]).astype(dtype)


def spans(k: Weight, v: Weight) -> tuple[int, ...]:
    """Doublings: work grows with the span, so that a short sequence in a long cache wants a short one."""
    slots = k.shape[2]
    lengths = [MIN_SPAN]
    while lengths[-1] < slots:
        lengths.append(lengths[-1] * 2)
    return (*lengths[:-1], slots)


def _floats(rows: Weight, span: int | None, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The first `span` positions `[B, G, span, D]`, decoded."""
    if span is not None:
        rows = jax.tree.map(lambda leaf: jax.lax.slice_in_dim(leaf, 0, span, axis=2), rows)
    return rows.dequantize(dtype) if isinstance(rows, QuantizedArray) else rows.astype(dtype)
