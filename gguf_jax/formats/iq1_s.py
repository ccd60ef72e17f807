"""IQ1_S: 256 weights in 8 groups of 32, 1.5625 bits per weight.

    w = d * (2 * scale + 1) * (grid[index] +- 1/8)          scale in 0..7, one a group

Eight weights at a time are one of 2048 vectors with elements -1, 0, 1, all moved by one eighth to one side. Byte
qs[4 g + k] is the low part of the index of vector k of group g, qh[g] the rest:

    qh[g]    15                 14 13 12    11 10 9        8 7 6          5 4 3          2 1 0
             1: subtract 1/8    scale       index[3]>>8    index[2]>>8    index[1]>>8    index[0]>>8
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, lookup, ungrouped
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType

LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 32), ("qh", "<u2", 8)])


def eighths(index: Array, minus: Array, xp: Any) -> Array:
    """8 * (grid[index] +- 1/8) as int8: `[..., n]`, and 1 in `minus` to go down -> `[..., 8 * n]`; IQ1_M too."""
    vectors = 8 * lookup(codebook("iq1_s"), index, xp)
    return ungrouped(vectors + (1 - 2 * minus.astype(np.int8))[..., None])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    qs, qh = planes["qs"], planes["qh"]
    high = ungrouped((qh[..., None] >> np.arange(0, 12, 3, dtype=np.uint16)) & 7)
    minus = xp.repeat(qh >> 15, 4, axis=-1)
    scale = planes["d"].astype(np.float32) * (2 * ((qh >> 12) & 7) + 1).astype(np.float32)
    return ungrouped(grouped(scale / 8, eighths(qs | (high << 8), minus, xp)))


IQ1_S = BlockFormat(GGMLType.IQ1_S, 256, LAYOUT, decode)
