"""`linear`: activations times a packed (or float) weight in GGUF's orientation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.ops.implementation import run
from gguf_jax.ops.linear import xla
from gguf_jax.quantized_array import Weight

IMPLEMENTATIONS = {"xla": xla.linear}


def linear(x: jax.Array, w: Weight, *, implementation: str | None = None) -> jax.Array:
    """`x [..., K]` times `w [N, K]` -> `[..., N]`, in the dtype of `x`.

    The meaning is the implementation `xla`:

        w = w.dequantize() if packed else w
        y = jnp.einsum("...k,nk->...n", x, w.astype(x.dtype), preferred_element_type=jnp.float32).astype(x.dtype)

    Differentiable with respect to `x` (and to `w` where it is a float array).

    Raises:
        ValueError: `x` is not float, `x` and `w` disagree on K, or `w` is no matrix; the message holds both shapes.
        Unsupported: `implementation` was named and cannot do this case.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"linear: expected x of a float type, found {x.dtype}")
    if len(w.shape) != 2 or x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"linear: x {x.shape} and w {tuple(w.shape)} do not fit: expected [..., K] and [N, K]")
    return run("linear", IMPLEMENTATIONS, implementation, x, w)
