"""The definition of `linear`: decode the whole weight, then one dot."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.quantized_array import QuantizedArray, Weight


def linear(x: jax.Array, w: Weight) -> jax.Array:
    """See `ops.linear`; accepts every case."""
    values = w.dequantize(x.dtype) if isinstance(w, QuantizedArray) else w.astype(x.dtype)
    # float32 means float32: without HIGHEST an accelerator may multiply in TF32 or bfloat16
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    y = jnp.einsum("...k,nk->...n", x, values, precision=precision, preferred_element_type=jnp.float32)
    return y.astype(x.dtype)
