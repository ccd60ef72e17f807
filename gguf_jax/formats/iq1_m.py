"""IQ1_M: 256 weights in 16 groups of 16, 1.75 bits per weight.

    w = d * (2 * scale + 1) * (grid[index] +- 1/8)          scale in 0..7, one a group

The vectors are those of IQ1_S, but each has its own side. qs[k] is the low part of the index of vector k, nibble k of
`qh` (low nibble first) the rest. There is no field for the float16 d: its four nibbles, lowest first, are the tops of
the four little-endian 16-bit words that `scales` consists of:

    qh[k // 2]    7                   6 5 4             3                   2 1 0             k even
                  1: subtract 1/8     index[k+1]>>8     1: subtract 1/8     index[k]>>8
    word[i]       15..12           11 10 9             8 7 6               5 4 3               2 1 0
                  nibble i of d    scale[4 i + 3]      scale[4 i + 2]      scale[4 i + 1]      scale[4 i]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.iq1_s import eighths

LAYOUT = np.dtype([("qs", "u1", 32), ("qh", "u1", 16), ("scales", "u1", 8)])


def _scale(scales: Array) -> Array:
    """uint8 `[..., 8]` -> d * (2 * scale + 1), float32 `[..., 16]`."""
    words = scales[..., 0::2] | (scales[..., 1::2].astype(np.uint16) << 8)
    tops = words >> 12
    d = tops[..., 0:1] | (tops[..., 1:2] << 4) | (tops[..., 2:3] << 8) | (tops[..., 3:4] << 12)
    scale = ungrouped((words[..., None] >> np.arange(0, 12, 3, dtype=np.uint16)) & 7)
    return d.view(np.float16).astype(np.float32) * (2 * scale + 1).astype(np.float32)


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    high = unpack(planes["qh"], 4, 1, xp)
    index = planes["qs"] | ((high & 7).astype(np.uint16) << 8)
    return ungrouped(grouped(_scale(planes["scales"]) / 8, eighths(index, high >> 3, xp)))


IQ1_M = BlockFormat(GGMLType.IQ1_M, 256, LAYOUT, decode)
