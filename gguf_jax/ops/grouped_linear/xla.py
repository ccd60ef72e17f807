"""The definition of `grouped_linear`: decode the chosen matrices, then a dot for each. It is exact, whatever precision
is asked for.

Written out for all pairs of a position and an expert at once, it would hold a decoded matrix for each of them. With
more pairs than that is wise for, they are sorted by expert and cut into blocks that have one expert each, and one
matrix at a time is decoded. `lax.ragged_dot` was not taken: it wants all experts decoded, whether a token goes there or
not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from gguf_jax.quantized_array import QuantizedArray, Weight

DECODED_BYTES = 1 << 27
"""Of decoded matrices that may be held at once."""

MOST_ROWS = 128
"""Of a block."""


def grouped_linear(
    x: jax.Array, ws: tuple[Weight, ...], experts: jax.Array, *, gated: bool, precision: str
) -> tuple[jax.Array, ...]:
    """See `ops.grouped_linear`; accepts every case. `gated`: one result, silu of the first product times the second."""
    del precision
    products = tuple(_product(x, w, experts) for w in ws)
    return (jax.nn.silu(products[0]) * products[1],) if gated else products


def _product(x: jax.Array, w: Weight, experts: jax.Array) -> jax.Array:
    used, pairs = experts.shape[-1], experts.size
    _, outputs, inputs = w.shape
    if not pairs:
        return jnp.zeros((*experts.shape, outputs), x.dtype)
    shared = x.ndim == experts.ndim
    rows, chosen = x.reshape(-1, inputs), jnp.clip(experts, -1, w.shape[0] - 1).reshape(-1).astype(jnp.int32)
    row_of = jnp.arange(pairs) // used if shared else jnp.arange(pairs)  # the row of x that a pair multiplies
    product = _at_once if pairs * outputs * inputs * x.dtype.itemsize <= DECODED_BYTES else _in_blocks
    return product(rows, w, chosen, row_of).reshape(*experts.shape, outputs)


def _at_once(x: jax.Array, w: Weight, experts: jax.Array, row_of: jax.Array) -> jax.Array:
    """`x [R, K]`, int `experts [P]` from -1 on and `row_of [P]` -> `[P, N]`."""
    y = _dot("pk,pnk->pn", x[row_of], _decoded(w, experts, x.dtype))
    return jnp.where(experts[:, None] < 0, 0, y)


def _in_blocks(x: jax.Array, w: Weight, experts: jax.Array, row_of: jax.Array) -> jax.Array:
    """The same, a block of pairs with one expert after the other."""
    pairs, n_expert = experts.size, w.shape[0]
    experts = jnp.where(experts < 0, n_expert, experts)  # nobody comes last, and has no block
    size = min(MOST_ROWS, 1 << (max(1, pairs // n_expert) - 1).bit_length())  # near an expert's share
    order = jnp.argsort(experts)  # stable
    sorted_experts = experts[order]
    counts = jnp.bincount(experts, length=n_expert + 1)[:n_expert]
    blocks_of = -(-counts // size)  # of each expert; together at most `blocks`
    blocks = pairs // size + n_expert if size > 1 else pairs
    first_pair, first_block = jnp.cumsum(counts) - counts, jnp.cumsum(blocks_of) - blocks_of
    group = jnp.minimum(sorted_experts, n_expert - 1)
    place = first_block[group] * size + jnp.arange(pairs) - first_pair[group]  # among the rows of all blocks
    place = jnp.where(sorted_experts < n_expert, place, blocks * size)
    source = jnp.full(blocks * size, -1).at[place].set(row_of[order], mode="drop")
    expert_of = jnp.searchsorted(jnp.cumsum(blocks_of), jnp.arange(blocks), side="right")
    filled = jnp.arange(blocks) < blocks_of.sum()

    @jax.checkpoint  # for a gradient one matrix is decoded again rather than all kept
    def block(each: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        expert, rows, some = each

        def multiply() -> jax.Array:
            return _dot("pk,nk->pn", x[jnp.maximum(rows, 0)], _decoded(w, expert, x.dtype))

        return lax.cond(some, multiply, lambda: jnp.zeros((size, w.shape[1]), x.dtype))

    found = lax.map(block, (expert_of, source.reshape(blocks, size), filled)).reshape(blocks * size, -1)
    each = found.at[place].get(mode="fill", fill_value=0)
    return jnp.zeros((pairs, w.shape[1]), x.dtype).at[order].set(each)


def _decoded(w: Weight, experts: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    if isinstance(w, QuantizedArray):
        return w.take(experts).dequantize(dtype)
    return jnp.take(w, experts, axis=0, mode="clip").astype(dtype)


def _dot(letters: str, x: jax.Array, values: jax.Array) -> jax.Array:
    # float32 means float32: without HIGHEST an accelerator may multiply in TF32 or bfloat16
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    y = jnp.einsum(letters, x, values, precision=precision, preferred_element_type=jnp.float32)
    return y.astype(x.dtype)
