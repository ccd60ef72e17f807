"""Linear map, embedding and norm, with GGUF's names for their parameters (`weight`, `bias`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax import ops
from gguf_jax.nn.param import normal


class Linear(nnx.Module):
    """`x [..., in] -> [..., out]` with `weight [out, in]`, packed or float, and an optional `bias [out]`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, rngs: nnx.Rngs | None) -> None:
        self.weight: nnx.Variable = normal(rngs, (out_features, in_features))
        self.bias = nnx.Param(jnp.zeros(out_features)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = ops.linear(x, self.weight.get_value())
        return y if self.bias is None else y + self.bias.get_value().astype(x.dtype)


class Embedding(nnx.Module):
    """`ids [...] -> [..., features]` with `weight [rows, features]`, packed or float."""

    def __init__(self, rows: int, features: int, *, rngs: nnx.Rngs | None) -> None:
        self.weight: nnx.Variable = normal(rngs, (rows, features))

    def __call__(self, ids: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
        return ops.take_rows(self.weight.get_value(), ids, dtype=dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """The tied output projection: `x [..., features] -> [..., rows]`."""
        return ops.linear(x, self.weight.get_value())


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis, in float32, returned in the dtype of `x`."""

    def __init__(self, features: int, eps: float) -> None:
        self.weight: nnx.Variable = nnx.Param(jnp.ones(features))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        scaled = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (scaled * self.weight.get_value().astype(jnp.float32)).astype(x.dtype)
