"""`encode`: a float array -> a packed weight, byte for byte as ggml's quantizers make it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.ops.encode import native, xla
from gguf_jax.ops.implementation import run
from gguf_jax.quantized_array import QuantizedArray

IMPLEMENTATIONS = {"native": native.encode, "xla": xla.encode}


def encode(
    values: jax.typing.ArrayLike,
    type: GGMLType,
    importance: jax.typing.ArrayLike | None = None,
    *,
    implementation: str | None = None,
) -> QuantizedArray:
    """`values [..., n]` as blocks of `type` along the last axis.

    The meaning is `FORMATS[type].encode_planes(values, importance, jax.numpy)` in float32; every implementation gives
    the same bytes. Gradients stop here.

    Args:
        values: a float array; what is not float32 is converted first, which is exact for float16 and bfloat16.
        importance: how much the square of each weight's error counts: `[n]`, or of the shape of `values`. Some types
            have no use for it.

    Raises:
        ValueError: the type cannot be encoded or needs an importance; `n` is no multiple of its block; shapes do not
            fit; `values` are no floats.
        Unsupported: `implementation` was named and cannot do this case.
    """
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating) or not values.ndim:
        raise ValueError(f"encode: expected floats [..., n], found {values.dtype} {list(values.shape)}")
    FORMATS[type].encoder(values.shape[-1], weighted=importance is not None)
    if importance is not None:
        importance = jnp.asarray(importance, jnp.float32)
        if importance.shape not in (values.shape, values.shape[-1:]):
            expected = f"importance [{values.shape[-1]}] or {list(values.shape)}"
            raise ValueError(f"encode: expected {expected}, found {list(importance.shape)}")
        importance = jax.lax.stop_gradient(importance)
    values = jax.lax.stop_gradient(values.astype(jnp.float32))
    return run("encode", IMPLEMENTATIONS, implementation, values, type, importance)
