"""`rms_norm` by the native kernels.

XLA may sum in an order that depends on the shape of the whole array. On the last bit of a sum depends whether the next
product rounds an activation up or down, so that a sequence could answer otherwise beside others than alone. Here the
order of a row's sum depends on its length only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import Unsupported
from gguf_jax.ops.native.library import ffi_target
from gguf_jax.ops.native.operands import check_placement
from gguf_jax.ops.rms_norm import xla


def rms_norm(x: jax.Array, weight: jax.Array, *, eps: float) -> jax.Array:
    """See `ops.rms_norm`.

    Raises:
        Unsupported: the library is not there, the arrays are not on one CPU, are float64 or empty.
    """
    ffi_target("gguf_jax_rms_norm")
    check_placement("rms_norm", x, weight)
    if jnp.float64 in (x.dtype, weight.dtype) or not x.size:
        raise Unsupported("rms_norm: native kernels take a filled x of at most 32 bits")
    return _rms_norm(eps, x.astype(jnp.float32), weight.astype(jnp.float32)).astype(x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rms_norm(eps: float, x: jax.Array, weight: jax.Array) -> jax.Array:
    output = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    call = jax.ffi.ffi_call(ffi_target("gguf_jax_rms_norm"), output, vmap_method="sequential")
    return call(x, weight, eps=np.float32(eps))


@_rms_norm.defjvp
def _rms_norm_jvp(eps: float, primals: Any, tangents: Any) -> Any:
    """The result as computed, with the derivative of its definition."""
    _, tangent = jax.jvp(partial(xla.rms_norm, eps=eps), primals, tangents)
    return _rms_norm(eps, *primals), tangent
