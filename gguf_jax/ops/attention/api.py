"""`attention`: grouped-query attention over keys and values that stand at their positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.ops.attention import native, xla
from gguf_jax.ops.implementation import run
from gguf_jax.ops.precision import Precision, known
from gguf_jax.quantized_array import Weight

IMPLEMENTATIONS = {"native": native.attention, "xla": xla.attention}
SPANS = {"native": native.spans, "xla": xla.spans}


def attention(
    q: jax.Array,
    k: Weight,
    v: Weight,
    positions: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: jax.Array | None = None,
    bias: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    span: int | None = None,
    precision: Precision = "exact",
    implementation: str | None = None,
) -> jax.Array:
    """Attention of queries at `positions` to every key at the same or an earlier position, or to all of a sequence.

    Args:
        q: `[B, T, H, D]`.
        k: `[B, G, S, D]`, the key of position s at index s; `H` is a multiple of `G` and head h reads group
            `h // (H // G)`.
        v: `[B, G, S, Dv]`.
        positions: int32 `[B, T]`; a negative one marks padding, whose result is finite and means nothing.
        scale: factor on q.k.
        softcap: c, so that a score s becomes `c tanh(s / c)`; None: it stays.
        sinks: `[H]` float, for each head a score that takes its part of the softmax and has no value; None: there are
            none.
        bias: `[H, T, S]` float, added to the scores; None: nothing is.
        causal: False: every query sees all keys up to the sequence's last position, which must be among the queries.
        window: a query at p sees keys in `(p - window, p]`; None: all of `[0, p]`.
        span: static, a promise that all positions are below it, so that no key behind it need be looked at; `spans`
            says which are worth a program of their own. None: the whole cache.
        precision: see `Precision`.

    Returns:
        `[B, T, H, Dv]` in the dtype of `q`; scores, softmax and sums are float32 or, where `precision` lets them,
        near it.

    Raises:
        ValueError: the shapes do not fit, or `window` or `span` is out of range.
        Unsupported: `implementation` was named and cannot do this case.
    """
    batch, length, heads, depth = q.shape
    (*cache, depth_k), slots = k.shape, k.shape[2]
    if (
        tuple(cache) != tuple(v.shape[:3])
        or cache[0] != batch
        or depth_k != depth
        or heads % cache[1]
        or positions.shape != (batch, length)
    ):
        shapes = f"q {q.shape}, k {tuple(k.shape)}, v {tuple(v.shape)} and positions {positions.shape}"
        raise ValueError(f"attention: {shapes} do not fit")
    if sinks is not None and sinks.shape != (heads,):
        raise ValueError(f"attention: expected sinks of {heads} heads, found {sinks.shape}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"attention: expected a softcap above 0, found {softcap}")
    if bias is not None and bias.shape != (heads, length, slots):
        raise ValueError(f"attention: expected a bias {(heads, length, slots)}, found {bias.shape}")
    if not causal:
        if window is not None:
            raise ValueError("attention: expected no window where queries see all keys")
        # a query sees what lies at or before its position: all stand at the last one
        last = positions.max(axis=1, keepdims=True)
        positions = jnp.where(positions < 0, positions, last)
    if window is not None and window < 1:
        raise ValueError(f"attention: expected a window of at least 1, found {window}")
    if span is not None and not 1 <= span <= slots:
        raise ValueError(f"attention: expected a span from 1 to the cache's {slots}, found {span}")
    options = dict(scale=scale, softcap=softcap, window=window, span=span, precision=known("attention", precision))
    return run("attention", IMPLEMENTATIONS, implementation, q, k, v, positions, sinks, bias, **options)


def attention_spans(k: Weight, v: Weight, *, implementation: str | None = None) -> tuple[int, ...]:
    """Values of `span` to compile `attention` over this cache for, ascending; the last is the whole cache.

    A caller takes the first one that its positions are below. Where an implementation stops by itself at the end of a
    query's sight there is one alone, and a sequence never meets another program as it grows.

    Args:
        k, v: the cache of one layer, or its shapes and dtypes (`jax.eval_shape`).
    """
    return run("attention", SPANS, implementation, k, v)
