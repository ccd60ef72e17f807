"""`layer_norm` by the native kernels, for the reason that `rms_norm` has them: a row's bits depend on the row alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import Unsupported
from gguf_jax.ops.layer_norm import xla
from gguf_jax.ops.native.library import ffi_target
from gguf_jax.ops.native.operands import check_placement

TARGET = "gguf_jax_layer_norm"


def layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array | None, *, eps: float) -> jax.Array:
    """See `ops.layer_norm`.

    Raises:
        Unsupported: the library is not there, the arrays are not on one CPU, are float64 or empty, or weight and bias
            have different shapes.
    """
    ffi_target(TARGET)
    check_placement("layer_norm", x, weight, *([] if bias is None else [bias]))
    if any(each is not None and each.dtype == jnp.float64 for each in (x, weight, bias)) or not x.size:
        raise Unsupported("layer_norm: native kernels take a filled x of at most 32 bits")
    if bias is not None and bias.shape != weight.shape:
        raise Unsupported(
            f"layer_norm: native kernels take a bias like the weight, found {bias.shape} and {weight.shape}"
        )
    bias = None if bias is None else bias.astype(jnp.float32)
    return _layer_norm(eps, x.astype(jnp.float32), weight.astype(jnp.float32), bias).astype(x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _layer_norm(eps: float, x: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    output = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    call = jax.ffi.ffi_call(ffi_target(TARGET), output, vmap_method="sequential")
    return call(x, weight, jnp.zeros(0, jnp.float32) if bias is None else bias, eps=np.float32(eps))


@_layer_norm.defjvp
def _layer_norm_jvp(eps: float, primals: Any, tangents: Any) -> Any:
    """The result as computed, with the derivative of its definition."""
    _, tangent = jax.jvp(partial(xla.layer_norm, eps=eps), primals, tangents)
    return _layer_norm(eps, *primals), tangent
