"""Which tokens a sampler may still draw: top-k, typical, top-p and min-p, as masks.

Each filter has one meaning (that of llama.cpp's `src/llama-sampling.cpp`) and two implementations: over a short list
that is already sorted, and over the whole vocabulary without sorting it. Best first means by logit descending and, at
equal logits, by token id ascending. Probabilities are always relative to what the filters before have left.

Roads not taken, with the milliseconds of 1 x 151936 and 8 x 151936 logits on two CPU cores. Sorting the vocabulary:
31 and 250, where the threshold search below takes 1.1 and 14. Testing 15 thresholds in each of 8 passes instead of one
in each of 32: 4.5 and 115, as XLA:CPU does not share the pass. `lax.top_k` for 64 candidates: 0.24 and 2.7, where
`top_k` takes 0.14 and 0.5. `lax.top_k` of every chunk and then of the winners: 1.0 to 6.0, a call per chunk.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

CHUNK = 64
FLOAT32 = jnp.finfo(jnp.float32)


def top_k(logits: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k best of each row, best first; `lax.top_k(logits, k)` in less time.

    The k best lie in the k chunks with the best maxima: a token outside is beaten by each of those k maxima, at equal
    values because the earlier chunk is taken and holds the lower ids.

    Args:
        logits: float32 `[B, V]`, no NaN.
        k: 1 <= k <= V, static.

    Returns:
        (values float32 `[B, k]`, token ids int32 `[B, k]`).
    """
    B, V = logits.shape
    chunks = -(-V // CHUNK)
    logits = jnp.where(logits == 0, 0.0, logits)  # lax.top_k orders -0 below 0
    if chunks < 4 * k:  # the chunks taken would be a large part of the row
        return _lax_top_k(logits, k)
    padded = jnp.pad(logits, ((0, 0), (0, chunks * CHUNK - V)), constant_values=-jnp.inf)
    padded = padded.reshape(B, chunks, CHUNK)
    _, taken = _lax_top_k(jnp.max(padded, axis=-1), k)
    taken = jnp.sort(taken, axis=-1)[:, :, None]  # ids ascend again, which decides ties
    part = jnp.take_along_axis(padded, taken, axis=1).reshape(B, k * CHUNK)
    ids = (taken * CHUNK + jnp.arange(CHUNK, dtype=jnp.int32)).reshape(B, k * CHUNK)
    values, at = _lax_top_k(part, k)
    return values, jnp.take_along_axis(ids, at, axis=-1)


def _lax_top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`lax.top_k`, which XLA knows as a sort and a slice: a caller's own slice, merged with that, makes it sort all.

    (1024 of 151936 and then the first of those: 44 ms where this takes 0.7.)
    """
    values, ids = lax.top_k(x, k)
    # a barrier each: one around both results aborts the compiler (JAX 0.10) when x is sharded
    return lax.optimization_barrier(values), lax.optimization_barrier(ids).astype(jnp.int32)


def keep_listed(
    values: jax.Array,
    ids: jax.Array,
    limit: jax.Array,
    total: jax.Array | None,
    typical_p: jax.Array | None,
    top_p: jax.Array,
    min_p: jax.Array,
) -> jax.Array:
    """The filters over a sorted list.

    A row's result depends on its first `limit` entries only, to the last bit: sums run in an order that the length
    of the list does not change, since that length is set by what other rows need.

    Args:
        values, ids: float32 and int32 `[B, C]`, the best C tokens, best first; `values[:, 0]` is finite.
        limit: int32 `[B]`, 1 <= limit <= C: how much of the list a row may use.
        total: float32 `[B]`, the sum of `exp(logit - values[:, 0])` over all tokens of a row that top-p refers to, or
            0 where that is the list itself; None when it is 0 everywhere.
        typical_p: float32 `[B]`; None when it is 1 everywhere.
        top_p, min_p: float32 `[B]`.

    Returns:
        bool `[B, C]`, at least one True in each row.
    """
    keep = (jnp.arange(values.shape[1]) < limit[:, None]) & (values > -jnp.inf)
    last = limit[:, None] - 1
    if typical_p is not None:
        weights, _ = _weights(values, keep)
        p = weights / _at(_running_sum(weights), last)
        surprise, plogp = _surprise(p)
        distance = jnp.abs(surprise - _at(_running_sum(plogp), last))
        by_distance, by_id, p = lax.sort((distance, ids, p), num_keys=2)
        before = _shifted(_running_sum(p), 1)
        cut = jnp.sum((before <= typical_p[:, None]).astype(jnp.int32), axis=-1, keepdims=True) - 1
        worst, worst_id = _at(by_distance, cut), _at(by_id, cut)
        typical = (distance < worst) | ((distance == worst) & (ids <= worst_id))
        keep &= typical | (typical_p >= 1)[:, None]
    weights, _ = _weights(values, keep)
    mass = _running_sum(weights)
    whole = _at(mass, last)
    if total is not None:
        whole = jnp.where(total[:, None] > 0, total[:, None], whole)
    keep &= (_shifted(mass, 1) < _at_least_one(top_p)[:, None] * whole) | (top_p >= 1)[:, None]
    return keep & _above_min_p(values, keep, min_p)


def keep_whole(
    logits: jax.Array,
    k: jax.Array,
    typical_p: jax.Array | None,
    top_p: jax.Array,
    min_p: jax.Array,
) -> jax.Array:
    """The filters over the whole vocabulary, by searching thresholds instead of sorting.

    Args:
        logits: float32 `[B, V]`, at least one finite in each row.
        k: int32 `[B]`, V keeps all.
        typical_p: float32 `[B]`; None when it is 1 everywhere.
        top_p, min_p: float32 `[B]`.

    Returns:
        bool `[B, V]`, at least one True in each row.
    """
    keep = logits > -jnp.inf
    some_k = jnp.any(k < logits.shape[1])
    ones = jnp.ones_like(logits)
    keep &= lax.cond(some_k, lambda: _prefix(logits, ones, k.astype(jnp.float32)), lambda: keep)
    if typical_p is not None:
        weights, _ = _weights(logits, keep)
        p = weights / jnp.sum(weights, axis=-1, keepdims=True)
        surprise, plogp = _surprise(p)
        distance = jnp.abs(surprise - jnp.sum(plogp, axis=-1, keepdims=True))
        keep &= _prefix(-distance, p, typical_p, strictly=True) | (typical_p >= 1)[:, None]
    weights, total = _weights(logits, keep)
    some_p = jnp.any(top_p < 1)
    target = _at_least_one(top_p) * total
    nucleus = lax.cond(some_p, lambda: _prefix(jnp.where(keep, logits, -jnp.inf), weights, target), lambda: keep)
    keep &= nucleus | (top_p >= 1)[:, None]
    return keep & _above_min_p(logits, keep, min_p)


def _weights(values: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(value - best kept value), 0 where not kept `[B, N]`, and its sum `[B]`; the best kept weighs 1."""
    best = jnp.max(jnp.where(keep, values, -jnp.inf), axis=-1, keepdims=True)
    weights = jnp.where(keep, jnp.exp(values - best), 0.0)
    return weights, jnp.sum(weights, axis=-1)


def _surprise(p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-log p, infinite where p is 0, and p * -log p, 0 there; both `[B, N]`."""
    surprise = -jnp.log(p)
    return surprise, jnp.where(p > 0, p * surprise, 0.0)


def _above_min_p(values: jax.Array, keep: jax.Array, min_p: jax.Array) -> jax.Array:
    """value >= best kept value + log(min_p), which is p >= min_p * best p."""
    best = jnp.max(jnp.where(keep, values, -jnp.inf), axis=-1, keepdims=True)
    return values >= best + jnp.log(min_p)[:, None]


def _at_least_one(top_p: jax.Array) -> jax.Array:
    """top_p = 0 keeps the best token: the mass before it, 0, must still be too little."""
    return jnp.maximum(top_p, FLOAT32.tiny)


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
    """x `[B, N]` at index `[B, 1]` -> `[B, 1]`."""
    return jnp.take_along_axis(x, index, axis=-1)


def _shifted(x: jax.Array, n: int) -> jax.Array:
    """x `[B, N]` moved right by n places, zeros first."""
    return jnp.pad(x[:, :-n], ((0, 0), (n, 0)))


def _running_sum(x: jax.Array) -> jax.Array:
    """Inclusive prefix sums `[B, N]`, added in an order that depends on the place and not on N (Hillis-Steele)."""
    step = 1
    while step < x.shape[1]:
        x = x + _shifted(x, step)
        step *= 2
    return x


def _prefix(score: jax.Array, weight: jax.Array, target: jax.Array, strictly: bool = False) -> jax.Array:
    """The shortest run of best scores that weighs at least `target`.

    Float32 values keep their order when their bits are read as sign-magnitude integers, so 32 halvings of the
    integers find the exact score at which the target is reached.

    Args:
        score: float32 `[B, V]`; higher is better, equal ones are taken by ascending id.
        weight: float32 `[B, V]`, >= 0.
        target: float32 `[B]`.
        strictly: more than `target`, not at least.

    Returns:
        bool `[B, V]`; all True where the whole row does not reach the target.
    """

    def reaches(mass: jax.Array, target: jax.Array) -> jax.Array:
        return mass > target if strictly else mass >= target

    bits = lax.bitcast_convert_type(jnp.where(score == 0, 0.0, score), jnp.int32)  # -0 is 0
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)

    def halve(i: jax.Array, threshold: jax.Array) -> jax.Array:
        higher = threshold + (jnp.int32(1) << (31 - i))  # the first one wraps to 0, the middle
        mass = jnp.sum(jnp.where(key >= higher[:, None], weight, 0.0), axis=-1)
        return jnp.where(reaches(mass, target), higher, threshold)

    lowest = jnp.full(score.shape[0], jnp.iinfo(jnp.int32).min, jnp.int32)
    threshold = lax.fori_loop(0, 32, halve, lowest)[:, None]
    above, tied = key > threshold, key == threshold
    over = jnp.sum(jnp.where(above, weight, 0.0), axis=-1, keepdims=True)
    tie_weight = jnp.where(tied, weight, 0.0)

    def cut() -> jax.Array:
        return tied & ~reaches(over + jnp.cumsum(tie_weight, axis=-1) - tie_weight, target[:, None])

    ties = jnp.any(jnp.sum(tied.astype(jnp.int32), axis=-1) > 1)
    return above | lax.cond(ties, cut, lambda: tied)
