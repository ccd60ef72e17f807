"""The definition of `linear`: decode the whole weight, then one dot. It is exact, whatever precision is asked for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from gguf_jax.quantized_array import QuantizedArray, Weight


def linear(x: jax.Array, ws: tuple[Weight, ...], *, gated: bool, precision: str) -> tuple[jax.Array, ...]:
    """See `ops.linear`; accepts every case. `gated`: one result, silu of the first product times the second."""
    del precision
    products = tuple(_product(x, w) for w in ws)
    return (jax.nn.silu(products[0]) * products[1],) if gated else products


def _product(x: jax.Array, w: Weight) -> jax.Array:
    w = _not_before(x, w)
    values = w.dequantize(x.dtype) if isinstance(w, QuantizedArray) else w.astype(x.dtype)
    # float32 means float32: without HIGHEST an accelerator may multiply in TF32 or bfloat16
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    y = jnp.einsum("...k,nk->...n", x, values, precision=precision, preferred_element_type=jnp.float32)
    return y.astype(x.dtype)


def _not_before(x: jax.Array, w: Weight) -> Weight:
    """The weight, but so that it cannot be decoded before `x` is there.

    A decoded weight depends on parameters alone. XLA therefore decodes all weights of a model first and keeps them,
    which takes the memory of the whole model in float32 (and, on the CPU, several times as long). A zero that XLA does
    not know to be one is taken from `x`; it changes no bit of the largest plane. `optimization_barrier` would do on
    JAX 0.12; on 0.10 it does not hold on the CPU.
    """
    if not x.size:
        return w
    never = jnp.any(lax.stop_gradient(x) > jnp.inf)
    leaves, treedef = jax.tree.flatten(w)
    largest = max(range(len(leaves)), key=lambda i: leaves[i].size)
    leaf = leaves[largest]
    if jnp.issubdtype(leaf.dtype, jnp.floating):  # a float weight has a gradient, which a bit operation would cut off
        leaves[largest] = jnp.where(never, jnp.zeros((), leaf.dtype), leaf) if leaf.dtype != x.dtype else leaf
    else:
        leaves[largest] = leaf ^ never.astype(leaf.dtype)
    return jax.tree.unflatten(treedef, leaves)
