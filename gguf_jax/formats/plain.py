"""F32, F16, BF16, F64 and the integers: one value a block, nothing packed.

F32, F16 and BF16 decode to float32; F64 and the integers keep their own dtype, since float32 cannot hold them. All are
exact, subnormal values included: only the payload of a NaN may change, where F16 is widened.

Under `jax.jit` F64 and I64 need `jax.enable_x64`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType


def _values(planes: Mapping[str, Array], xp: Any) -> Array:
    return planes["values"]


def _widened(planes: Mapping[str, Array], xp: Any) -> Array:
    return planes["values"].astype(np.float32)


def _high_half(planes: Mapping[str, Array], xp: Any) -> Array:
    """bfloat16 is the upper half of a float32; shifting, unlike a cast, cannot flush a subnormal."""
    return (planes["values"].astype(np.uint32) << 16).view(np.float32)


def encode_f32(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    return {"values": values}


def encode_f16(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """To nearest even; what is too large becomes infinite."""
    return {"values": values.astype(np.float16)}


def encode_bf16(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """To nearest even; a NaN stays one, and quiet."""
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(64)
    return {"values": xp.where(xp.isnan(values), quiet, rounded).astype(np.uint16)}


def _layout(dtype: str) -> np.dtype:
    return np.dtype([("values", dtype)])


F32 = BlockFormat(GGMLType.F32, 1, _layout("<f4"), _values, encode_f32)
F16 = BlockFormat(GGMLType.F16, 1, _layout("<f2"), _widened, encode_f16)
BF16 = BlockFormat(GGMLType.BF16, 1, _layout("<u2"), _high_half, encode_bf16)
F64 = BlockFormat(GGMLType.F64, 1, _layout("<f8"), _values)
I8 = BlockFormat(GGMLType.I8, 1, _layout("i1"), _values)
I16 = BlockFormat(GGMLType.I16, 1, _layout("<i2"), _values)
I32 = BlockFormat(GGMLType.I32, 1, _layout("<i4"), _values)
I64 = BlockFormat(GGMLType.I64, 1, _layout("<i8"), _values)
