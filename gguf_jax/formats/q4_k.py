"""Q4_K: 256 weights in 8 groups of 32, 4.5 bits per weight.

    w = d * scale * q - dmin * minimum          q in 0..15; scale and minimum in 0..63, one pair a group

    qs[32 h + l]    7 6 5 4              3 2 1 0          h = 0..3; l = 0..31
                    q[64 h + 32 + l]     q[64 h + l]

Groups 0..3 keep their six bits together; groups 4..7 keep the upper two in the spare bits of groups 0..3 (k = 0..3):

    scales[k]       7 6                  5 4 3 2 1 0
                    scale[k+4] >> 4      scale[k]
    scales[4 + k]   minimum[k+4] >> 4    minimum[k]
    scales[8 + k]   7 6 5 4              3 2 1 0
                    minimum[k+4] & 15    scale[k+4] & 15
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

LAYOUT = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)])


def scales_and_minima(planes: Mapping[str, Array], xp: Any) -> tuple[Array, Array]:
    """`d * scale` and `dmin * minimum` of the 8 groups, float32 `[..., 8]`; Q5_K packs them the same way."""
    packed = planes["scales"]
    s, m, rest = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scale = xp.concatenate([s & 63, (rest & 15) | ((s >> 6) << 4)], axis=-1)
    minimum = xp.concatenate([m & 63, (rest >> 4) | ((m >> 6) << 4)], axis=-1)
    return (
        planes["d"].astype(np.float32) * scale.astype(np.float32),
        planes["dmin"].astype(np.float32) * minimum.astype(np.float32),
    )


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    scale, minimum = scales_and_minima(planes, xp)
    return ungrouped(grouped(scale, unpack(planes["qs"], 4, 32, xp)) - minimum[..., None])


def search(
    values: Array, importance: Array | None, most: int, factors: np.ndarray, xp: Any
) -> tuple[Array, dict[str, Array]]:
    """Codes in 0..most, uint8 `[..., 256]`, and the planes of the scales; Q5_K too. `factors` are tried where there is
    no importance."""
    x = elements_first(values, 32, xp)
    if importance is None:
        mean = xp.sqrt(total(square(x, xp)) / np.float32(32))
        codes, scale, minimum = affine(x, mean + xp.abs(x), most, factors, xp)
        scale_codes, d = _codes(scale, xp)
        minimum_codes, dmin = _codes(minimum, xp)
    else:
        mean_square = np.float32(2) * total(square(elements_first(values, 256, xp), xp)) / np.float32(256)
        weights = importance_weights(x, elements_first(importance, 32, xp), mean_square, xp)
        codes, scale, minimum = affine(x, weights, most, affine_factors(most, -0.9, 0.05, 36), xp)
        sum_w = xp.moveaxis(total(weights), -1, 0)
        scale_codes, d = positive(xp.moveaxis(scale, -1, 0), sum_w, 63, xp)
        minimum_codes, dmin = positive(xp.moveaxis(minimum, -1, 0), sum_w, 63, xp)
        scale_codes = xp.moveaxis(scale_codes, 0, -1).astype(np.uint8)
        minimum_codes = xp.moveaxis(minimum_codes, 0, -1).astype(np.uint8)
    stored_d, d = half(d)
    stored_dmin, dmin = half(dmin)
    scale = product(d[..., None], scale_codes.astype(np.float32), xp)
    minimum = product(dmin[..., None], minimum_codes.astype(np.float32), xp)
    again = xp.clip(nearest(quotient(x + minimum, scale, xp), xp), 0, np.float32(most))
    codes = elements_last(xp.where(scale == 0, codes, again), xp).astype(np.uint8)
    s, m = scale_codes, minimum_codes
    packed = [
        s[..., :4] | ((s[..., 4:] >> np.uint8(4)) << np.uint8(6)),
        m[..., :4] | ((m[..., 4:] >> np.uint8(4)) << np.uint8(6)),
        (s[..., 4:] & 15) | ((m[..., 4:] & 15) << np.uint8(4)),
    ]
    return codes, {"d": stored_d, "dmin": stored_dmin, "scales": xp.concatenate(packed, axis=-1)}


def _codes(scale: Array, xp: Any) -> tuple[Array, Array]:
    """Scales `[..., 8]` as codes in 0..63 of the largest, uint8, and the scale of those codes `[...]`."""
    top = xp.maximum(xp.max(scale, axis=-1), 0)
    inverse = quotient(np.float32(63), top, xp)
    codes = nearest(product(inverse[..., None], scale, xp), xp).astype(np.int32).astype(np.uint8)
    return xp.minimum(codes, np.uint8(63)), divided(top, 63, xp)


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q4_K_ref`, with importance `quantize_row_q4_K_impl`."""
    codes, planes = search(values, importance, 15, affine_factors(15, -1.0, 0.1, 20), xp)
    return {**planes, "qs": pack(codes, 4, 32, xp)}


Q4_K = BlockFormat(GGMLType.Q4_K, 256, LAYOUT, decode, encode)
