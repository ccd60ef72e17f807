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
from gguf_jax.formats.rounding import square, total
from gguf_jax.formats.scale_search import affine, affine_block, affine_factors

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

    def plain(x: Array) -> tuple[Array, Array, Array]:
        mean = xp.sqrt(total(square(x, xp)) / np.float32(32))
        return affine(x, mean + xp.abs(x), most, factors, xp)

    codes, s, m, planes = affine_block(values, importance, plain, size=32, most=most, scale_most=63, factor=2, xp=xp)
    packed = [
        s[..., :4] | ((s[..., 4:] >> np.uint8(4)) << np.uint8(6)),
        m[..., :4] | ((m[..., 4:] >> np.uint8(4)) << np.uint8(6)),
        (s[..., 4:] & 15) | ((m[..., 4:] & 15) << np.uint8(4)),
    ]
    return codes, {**planes, "scales": xp.concatenate(packed, axis=-1)}


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q4_K_ref`, with importance `quantize_row_q4_K_impl`."""
    codes, planes = search(values, importance, 15, affine_factors(15, -1.0, 0.1, 20), xp)
    return {**planes, "qs": pack(codes, 4, 32, xp)}


Q4_K = BlockFormat(GGMLType.Q4_K, 256, LAYOUT, decode, encode)
