"""The definition of `encode`: the format's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.quantized_array import QuantizedArray


def encode(values: jax.Array, type: GGMLType, importance: jax.Array | None) -> QuantizedArray:
    """See `ops.encode`; accepts every case."""
    return QuantizedArray(FORMATS[type].encode_planes(values, importance, jnp), type)
