"""IQ4_XS: 256 weights in 8 groups of 32, 4.25 bits per weight.

w = d * (scale - 32) * level[q]             q in 0..15 with the levels of IQ4_NL; scale in 0..63, one a group

qs[16 g + j]    7 6 5 4              3 2 1 0          g = 0..7; j = 0..15
                q[32 g + 16 + j]     q[32 g + j]
scales_l[i]     scale[2 i + 1]       scale[2 i]       bits 3..0
scales_h        bits 2 g + 1 and 2 g are bits 5..4 of scale[g]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, little_endian, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.iq4_nl import closest, levels, search
from gguf_jax.formats.rounding import elements_last, largest, nearest, product, quotient

LAYOUT = np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    high = ((planes["scales_h"] >> np.arange(0, 16, 2, dtype=np.uint16)) & 3).astype(np.uint8)
    scale = (unpack(planes["scales_l"], 4, 1, xp) | (high << 4)).astype(np.int8) - 32
    return ungrouped(grouped(planes["d"].astype(np.float32) * scale.astype(np.float32), levels(planes["qs"], xp)))


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_iq4_xs`: unlike in the K types, codes are chosen for the scale as it was before its rounding."""
    x, scale = search(values, importance, xp)
    _, extreme = largest(xp.moveaxis(scale, -1, 0), xp)
    d = -extreme[..., None] / np.float32(32)
    scale_codes = xp.clip(nearest(product(quotient(np.float32(1), d, xp), scale, xp), xp), -32, 31)
    inverse = quotient(np.float32(1), product(d, scale_codes, xp), xp)
    codes = elements_last(closest(product(inverse, x, xp), xp), xp)
    scale_codes = (scale_codes + np.float32(32)).astype(np.uint8)
    high = (scale_codes >> np.uint8(4)).astype(np.uint16)
    return {
        "d": d.astype(np.float16),
        "scales_h": little_endian(high, 2)[..., None].astype(np.uint16),
        "scales_l": pack(scale_codes & np.uint8(15), 4, 1, xp),
        "qs": pack(codes, 4, 16, xp),
    }


IQ4_XS = BlockFormat(GGMLType.IQ4_XS, 256, LAYOUT, decode, encode)
