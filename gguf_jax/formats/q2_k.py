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
from gguf_jax.formats.scale_search import affine, affine_block, affine_factors

LAYOUT = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    scales = planes["scales"]
    scale = planes["d"].astype(np.float32) * (scales & 15).astype(np.float32)
    minimum = planes["dmin"].astype(np.float32) * (scales >> 4).astype(np.float32)
    return ungrouped(grouped(scale, unpack(planes["qs"], 2, 32, xp)) - minimum[..., None])


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q2_K_ref`, with importance `quantize_row_q2_K_impl`."""

    def plain(x: Array) -> tuple[Array, Array, Array]:
        return affine(x, xp.abs(x), 3, affine_factors(3, -0.5, 0.1, 15), xp, absolute=True)

    codes, scale, minimum, planes = affine_block(
        values, importance, plain, size=16, most=3, scale_most=15, factor=1, xp=xp
    )
    return {**planes, "scales": scale | (minimum << np.uint8(4)), "qs": pack(codes, 2, 32, xp)}


Q2_K = BlockFormat(GGMLType.Q2_K, 256, LAYOUT, decode, encode)
