"""`encode` by the native kernels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import Unsupported
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.ops.native.library import ffi_target
from gguf_jax.ops.native.operands import check_placement
from gguf_jax.ops.native.search_grids import hand_over_search_grid
from gguf_jax.quantized_array import QuantizedArray


def encode(values: jax.Array, type: GGMLType, importance: jax.Array | None) -> QuantizedArray:
    """See `ops.encode`.

    Raises:
        Unsupported: the library is not there, the arrays are not on one CPU or empty, the type is a plain one (which
            XLA converts well).
    """
    target = ffi_target("gguf_jax_encode_call")
    form = FORMATS[type]
    check_placement("encode", values, *([] if importance is None else [importance]))
    if not form.is_quantized or not values.size:
        raise Unsupported("encode: native kernels take a filled array and a type that packs")
    hand_over_search_grid(type)
    *lead, n = values.shape
    blocks = n // form.block_size
    out = jax.ShapeDtypeStruct((*lead, blocks, form.bytes_per_block), jnp.uint8)
    call = jax.ffi.ffi_call(target, out, vmap_method="sequential")
    of_weights = jnp.zeros(0, jnp.float32) if importance is None else importance
    return QuantizedArray(_planes(call(values, of_weights, type=np.int64(type)), type), type)


def _planes(blocks: jax.Array, type: GGMLType) -> dict[str, jax.Array]:
    """Blocks, uint8 `[..., n_blocks, bytes_per_block]` -> planes `[..., n_blocks * width]`."""
    form = FORMATS[type]
    *lead, n_blocks, _ = blocks.shape
    planes = {}
    fields: Any = form.layout.fields
    for name, width in form.widths.items():
        dtype, offset = form.layout[name].base, fields[name][1]
        part = blocks[..., offset : offset + width * dtype.itemsize]
        if dtype.itemsize > 1:
            part = part.reshape(*lead, n_blocks, width, dtype.itemsize)
        part = jax.lax.bitcast_convert_type(part, dtype)
        planes[name] = part.reshape(*lead, n_blocks * width)
    return planes
