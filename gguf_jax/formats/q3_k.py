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

from gguf_jax.formats.bits import grouped, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType

LAYOUT = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    low, high = planes["scales"][..., :8], planes["scales"][..., 8:]
    scale = (unpack(low, 4, 8, xp) | (unpack(high, 2, 4, xp) << 4)).astype(np.int8) - 32
    q = (unpack(planes["qs"], 2, 32, xp) | (unpack(planes["hmask"], 1, 32, xp) << 2)).astype(np.int8) - 4
    return ungrouped(grouped(planes["d"].astype(np.float32) * scale.astype(np.float32), q))


Q3_K = BlockFormat(GGMLType.Q3_K, 256, LAYOUT, decode)
