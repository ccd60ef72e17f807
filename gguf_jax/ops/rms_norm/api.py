"""`rms_norm`: rows scaled to a root mean square of one, times a weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.ops.implementation import run
from gguf_jax.ops.rms_norm import native, xla

IMPLEMENTATIONS = {"native": native.rms_norm, "xla": xla.rms_norm}


def rms_norm(x: jax.Array, weight: jax.Array, *, eps: float, implementation: str | None = None) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis, in float32, returned in the dtype of `x`.

    Args:
        x: `[..., E]`.
        weight: `[E]`, of any float type.

    Raises:
        ValueError: `x` is not float, or the shapes do not fit; the message holds both.
        Unsupported: `implementation` was named and cannot do this case.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"rms_norm: expected x of a float type, found {x.dtype}")
    if x.ndim == 0 or weight.shape != x.shape[-1:]:
        raise ValueError(f"rms_norm: x {x.shape} and weight {weight.shape} do not fit: expected [..., E] and [E]")
    return run("rms_norm", IMPLEMENTATIONS, implementation, x, weight, eps=eps)
