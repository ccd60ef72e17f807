"""The definition of `take_rows`: gather each plane's rows, then decode what was gathered."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.quantized_array import QuantizedArray, Weight


def take_rows(w: Weight, ids: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """See `ops.take_rows`; accepts every case."""
    rows = jax.tree.map(lambda plane: jnp.take(plane, ids, axis=0, mode="clip"), w)
    return rows.dequantize(dtype) if isinstance(rows, QuantizedArray) else rows.astype(dtype)
