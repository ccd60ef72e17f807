"""Q2_K: 256 weights in 16 groups of 16, 2.625 bits per weight.

w = d * scale * q - dmin * minimum          q in 0..3; scale and minimum in 0..15, one pair a group

scales[g]       7 6 5 4       3 2 1 0
                minimum[g]    scale[g]
qs[32 h + l]    7 6           5 4           3 2           1 0              h = 0, 1; l = 0..31
                q[128h+96+l]  q[128h+64+l]  q[128h+32+l]  q[128h+l]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.rounding import (
    divided,
    elements_first,
    elements_last,
    half,
    nearest,
    product,
    quotient,
    square,
    total,
)
from gguf_jax.formats.scale_search import affine, affine_factors, importance_weights, positive

LAYOUT = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    scales = planes["scales"]
    scale = planes["d"].astype(np.float32) * (scales & 15).astype(np.float32)
    minimum = planes["dmin"].astype(np.float32) * (scales >> 4).astype(np.float32)
    return ungrouped(grouped(scale, unpack(planes["qs"], 2, 32, xp)) - minimum[..., None])


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q2_K_ref`, with importance `quantize_row_q2_K_impl`."""
    x = elements_first(values, 16, xp)
    if importance is None:
        codes, scale, minimum = affine(x, xp.abs(x), 3, affine_factors(3, -0.5, 0.1, 15), xp, absolute=True)
        scale_codes, d = _scales(scale, xp)
        minimum_codes, dmin = _scales(minimum, xp)
    else:
        mean_square = total(square(elements_first(values, 256, xp), xp)) / np.float32(256)
        weights = importance_weights(x, elements_first(importance, 16, xp), mean_square, xp)
        codes, scale, minimum = affine(x, weights, 3, affine_factors(3, -0.9, 0.05, 36), xp)
        sum_w = xp.moveaxis(total(weights), -1, 0)
        scale_codes, d = positive(xp.moveaxis(scale, -1, 0), sum_w, 15, xp)
        minimum_codes, dmin = positive(xp.moveaxis(minimum, -1, 0), sum_w, 15, xp)
        scale_codes, minimum_codes = xp.moveaxis(scale_codes, 0, -1), xp.moveaxis(minimum_codes, 0, -1)
    stored_d, d = half(d)
    stored_dmin, dmin = half(dmin)
    scale = product(d[..., None], scale_codes, xp)
    minimum = product(dmin[..., None], minimum_codes, xp)
    again = xp.clip(nearest(quotient(x + minimum, scale, xp), xp), 0, 3)
    codes = elements_last(xp.where(scale == 0, codes, again), xp)
    scales = scale_codes.astype(np.uint8) | (minimum_codes.astype(np.uint8) << np.uint8(4))
    return {"scales": scales, "qs": pack(codes, 2, 32, xp), "d": stored_d, "dmin": stored_dmin}


def _scales(scale: Array, xp: Any) -> tuple[Array, Array]:
    """Scales `[..., 16]` as codes in 0..15 of the largest, and the scale of those codes `[...]`."""
    top = xp.maximum(xp.max(scale, axis=-1), 0)
    inverse = quotient(np.float32(15), top, xp)
    return nearest(product(inverse[..., None], scale, xp), xp), divided(top, 15, xp)


Q2_K = BlockFormat(GGMLType.Q2_K, 256, LAYOUT, decode, encode)
