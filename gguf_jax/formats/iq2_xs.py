"""IQ2_XS: 256 weights in 16 groups of 16, 2.3125 bits per weight.

    w = d * (scale + 1/2) / 4 * +-grid[index]               scale in 0..15, one a group

Eight weights at a time are one of 512 vectors with elements 8, 25, 43, and eight signs of which seven are stored (see
`even_signs`):

    qs[k]        15..9       8..0
                 signs[k]    index[k]
    scales[i]    7 6 5 4             3 2 1 0
                 scale[2 i + 1]      scale[2 i]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import even_signs, grouped, lookup, negate, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType

LAYOUT = np.dtype([("d", "<f2"), ("qs", "<u2", 32), ("scales", "u1", 8)])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    qs = planes["qs"]
    vectors = ungrouped(lookup(codebook("iq2_xs"), qs & 511, xp))
    scale = planes["d"].astype(np.float32) * (unpack(planes["scales"], 4, 1, xp).astype(np.float32) + 0.5) / 4
    return ungrouped(grouped(scale, negate(vectors, even_signs(qs >> 9), xp)))


IQ2_XS = BlockFormat(GGMLType.IQ2_XS, 256, LAYOUT, decode)
