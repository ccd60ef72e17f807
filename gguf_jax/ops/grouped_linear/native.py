"""`grouped_linear` by the native kernels: the pairs of a position and an expert, sorted by expert, each expert's rows
times its packed matrix as `linear` multiplies them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import Unsupported
from gguf_jax.ops.grouped_linear import xla
from gguf_jax.ops.native.library import ffi_target
from gguf_jax.ops.native.operands import check_placement, operands_of
from gguf_jax.quantized_array import Weight

MOST_WEIGHTS = 2
TARGET = "gguf_jax_grouped_linear"


def grouped_linear(
    x: jax.Array, ws: tuple[Weight, ...], experts: jax.Array, *, gated: bool, precision: str
) -> tuple[jax.Array, ...]:
    """See `ops.grouped_linear`. Activations of any float type are computed in float32.

    Raises:
        Unsupported: the library is not there, the arrays are not on one CPU, x is float64 or empty, or a weight is of a
            type that the kernels do not take.
    """
    ffi_target(TARGET)
    check_placement("grouped_linear", x, experts, *ws)
    if x.dtype == jnp.float64 or not x.size or not experts.size or len(ws) > MOST_WEIGHTS:
        raise Unsupported(
            f"grouped_linear: native kernels take up to {MOST_WEIGHTS} weights and a filled x of at most 32 bits"
        )
    for w in ws:
        operands_of(w)  # refuses before anything is traced
    experts = jnp.clip(experts, -1, ws[0].shape[0] - 1).astype(jnp.int32)  # before the cast, in which 64 bits wrap
    return tuple(y.astype(x.dtype) for y in _grouped(gated, precision, x.astype(jnp.float32), ws, experts))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _grouped(
    gated: bool, precision: str, x: jax.Array, ws: tuple[Weight, ...], experts: jax.Array
) -> tuple[jax.Array, ...]:
    operands = [operands_of(w) for w in ws]
    outputs = [jax.ShapeDtypeStruct((*experts.shape, w.shape[1]), jnp.float32) for w in ws[: 1 if gated else None]]
    call = jax.ffi.ffi_call(ffi_target(TARGET), outputs, vmap_method="sequential")
    return tuple(
        call(
            x,
            experts,
            *(buffer for each in operands for buffer in each.buffers),
            types=np.array([each.type for each in operands], np.int64),
            kinds=np.array([each.kind for each in operands], np.int64),
            rows=np.array([w.shape[1] for w in ws], np.int64),
            n_expert=np.int64(ws[0].shape[0]),
            positions=np.int64(experts.shape[-2] if experts.ndim > 1 else 1),
            fast=precision == "fast",
            silu=gated,
        )
    )


@_grouped.defjvp
def _grouped_jvp(gated: bool, precision: str, primals: Any, tangents: Any) -> Any:
    """The product as computed, with the derivative of its definition."""
    _, tangent = jax.jvp(partial(xla.grouped_linear, gated=gated, precision="exact"), primals, tangents)
    return _grouped(gated, precision, *primals), tangent
