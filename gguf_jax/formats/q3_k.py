"""Q3_K: 256 weights in 16 groups of 16, 3.4375 bits per weight.

    w = d * (scale - 32) * (q - 4)              q in 0..7; scale in 0..63, one a group

The two low bits of q lie in `qs` as in Q2_K; its high bit for weight 32 i + l is bit i of hmask[l]. A scale's four low
bits and its two high bits lie apart:

    scales[g], g < 8     7 6 5 4         3 2 1 0
                         scale[g + 8]    scale[g]        bits 3..0
    scales[8 + k]        7 6             5 4             3 2             1 0             k = 0..3
                         scale[k + 12]   scale[k + 8]    scale[k + 4]    scale[k]        bits 5..4
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.rounding import (
    elements_first,
    elements_last,
    half,
    largest,
    nearest,
    product,
    quotient,
    total,
)
from gguf_jax.formats.scale_search import block_weights, settled_q3, symmetric

LAYOUT = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    low, high = planes["scales"][..., :8], planes["scales"][..., 8:]
    scale = (unpack(low, 4, 8, xp) | (unpack(high, 2, 4, xp) << 4)).astype(np.int8) - 32
    q = (unpack(planes["qs"], 2, 32, xp) | (unpack(planes["hmask"], 1, 32, xp) << 2)).astype(np.int8) - 4
    return ungrouped(grouped(planes["d"].astype(np.float32) * scale.astype(np.float32), q))


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q3_K_ref`, with importance `quantize_row_q3_K_impl`."""
    x = elements_first(values, 16, xp)
    if importance is None:
        codes, scale = settled_q3(x, xp)
        _, extreme = largest(xp.moveaxis(scale, -1, 0), xp)
        inverse = quotient(np.float32(-32), extreme, xp)
        scale_codes = xp.clip(nearest(product(inverse[..., None], scale, xp), xp), -32, 31) + np.float32(32)
        scale_codes = xp.where((extreme == 0)[..., None], np.float32(0), scale_codes)
        d = quotient(np.float32(1), inverse, xp)
    else:
        weights = block_weights(values, importance, 16, 2, xp)
        codes, scale = symmetric(x, weights, 4, xp)
        scale_codes, d = symmetric(xp.moveaxis(scale, -1, 0), xp.moveaxis(total(weights), -1, 0), 32, xp)
        scale_codes = xp.moveaxis(scale_codes, 0, -1)
    stored, d = half(d)
    scale = product(d[..., None], scale_codes - np.float32(32), xp)
    again = xp.clip(nearest(quotient(x, scale, xp), xp), -4, 3) + np.float32(4)
    codes = elements_last(xp.where(scale == 0, codes, again), xp).astype(np.uint8)
    scale_codes = scale_codes.astype(np.uint8)
    scales = xp.concatenate([pack(scale_codes & 15, 4, 8, xp), pack(scale_codes >> 4, 2, 4, xp)], axis=-1)
    return {"hmask": pack(codes >> 2, 1, 32, xp), "qs": pack(codes & 3, 2, 32, xp), "scales": scales, "d": stored}


Q3_K = BlockFormat(GGMLType.Q3_K, 256, LAYOUT, decode, encode)
