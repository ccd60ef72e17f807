"""`linear` by the native kernels: packed weights are decoded in registers, never in memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import Unsupported
from gguf_jax.ops.linear import xla
from gguf_jax.ops.native.library import ffi_target
from gguf_jax.ops.native.operands import check_placement, operands_of
from gguf_jax.quantized_array import Weight

MOST_WEIGHTS = 8


def linear(x: jax.Array, ws: tuple[Weight, ...], *, gated: bool, precision: str) -> tuple[jax.Array, ...]:
    """See `ops.linear`. Activations of any float type are computed in float32.

    Raises:
        Unsupported: the library is not there, the arrays are not on one CPU, x is float64 or empty, or a weight is of a
            type that the kernels do not take.
    """
    ffi_target("gguf_jax_linear")
    check_placement("linear", x, *ws)
    if x.dtype == jnp.float64 or not x.size or len(ws) > MOST_WEIGHTS:
        raise Unsupported(f"linear: native kernels take up to {MOST_WEIGHTS} weights and a filled x of at most 32 bits")
    for w in ws:
        operands_of(w)  # refuses before anything is traced
    return tuple(y.astype(x.dtype) for y in _linear(gated, precision, x.astype(jnp.float32), ws))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _linear(gated: bool, precision: str, x: jax.Array, ws: tuple[Weight, ...]) -> tuple[jax.Array, ...]:
    operands = [operands_of(w) for w in ws]
    outputs = [jax.ShapeDtypeStruct((*x.shape[:-1], w.shape[0]), jnp.float32) for w in ws[: 1 if gated else None]]
    call = jax.ffi.ffi_call(ffi_target("gguf_jax_linear"), outputs, vmap_method="sequential")
    return tuple(
        call(
            x,
            *(buffer for each in operands for buffer in each.buffers),
            types=np.array([each.type for each in operands], np.int64),
            kinds=np.array([each.kind for each in operands], np.int64),
            rows=np.array([w.shape[0] for w in ws], np.int64),
            positions=np.int64(x.shape[-2] if x.ndim > 1 else 1),
            fast=precision == "fast",
            silu=gated,
        )
    )


@_linear.defjvp
def _linear_jvp(gated: bool, precision: str, primals: Any, tangents: Any) -> Any:
    """The product as computed, with the derivative of its definition."""
    _, tangent = jax.jvp(partial(xla.linear, gated=gated, precision="exact"), primals, tangents)
    return _linear(gated, precision, *primals), tangent
