"""IQ3_S: 256 weights in 8 groups of 32, 3.4375 bits per weight.

    w = d * (2 * scale + 1) * +-grid[index]                 scale in 0..15, one a group

Four weights at a time are one of 512 vectors with the odd elements 1, 3, ..., 15; all signs are stored:

    qs[k]        low byte of index[k]; its bit 8 is bit k % 8 of qh[k // 8]       k = 0..63
    signs[i]     bit j is set if weight 8 i + j is negative
    scales[i]    7 6 5 4             3 2 1 0
                 scale[2 i + 1]      scale[2 i]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, lookup, negate, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType

LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    index = planes["qs"] | (unpack(planes["qh"], 1, 1, xp).astype(np.uint16) << 8)
    vectors = ungrouped(lookup(codebook("iq3_s"), index, xp))
    scale = planes["d"].astype(np.float32) * (2 * unpack(planes["scales"], 4, 1, xp) + 1).astype(np.float32)
    return ungrouped(grouped(scale, negate(vectors, planes["signs"], xp)))


IQ3_S = BlockFormat(GGMLType.IQ3_S, 256, LAYOUT, decode)
