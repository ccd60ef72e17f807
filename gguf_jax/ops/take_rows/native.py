"""`take_rows` by the native kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import Unsupported
from gguf_jax.ops.native.library import ffi_target
from gguf_jax.ops.native.operands import check_placement, operands_of
from gguf_jax.quantized_array import QuantizedArray, Weight


def take_rows(w: Weight, ids: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """See `ops.take_rows`.

    Raises:
        Unsupported: the library is not there, the table is a float array (which XLA gathers well), empty, or not on
            one CPU.
    """
    target = ffi_target("gguf_jax_take_rows")
    check_placement("take_rows", w, ids)
    if not isinstance(w, QuantizedArray) or not w.size or not ids.size:
        raise Unsupported("take_rows: native kernels take a filled packed table")
    operands = operands_of(w)
    rows, columns = w.shape
    out = jax.ShapeDtypeStruct((*ids.shape, columns), jnp.float32)
    call = jax.ffi.ffi_call(target, out, vmap_method="sequential")
    # clipped before the cast: a large 64-bit id must not wrap around
    return call(
        jnp.clip(ids, 0, rows - 1).astype(jnp.int32),
        *operands.buffers,
        type=np.int64(operands.type),
        kind=np.int64(operands.kind),
        rows=np.int64(rows),
        columns=np.int64(columns),
    ).astype(dtype)
