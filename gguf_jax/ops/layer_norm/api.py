"""`layer_norm`: rows shifted to a mean of zero and scaled to a variance of one, times a weight, plus a bias."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.ops.implementation import run
from gguf_jax.ops.layer_norm import native, xla

IMPLEMENTATIONS = {"native": native.layer_norm, "xla": xla.layer_norm}


def layer_norm(
    x: jax.Array, weight: jax.Array, bias: jax.Array | None = None, *, eps: float, implementation: str | None = None
) -> jax.Array:
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last axis, in float32, in the dtype of `x`.

    Args:
        x: `[..., E]`.
        weight, bias: `[E]`, or more of the last axes of `x`, of any float type.

    Raises:
        ValueError: `x` is not float, or the shapes do not fit; the message holds both.
        Unsupported: `implementation` was named and cannot do this case.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"layer_norm: expected x of a float type, found {x.dtype}")
    for each in (weight, bias):
        if each is not None and (not 1 <= each.ndim <= x.ndim or each.shape != x.shape[x.ndim - each.ndim :]):
            raise ValueError(
                f"layer_norm: x {x.shape} and weight or bias {each.shape} do not fit: expected [..., E] and [E]"
            )
    return run("layer_norm", IMPLEMENTATIONS, implementation, x, weight, bias, eps=eps)
