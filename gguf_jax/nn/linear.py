"""Linear map, embedding and norm, with GGUF's names for their parameters (`weight`, `bias`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax import ops
from gguf_jax.nn.lora import LoRA
from gguf_jax.nn.observe import Observable
from gguf_jax.nn.param import normal


class Linear(Observable, nnx.Module):
    """`x [..., in] -> [..., out]` with `weight [out, in]`, packed or float, and an optional `bias [out]`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, rngs: nnx.Rngs | None) -> None:
        self.weight: nnx.Variable = normal(rngs, (out_features, in_features))
        self.bias = nnx.Param(jnp.zeros(out_features)) if bias else None
        self.lora: LoRA | None = nnx.data(None)

    def __call__(self, x: jax.Array, precision: ops.Precision = "exact") -> jax.Array:
        self.observe(x)
        return self.completed(ops.linear(x, self.weight.get_value(), precision=precision), x, precision)

    def completed(self, y: jax.Array, x: jax.Array, precision: ops.Precision) -> jax.Array:
        """The weight's product `y [..., out]` with `x`, with what adapters and the bias add."""
        y = y if self.lora is None else y + self.lora(x, precision)
        return y if self.bias is None else y + self.bias.get_value().astype(y.dtype)


def together(x: jax.Array, layers: Sequence[Linear], precision: ops.Precision = "exact") -> tuple[jax.Array, ...]:
    """`tuple(layer(x) for layer in layers)`, the products in one call."""
    for layer in layers:
        layer.observe(x)
    products = ops.linears(x, [layer.weight.get_value() for layer in layers], precision=precision)
    return tuple(layer.completed(y, x, precision) for layer, y in zip(layers, products, strict=True))


def gated(
    x: jax.Array,
    gate: Linear,
    up: Linear,
    precision: ops.Precision = "exact",
    activation: Callable[[jax.Array], jax.Array] = jax.nn.silu,
) -> jax.Array:
    """`activation(gate(x)) * up(x)`, in one call where that is silu and nothing is added to the products."""
    if activation is jax.nn.silu and all(layer.bias is None and layer.lora is None for layer in (gate, up)):
        gate.observe(x)
        up.observe(x)
        return ops.gated_linear(x, gate.weight.get_value(), up.weight.get_value(), precision=precision)
    opened, raised = together(x, (gate, up), precision)
    return activation(opened) * raised


class Embedding(nnx.Module):
    """`ids [...] -> [..., features]` with `weight [rows, features]`, packed or float."""

    def __init__(self, rows: int, features: int, *, rngs: nnx.Rngs | None) -> None:
        self.weight: nnx.Variable = normal(rngs, (rows, features))
        self.lora: LoRA | None = nnx.data(None)

    def __call__(self, ids: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
        x = ops.take_rows(self.weight.get_value(), ids, dtype=dtype)
        return x if self.lora is None else x + self.lora.of_rows(ids, dtype)

    def attend(self, x: jax.Array, precision: ops.Precision = "exact") -> jax.Array:
        """The tied output projection: `x [..., features] -> [..., rows]`."""
        y = ops.linear(x, self.weight.get_value(), precision=precision)
        return y if self.lora is None else y + self.lora(x, precision)


class RMSNorm(nnx.Module):
    """`ops.rms_norm` with a `weight [features]`."""

    def __init__(self, features: int, eps: float) -> None:
        self.weight: nnx.Variable = nnx.Param(jnp.ones(features))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.rms_norm(x, self.weight.get_value(), eps=self.eps)


class LayerNorm(nnx.Module):
    """`ops.layer_norm` with a `weight` and an optional `bias`, `[features]` or `[heads, features]`."""

    def __init__(self, shape: tuple[int, ...], eps: float, *, bias: bool) -> None:
        self.weight: nnx.Variable = nnx.Param(jnp.ones(shape))
        self.bias = nnx.Param(jnp.zeros(shape)) if bias else None
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        bias = None if self.bias is None else self.bias.get_value()
        return ops.layer_norm(x, self.weight.get_value(), bias, eps=self.eps)
