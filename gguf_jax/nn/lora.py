"""`LoRA`: what adapters add to a product, and the flax variables that hold it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax import ops


class AdapterScale(nnx.Variable):
    """Holds the factors of adapters: neither a weight nor something to train."""


class LoRA(nnx.Module):
    """The adapters of one weight `[out, in]`: `x [..., in] -> ((x a^T) * scales) b^T [..., out]`.

    Several adapters stand side by side along the rank R, with a factor for each row of `a`: to switch one on or off is
    to change numbers, for which nothing is compiled. `scales` may be `[B, 1, R]` too, other factors for every sequence.

    Args:
        a: `[R, in]` float.
        b: `[out, R]` float.
    """

    def __init__(self, a: jax.Array, b: jax.Array) -> None:
        self.a: nnx.Variable = nnx.LoRAParam(a)
        self.b: nnx.Variable = nnx.LoRAParam(b)
        self.scales: nnx.Variable = AdapterScale(jnp.zeros(a.shape[0]))

    def __call__(self, x: jax.Array, precision: ops.Precision = "exact") -> jax.Array:
        """What is added to the product of `x [..., in]` with the weight."""
        low = ops.linear(x, self.a.get_value(), precision=precision) * self.scales.get_value().astype(x.dtype)
        return ops.linear(low, self.b.get_value(), precision=precision)

    def of_rows(self, ids: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
        """What is added to the weight's rows `ids [...]`: `[..., in]`."""
        rows = ops.take_rows(self.b.get_value(), ids, dtype=dtype) * self.scales.get_value().astype(dtype)
        return jnp.einsum("...r,ri->...i", rows, self.a.get_value().astype(dtype), precision=jax.lax.Precision.HIGHEST)
