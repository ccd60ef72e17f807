"""Q6_K: 256 weights in 16 groups of 16, 6.5625 bits per weight.

w = d * scale * (q - 32)                    q in 0..63; scale int8, one a group

ql[64 h + l]    7 6 5 4                 3 2 1 0                            h = 0, 1; l = 0..63
                q[128 h + 64 + l]       q[128 h + l]                       bits 3..0
qh[32 h + l]    7 6           5 4           3 2           1 0              l = 0..31
                q[128h+96+l]  q[128h+64+l]  q[128h+32+l]  q[128h+l]        bits 5..4
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.rounding import elements_first, elements_last, half, largest, nearest, product, quotient, square
from gguf_jax.formats.scale_search import EPSILON, symmetric

LAYOUT = np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    scale = planes["d"].astype(np.float32) * planes["scales"].astype(np.float32)
    q = unpack(planes["ql"], 4, 64, xp) | (unpack(planes["qh"], 2, 32, xp) << 4)
    return ungrouped(grouped(scale, q.astype(np.int8) - 32))


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q6_K_ref`, with importance `quantize_row_q6_K_impl`."""
    x = elements_first(values, 16, xp)
    weights = square(x, xp) if importance is None else elements_first(importance, 16, xp)
    codes, scale = symmetric(x, weights, 32, xp)
    magnitude, extreme = largest(xp.moveaxis(scale, -1, 0), xp)
    empty = (magnitude < EPSILON)[..., None]
    inverse = quotient(np.float32(-128), extreme, xp)
    stored, d = half(xp.where(empty[..., 0], 0, quotient(np.float32(1), inverse, xp)))
    scale_codes = xp.minimum(nearest(product(inverse[..., None], scale, xp), xp), np.float32(127))
    scale_codes = xp.where(empty, np.float32(0), scale_codes)
    scale = product(d[..., None], scale_codes, xp)
    again = xp.clip(nearest(quotient(x, scale, xp), xp), -32, 31) + np.float32(32)
    codes = xp.where(empty, np.float32(0), xp.where(scale == 0, codes, again))
    codes = elements_last(codes, xp).astype(np.uint8)
    low, high = pack(codes & 15, 4, 64, xp), pack(codes >> 4, 2, 32, xp)
    return {"ql": low, "qh": high, "scales": scale_codes.astype(np.int8), "d": stored}


Q6_K = BlockFormat(GGMLType.Q6_K, 256, LAYOUT, decode, encode)
