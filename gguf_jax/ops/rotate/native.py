"""`rotate` by the native kernels.

XLA fuses the cosines into whatever uses them and so computes them anew for every head of every layer, which at prefill
costs more than the attention. An operand of a call is computed once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gguf_jax.errors import Unsupported
from gguf_jax.ops.native.library import ffi_target
from gguf_jax.ops.native.operands import check_placement
from gguf_jax.ops.rotate import xla


def rotate(xs: tuple[jax.Array, ...], cos: jax.Array, sin: jax.Array, *, interleaved: bool) -> tuple[jax.Array, ...]:
    """See `ops.rotate`.

    Raises:
        Unsupported: the library is not there, the arrays are not on one CPU, are float64 or empty.
    """
    ffi_target("gguf_jax_rotate")
    check_placement("rotate", *xs, cos, sin)
    if cos.dtype != jnp.float32 or not cos.size or any(x.dtype == jnp.float64 for x in xs):
        raise Unsupported("rotate: native kernels turn by float32 angles of at least one pair")
    turned = _rotate(interleaved, tuple(x.astype(jnp.float32) for x in xs), cos, sin)
    return tuple(y.astype(x.dtype) for x, y in zip(xs, turned, strict=True))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rotate(interleaved: bool, xs: tuple[jax.Array, ...], cos: jax.Array, sin: jax.Array) -> tuple[jax.Array, ...]:
    outputs = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in xs]
    call = jax.ffi.ffi_call(ffi_target("gguf_jax_rotate"), outputs, vmap_method="sequential")
    return tuple(call(cos, sin, *xs, interleaved=interleaved))


@_rotate.defjvp
def _rotate_jvp(interleaved: bool, primals: Any, tangents: Any) -> Any:
    """The result as computed, with the derivative of its definition."""
    _, tangent = jax.jvp(partial(xla.rotate, interleaved=interleaved), primals, tangents)
    return _rotate(interleaved, *primals), tangent
